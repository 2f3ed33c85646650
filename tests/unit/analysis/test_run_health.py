"""semraft.analysis.run_health: the health of a run by its verdict, or by its losses."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from semraft.analysis.run_health import Cause, Health, health_of
from semraft.analysis.runs import load_run
from tests.unit.analysis.fake_runs import make_run


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
        {"state": "stopped", "first_step": "soon", "causes": ["a word"]},
    ],
)
def test_a_verdict_that_says_little_or_strange_things(tmp_path: Path, verdict: Any) -> None:
    """Red when: the page of a whole study can't be written for it."""
    assert with_verdict(tmp_path, verdict) == Health(run="run", state="stopped", first_step=None, causes=())


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
