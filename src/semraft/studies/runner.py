"""Runs what is missing of a study, job by job, wherever an engine has room, and watches all of it.

Nothing about a study's state is kept in memory or in files of its own: what is done is what the run folders
say, so that a study goes on after any interruption.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import Any

from tqdm import tqdm

from semraft.analysis.study_file import read_study
from semraft.analysis.summary import SUMMARY
from semraft.config import RunConfig, to_json
from semraft.config.data import CORES
from semraft.report.report import write_report
from semraft.studies.job import (
    Engine,
    Job,
    Submit,
    complaint,
    is_done,
    is_running,
    last_step,
    run_job,
)
from semraft.studies.preflight import begun, check_comparable
from semraft.studies.study import JOBS, START, Study, settle
from semraft.tracking import write_text

WATCH_S = 1.0
WORKERS_ON_RAY = 2
"""Loader processes that a job with a GPU has a core for on a Ray cluster, where its configuration leaves it
to `auto`."""


def jobs_of(study: Study, folder: Path) -> list[Job]:
    """Every job, all variants of the first seed first, so that pairs to compare come early."""
    return [
        Job(
            study=folder.resolve(),
            variant=variant,
            seed=seed,
            steps=config.optim.steps,
            start=_start(study, folder, seed),
        )
        for seed in study.seeds
        for variant, config in study.variants.items()
    ]


def _start(study: Study, folder: Path, seed: int) -> Path | None:
    """The last checkpoint of the run that the runs of a seed start from."""
    if study.start is None:
        return None
    starts = jobs_of(study.start, folder / START)
    return next(job.last_checkpoint for job in starts if job.seed == seed)


def prepare(study: Study, folder: Path) -> list[Job]:
    """Writes study.json and a configuration for every job; returns the jobs.

    Raises:
        ValueError: A run in the folder is of another protocol.
        StudyStopped: Runs in it may not be compared.
    """
    settle(folder, study)
    jobs = jobs_of(study, folder)
    (folder / JOBS).mkdir(exist_ok=True)
    for job in jobs:
        write_text(job.config, to_json(study.job_config(job.variant, job.seed)))
    check_comparable(jobs, study.base)
    return jobs


def run_jobs(jobs: Sequence[Job], base: str, engine: Engine) -> dict[str, str]:
    """Runs the jobs that are not done; returns those that failed: name -> last line of the log.

    Raises:
        ValueError, StudyStopped: As in `check_comparable`, in the first steps of a run; all jobs end then.
        KeyboardInterrupt: The study was asked to stop.
    """
    missing = [job for job in jobs if not is_done(job)]
    if not missing:
        return {}
    with _terminable(), engine() as submit:
        futures = {submit(job): job for job in missing}
        _watch(jobs, futures, base)
    failed = {job.name: _failure(future, job) for future, job in futures.items()}
    return {name: why for name, why in failed.items() if why}


def _failure(future: Future[int], job: Job) -> str:
    if error := future.exception():
        return f"{type(error).__name__}: {error}"
    return complaint(job) if future.result() else ""


def _watch(jobs: Sequence[Job], futures: dict[Future[int], Job], base: str) -> None:
    """Shows the steps of all jobs together until the last is done, and looks at each that has begun."""
    proven = 0
    going = set(futures)
    steps = sum(job.steps for job in jobs)
    with tqdm(total=steps, initial=_steps_done(jobs), unit="step", desc="study") as bar:
        while going:
            _, going = wait(going, WATCH_S, FIRST_COMPLETED)
            if len(begun(jobs)) > proven or not going:
                proven = len(begun(jobs))
                check_comparable(jobs, base)
            over = len(jobs) - len(going)
            failed = sum(1 for future in futures if future.done() and _failure(future, futures[future]))
            text = f"{over - failed} of {len(jobs)} runs done"
            bar.set_postfix_str(f"{text}, {failed} failed" if failed else text, refresh=False)
            bar.update(_steps_done(jobs) - bar.n)
            if sys.stderr.isatty() or not going:  # A log file needs no clock between steps.
                bar.refresh()


def _steps_done(jobs: Sequence[Job]) -> int:
    return sum(last_step(job) for job in jobs)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a study as Ctrl-C does: its trainings save and stop first."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def local_engine(
    jobs: int, gpus: Sequence[str], threads: Mapping[str, str], launcher: Sequence[str] = ()
) -> Iterator[Submit]:
    """Jobs as processes of this machine, `jobs` at a time, each on one of `gpus`, with these variables."""
    stop = threading.Event()
    free: SimpleQueue[str] = SimpleQueue()
    for number in range(jobs):
        free.put(gpus[number % len(gpus)] if gpus else "")

    def run(job: Job) -> int:
        gpu = free.get()
        try:
            environment = {**threads, **({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})}
            return run_job(
                job,
                environment=environment,
                directory=Path.cwd(),
                launcher=launcher,
                stopped=stop.is_set,
            )
        finally:
            free.put(gpu)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            yield lambda job: pool.submit(run, job)
        finally:
            stop.set()  # Those that wait for room return at once, those that are going save first.


def visible_gpus() -> list[str]:
    """The GPUs of this machine that may be used, as CUDA_VISIBLE_DEVICES names them.

    Asks nvidia-smi: importing torch for it would take seconds and a part of a GPU's memory.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    found = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(found))]


def engine(study: Study, *, jobs: int | None, ray: str, launcher: Sequence[str]) -> Engine:
    """The engine of a study's jobs: this machine, or the Ray cluster at an address.

    Here, one job a GPU; without one, as many as the cores carry, which share them. That is a function of the
    study and the machine, never of what is missing: other numbers of threads round differently. A launcher
    shares out the machine itself.
    """
    configs = study.variants.values()
    gpus = [] if launcher or all(config.device == "cpu" for config in configs) else visible_gpus()
    processes = 1 + max(_workers(config, bool(ray)) for config in configs)
    if ray:
        if launcher or jobs:
            raise ValueError("--ray shares out its machines itself: take out --launcher and --jobs")
        from semraft.studies.ray_engine import ray_engine

        return partial(ray_engine, ray, cores=processes, gpu=any(c.device != "cpu" for c in configs))
    cores = len(os.sched_getaffinity(0))
    carried = 1 if launcher else len(gpus) or max(1, cores // processes)
    jobs = jobs or min(len(study.variants) * len(study.seeds), carried)
    own = str(max(1, cores // jobs))
    threads = {} if launcher else {"OMP_NUM_THREADS": own, CORES: own}
    return partial(local_engine, jobs, gpus, threads, launcher)


def _workers(config: RunConfig, on_ray: bool) -> int:
    """Loader processes that a run needs room for; `auto` makes do with the cores that are there."""
    if config.data.workers != "auto":
        return config.data.workers
    return WORKERS_ON_RAY if on_ray and config.device != "cpu" else 0


def report(folder: Path, jobs: Sequence[Job], base: str) -> str:
    """Writes summary.json and report.html of what is done; returns a text on them."""
    if not any(job.variant == base and is_done(job) for job in jobs):
        return f"no run of {base} is done, which the others are compared with: no report yet"
    page = folder.resolve() / "report.html"
    return f"{write_report([folder], page)}\nsummary: {page.with_name(SUMMARY)}\nreport: {page}"


def states(folder: Path) -> dict[str, dict[str, Any]]:
    """Run -> its state (done, running, failed, stopped, missing), step, steps, and a failed one's last line.

    Raises:
        ValueError: There is no study in the folder.
    """
    found = read_study(folder)
    rows: dict[str, dict[str, Any]] = {}
    for seed in found["seeds"]:
        for variant in found["variants"]:
            steps = (found["protocol"] | found["differences"][variant])["optim.steps"]
            job = Job(study=folder.resolve(), variant=variant, seed=seed, steps=steps)
            state, said = _state(job)
            rows[job.name] = {
                "state": state,
                "step": steps if state == "done" else last_step(job),
                "steps": steps,
                "said": said,
            }
    return rows


def _state(job: Job) -> tuple[str, str]:
    if is_done(job):
        return "done", ""
    if is_running(job):
        return "running", ""
    if not job.log.exists():
        return "missing", ""
    said = complaint(job)
    failed = said.startswith("semraft train:") and "stopped after step" not in said
    return ("failed", said) if failed else ("stopped", "")
