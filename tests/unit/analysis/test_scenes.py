"""semraft.analysis.scenes: pooled by scene, a run's rows give what pooling all its pairs gives."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from semraft.analysis.runs import load_run
from semraft.analysis.scenes import scene_sums
from semraft.metrics import ALL, Record, measure, pair_metrics, pool
from tests.unit.analysis.fake_runs import SPLIT, make_run


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
    sums = scene_sums(load_run(run), SPLIT, metrics)
    assert sums is not None
    assert sums.scenes == ("a", "b", "c")
    np.testing.assert_allclose(sums.totals.sum(0) / sums.weights.sum(0), [logged[name] for name in metrics])
    alone = pool([records[0], records[1]])
    np.testing.assert_allclose(sums.values[1], [alone[name] for name in metrics])
    assert sums.weights[:, 0].tolist() == [
        sum(record[ALL].valid for record, scene in zip(records, of_scene, strict=True) if scene == name)
        for name in sums.scenes
    ]
    assert scene_sums(load_run(run), "another split", metrics) is None


def test_rows_that_do_not_pool_to_what_was_logged_have_no_weight(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run"))
    sums = scene_sums(run, SPLIT, ["epe", "1px"])
    assert sums is not None
    assert sums.weights.tolist() == [[6000, 0], [6000, 0]]  # The made rows have no 1px.
    assert sums.values[:, 0] == pytest.approx([2.125, 1.875])
    assert scene_sums(run, SPLIT, ["1px"]) is None
