"""Agreement of processes on the end of a training: at one step for all, so that none waits for another.

Endings that can be foreseen are agreed on: a request to stop, a batch that can't be read, numbers that are
not finite (`agreed_ending`, in the one exchange that every step has), and work that fails in one process
(`by_all`). A process that is killed agrees on nothing: the next exchange with it fails
(`lost_processes_named`), or torchrun ends the others.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from semraft import runtime
from semraft.losses.reduction import largest_over_processes
from semraft.runtime import Processes


class TrainingStopped(RuntimeError):
    """The end of a training before its last step; the message has the reason and the way on."""


class WentWrong(TrainingStopped):
    """The end of a run that went wrong: what it has learnt since its last checkpoint is not kept."""


class OutOfTime(TrainingStopped):
    """The end of a session because its time is up; the training is to be resumed."""


class Ending(IntEnum):
    """The reason to end a training at a step; of several processes the gravest, the largest, counts."""

    NONE = 0
    ASKED = 1
    """By a signal: the step is saved."""
    LATE = 2
    """The minutes of the session are over: the step is saved."""
    UNREADABLE = 3
    """The next batch can't be read."""
    NOT_FINITE = 4
    """Loss or gradient: the weights are not moved."""


def agreed_ending(own: Ending, finite: Bool[Tensor, ""]) -> Ending:
    """The gravest ending of all processes: of each its `own`, or NOT_FINITE.

    One number is exchanged and read; this read waits for the device.
    """
    gravest = torch.where(finite, float(own), float(Ending.NOT_FINITE))
    return Ending(int(largest_over_processes(gravest)))


@contextmanager
def joined_processes(device: torch.device, run: Path) -> Iterator[Processes]:
    """The processes that train a run together, on `device` here; left when the work is done or stopped.

    Raises:
        TrainingStopped: Another process was lost.
    """
    processes = runtime.join_processes(device)
    with lost_processes_named(processes, run):
        try:
            yield processes
        except TrainingStopped:  # In every process.
            runtime.leave_processes(processes)
            raise
        runtime.leave_processes(processes)


@contextmanager
def by_all(processes: Processes) -> Iterator[None]:
    """Work that has failed for all processes when it has failed in one of them.

    Those that are done wait for the others, for an hour at most: the first process alone may work. Inside,
    processes must not exchange anything: who failed would not take part in it.

    Raises:
        TrainingStopped: It failed in another process, which raises its own error.
    """
    try:
        yield
    except Exception:
        with suppress(RuntimeError):  # Others are lost: what happened here is told all the same.
            _has_failed(processes, True)
            runtime.leave_processes(processes)
        raise
    if _has_failed(processes, False):
        raise TrainingStopped("another process can't go on and says why: this one ends with it")


def _has_failed(processes: Processes, here: bool) -> bool:
    """Whether work has failed in any process. All come here, in their own time."""
    return bool(largest_over_processes(torch.tensor(float(here)), processes.patient))


@contextmanager
def lost_processes_named(processes: Processes, run: Path) -> Iterator[None]:
    """Turns the failure of an exchange into one line.

    Raises:
        TrainingStopped: Another process was killed or has failed, or can't be reached.
    """
    try:
        yield
    except RuntimeError as error:
        # gloo's errors have no class of their own.
        if processes.count == 1 or not (
            isinstance(error, torch.distributed.DistError) or "gloo" in str(error).lower()
        ):
            raise
        raise TrainingStopped(
            f"process {processes.rank} of {processes.count} has lost another, which was killed or failed: "
            f"go on with `semraft train --resume {run}`"
        ) from error
