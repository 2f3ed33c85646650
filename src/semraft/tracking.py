"""The run directory: the only thing that training and reports share."""

import filecmp
import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Protocol, runtime_checkable

from semraft.records import read_lines
from semraft.run_records import StepLine
from semraft.writing import append_line as append_line
from semraft.writing import whole_file as whole_file
from semraft.writing import write_text as write_text

CONFIG = "config.json"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
PER_SAMPLE = "per_sample.csv"
SKIPPED = "skipped.jsonl"
HEALTH = "health.jsonl"
PULSE = "pulse.jsonl"
VERDICT = "verdict.json"
ROLLBACKS = "rollbacks.jsonl"
WEIGHTS = "weights.jsonl"
"""The weights of loss terms that were measured as shares of the gradient."""
PAIRS = "pairs"
QUEUED = 1000
"""Numbers that TensorBoard may be behind by; it writes them every two minutes anyway."""
CHECKPOINTS = "checkpoints"


def is_same_file(one: Path, other: Path) -> bool:
    """Whether two names are of one file, or of a file and its copy."""
    return one.samefile(other) or filecmp.cmp(one, other, shallow=False)


def create_run(run: Path, config: str) -> None:
    """Makes the folder of a new run with this config.json.

    A run that ended before its first checkpoint left nothing to go on from: of the same configuration, it
    begins again, and the records it had are removed.

    Raises:
        ValueError: There is a run with a checkpoint in it, or of another configuration.
    """
    if (run / CHECKPOINTS / "last.pt").exists():
        raise ValueError(
            f"{run} holds a run already: go on with `semraft train --resume {run}` or choose another --output"
        )
    if (run / CONFIG).exists() and (run / CONFIG).read_text() != config:
        raise ValueError(
            f"{run} holds a run of another configuration, without a checkpoint: begin that one again with "
            f"`semraft train --resume {run}`, delete it or choose another --output"
        )
    (run / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    records = (run / name for name in (METRICS, PER_SAMPLE, SKIPPED, HEALTH, PULSE, VERDICT, WEIGHTS))
    for old in (*records, *run.glob("events.out.tfevents.*"), *(run / CHECKPOINTS).iterdir()):
        old.unlink(missing_ok=True)
    write_text(run / CONFIG, config)


def forget_after(path: Path, step: int) -> None:
    """Drops the lines of a .jsonl file whose step is later than `step`, and a torn last line."""
    if not path.exists():
        return
    kept = [json.dumps(line) for line in read_lines(path, StepLine).records if line["step"] <= step]
    write_text(path, "".join(line + "\n" for line in kept))


def forget_validation(path: Path, step: int) -> None:
    """Drops what the validation of a step wrote into metrics.jsonl or skipped.jsonl: it is to be repeated."""
    if not path.exists():
        return
    kept = [
        json.dumps(line)
        for line in read_lines(path, StepLine).records
        if line["step"] != step or line.get("split") == "train" or "sample_number" in line
    ]
    write_text(path, "".join(line + "\n" for line in kept))


def scalar_name(split: str, metric: str) -> str:
    """The tracker's name of a metric, after the notes the project started from: `kitti-epe`, `viper-val-1px`.

    On KITTI `kitti-epe` is RAFT's convention, the mean over pairs; the pooled EPE is `kitti-epe-pooled`.
    """
    if split == "train":
        return metric
    if split.startswith("kitti"):
        metric = {"epe_image_mean": "epe", "epe": "epe-pooled", "fl": "f1"}.get(metric, metric)
    return f"{split}-{metric}"


@runtime_checkable
class ScalarWriter(Protocol):
    """Where curves go besides metrics.jsonl: TensorBoard's writer, or a session of another tracker."""

    def add_scalar(self, name: str, value: float, step: int, /) -> None:
        """Takes one number."""

    def close(self) -> None:
        """Writes what is not written yet."""


class Tracker:
    """The open metric files of one run: metrics.jsonl, TensorBoard and, if asked for, another tracker."""

    def __init__(self, run: Path, first_step: int, others: Sequence[ScalarWriter] = ()) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._metrics, self._health = run / METRICS, run / HEALTH
        # A queue that a line of metrics fits in: the training would wait for a full one.
        tensorboard = SummaryWriter(str(run), purge_step=first_step, max_queue=QUEUED)
        self._writers: list[ScalarWriter] = [tensorboard, *others]

    def log(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Writes the metrics of one split at one step to all of them."""
        append_line(self._metrics, {"step": step, "split": split, **values})
        for name, value in values.items():
            for writer in self._writers:
                writer.add_scalar(scalar_name(split, name), value, step)

    def log_health(self, step: int, values: Mapping[str, float]) -> None:
        """Writes what a training saw of itself at one step."""
        append_line(self._health, {"step": step, **values})
        self.draw(step, "health", values)

    def draw(self, step: int, group: str, values: Mapping[str, float]) -> None:
        """Gives numbers to the trackers as GROUP-NAME, without a line of their own in a file."""
        for name, value in values.items():
            for writer in self._writers:
                writer.add_scalar(f"{group}-{name}", value, step)

    def __enter__(self) -> "Tracker":
        self._hook, threading.excepthook = threading.excepthook, _without_curves
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            for writer in self._writers:
                # The error that ends a training is not replaced: a full disk refuses its curves too.
                with suppress(OSError) if error else nullcontext():
                    writer.close()
        finally:
            threading.excepthook = self._hook


def _without_curves(thrown: threading.ExceptHookArgs) -> None:
    """Leaves out the traceback of TensorBoard's thread on a full disk: the training gets its error too."""
    is_told = issubclass(thrown.exc_type, OSError) and type(thrown.thread).__name__ == "_AsyncWriterThread"
    if not is_told:
        threading.__excepthook__(thrown)
