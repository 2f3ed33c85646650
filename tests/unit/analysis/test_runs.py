"""semraft.analysis.runs: reading run directories, interrupted ones too, and the health of a run."""

import json
import math
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semraft.analysis.runs import Cause, Health, health_of, load_pair, load_run
from semraft.config import TermConfig
from semraft.records import DamagedFile
from tests.unit.analysis.fake_runs import IDS, SPLIT, make_run


@pytest.mark.parametrize("missing", ["config.json", "environment.json"])
def test_a_folder_without_its_files_is_refused_by_name(tmp_path: Path, missing: str) -> None:
    run = make_run(tmp_path / "run")
    (run / missing).unlink()
    with pytest.raises(ValueError, match=f"not a run directory: {missing} is missing"):
        load_run(run)


def test_a_config_that_is_no_run_configuration_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "config.json").write_text('{"recipe": "x"}')
    with pytest.raises(ValueError, match=r"config\.json: .* missing required field `seed`"):
        load_run(run)
    (run / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: is no JSON"):
        load_run(run)


def test_reads_what_was_written(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run", "world-semantic-v1", seed=42, epe=1.5))
    assert (run.name, run.recipe, run.seed, run.steps) == ("run", "world-semantic-v1", 42, 400)
    assert run.config["loss.terms"] == [asdict(TermConfig(name="semantic-v1", weight=0.5))]
    assert run.config["data.world.size"] == [128, 256]
    assert run.splits == (SPLIT,)
    step, metrics = run.final(SPLIT)
    assert (step, metrics["epe"], metrics["epe_moving"]) == (400, 1.5, 3.0)
    steps, values = run.curve(SPLIT, "epe")
    assert steps.tolist() == [200, 400]
    assert values.tolist() == [2.5, 1.5]
    assert run.per_sample[SPLIT, IDS[0]]["epe"] == 1.625
    assert run.validation(SPLIT)["ids"] == list(IDS)
    assert [path.name for path in run.pair_files[SPLIT]] == ["scene_000003.npz", "scene_000011.npz"]
    assert run.notes == ()


def test_a_torn_last_line_is_ignored_and_noted(tmp_path: Path) -> None:
    """Red when: json.loads is called on every line without a guard."""
    run = make_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 500, "split": "train", "total_lo')
    read = load_run(run)
    assert read.last_step == 400
    assert read.notes == ("line 5 of metrics.jsonl is torn and was ignored",)


def test_a_step_logged_twice_counts_once_and_the_later_line_holds(tmp_path: Path) -> None:
    """Red when: the first line of a step holds; a run resumed from an older checkpoint logs steps again."""
    run = make_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 200, "split": "train", "epe": 7.0}\n')
    steps, values = load_run(run).curve("train", "epe")
    assert steps.tolist() == [200, 400]
    assert values[0] == 7.0


def test_null_and_nan_are_not_a_number(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 600, "split": "train", "epe": null, "fl": NaN}\n')
    row = load_run(run).logged["train"][600]
    assert math.isnan(row["epe"])
    assert math.isnan(row["fl"])


def test_an_interrupted_run_is_read_as_far_as_it_came(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=(200,), validated=())
    read = load_run(run)
    assert (read.last_step, read.splits, read.pair_files, read.per_sample) == (200, (), {}, {})
    assert read.final(SPLIT) == (0, {})
    (run / "metrics.jsonl").unlink()
    assert load_run(run).notes == ("nothing was logged yet",)


def test_a_line_without_a_step_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "metrics.jsonl").write_text('{"split": "train", "epe": 1.0}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl: line 1: .* missing required field `step`"):
        load_run(run)


def test_per_sample_scores_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "per_sample.csv").write_text("split,id,scene,epe\nworld-val,a,s,many\n")
    with pytest.raises(ValueError, match=r"per_sample\.csv: is not a table of scores"):
        load_run(run)


def test_a_pair_round_trips_and_optional_arrays_may_lack(tmp_path: Path) -> None:
    path = load_run(make_run(tmp_path / "run")).pair_files[SPLIT][1]
    pair = load_pair(path)
    assert pair.id == IDS[1]
    assert pair.flow.dtype == np.float16
    np.testing.assert_allclose((pair.flow - pair.flow_gt)[pair.valid][:, 0], 0.5)
    arrays = dict(np.load(path))
    del arrays["labels1"], arrays["occluded1"]
    np.savez_compressed(path, **arrays)
    assert load_pair(path).labels1 is None
    del arrays["flow_gt"]
    np.savez_compressed(path, **arrays)
    with pytest.raises(ValueError, match=r"000011\.npz: .* it lacks \['flow_gt'\]"):
        load_pair(path)


def test_a_torn_pair_is_left_out_and_noted(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    path = run / "pairs" / SPLIT / "scene_000003.npz"
    path.write_bytes(path.read_bytes()[:-30])
    read = load_run(run)
    assert [file.name for file in read.pair_files[SPLIT]] == ["scene_000011.npz"]
    assert read.notes == (f"pairs/{SPLIT}/scene_000003.npz is torn and was ignored",)


def test_analysis_never_imports_torch() -> None:
    """Red when: semraft.sample or semraft.data.taxonomy is imported anywhere below the report."""
    code = "import semraft.report.report, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def with_verdict(folder: Path, verdict: Any) -> Health:
    path = make_run(folder / "run")
    (path / "verdict.json").write_text(json.dumps(verdict))
    return health_of(load_run(path))


def test_a_verdict_as_the_design_has_it(tmp_path: Path) -> None:
    """Red when: a cause is lost, or an old verdict's confidence, which nobody had measured, upsets it."""
    causes = [{"name": "gradient-conflict", "confidence": 0.9, "evidence": "cosine -0.4"}, {"name": "spike"}]
    found = with_verdict(tmp_path, {"state": "worse", "first_step": 5500, "causes": causes})
    assert (found.run, found.state, found.first_step) == ("run", "worse", 5500)
    assert found.causes == (
        Cause(name="gradient conflict", evidence="cosine -0.4"),
        Cause(name="spike", evidence=""),
    )


@pytest.mark.parametrize(
    "verdict",
    [
        {"state": "stopped"},
        {"state": "stopped", "first_step": None, "causes": None},
    ],
)
def test_a_verdict_that_says_little(tmp_path: Path, verdict: Any) -> None:
    """Red when: the page of a whole study can't be written for it."""
    assert with_verdict(tmp_path, verdict) == Health(run="run", state="stopped", first_step=None, causes=())


def test_a_verdict_of_another_shape_is_refused_by_name(tmp_path: Path) -> None:
    """Red when: it is read as if it said little."""
    with pytest.raises(DamagedFile, match=r"verdict\.json: Expected `int \| null`, got `str` - at `\$.first"):
        with_verdict(tmp_path, {"state": "stopped", "first_step": "soon", "causes": []})


def test_a_run_that_did_not_watch_itself(tmp_path: Path) -> None:
    """Red when: a loss of NaN, or an end that was not reached, counts as an end."""
    assert health_of(load_run(make_run(tmp_path / "whole"))).state == "finished"
    assert (
        health_of(load_run(make_run(tmp_path / "cut", steps=(200,), validated=(200,)))).state == "unfinished"
    )
    path = make_run(tmp_path / "broken") / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["flow_loss"] = math.nan
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = health_of(load_run(path.parent))
    assert (found.state, found.first_step) == ("diverged", 200)
    assert found.causes[0].name == "flow_loss not finite"
