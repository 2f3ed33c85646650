"""`semraft diagnose`: the terminal, JSON, and a page that escapes; runs that are unfinished, old, or none."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from semraft.cli import main
from semraft.config import load_config
from semraft.diagnosis.diagnose import diagnose
from semraft.diagnosis.rollback import plan
from semraft.diagnosis.symptoms import Finding
from semraft.records import DamagedFile
from semraft.report.diagnosis_section import charts
from semraft.tracking import append_line
from tests.helpers import PATIENCE_S
from tests.unit.analysis.page import UPLOT, Page
from tests.unit.diagnosis.made_runs import ONSET, health, pulse, set_from, validation, write_run

HEALTHY = validation([2.0, 1.8, 1.7, 1.65, 1.6, 1.58])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose rate is not the schedule's from ONSET on, and whose name wants to be HTML."""
    pulses = set_from(pulse({"epe_px": 8.0, "first_epe_px": 8.0}), rate_ratio=30.0)
    folder = tmp_path / "<b>run & co<script>"
    return write_run(folder, pulses=pulses, healths=health(moved=30), metrics=HEALTHY)


def test_the_terminal_says_first_symptom_cause_and_command(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["diagnose", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{run.name}: worse since step {ONSET} (step 120 of 120)"
    assert lines[1].startswith(f"First symptom spike at step {ONSET}: ")
    assert lines[2].startswith("Likely cause  learning rate, found by a check: weights move at 30 times")
    assert lines[3].startswith("To settle it  semraft train --from ")
    assert lines[-1] == f"page: {run / 'diagnosis.html'}"


def test_json_is_json_and_has_all_of_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Red when: NaN, infinity or a NumPy number gets into it."""
    lines = pulse(noise=3)
    lines[-1] |= {"flow_loss": float("inf")}
    beside = write_run(tmp_path / "well", pulses=pulse(noise=3), healths=health(), metrics=HEALTHY)
    out = tmp_path / "page.html"
    assert main.run(["diagnose", str(run), "--against", str(beside), "--json", "--out", str(out)]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=lambda text: pytest.fail(text))
    assert found["state"] == "worse"
    assert found["ranked_causes"][0]["name"] == "learning-rate"
    assert found["against"]["parted"]["step"] == pytest.approx(ONSET, abs=2)
    assert found["first_symptom"]["name"] == "spike"
    assert out.is_file()
    assert not (run / "diagnosis.html").exists()


def test_the_page_escapes_names_and_marks_the_first_symptom(run: Path) -> None:
    """Red when: a folder's name becomes a tag, or a chart lacks its mark."""
    assert main.run(["diagnose", str(run)]) == 0
    text = (run / "diagnosis.html").read_text()
    assert "<b>run" not in text
    assert "co<script>" not in text
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "http" not in text.replace("http-equiv", "").replace(UPLOT, "")
    drawn = list(charts(diagnose(run)))
    titles = [chart.title for chart in drawn]
    assert titles == [
        "rate ratio",
        "error on training batches",
        "length of flow over the truth's",
        "last refinement's error over the first's",
        "part of the gradient",
        "length of a step over the weights'",
        "validation on world-val",
    ]
    assert all([mark.step for mark in chart.marks] == [ONSET] for chart in drawn)
    ids = {a["id"] for _, a in page.tags if "id" in a}
    assert {a["href"].removeprefix("#") for tag, a in page.tags if tag == "a"} <= ids


def test_a_run_without_pulse_is_judged_by_its_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs of before pulse.jsonl. Red when: they raise, or are called healthy whatever their errors did."""
    lines = [
        {
            "step": step,
            "split": "train",
            "epe": 1.0 if step < 60 else 7.0,
            "flow_loss": 2.0,
            "total_loss": 2.0,
        }
        for step in range(1, 101)
    ]
    found = diagnose(write_run(tmp_path / "old", metrics=[*lines, *HEALTHY]))
    assert {"spike": 60}.items() <= {
        symptom.name: symptom.first_step for symptom in found.verdict.symptoms
    }.items()
    assert abs(found.verdict.first_step - 60) <= 2
    assert "no pulse.jsonl" in found.notes[0]
    assert "swapped-flow" in {cause.name for cause in found.not_judged}
    assert main.run(["diagnose", str(tmp_path / "old")]) == 0
    assert "! no pulse.jsonl: it is judged by the 100 training lines" in capsys.readouterr().out


def test_a_run_that_went_back_says_so_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Red when: the page shows a healthy run and not that it was rescued."""
    run = write_run(tmp_path / "run", pulses=pulse(), healths=health())
    config = replace(load_config(run / "config.json"), when_worse="lower-rate")
    cause = Finding(name="spike", first_step=25, evidence="it jumped")
    rollback = plan(config, cause, 30, [0, 20])
    assert rollback is not None
    append_line(run / "rollbacks.jsonl", asdict(rollback))
    assert main.run(["diagnose", str(run)]) == 0
    assert "! went back from step 30 to 20" in capsys.readouterr().out
    assert "went back from step 30 to 20" in (run / "diagnosis.html").read_text()


def test_runs_that_have_only_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Red when: an empty series, a torn line or a chart of nothing raises."""
    started = write_run(tmp_path / "started")
    assert main.run(["diagnose", str(started)]) == 0
    assert "healthy (step 0 of 120)" in capsys.readouterr().out
    young = write_run(tmp_path / "young", pulses=pulse()[:3], healths=health()[:1])
    with (young / "pulse.jsonl").open("a") as file:
        file.write('{"step": 4, "epe_')
    assert main.run(["diagnose", str(young), "--against", str(started)]) == 0
    assert "(step 3 of 120)" in capsys.readouterr().out


def test_a_stopped_run_stays_stopped(run: Path) -> None:
    """That training gave up stands in verdict.json alone. Red when: a torn file is taken for "it did not"."""
    (run / "verdict.json").write_text('{"state": "stopped"}')
    assert diagnose(run).verdict.state == "stopped"
    (run / "verdict.json").write_text("[torn")
    with pytest.raises(DamagedFile, match=r"verdict\.json: is no JSON"):
        diagnose(run)


def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in ([str(tmp_path)], [str(tmp_path / "nowhere")]):
        assert main.run(["diagnose", *options]) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert "is no run" in said[0]
    assert list(tmp_path.iterdir()) == []


def test_it_starts_without_torch() -> None:
    modules = "semraft.report.diagnosis_section, semraft.diagnosis.diagnose"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.stdout.strip() == "False"
