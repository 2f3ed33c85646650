"""Jobs that run, fail, are killed and go on; trainings are stood for by fake_training.py."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from semraft.cli import main
from semraft.config import LossConfig, OptimConfig, RunConfig
from semraft.studies import runner
from semraft.studies.job import Job, is_done, is_running, last_step, run_job
from semraft.studies.preflight import StudyStopped
from semraft.studies.study import Study
from tests.helpers import PATIENCE_S

FAKE = (sys.executable, str(Path(__file__).with_name("fake_training.py")))
BASE = RunConfig(optim=OptimConfig(steps=6))
STUDY = Study(
    name="tried",
    about="",
    variants={"base": BASE, "other": replace(BASE, loss=LossConfig(gamma=0.9))},
    base="base",
    seeds=(0, 1),
)


def engine(jobs: int = 2, gpus: Sequence[str] = ()) -> runner.Engine:
    return partial(runner.local_engine, jobs, gpus, {"OMP_NUM_THREADS": "3"}, FAKE)


def lines(job: Job) -> list[dict[str, float]]:
    return [json.loads(line) for line in (job.run / "metrics.jsonl").read_text().splitlines()]


def test_what_is_missing_is_run_and_what_is_done_is_not(tmp_path: Path) -> None:
    """Red when: a done job is started again, or a new seed is not run."""
    jobs = runner.prepare(STUDY, tmp_path)
    assert [job.name for job in jobs] == ["base-seed0", "other-seed0", "base-seed1", "other-seed1"]
    assert runner.run_jobs(jobs, "base", engine()) == {}
    before = [lines(job) for job in jobs]
    assert [[line["step"] for line in found] for found in before] == [[1, 2, 3, 4, 5, 6]] * 4
    more = runner.prepare(replace(STUDY, seeds=(0, 1, 2)), tmp_path)
    assert runner.run_jobs(more, "base", engine()) == {}
    assert [lines(job) for job in jobs] == before
    assert all(is_done(job) for job in more)
    assert {row["state"] for row in runner.states(tmp_path).values()} == {"done"}


def test_cells_share_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when: two jobs at a time get one GPU, or a GPU is lost when its job ends."""
    jobs = runner.prepare(STUDY, tmp_path)
    runner.run_jobs(jobs, "base", engine(2, ["4", "7"]))
    saw = [json.loads((job.run / "saw.json").read_text()) for job in jobs]
    assert Counter(record["CUDA_VISIBLE_DEVICES"] for record in saw) in (
        Counter({"4": 2, "7": 2}),
        Counter({"4": 1, "7": 3}),
        Counter({"4": 3, "7": 1}),
    )
    assert {record["OMP_NUM_THREADS"] for record in saw} == {"3"}


def test_cells_are_told_their_part_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when: every job starts loader workers for the whole machine, or `auto` ones count as jobs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(runner, "visible_gpus", lambda: ["0", "1"])
    for gpus, jobs, cores in ((["0", "1"], 2, "4"), ([], 4, "2")):
        monkeypatch.setattr(runner, "visible_gpus", lambda gpus=gpus: gpus)
        made = runner.engine(STUDY, jobs=None, ray="", launcher=())
        assert isinstance(made, partial)
        assert made.args == (jobs, gpus, {"OMP_NUM_THREADS": cores, "SEMRAFT_CORES": cores}, ())


def test_a_failed_cell_is_named_and_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when: a failure stops the others, or is forgotten."""
    monkeypatch.setenv("FAKE", '{"fails": "base-seed1"}')
    jobs = runner.prepare(STUDY, tmp_path)
    failed = runner.run_jobs(jobs, "base", engine(1))
    assert failed == {"base-seed1": "semraft train: loss not finite at step 2"}
    assert [is_done(job) for job in jobs] == [True, True, False, True]
    row = runner.states(tmp_path)["base-seed1"]
    assert (row["state"], row["step"], row["steps"]) == ("failed", 1, 6)
    monkeypatch.delenv("FAKE")
    assert runner.run_jobs(jobs, "base", engine(1)) == {}
    assert [line["step"] for line in lines(jobs[2])] == [1, 2, 3, 4, 5, 6]


def test_a_study_of_one_seed_twice_stops_after_the_first_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when: fingerprints are looked at only in the end, or the trainings go on regardless."""
    monkeypatch.setenv("FAKE", '{"duplicate_seeds": true, "step_s": 60}')
    jobs = runner.prepare(STUDY, tmp_path)
    with pytest.raises(StudyStopped, match="seeds 0 and 1"):
        runner.run_jobs(jobs, "base", engine(4))
    assert not any(is_running(job) for job in jobs)
    assert not any(lines(job) for job in jobs if (job.run / "metrics.jsonl").exists())


def start_study(folder: Path, wrong: str) -> subprocess.Popen[bytes]:
    """The study in a process of its own, that can be killed."""
    code = (
        "import sys; from pathlib import Path; from tests.unit.studies.test_runner import *; "
        "jobs = runner.prepare(STUDY, Path(sys.argv[1])); runner.run_jobs(jobs, 'base', engine())"
    )
    command = [sys.executable, "-c", code, str(folder)]
    root = Path(__file__).parents[3]
    return subprocess.Popen(command, cwd=root, env={**os.environ, "FAKE": wrong}, stderr=subprocess.DEVNULL)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_study_leaves_no_training_behind_and_goes_on(
    number: signal.Signals, tmp_path: Path
) -> None:
    """Red when: children outlive a killed parent, start from the beginning, or repeat what is done."""
    study = start_study(tmp_path, json.dumps({"wait_for": str(tmp_path / "never")}))
    jobs = runner.jobs_of(STUDY, tmp_path)
    wait_for(lambda: all(last_step(job) == 2 for job in jobs[:2]))
    study.send_signal(number)
    study.wait(PATIENCE_S)
    wait_for(lambda: not any(is_running(job) for job in jobs))
    stopped = [lines(job) for job in jobs[:2]]
    assert runner.states(tmp_path)["base-seed0"]["state"] == "stopped"
    assert runner.run_jobs(runner.prepare(STUDY, tmp_path), "base", engine()) == {}
    assert all(is_done(job) for job in jobs)
    for job, found in zip(jobs, stopped, strict=False):
        assert lines(job)[: len(found)] == found
        # One step at most is done twice: logged, and killed before its checkpoint.
        assert 6 <= len(lines(job)) <= 7


def test_a_training_that_outlives_its_study_is_waited_for(tmp_path: Path) -> None:
    """Red when: a second training is started beside one that still writes."""
    go = tmp_path / "go"
    study = start_study(tmp_path, json.dumps({"wait_for": str(go), "step_s": 0.15, "stubborn": True}))
    jobs = runner.jobs_of(STUDY, tmp_path)
    wait_for(lambda: all(last_step(job) == 2 for job in jobs[:2]))
    study.kill()
    study.wait()
    assert all(is_running(job) for job in jobs[:2])
    assert runner.states(tmp_path)["base-seed0"]["state"] == "running"
    go.touch()
    assert runner.run_jobs(runner.prepare(STUDY, tmp_path), "base", engine()) == {}
    for job in jobs[:2]:
        assert [line["step"] for line in lines(job)] == [1, 2, 3, 4, 5, 6]
        assert len({line["pid"] for line in lines(job)}) == 1


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path: Path) -> None:
    """Red when: the folder it left makes every later start refuse."""
    job = runner.prepare(STUDY, tmp_path)[0]
    job.run.mkdir(parents=True)
    (job.run / "config.json").write_text("{}")
    (job.run / "metrics.jsonl").write_text('{"step": 1, "split": "train", "epe": 9}\n')
    assert run_job(job, environment={}, directory=tmp_path, launcher=FAKE) == 0
    assert [line["step"] for line in lines(job)] == [1, 2, 3, 4, 5, 6]


def test_a_cell_is_not_one_of_the_tasks_of_its_allocation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a SLURM batch script of four tasks a run of its own would wait for three others for ever."""
    job = runner.prepare(STUDY, tmp_path)[0]
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr("semraft.studies.job.training_command", lambda _: ["env"])
    assert run_job(job, environment={"FOR": "it"}, directory=tmp_path) == 1
    said = job.log.read_text()
    assert "FOR=it" in said
    assert "SLURM_NTASKS=4" not in said
    assert "\nRANK=" not in said


def test_done_is_what_was_copied_too_and_not_what_was_half_linked(tmp_path: Path) -> None:
    """Red when: a copied study runs again, or a run killed between checkpoint and link is left."""
    job = Job(study=tmp_path, variant="base", seed=0, steps=6)
    folder = job.last_checkpoint.parent
    folder.mkdir(parents=True)
    assert not is_done(job)
    (folder / "step-000006.pt").write_bytes(b"six")
    (folder / "last.pt").write_bytes(b"fiv")
    assert not is_done(job)
    (folder / "last.pt").write_bytes(b"six")
    assert is_done(job)


def test_the_last_step_of_a_file_that_is_being_written(tmp_path: Path) -> None:
    """Red when: a torn line, or one longer than what is read, hides the step before it."""
    job = Job(study=tmp_path, variant="base", seed=0, steps=6)
    assert last_step(job) == 0
    job.run.mkdir(parents=True)
    rows = [
        {"step": 5, "split": "train", "epe": 2.5},
        {"step": 5, "split": "world-val", "epe": 1.5, "long": "x" * 70000},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (job.run / "metrics.jsonl").write_text(json.dumps(rows[0]) + "\n" + text[: len(text) // 3])
    assert last_step(job) == 5


def test_the_first_seed_is_reported_before_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the command line. Red when: the report comes once, or a failed run does not end with 1."""
    reported: list[list[str]] = []

    def report(folder: Path, jobs: Sequence[Job], base: str) -> str:
        reported.append(sorted(job.name for job in jobs if is_done(job)))
        return base

    monkeypatch.setattr(runner, "report", report)
    monkeypatch.setenv("FAKE", '{"fails": "semantic-v1-seed1"}')
    arguments = ["--out", str(tmp_path), "--launcher", shlex.join(FAKE), "--jobs", "2", "--optim.steps", "3"]
    assert main.run(["study", "run", "smoke", "--first-seed", *arguments]) == 1
    first = ["base-seed0", "semantic-v1-seed0"]
    assert reported == [first, ["base-seed0", "base-seed1", "semantic-v1-seed0"]]


def test_runs_start_from_the_run_of_their_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the command line. Red when: a run starts before what it starts from is done, or from another seed;
    or a finished study that was moved is taken for another protocol."""
    monkeypatch.setattr(runner, "report", lambda *arguments: "")
    mine = tmp_path / "mine.py"
    mine.write_text("""
from dataclasses import replace
from semraft.config import LossConfig, ModelConfig, OptimConfig, RunConfig
from semraft.studies import Study
base = RunConfig(optim=OptimConfig(steps=6))
later = replace(base, model=ModelConfig(weights="start"), optim=OptimConfig(steps=4))
study = Study(
    name="tried", about="", variants={"base": later, "other": replace(later, loss=LossConfig(gamma=0.9))},
    base="base", seeds=(0, 1),
    start=Study(name="before", about="", variants={"only": base}, base="only", seeds=(0, 1)),
)
""")
    arguments = ["study", "run", str(mine), "--launcher", shlex.join(FAKE), "--jobs", "2", "--out"]
    assert main.run([*arguments, str(tmp_path / "out")]) == 0
    for seed in (0, 1):
        weights = {
            json.loads((tmp_path / "out" / "runs" / f"{name}-seed{seed}" / "config.json").read_text())[
                "model"
            ]["weights"]
            for name in ("base", "other")
        }
        begun = tmp_path / "out" / "start" / "runs" / f"only-seed{seed}" / "checkpoints" / "last.pt"
        assert weights == {str(begun)}
        assert begun.read_text() == "6"
    (tmp_path / "out").rename(tmp_path / "moved")
    assert main.run([*arguments, str(tmp_path / "moved")]) == 0
    assert not (tmp_path / "out").exists()


def test_nothing_is_compared_with_a_base_that_is_not_there(tmp_path: Path) -> None:
    """Red when: a failed base hides the failure behind an error of the report."""
    jobs = runner.prepare(STUDY, tmp_path)
    assert "no run of base is done" in runner.report(tmp_path, jobs, "base")
