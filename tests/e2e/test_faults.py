"""Planted faults as a person meets them: found while the training goes on, named, and acted upon."""

import json
from pathlib import Path
from typing import Any

import pytest

from semraft.faults.fault_config import FAULTS, fault_of
from tests.e2e.test_training import lines, on_two_processes, semraft

SHORT = [
    *("--data.world.scenes", "16", "--data.validation-pairs", "2", "--num-updates", "2"),
    *("--validate-every", "30", "--checkpoint-every", "10", "--health-every", "10", "--saved-pairs", "0"),
    *("--device", "cpu", "--precision", "float32"),
]
SMALL = [
    *SHORT,
    *("--optim.batch", "2", "--num-updates", "1", "--validation-updates", "1"),
    *("--data.world.size", "64", "96", "--data.crop", "64", "72"),
]
NAMED = {"v1-weight": "term-too-heavy", "v1-constant": "term-biased"}


def verdict(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "verdict.json").read_text())
    return found


def test_a_fault_in_the_data_is_named_while_it_trains(tmp_path: Path) -> None:
    """Red when: nothing is said, or too late, or the run's files do not say it."""
    run = tmp_path / "run"
    options = [*SMALL, "--optim.steps", "60", "--altered", "label-resize@31", "--output", str(run)]
    done = semraft("train", "fault-label-resize", *options)
    assert "! label-resize since step 31" in done.stderr
    assert done.stderr.index("! label-resize") < done.stderr.index("monitoring took")
    found = verdict(run)
    assert (found["state"], found["first_step"]) == ("worse", 31)
    assert found["causes"][0]["name"] == "label-resize"
    pulses = [json.loads(line) for line in (run / "pulse.jsonl").read_text().splitlines()]
    assert [line["step"] for line in pulses] == list(range(1, 61))


def test_an_overflow_ends_the_run_with_its_cause(tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = [*SMALL, "--optim.steps", "30", "--altered", "half-overflow@12", "--output", str(run)]
    done = semraft("train", "fault-half-overflow", *options, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert (verdict(run)["state"], verdict(run)["causes"][0]["name"]) == ("diverged", "half-overflow")


@pytest.mark.slow
def test_what_helps_nothing_ends(tmp_path: Path) -> None:
    """It breaks again after each of three rollbacks. Red when: it goes back for ever, or never."""
    run = tmp_path / "run"
    options = [*SHORT, "--optim.steps", "30", "--altered", "half-overflow@12", "--when-worse", "lower-rate"]
    done = semraft("train", "fault-half-overflow", *options, "--output", str(run), check=False)
    assert done.returncode == 1
    assert "after 3 rollbacks" in done.stderr
    rollbacks = [json.loads(line) for line in (run / "rollbacks.jsonl").read_text().splitlines()]
    assert [(line["step"], line["rate_frac"]) for line in rollbacks] == [(10, 0.5)] * 3


def test_it_stops_where_it_should(tmp_path: Path) -> None:
    """Red when: `--when-worse stop` trains on, or does not say why."""
    run = tmp_path / "run"
    options = [*SMALL, "--optim.steps", "60", "--altered", "learning-rate@21", "--when-worse", "stop"]
    done = semraft("train", "fault-learning-rate", *options, "--output", str(run), check=False)
    assert done.returncode == 1
    assert "stopped at step 30" in done.stderr
    assert "learning-rate since step 21" in done.stderr
    assert verdict(run)["state"] == "stopped"


@pytest.mark.slow
def test_it_goes_back_and_on_without_the_guilty_term(tmp_path: Path) -> None:
    """Red when: the term acts on, lines of what was undone stay, or nothing says that it went back."""
    run, again = tmp_path / "run", tmp_path / "again"
    options = [*SHORT, "--optim.steps", "60", "--altered", "v1-weight@25", "--when-worse", "drop-term"]
    done = semraft("train", "fault-v1-weight", *options, "--output", str(run))
    (rollback,) = [json.loads(line) for line in (run / "rollbacks.jsonl").read_text().splitlines()]
    assert rollback["dropped"] == "semantic-v1"
    assert rollback["cause"] in ("term-too-heavy", "term-biased")  # Five steps on, by the last digits.
    assert rollback["step"] == 20
    assert rollback["first_step"] == 25
    assert "without semantic-v1" in done.stderr
    found = verdict(run)
    assert found["state"] == "healthy"
    assert "without semantic-v1" in found["rollbacks"][0]
    pulses = [json.loads(line) for line in (run / "pulse.jsonl").read_text().splitlines()]
    assert [line["step"] for line in pulses] == list(range(1, 61))
    assert ["weight_semantic-v1" in line for line in pulses] == [True] * 20 + [False] * 40
    names = [chosen["name"] for chosen in json.loads((run / "config.json").read_text())["loss"]["terms"]]
    assert names == ["matching", "semantic-v1"]
    # What it became is what a run of the first 20 steps with, and the rest without, would be.
    semraft("train", "--from", str(run), "--output", str(again), "--altered")
    before = [line for line in lines(run) if line["step"] <= 20]
    assert before == [line for line in lines(again) if line["step"] <= 20]


@pytest.mark.slow
def test_two_processes_go_back_together(tmp_path: Path) -> None:
    """Red when: one waits for the other for ever, or the run can't be gone on with."""
    run = tmp_path / "run"
    options = [*SHORT, "--optim.steps", "60", "--altered", "v1-weight@25", "--when-worse", "drop-term"]
    done = on_two_processes("train", "fault-v1-weight", *options, "--output", str(run), check=False)
    assert done.returncode != 0
    assert f"go on with `semraft train --resume {run}`" in done.stderr
    on_two_processes("train", "--resume", str(run))
    assert verdict(run)["state"] == "healthy"
    assert len((run / "rollbacks.jsonl").read_text().splitlines()) == 1
    assert len((run / "pulse.jsonl").read_text().splitlines()) == 60


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_recipe_is_found(fault: str, tmp_path: Path) -> None:
    """The recipes as they are, a minute each. Red when: one is missed, misnamed or dated wrongly."""
    run = tmp_path / "run"
    semraft("train", f"fault-{fault}", "--output", str(run), check=False)
    found = verdict(run)
    planted = fault_of(json.loads((run / "config.json").read_text())["altered"]).step
    assert found["causes"][0]["name"] == NAMED.get(fault, fault)
    assert found["first_step"] == pytest.approx(planted, rel=0.1)
