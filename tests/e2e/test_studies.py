"""Studies as a person runs them: killed with all they started, gone on with, on two processes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from semraft.cli import main
from tests.helpers import PATIENCE_S

MINE = """
from dataclasses import replace
from semraft.config import LossConfig, TermConfig
from semraft.config.recipes import RECIPES
from semraft.studies import Study

tiny = RECIPES["world-base"].config
tiny = replace(
    tiny,
    data=replace(
        tiny.data, crop=(64, 64), validation_pairs=3, world=replace(tiny.data.world, size=(64, 80), scenes=12)
    ),
    optim=replace(tiny.optim, steps={steps}, batch=2),
    num_updates=2, validation_updates=2, saved_pairs=1, device="cpu", precision="float32",
    log_every=2, validate_every=10, checkpoint_every=3,
)
v1 = TermConfig(name="semantic-v1", weight=0.5)
matching = TermConfig(name="matching", weight=0.5)
study = Study(
    name="mine",
    about="three losses on a tiny world",
    variants={{
        "base": tiny,
        "v1": replace(tiny, loss=LossConfig(terms=(matching, v1))),
        **({{"plain": replace(tiny, loss=LossConfig())}} if {seeds} > 1 else {{}}),
    }},
    base="base",
    seeds=tuple(range({seeds})),
)
"""
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def mine(folder: Path, steps: int, seeds: int) -> Path:
    file = folder / "mine.py"
    file.write_text(MINE.format(steps=steps, seeds=seeds))
    return file


def study_command(file: Path, out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "semraft", "study", "run", str(file), "--out", str(out), *options]


def run_study(file: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        study_command(file, out, *options), env=ONE_THREAD, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    return done


def lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def lines_written(out: Path) -> int:
    """By all its runs."""
    return sum(file.read_text().count("\n") for file in (out / "runs").glob("*/metrics.jsonl"))


def kill_at_a_random_moment(file: Path, out: Path, between_lines: tuple[int, int]) -> None:
    process = subprocess.Popen(
        study_command(file, out), env=ONE_THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    moment = random.randint(*between_lines)
    while lines_written(out) < moment:
        assert process.poll() is None, "ended before it was killed"
        time.sleep(0.02)
    time.sleep(random.uniform(0, 0.1))  # Anywhere between two lines, not only behind one.
    process.kill()
    assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_three_variants_and_three_seeds_killed_twice(tmp_path: Path) -> None:
    """3 x 3 runs of 60 steps, the parent killed at two random moments. tests/unit/studies/test_runner.py has
    the same law with trainings that take milliseconds, tests/e2e/test_training.py a training that is killed.

    Red when: an orphan writes on, a job starts from scratch beside its old lines, or is run twice.
    """
    file, kills = mine(tmp_path, steps=60, seeds=3), 2
    done = run_study(file, tmp_path / "undisturbed")
    assert "report:" in done.stdout
    most = lines_written(tmp_path / "undisturbed") // 2
    for kill in range(kills):
        between_lines = (1 + most * kill // kills, most * (kill + 1) // kills)
        kill_at_a_random_moment(file, tmp_path / "killed", between_lines)
    run_study(file, tmp_path / "killed")
    summaries = [(tmp_path / name / "summary.json").read_text() for name in ("undisturbed", "killed")]
    assert summaries[1] == summaries[0]
    assert len(json.loads(summaries[0])["runs"]) == 9
    for run in (tmp_path / "undisturbed" / "runs").iterdir():
        assert lines(tmp_path / "killed" / "runs" / run.name) == lines(run)
    assert (tmp_path / "killed" / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_a_cell_of_two_processes_under_torchrun(tmp_path: Path) -> None:
    """DDP inside a study; red when the launcher's processes don't find each other or both write."""
    file = mine(tmp_path, 6, 1)
    launcher = "torchrun --standalone --no-python --nproc-per-node 2"
    folder = Path(sys.executable).parent
    run_study(file, tmp_path / "ddp", "--launcher", f"{folder}/{launcher}")
    for run in (tmp_path / "ddp" / "runs").iterdir():
        assert json.loads((run / "environment.json").read_text())["processes"] == 2
        steps = [line["step"] for line in lines(run) if line["split"] == "train"]
        assert steps == [2, 4, 6]


def call(*arguments: str) -> int:
    return main.run(list(arguments))


def test_the_shipped_studies_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Red when: a program that reads the list can't find the smoke study or the number of runs."""
    assert call("study", "list", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [name for name, row in found.items() if row["smoke"]] == ["smoke"]
    assert found["smoke"]["runs"] == 4
    assert found["origin"]["seeds"] == [0, 42, 1234]
    assert call("study", "list") == 0
    assert call("study") == 0
    assert "study status" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "no-such-study"], "semraft study list"),
        (["run", "smoke", "--seed", "3"], "--seed is set by the study"),
        (["run", "smoke", "--loss.terms", "semantic-v1:0.5"], "same configuration"),
        (["run", "smoke", "--ray", "auto", "--jobs", "2"], "take out"),
        (["run", "smoke", "--ray", "127.0.0.1:1"], "no Ray cluster at"),
        (["status", "nowhere"], "no study"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(
    arguments: Sequence[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("study", *arguments) == 2
    said = capsys.readouterr().err
    assert says in said
    assert len(said.splitlines()) == 1


def test_status_of_a_study_that_has_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of all studies in studies/ without a folder's name, and never with a traceback."""
    from semraft.studies import runner
    from semraft.studies.catalog import STUDIES

    monkeypatch.chdir(tmp_path)
    assert call("study", "status") == 0
    runner.prepare(STUDIES["smoke"], Path("studies/smoke"))
    assert call("study", "status") == 0
    assert "studies/smoke: 0 of 4 runs done" in capsys.readouterr().out
    assert call("study", "status", "studies/smoke", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["studies/smoke"]
    assert rows["base-seed1"] == {"state": "missing", "step": 0, "steps": 20, "said": ""}
    shutil.rmtree("studies")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own.
def test_a_ray_cluster_loses_a_machine(tmp_path: Path) -> None:
    """Two machines' worth of Ray, one killed in the middle: all is done, nothing twice.

    Red when: a job of the lost machine is not given to the other one, or starts from the beginning there.
    """
    pytest.importorskip("ray", reason="needs the extra `ray`")
    import psutil
    from ray.cluster_utils import Cluster

    file, out = mine(tmp_path, 100, 1), tmp_path / "ray"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        machines = [cluster.add_node(num_cpus=1) for _ in range(2)]
        study = subprocess.Popen(
            study_command(file, out, "--ray", cluster.address),
            env=ONE_THREAD,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        run = out / "runs" / "v1-seed0"
        while not (run / "checkpoints" / "last.pt").exists():
            assert study.poll() is None, study.stderr.read() if study.stderr else ""
            time.sleep(0.1)
        # The end of the machine it is on: raylet, worker and training, all at once.
        raylets = [psutil.Process(node.all_processes["raylet"][0].process.pid) for node in machines]
        trees = [[raylet, *raylet.children(recursive=True)] for raylet in raylets]
        (lost,) = (tree for tree in trees if any(str(run) in process.cmdline() for process in tree))
        for process in lost:
            process.kill()
        _, said = study.communicate(timeout=PATIENCE_S)
        assert study.returncode == 0, said
    finally:
        cluster.shutdown()
    for name, starts in (("base", 1), ("v1", 2)):
        log = (out / "jobs" / f"{name}-seed0.log").read_text().splitlines()
        commands = [line for line in log if line.startswith("$ ")]
        assert len(commands) == starts, name
        assert ("--resume" in commands[-1]) == (name == "v1")
    for run in (out / "runs").iterdir():
        assert [line["step"] for line in lines(run) if line["split"] == "train"] == list(range(2, 101, 2))
    assert len(json.loads((out / "summary.json").read_text())["runs"]) == 2
