"""The step by itself: how far it is from the command, how long it is, how many files it runs through."""

import inspect
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch

import semraft
from semraft.cli import main
from semraft.config.recipes import RECIPES
from semraft.data.loader import collate
from semraft.losses.objective import Objective, objective
from semraft.training import loop, step
from semraft.training.state import initial_state
from semraft.training.step import training_step
from tests.helpers import make_sample
from tests.test_architecture import imports_of

SOURCE = Path(semraft.__file__).parent
MOST_FILES = {"losses": 7, "models": 10, "ops": 2, "kernels": 10, "training": 2, "": 5}
"""Room -> its files that run Python in a step of the smallest recipe; "": the others together."""


def own_files(frame: FrameType | None) -> list[tuple[str, str]]:
    """File and function of semraft's frames, from the innermost out."""
    found = []
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(SOURCE):
            found.append((str(path.relative_to(SOURCE)), frame.f_code.co_name))
        frame = frame.f_back
    return found


def test_files_that_run_python_in_a_step() -> None:
    """Of `world-base`, in float32. Red when: a step runs through one more file of a room."""
    config = replace(RECIPES["world-base"].config, precision="float32")
    state = initial_state(config, torch.device("cpu"))
    state.model.train()
    batch = collate([make_sample(np.random.default_rng(seed), 64, 72) for seed in range(2)])
    training_step(state, batch, config)  # Kernels are compiled.
    seen: set[str] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(SOURCE)):
            seen.add(str(Path(frame.f_code.co_filename).relative_to(SOURCE)))

    sys.setprofile(note)
    try:
        training_step(state, batch, config)
    finally:
        sys.setprofile(None)
    counts = dict.fromkeys(MOST_FILES, 0)
    for file in seen:
        room = file.partition("/")[0]
        counts[room if room in counts else ""] += 1
    assert not any(file.startswith(("monitor/", "faults/", "diagnosis/", "data/")) for file in seen)
    assert {room: count for room, count in counts.items() if count > MOST_FILES[room]} == {}, sorted(seen)


def test_three_calls_from_the_command_to_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when: a layer is put between the command and the loop, or the loop and the loss."""
    calls: list[list[tuple[str, str]]] = []

    def noted(*arguments: Any) -> Objective:
        calls.append(own_files(sys._getframe(1)))
        return objective(*arguments)

    monkeypatch.setattr(step, "objective", noted)
    options = ["--data.crop", "64", "64", "--data.world.size", "64", "72", "--data.world.scenes", "2"]
    options += ["--optim.batch", "1", "--optim.steps", "1", "--num-updates", "1", "--validation-updates", "1"]
    options += ["--device", "cpu", "--data.validation-pairs", "1", "--output", str(tmp_path / "run")]
    assert main.run(["train", "world-base", *options]) == 0
    (stack,) = calls
    of_command = stack.index(("cli/main.py", "train"))
    assert stack[: of_command + 1] == [
        ("training/step.py", "training_step"),
        ("training/loop.py", "train"),
        ("cli/main.py", "train"),
    ]
    assert "sequence_values(" in inspect.getsource(objective)


def test_step_and_loop_fit_on_a_screen() -> None:
    """Red when: the step grows beyond 35 lines, the loop beyond 60, or the step imports what observes it."""
    assert len(inspect.getsource(inspect.unwrap(training_step)).splitlines()) <= 35
    assert len(inspect.getsource(loop.train).splitlines()) <= 60
    assert not imports_of(Path(step.__file__)) & {"monitor", "faults", "diagnosis", "tracking"}
