"""semraft.analysis.scenes: pooled by scene, a run's rows give what pooling all its pairs gives."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from semraft.analysis.runs import load_run
from semraft.analysis.scenes import scene_sums
from semraft.analysis.statistics import pooled
from semraft.evaluation.evaluate import evaluate, write_per_sample
from semraft.metrics import ALL, Record, measure, pair_metrics, pool
from tests.unit.analysis.fake_runs import SPLIT, make_run
from tests.unit.evaluation.test_head_scores import guess, make_dataset, make_sample, perfect


def measured(rng: np.random.Generator, pairs: int) -> list[Record]:
    """Pairs of random size of truth; the second has no moving pixel."""
    records = []
    for number in range(pairs):
        truth = rng.normal(0, 9, (13, 17, 2))
        flow = truth + rng.normal(0, 2, truth.shape)
        moving = (rng.random((13, 17)) > 0.7) & (number != 1)
        records.append(measure(flow, truth, rng.random((13, 17)) > 0.4, masks={"moving": moving}))
    return records


def test_scenes_pool_to_what_was_logged(tmp_path: Path, rng: np.random.Generator) -> None:
    """Red when: means of pairs are averaged without their counts, or an empty stratum counts."""
    records = measured(rng, 5)
    of_scene = ["b", "b", "a", "c", "a"]
    run = make_run(tmp_path / "run")
    rows = [
        {"split": SPLIT, "id": str(n), "scene": of_scene[n], **pair_metrics(record)}
        for n, record in enumerate(records)
    ]
    with (run / "per_sample.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), restval="")
        writer.writeheader()
        writer.writerows(rows)
    logged = {"step": 400, "split": SPLIT, **pool(records)}
    (run / "metrics.jsonl").write_text(json.dumps(logged) + "\n")
    metrics = ["epe", "epe_image_mean", "1px", "fl_moving", "epe_image_mean_moving", "wauc", "epe_speed_0_10"]
    found = scene_sums([load_run(run)], SPLIT, metrics)
    assert found is not None
    assert found.scenes == ("a", "b", "c")
    whole = pooled(found.sums.over_scenes(), found.parts)[0]
    np.testing.assert_allclose(whole, [logged[name] for name in metrics])
    alone = pool([records[0], records[1]])
    np.testing.assert_allclose(pooled(found.sums, found.parts)[0, 1], [alone[name] for name in metrics])
    assert found.sums.weights[0, :, 0].tolist() == [
        sum(record[ALL].valid for record, scene in zip(records, of_scene, strict=True) if scene == name)
        for name in found.scenes
    ]
    assert scene_sums([load_run(run)], "another split", metrics) is None
    assert scene_sums([load_run(run), load_run(make_run(tmp_path / "other"))], SPLIT, metrics) is None


def test_scores_of_heads_pool_to_what_was_logged(tmp_path: Path, rng: np.random.Generator) -> None:
    """As an evaluation writes them, by the pixels below each one's line; a class that one run alone decodes
    is a part of both runs' mIoU.

    Red when: valid pixels weigh them, a column of pixels is not written, or mIoU is a mean over pairs.
    """
    samples = [replace(make_sample(rng, 37 + i, 53 - i), id=f"s/{i}", scene=f"{i % 2}") for i in range(3)]
    runs = []
    for name, predict in (("guess", guess), ("perfect", perfect)):
        scored = evaluate(predict, make_dataset(samples))
        run = make_run(tmp_path / name)
        write_per_sample(run / "per_sample.csv", {SPLIT: scored})
        (run / "metrics.jsonl").write_text(json.dumps({"step": 400, "split": SPLIT, **scored.metrics}) + "\n")
        runs.append(load_run(run))
    heads = ("miou", "iou", "temporal", "occlusion_f1")
    metrics = [name for name in runs[1].final(SPLIT)[1] if name.startswith(heads)]
    assert len(metrics) == 9
    found = scene_sums(runs, SPLIT, metrics)
    assert found is not None
    logged = [[run.final(SPLIT)[1][name] for name in metrics] for run in runs]
    np.testing.assert_allclose(pooled(found.sums.over_scenes(), found.parts), logged)


def test_rows_that_do_not_pool_to_what_was_logged_have_no_weight(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run"))
    found = scene_sums([run], SPLIT, ["epe", "1px"])
    assert found is not None
    assert found.sums.weights.tolist() == [[[6000, 0], [6000, 0]]]  # The made rows have no 1px.
    assert pooled(found.sums, found.parts)[0, :, 0] == pytest.approx([2.125, 1.875])
