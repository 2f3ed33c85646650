"""Validations of a run against those of the weights it began with, and refinement by refinement."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from semraft.cli import main
from semraft.config import DataConfig
from semraft.diagnosis.diagnose import diagnose
from semraft.diagnosis.record import Record
from semraft.diagnosis.validation_symptoms import refinements_undone, worse_than_start
from tests.unit.diagnosis.made_runs import CONFIG, STEPS, pulse, record_of, validation, write_run

START = (14.2, 9.8, 7.5, 6.0, 5.3, 5.1, 4.8, 4.01)
"""Errors of given weights after each refinement, and of the same after training: sooner there, then away."""
AFTER = (13.4, 7.8, 5.0, 3.8, 3.4, 3.35, 3.6, 5.39)
FASTEST = {"below": (0.70, 0.64), "middle": (1.59, 2.06), "fast": (13.9, 19.3)}


def line(step: int, split: str, errors_px: Sequence[float], **more: float) -> dict[str, Any]:
    """A validation with the error after each refinement."""
    iterations = {f"epe_iter_{number:03d}": error for number, error in enumerate(errors_px)}
    return {"step": step, "split": split, "epe": errors_px[-1], **iterations, **more}


def by_speed(now: bool) -> dict[str, float]:
    speeds = ("speed_0_10", "speed_10_40", "speed_40")
    errors = {f"epe_{name}": FASTEST[of][now] for name, of in zip(speeds, FASTEST, strict=True)}
    return errors | {f"valid_{name}": part for name, part in zip(speeds, (300.0, 480.0, 220.0), strict=True)}


def fine_tuned(folder: Path) -> Path:
    """A run whose weights got worse on KITTI, and better on the data they are trained on."""
    data = DataConfig(train="world", validation=("kitti", "world"), root="kitti=/k")
    lines = [
        line(0, "kitti", START, **by_speed(False)),
        line(0, "world-val", (2.0, 1.81)),
        line(60, "kitti", (13.0, 8.0, 5.5, 4.2, 3.6, 3.6, 3.82, 4.98), **by_speed(True)),
        line(60, "world-val", (1.6, 1.2)),
        line(STEPS, "kitti", AFTER, **by_speed(True)),
        line(STEPS, "world-val", (1.5, 1.02)),
    ]
    config = replace(CONFIG, data=data, num_updates=4, validation_updates=8)
    return write_run(folder, config=config, pulses=pulse(), metrics=lines)


def test_a_run_that_is_worse_than_where_it_began_is_named_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Red when: the set, the motion or the refinement where it got worse is not named, or it is healthy."""
    run = fine_tuned(tmp_path / "run")
    assert main.run(["diagnose", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["first_symptom"]["name"]) == ("worse", "worse-than-start")
    (worse,) = [entry for entry in found["symptoms"] if entry["name"] == "worse-than-start"]
    assert worse["first_step"] == 1
    assert worse["evidence"] == (
        "kitti: EPE 5.39 px at step 120, 4.01 before the first step; by motion, most of it first: 40 px and "
        "more 13.90, now 19.30; 10 to 40 px 1.59, now 2.06; below 10 px 0.70, now 0.64 px; worse from "
        "refinement 8 on, better up to it (refinement 7: 4.80, now 3.60 px)"
    )
    (undone,) = [entry for entry in found["symptoms"] if entry["name"] == "refinements-undone"]
    assert undone["evidence"].startswith(
        "kitti: EPE 3.35 px after refinement 6, 5.39 after refinement 8: refinements from 7 on undo"
    )
    causes = {cause["name"]: cause for cause in found["ranked_causes"]}
    differs = causes["validation-differs"]["evidence_for"]
    assert "kitti is of other data than is trained on" in differs
    assert "world-val does not get worse" in differs
    assert "training refines 4 times, validation 8 times" in causes["too-few-refinements"]["evidence_for"]


def made_of(folder: Path, epe_px: Sequence[float], steps: Sequence[int], last_step: int = STEPS) -> Record:
    lines = [
        {"step": step, "split": "kitti", "epe": value} for step, value in zip(steps, epe_px, strict=True)
    ]
    return record_of(folder, pulses=pulse()[:last_step], metrics=lines)


@pytest.mark.parametrize(
    ("epe_px", "steps", "last_step", "since"),
    [
        ((4.0, 5.4), (0, STEPS), STEPS, 1),
        ((4.0, 5.4), (0, 60), 70, None),
        ((4.0, 5.4, 5.3), (0, 30, 60), 70, 1),
        ((4.0, 5.4, 3.9), (0, 60, STEPS), STEPS, None),
        ((4.0, 3.9, 5.4, 5.4), (0, 30, 60, 90), 100, 31),
        ((4.0, 4.3), (0, STEPS), STEPS, None),
        ((4.0, 5.4), (60, STEPS), STEPS, None),
        ((4.0,), (0,), STEPS, None),
    ],
)
def test_when_a_run_is_worse_than_its_start(
    tmp_path: Path, epe_px: Sequence[float], steps: Sequence[int], last_step: int, since: int | None
) -> None:
    """By a tenth, at two validations in a row or at the last. Red when: the first steps of a run that gets
    better later are an alarm, or a first validation that is no start counts as one."""
    found = list(worse_than_start(made_of(tmp_path / "run", epe_px, steps, last_step)))
    assert [finding.first_step for finding in found] == ([] if since is None else [since])


@pytest.mark.parametrize(
    ("validations", "since"),
    [
        ([(3.0, 2.0, 2.5)], None),
        ([(3.0, 2.0, 2.1)], None),
        ([(3.0, 2.0, 2.5), (3.0, 2.0, 2.5)], 60),
        ([(3.0, 2.0, 2.5), (3.0, 2.0, 1.9)], None),
        ([(3.0, 2.0, 2.6), (3.0, 2.0, 2.5), (3.0, 2.0, 2.5)], None),
        ([(3.0, 2.0, 2.1), (3.0, 2.0, 2.5), (3.0, 2.0, 2.5)], 60),
        ([(2.5,)], None),
        ([(3.0, 2.0, *(12 * [2.1]), 2.9)], None),
        ([(3.0, 2.0, *(13 * [2.1])), (3.0, 2.0, *(12 * [2.1]), 2.9), (3.0, 2.0, *(12 * [2.1]), 2.9)], 60),
    ],
)
def test_refinements_that_undo_earlier_ones(
    tmp_path: Path, validations: Sequence[Sequence[float]], since: int | None
) -> None:
    """Of three validations the first is of the start; 12 refinements are trained with. Red when: weights that
    undid as much before their first step are this run's fault, an early validation is (of a network from
    scratch its first), or such a network is held to more refinements than it has learnt."""
    steps = (0, 60, STEPS)[-len(validations) :]
    lines = [line(step, "kitti", errors) for step, errors in zip(steps, validations, strict=True)]
    found = list(refinements_undone(record_of(tmp_path / "run", pulses=pulse(), metrics=lines)))
    assert [finding.first_step for finding in found] == ([] if since is None else [since])


def test_the_start_is_no_best_value_that_validation_left(tmp_path: Path) -> None:
    """Red when: a run that is a little above its start is called worse for it."""
    values = [2.0, 2.15, 2.14, 2.13, 2.12, 2.11]
    lines = [entry | {"step": entry["step"] - 20} for entry in validation(values)]
    assert diagnose(write_run(tmp_path / "run", pulses=pulse(), metrics=lines)).verdict.state == "healthy"


def test_pairs_that_are_trained_on_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the verdict and by `semraft diagnose`. Red when: the error of training pairs passes for another."""
    run = write_run(tmp_path / "run", pulses=pulse(), metrics=validation([2.0, 1.9]))
    sets = {
        "kitti": {"ids": ["000000", "000001"], "trained_on": 2},
        "world-val": {"ids": ["a"], "trained_on": 0},
    }
    (run / "environment.json").write_text(json.dumps({"data": {"validation": sets}}))
    assert main.run(["diagnose", str(run)]) == 0
    assert "! kitti: 2 of 2 validation pairs are trained on" in capsys.readouterr().out
    (run / "environment.json").write_text("{}")
    assert not any("trained on" in note for note in diagnose(run).notes)
