"""benchmarks/pretrain.py: which stage is next, what a sitting leaves, what is carried to another machine."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from benchmarks import pretrain
from benchmarks.pretrain import MILESTONE, next_command, pack, read_card, unpack, write_milestone

from semraft import tracking
from semraft.config import to_json
from semraft.config.pretraining import CHAINS
from semraft.models.weights import load_state
from semraft.training.state import TrainingState, initial_state

STAGES = list(CHAINS["gpu"])
HOURS = {"hours": 1.5, "core_hours": 3.25}


def make_run(run: Path, step: int, steps: int) -> TrainingState:
    """A stage after `step` steps, its weights, averages and moments all different."""
    config = CHAINS["gpu"][run.name]
    config = replace(config, optim=replace(config.optim, steps=steps))
    state = initial_state(config, torch.device("cpu"))
    for parameter in state.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    state.optimizer.step()
    state.step = step
    tracking.create_run(run, to_json(config))
    tracking.write_text(run / tracking.ENVIRONMENT, json.dumps({"commit": "abc", "data": {"train": []}}))
    state.save(run / tracking.CHECKPOINTS / "last.pt", config)
    return state


def test_the_chain_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Red when: a finished stage is resumed, the next one starts from scratch, or from too early a stage."""
    first, second, third = STAGES

    def command(weights: str = "", stage: str = first) -> list[str]:
        return next_command(tmp_path, STAGES, stage, weights, ["--seed", "3"])

    assert command() == ["train", first, "--output", str(tmp_path / first), "--seed", "3"]
    given = ["train", second, "--model.weights", "w.pth", "--output", str(tmp_path / second), "--seed", "3"]
    assert command("w.pth", second) == given
    tracking.create_run(tmp_path / first, "killed before its first checkpoint")
    assert command()[1] == first
    assert not (tmp_path / first).exists()

    make_run(tmp_path / first, 4, 5)
    assert command("w.pth", second) == ["train", "--resume", str(tmp_path / first)]
    make_run(tmp_path / second, 5, 5)
    last = str(tmp_path / second / "checkpoints" / "last.pt")
    assert command()[:4] == ["train", third, "--model.weights", last]
    make_run(tmp_path / third, 5, 5)
    assert command() == []


def test_one_small_file_carries_a_stage_to_another_machine(tmp_path: Path) -> None:
    """Red when: it is larger than 16 MB, weights or their average are rounded, or moments are exchanged."""
    here, there, carried = tmp_path / "here", tmp_path / "there", tmp_path / "carried.pt"
    state = make_run(here / STAGES[1], 7, 9)
    assert state.average is not None
    line = {"step": 7, "split": "shapes-val", "epe": 2.5, "1px": 0.5, "fl": 20.0, "wauc": 50.0}
    tracking.append_line(here / STAGES[1] / tracking.METRICS, line)
    card = write_milestone(here, STAGES, HOURS)
    pack(here, STAGES, carried)
    assert carried.stat().st_size < 16e6
    unpack(carried, there)
    assert next_command(there, STAGES, STAGES[0], "", [])[1] == "--resume"
    assert read_card(there) == card
    before, after = (
        torch.load(folder / STAGES[1] / "checkpoints" / "last.pt", weights_only=True)
        for folder in (here, there)
    )
    for key in ("model", "unaveraged"):
        assert all(torch.equal(value, after[key][name]) for name, value in before[key].items())
    for number, moments in before["optimizer"]["state"].items():
        for name, value in moments.items():
            found = after["optimizer"]["state"][number][name]
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, value, rtol=2**-8, atol=0)

    card = write_milestone(there, STAGES, HOURS)
    assert [entry["step"] for entry in card["curve"]] == [7]
    assert card["scores"] == {"shapes-val": {"step": 7, "epe": 2.5, "1px": 0.5, "fl": 20.0}}
    assert {"arch", "about", "recipe", "seed", "data", "hours", "scores", "limits"} <= card.keys()
    assert (card["recipe"], card["steps"], card["hours"], card["commit"]) == (STAGES[1], 9, 1.5, "abc")
    arch, weights = load_state(there / MILESTONE)
    assert arch == "small"
    average = state.average.state_dict()
    assert all(torch.equal(value, average[name].half()) for name, value in weights.items())


def test_a_training_that_fails_still_leaves_what_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when: minutes of a GPU are lost with a machine that keeps nothing, or the failure is not told."""

    def fails(command: list[str], minutes: float, every_minutes: float, keep: Callable[[], None]) -> int:
        keep()  # Nothing to keep yet.
        assert minutes == pytest.approx(8, abs=0.5)
        make_run(tmp_path / STAGES[0], 3, 9)
        return 1

    monkeypatch.setattr(pretrain, "train", fails)
    carried = tmp_path / "carried.pt"
    options = ["--chain", "gpu", "--out", str(tmp_path), "--minutes", "8", "--carry", str(carried)]
    monkeypatch.setattr("sys.argv", ["pretrain.py", *options])
    with pytest.raises(SystemExit) as ended:
        pretrain.main()
    assert ended.value.code == 1
    assert torch.load(carried, weights_only=True)["checkpoint"]["step"] == 3
    assert (tmp_path / MILESTONE).exists()


def test_milestones_are_kept_while_a_training_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a stand-in for the training, which waits for a milestone, then for SIGTERM, and ends with 75.

    Red when: the training is stopped for a milestone, is not told that it is to stop, or its code is lost.
    """
    script = tmp_path / "training.py"
    script.write_text(
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        "while not pathlib.Path(sys.argv[-1]).exists(): time.sleep(0.01)\n"
        "pathlib.Path(sys.argv[-1] + '.seen').touch()\n"
        "time.sleep(600)\n"
    )
    kept = tmp_path / "kept"
    made = subprocess.Popen

    def start(command: list[str], **options: bool) -> "subprocess.Popen[bytes]":
        assert command[-2:] == ["--max-minutes", "5.00"]
        return made([sys.executable, str(script), str(kept)], **options)

    def keep() -> None:
        kept.touch()
        if Path(f"{kept}.seen").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", start)
    assert pretrain.train(["train", "--resume", "run"], 5.0, 0.001, keep) == 75


@pytest.mark.parametrize("chain", CHAINS)
def test_frames_motion_and_refinements_grow_and_the_shares_are_right(chain: str) -> None:
    """Red when: a stage asks for less than the one before, or does not end with the refinements of use."""
    stages = list(CHAINS[chain].values())
    for before, after in pairwise(stages):
        assert before.data.crop < after.data.crop
        assert before.data.shapes.motion_px < after.data.shapes.motion_px
        assert before.num_updates <= after.num_updates
    assert stages[-1].num_updates == 12
    for stage in stages:
        assert stage.data.shapes.size == stage.data.crop
        assert stage.validation_updates == 24
