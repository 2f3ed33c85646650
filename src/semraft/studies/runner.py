"""Runs what is missing of a study, cell by cell, wherever an engine has room, and watches all of it.

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

from semraft.analysis.summary import SUMMARY
from semraft.config import RunConfig, to_json
from semraft.config.data import CORES
from semraft.report.report import write_report
from semraft.studies.job import (
    Cell,
    Engine,
    Submit,
    complaint,
    is_done,
    is_running,
    last_step,
    run_cell,
)
from semraft.studies.preflight import begun, prove
from semraft.studies.study import CELLS, START, Study, read_study, settle
from semraft.tracking import write_text

WATCH_S = 1.0
WORKERS_ON_RAY = 2
"""Loader processes that a cell with a GPU has a core for on a Ray cluster, where its configuration leaves it
to `auto`."""


def cells_of(study: Study, folder: Path) -> list[Cell]:
    """Every cell, all variants of the first seed first, so that pairs to compare come early."""
    return [
        Cell(
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
    starts = cells_of(study.start, folder / START)
    return next(cell.last_checkpoint for cell in starts if cell.seed == seed)


def prepare(study: Study, folder: Path) -> list[Cell]:
    """Writes study.json and a configuration for every cell; returns the cells.

    Raises:
        ValueError: What lies in the folder is of another protocol.
        StudyStopped: Runs in it are not what they should be.
    """
    settle(folder, study)
    cells = cells_of(study, folder)
    (folder / CELLS).mkdir(exist_ok=True)
    for cell in cells:
        write_text(cell.config, to_json(study.cell_config(cell.variant, cell.seed)))
    prove(cells, study.base)
    return cells


def run_cells(cells: Sequence[Cell], base: str, engine: Engine) -> dict[str, str]:
    """Runs those cells that are not done; returns, by name, those that failed and what they said last.

    Raises:
        ValueError, StudyStopped: As in `prove`, as soon as the first steps show it; nothing goes on then.
        KeyboardInterrupt: The study was asked to stop.
    """
    missing = [cell for cell in cells if not is_done(cell)]
    if not missing:
        return {}
    with _terminable(), engine() as submit:
        futures = {submit(cell): cell for cell in missing}
        _watch(cells, futures, base)
    failed = {cell.name: _failure(future, cell) for future, cell in futures.items()}
    return {name: why for name, why in failed.items() if why}


def _failure(future: Future[int], cell: Cell) -> str:
    if error := future.exception():
        return f"{type(error).__name__}: {error}"
    return complaint(cell) if future.result() else ""


def _watch(cells: Sequence[Cell], futures: dict[Future[int], Cell], base: str) -> None:
    """Shows the steps of all cells together until the last is done, and looks at each that has begun."""
    proven = 0
    going = set(futures)
    steps = sum(cell.steps for cell in cells)
    with tqdm(total=steps, initial=_steps_done(cells), unit="step", desc="study") as bar:
        while going:
            _, going = wait(going, WATCH_S, FIRST_COMPLETED)
            if len(begun(cells)) > proven or not going:
                proven = len(begun(cells))
                prove(cells, base)
            over = len(cells) - len(going)
            failed = sum(1 for future in futures if future.done() and _failure(future, futures[future]))
            text = f"{over - failed} of {len(cells)} runs done"
            bar.set_postfix_str(f"{text}, {failed} failed" if failed else text, refresh=False)
            bar.update(_steps_done(cells) - bar.n)
            if sys.stderr.isatty() or not going:  # A log file needs no clock between steps.
                bar.refresh()


def _steps_done(cells: Sequence[Cell]) -> int:
    return sum(last_step(cell) for cell in cells)


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
    """Cells as processes of this machine, `jobs` at a time, each on one of `gpus`, with these variables."""
    stop = threading.Event()
    free: SimpleQueue[str] = SimpleQueue()
    for number in range(jobs):
        free.put(gpus[number % len(gpus)] if gpus else "")

    def run(cell: Cell) -> int:
        gpu = free.get()
        try:
            environment = {**threads, **({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})}
            return run_cell(
                cell,
                environment=environment,
                directory=Path.cwd(),
                launcher=launcher,
                stopped=stop.is_set,
            )
        finally:
            free.put(gpu)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            yield lambda cell: pool.submit(run, cell)
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
    """What runs a study's cells: this machine, or the Ray cluster at an address.

    Here, one cell a GPU; without one, as many as the cores carry, which share them. That is a function of the
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


def report(folder: Path, cells: Sequence[Cell], base: str) -> str:
    """Writes summary.json and report.html of what is done; returns what to tell of them."""
    if not any(cell.variant == base and is_done(cell) for cell in cells):
        return f"no run of {base} is done, which the others are compared with: no report yet"
    page = folder.resolve() / "report.html"
    return f"{write_report([folder], page)}\nsummary: {page.with_name(SUMMARY)}\nreport: {page}"


def states(folder: Path) -> dict[str, dict[str, Any]]:
    """Run -> its state (done, running, failed, stopped, missing), step, steps, and what a failed one said.

    Raises:
        ValueError: There is no study in the folder.
    """
    found = read_study(folder)
    rows: dict[str, dict[str, Any]] = {}
    for seed in found["seeds"]:
        for variant in found["variants"]:
            steps = (found["protocol"] | found["differences"][variant])["optim.steps"]
            cell = Cell(study=folder.resolve(), variant=variant, seed=seed, steps=steps)
            state, said = _state(cell)
            rows[cell.name] = {
                "state": state,
                "step": steps if state == "done" else last_step(cell),
                "steps": steps,
                "said": said,
            }
    return rows


def _state(cell: Cell) -> tuple[str, str]:
    if is_done(cell):
        return "done", ""
    if is_running(cell):
        return "running", ""
    if not cell.log.exists():
        return "missing", ""
    said = complaint(cell)
    failed = said.startswith("semraft train:") and "stopped after step" not in said
    return ("failed", said) if failed else ("stopped", "")
