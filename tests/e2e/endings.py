"""One of two processes that train together, case after case; in each one of them comes to an end of its own.

`RANK=0 WORLD_SIZE=2 ... python -m tests.e2e.endings FOLDER`, and the same with RANK=1: writes to
FOLDER/CASE-RANK.txt how `loop.train` ended there. In processes of their own, because they end.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from semraft import runtime
from semraft.config import (
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TermConfig,
    WorldConfig,
)
from semraft.data.loader import TrainingBatch, training_batches
from semraft.diagnosis.symptoms import Finding
from semraft.diagnosis.verdict import Verdict
from semraft.losses.objective import Objective, objective
from semraft.losses.term_weights import MEASURED_STEPS
from semraft.monitor import monitor
from semraft.sample import DamagedFile
from semraft.training import loop, run_data, step
from semraft.training.state import TrainingState

CONFIG = RunConfig(
    data=DataConfig(crop=(64, 64), workers=0, validation_pairs=1, world=WorldConfig(size=(64, 72), scenes=4)),
    model=ModelConfig(arch="tiny"),
    optim=OptimConfig(steps=4, batch=2, learning_rate=1e-3),
    num_updates=1,
    validation_updates=1,
    precision="float32",
    device="cpu",
    log_every=3,
    checkpoint_every=2,
    saved_pairs=0,
)
RANK = int(os.environ["RANK"])
Patch = pytest.MonkeyPatch


def at_call(number: int, act: Callable[[], None], function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, but that `act` is done first in its call of this number."""
    calls = iter(range(1, 1000))

    def counted(*arguments: Any, **options: Any) -> Any:
        if next(calls) == number:
            act()
        return function(*arguments, **options)

    return counted


def asked(patch: Patch) -> None:
    """The second process is asked to stop while it takes its second step."""
    if RANK == 1:
        ask = partial(os.kill, os.getpid(), signal.SIGTERM)
        patch.setattr(step, "objective", at_call(2, ask, objective))


def not_finite(patch: Patch) -> None:
    """A loss of the second process alone, whose gradient is finite, in its third step."""
    calls = iter(range(1, 1000))

    def broken(*arguments: Any) -> Objective:
        losses = objective(*arguments)
        bad = torch.tensor(torch.nan if RANK == 1 and next(calls) == 3 else 0.0)
        values = losses.values | {"flow_loss": losses.values["flow_loss"] + bad}
        return Objective(total=losses.total + bad, values=values)

    patch.setattr(step, "objective", broken)


def not_finite_scaled(patch: Patch) -> None:
    """The same with the gradient scaler of float16, which passes over gradients that are not finite."""
    make = torch.amp.GradScaler
    patch.setattr(torch.amp, "GradScaler", lambda device, enabled: make(device, init_scale=2.0**8))
    not_finite(patch)


def gone_back(patch: Patch) -> None:
    """The same in a run that goes back to a sound checkpoint."""
    sign = Finding(name="spike", first_step=3, evidence="it jumped")
    fine = Verdict(state="fine", first_step=None, causes=(), symptoms=())
    worse = Verdict(state="worse", first_step=3, causes=(sign,), symptoms=(sign,))
    patch.setattr(monitor, "judge", lambda record, stopped=False: worse if stopped else fine)
    not_finite(patch)


def damaged(patch: Patch) -> None:
    """The third batch of the second process can't be read."""

    def batches(*arguments: Any) -> Iterator[TrainingBatch]:
        for number, batch in enumerate(training_batches(*arguments), start=1):
            if RANK == 1 and number == 3:
                raise DamagedFile("/data/003.png", "is truncated")
            yield batch

    patch.setitem(loop.train.__kwdefaults__, "open_batches", batches)


def no_data(patch: Patch) -> None:
    """The second process's machine lacks the data."""
    if RANK == 1:
        patch.setattr(run_data, "checked_training_data", refused)


def refused(*arguments: Any) -> Any:
    raise ValueError("the root /data is no folder")


def disk_full(patch: Patch) -> None:
    """The first process can't write its checkpoint."""

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    patch.setattr(TrainingState, "save", full)


def no_gradient(patch: Patch) -> None:
    """A share can't be measured: the flow loss has nothing to learn from."""


def sound(patch: Patch) -> None:
    """Nothing happens."""


def killed(patch: Patch) -> None:
    """The second process is killed in its fourth step. The last case: the first is alone afterwards."""
    if RANK == 1:
        kill = partial(os.kill, os.getpid(), signal.SIGKILL)
        patch.setattr(step, "objective", at_call(4, kill, objective))


def resumed(patch: Patch) -> None:
    """The run that was asked to stop goes on."""


AGREED = (not_finite, not_finite_scaled, gone_back, damaged, no_data, disk_full, no_gradient)
CASES = (sound, asked, resumed, *AGREED, killed)


def config_of(case: Callable[[Patch], None]) -> RunConfig:
    if case is gone_back:
        return replace(CONFIG, when_worse="lower-rate")
    if case is no_gradient:
        return replace(
            CONFIG,
            data=replace(CONFIG.data, truth_frac=0.0),
            loss=LossConfig(terms=(TermConfig(name="smoothness", share=0.1),)),
            optim=replace(CONFIG.optim, steps=MEASURED_STEPS + 2),
        )
    return CONFIG


def main() -> None:
    folder = Path(sys.argv[1])
    processes = runtime.join_processes(torch.device("cpu"))
    left: list[bool] = []

    def leave(processes: runtime.Processes) -> None:
        if not left:  # Once they have left there is nothing to leave.
            left.append(True)
            torch.distributed.barrier(processes.patient)  # They stay together for the next case.

    for case in CASES:
        left.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runtime, "join_processes", lambda device: processes)
            patch.setattr(runtime, "leave_processes", leave)
            case(patch)
            try:
                run = folder / (asked if case is resumed else case).__name__
                loop.train(config_of(case), run, resume=case is resumed)
                ended = "done"
            except Exception as error:
                ended = f"{type(error).__name__}: {error}"
        how = "together" if left else "alone"
        (folder / f"{case.__name__}-{RANK}.txt").write_text(f"{how}: {ended}")


if __name__ == "__main__":
    main()
