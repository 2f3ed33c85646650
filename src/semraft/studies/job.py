"""A job of a study: one configuration file, one run folder, one `semraft train` in a process of its own.

Whoever runs jobs - this machine, a Ray worker - calls `run_job`, so resume, logs and failures look alike. A
lock, held by the training's process itself, keeps two from writing into one folder: what a killed study or
another machine left running is found and waited for.
"""

import errno
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from semraft.analysis.study_file import RUNS
from semraft.records import lines_of
from semraft.run_records import MetricsLine
from semraft.studies.study import JOBS
from semraft.tracking import CHECKPOINTS, CONFIG, METRICS, is_same_file

STOPPED = -signal.SIGTERM
"""The exit code of a job that was stopped because the study was."""
GRACE_S = 40.0
"""Seconds that a training has to finish its step and save: more than the 30 after which torchrun kills its
processes, or they would outlive it."""
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
"""Variables of a process that is one of several: not passed on to a job, which is a training of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One run of a study and where its files are."""

    study: Path
    variant: str
    seed: int
    steps: int
    start: Path | None = None
    """The checkpoint it starts from, where the study has a start."""

    @property
    def name(self) -> str:
        """VARIANT-seedK."""
        return f"{self.variant}-seed{self.seed}"

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.study / RUNS / self.name

    @property
    def config(self) -> Path:
        """The configuration it starts from."""
        return self.study / JOBS / f"{self.name}.json"

    @property
    def log(self) -> Path:
        """The output of its trainings, one after another."""
        return self.study / JOBS / f"{self.name}.log"

    @property
    def lock(self) -> Path:
        """Locked while a training writes into the run's folder."""
        return self.study / JOBS / f"{self.name}.lock"

    @property
    def last_checkpoint(self) -> Path:
        """The checkpoint that the run resumes from."""
        return self.run / CHECKPOINTS / "last.pt"


Submit = Callable[[Job], Future[int]]
"""Starts a job when there is room for it; the result is its exit code."""
Engine = Callable[[], AbstractContextManager[Submit]]
"""Runs jobs. Leaving its context stops those that are still going."""


def is_done(job: Job) -> bool:
    """Whether the run's last checkpoint is that of its last step: it is written when all else is."""
    final = job.last_checkpoint.with_name(f"step-{job.steps:06d}.pt")
    return final.exists() and job.last_checkpoint.exists() and is_same_file(final, job.last_checkpoint)


def last_step(job: Job) -> int:
    """The last step that the run has logged; 0 before the first."""
    path = job.run / METRICS
    if not path.exists():
        return 0
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 65536))  # A few lines: a validation's are some kilobytes each.
        # A line that is being written, or cut by the seek, counts as torn.
        records = lines_of(path, file.read(), MetricsLine).records
    return records[-1]["step"] if records else 0


def is_running(job: Job) -> bool:
    """Whether a training holds the job's lock."""
    if not job.lock.exists():
        return False
    with open(job.lock, "a") as lock:
        return not _take(lock)


def complaint(job: Job) -> str:
    """The last line that the job's last training printed."""
    text = job.log.read_text(errors="replace") if job.log.exists() else ""
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("semraft")]
    return (said or lines or ["nothing"])[-1]


def training_command(job: Job) -> list[str]:
    """The command that begins the run, or resumes it."""
    semraft = [sys.executable, "-m", "semraft", "train"]
    if job.last_checkpoint.exists():
        return [*semraft, "--resume", str(job.run)]
    weights = ["--model.weights", str(job.start)] if job.start else []
    return [*semraft, "--from", str(job.config), "--output", str(job.run), *weights]


def run_job(
    job: Job,
    *,
    environment: Mapping[str, str],
    directory: Path,
    launcher: Sequence[str] = (),
    stopped: Callable[[], bool] = lambda: False,
) -> int:
    """Brings a job to its end, from wherever it was left; returns 0, or the exit code of its training.

    Args:
        job: The job.
        environment: Variables that its training gets besides this process's own.
        directory: The directory that relative paths of the configuration are relative to.
        launcher: A command that starts the training's command, for example torchrun's or srun's.
        stopped: Called a few times a second; once it is true, the training saves and ends.
    """
    with open(job.lock, "a") as lock:
        while not _take(lock):
            if stopped():
                return STOPPED
            time.sleep(0.2)
        if is_done(job):
            return 0
        if stopped():
            return STOPPED
        if not job.last_checkpoint.exists() and (job.run / CONFIG).exists():
            shutil.rmtree(job.run)  # Killed before its first checkpoint: nothing to go on from.
        command = [*launcher, *training_command(job)]
        inherited = {name: value for name, value in os.environ.items() if launcher or name not in LAUNCHED}
        with open(job.log, "a") as log:
            # The last output of a killed training, a progress bar perhaps, has no end of line.
            print(f"\n$ {shlex.join(command)}", file=log, flush=True)
            process = subprocess.Popen(
                [sys.executable, "-m", "semraft.studies.exit_with_parent", str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=directory,
                env={**inherited, **environment},
                pass_fds=[lock.fileno()],  # The lock lives as long as any process that writes here.
                start_new_session=True,  # A terminal's Ctrl-C is the study's to handle.
            )
        try:
            while process.poll() is None and not stopped():
                time.sleep(0.1)
        finally:
            _end(process)
        return 0 if is_done(job) else process.returncode or 1


def _take(lock: IO[str]) -> bool:
    """Takes a file's lock, unless another process has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        raise ValueError(
            f"{lock.name}: this file system has no locks (NFS without lockd, Lustre without -o flock): put "
            f"the study on another"
        ) from error
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a training that is still going: first asked, then killed, with all that it started."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
