"""The device a check runs on, its inputs, and how its work is timed."""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from semraft import runtime

Row = dict[str, Any]
"""One line of a part's table: column -> text, number or None."""
Work = Callable[[], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """The setting of a part: device, sizes, time."""

    device: torch.device
    small: bool
    """Tiny sizes and few repetitions: shows that a part runs, not how fast."""
    out: Path
    weights: Path | None
    """RAFT weights; random ones without."""
    pairs: Path | None
    """Real pairs in KITTI 2015's layout; the procedural world without."""
    workers: int
    """Loader processes to feed the device with."""
    ends: float
    """The part's deadline on `time.monotonic`'s clock."""

    @staticmethod
    def of(options: argparse.Namespace) -> "Setting":
        return Setting(
            device=runtime.choose_device(options.device),
            small=options.small,
            out=options.out,
            weights=options.weights,
            pairs=options.pairs,
            workers=options.workers,
            ends=time.monotonic() + options.seconds,
        )

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def seconds_left(self) -> float:
        return self.ends - time.monotonic()

    def wait(self) -> None:
        """Waits until the device has done all that it was given."""
        runtime.synchronize(self.device)


def precisions(setting: Setting) -> tuple[str, ...]:
    """Of networks, the one that GPUs train in first."""
    return ("float32",) if setting.device.type == "cpu" else ("bfloat16", "float32")


def full_float32() -> None:
    """Makes float32 mean float32 for what is not semraft's own, too: no TF32 in products and convolutions."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def in_turn(works: Mapping[str, Work], setting: Setting, turns: int, at_once: int = 1) -> dict[str, float]:
    """Median seconds of each work, taking turns (A B A B), so that a change of clock meets all of them.

    A turn is `at_once` repetitions between two waits for the device; one turn of each warms up. Fewer turns
    are taken when the part's time is up.
    """
    turns, at_once = (1, 1) if setting.small else (turns, at_once)
    for work in () if setting.small else works.values():
        for _ in range(at_once):
            work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(turns):
        if turn and setting.seconds_left < 0:
            break
        for name, work in works.items():
            setting.wait()
            started = time.perf_counter()
            for _ in range(at_once):
                work()
            setting.wait()
            seconds[name].append((time.perf_counter() - started) / at_once)
    return {name: statistics.median(found) for name, found in seconds.items()}


def peak_mb(work: Work, setting: Setting) -> float | None:
    """Megabytes (10^6) that the work takes on the device above what was there; None where torch can't say."""
    if not setting.is_cuda:
        return None
    setting.wait()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(setting.device)
    before = torch.cuda.memory_allocated(setting.device)
    work()
    setting.wait()
    return (torch.cuda.max_memory_allocated(setting.device) - before) / 1e6


def guarded(what: Row, measured: Callable[[], Iterable[Row]]) -> Iterator[Row]:
    """The rows, or a row that says why there is none: another row may still be measured.

    Only what a row can recover from: a device that failed fails every row after it.
    """
    try:
        yield from measured()
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
        yield {**what, "error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}


def that_run(works: Mapping[str, Work], what: Callable[[str], Row]) -> tuple[dict[str, Work], list[Row]]:
    """The works that can be done, and for each of the others a row that says why not."""
    found, rows = dict(works), list[Row]()
    for name, work in works.items():

        def once(work: Work = work) -> tuple[Row, ...]:
            work()
            return ()

        if errors := list(guarded(what(name), once)):
            del found[name]
            rows += errors
    return found, rows
