"""Ways out of a training before its end: the last whole step is saved, and a resumed run is undisturbed.

Runs are compared with one that nothing disturbs: weights, optimiser, metrics, pulse, rows of pairs, verdict.
"""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from semraft.agreement import TrainingStopped, WentWrong, lost_processes_named
from semraft.cli import main
from semraft.config import ModelConfig, RunConfig, to_json
from semraft.data.loader import TrainingBatch, training_batches
from semraft.monitor import step_stats
from semraft.run_lock import LOCK, lock_run
from semraft.runtime import Processes
from semraft.sample import DamagedFile
from semraft.step_result import StepResult
from semraft.training import loop, session, state, step
from tests.helpers import PATIENCE_S
from tests.unit.training.test_loop import CONFIG as ONE_CHECKPOINT_A_STEP
from tests.unit.training.test_loop import last

CONFIG = replace(ONE_CHECKPOINT_A_STEP, checkpoint_every=100, validate_every=2, log_every=4)
"""Four steps, validated after two and four; the window of metrics and the line of pulse are of all four."""
GLOO = "[../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:12011"
RECORDS = ("config.json", "metrics.jsonl", "pulse.jsonl", "per_sample.csv", "verdict.json")


@pytest.fixture(autouse=True)
def one_line_of_pulse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_stats, "LINES", 1)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_stats, "LINES", 1)
        return loop.train(CONFIG, tmp_path_factory.mktemp("ways-out") / "run")


def assert_same(run: Path, undisturbed: Path) -> None:
    """Bit by bit."""
    for name in RECORDS:
        assert (run / name).read_text() == (undisturbed / name).read_text(), name
    assert leaves(last(run)) == leaves(last(undisturbed))
    names = [
        sorted(path.name for path in (folder / "checkpoints").iterdir()) for folder in (run, undisturbed)
    ]
    assert names[0] == names[1]


def leaves(tree: Any) -> Any:
    """A checkpoint with lists in place of tensors."""
    if isinstance(tree, torch.Tensor):
        return tree.tolist()
    if isinstance(tree, dict):
        return {name: leaves(value) for name, value in tree.items()}
    return [leaves(value) for value in tree] if isinstance(tree, list) else tree


Disturb = Callable[[pytest.MonkeyPatch], dict[str, Any]]
"""Patches what disturbs a training; returns arguments of `train` that do."""


def in_step(number: int, act: Callable[[], None], place: str) -> Disturb:
    """`act` in the step of this number, after its function `place`."""

    def disturb(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        calls, function = iter(range(1, 100)), getattr(step, place)

        def disturbed(*arguments: Any) -> Any:
            result = function(*arguments)
            if next(calls) == number:
                act()
            return result

        monkeypatch.setattr(step, place, disturbed)
        return {}

    return disturb


def raising(error: BaseException) -> Callable[..., Any]:
    def act(*arguments: Any) -> None:
        raise error

    return act


def ask() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def lost_worker(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The fourth batch can't be read."""

    def batches(*arguments: Any) -> Generator[TrainingBatch, None, None]:
        for number, batch in enumerate(training_batches(*arguments), start=1):
            if number == 4:
                raise ChildProcessError("a loader process was killed")
            yield batch

    return {"open_batches": batches}


def asked_in_validation(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """In that of the second step."""
    validate = session.validate

    def disturbed(*arguments: Any) -> Any:
        ask()
        return validate(*arguments)

    monkeypatch.setattr(session, "validate", disturbed)
    return {}


@pytest.mark.parametrize(
    ("disturb", "saved", "says"),
    [
        (in_step(3, ask, "predict"), 3, "stopped after step 3: go on with `semraft train --resume"),
        (asked_in_validation, 2, "stopped after step 2, before its validation was done: go on with"),
        (in_step(4, raising(RuntimeError(GLOO)), "backward"), 3, "has lost another"),
        pytest.param(
            lost_worker,
            3,
            "a loader process was killed: ended after step 3: go on with",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            in_step(4, raising(KeyboardInterrupt()), "predict"),
            3,
            "stopped after step 3: go on with",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["asked", "asked in validation", "lost process", "lost worker", "interrupted"],
)
def test_the_last_whole_step_is_saved_whatever_ends_the_training(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: Path,
    disturb: Disturb,
    saved: int,
    says: str,
) -> None:
    """Red when: the steps since the last checkpoint are lost; a step that was not done leaves its trace in
    the statistics of the next ones; a validation that was cut off is left out, or its lines are doubled."""
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        options = disturb(patch)
        with pytest.raises(TrainingStopped) as told, lost_processes_named(Processes(count=2), run):
            loop.train(CONFIG, run, **options)
    assert says in str(told.value)
    assert last(run)["step"] == saved
    loop.train(CONFIG, run, resume=True)
    assert_same(run, undisturbed)


@pytest.mark.slow
def test_a_validation_that_left_lines_but_no_checkpoint_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Path
) -> None:
    """Killed in the validation that a resumed run repeats. Red when: its lines are there twice."""
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        asked_in_validation(patch)
        with pytest.raises(TrainingStopped):
            loop.train(CONFIG, run)
    with monkeypatch.context() as patch:
        patch.setattr(session, "link_checkpoint", raising(WentWrong("killed")))
        with pytest.raises(WentWrong):
            loop.train(CONFIG, run, resume=True)
    assert last(run)["step"] == 2
    assert '"step": 2, "split": "world-val"' in (run / "metrics.jsonl").read_text()
    loop.train(CONFIG, run, resume=True)
    assert_same(run, undisturbed)


def test_a_step_that_failed_takes_back_what_it_moved() -> None:
    """Batch norm's statistics, which the forward pass moves, and the best score, which a validation moves.

    Red when: they are saved as the failed step left them; or a state whose weights have begun to move is
    taken for whole.
    """
    config = RunConfig(model=ModelConfig(arch="large"), precision="float32", device="cpu")
    found = state.initial_state(config, torch.device("cpu"))
    found.end_step()
    before = [buffer.clone() for buffer in found.model.buffers()]
    assert before
    for buffer in found.model.buffers():
        buffer.add_(1)
    found.best = 1.0
    assert found.go_back()
    assert found.best == float("inf")
    assert all(torch.equal(*pair) for pair in zip(before, found.model.buffers(), strict=True))
    found.step += 1
    assert not found.go_back()


def test_a_checkpoint_that_the_disk_has_no_room_for_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk. Red when: the message lacks the file or the disk, or
    half a checkpoint stays and fills the disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"step-000002\.pt can't be written: .* \(the disk at .* MB free\)"):
            loop.train(CONFIG, tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def killed_before_a_checkpoint(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        in_step(2, raising(WentWrong("killed")), "predict")(patch)
        with pytest.raises(WentWrong):
            loop.train(CONFIG, run)
    assert (run / "config.json").exists()
    assert not list((run / "checkpoints").iterdir())


def test_a_run_without_a_checkpoint_begins_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By --resume and by the same configuration. Red when: either sends to the other; records of the first
    try stay; or the records of another run are removed."""
    run = tmp_path / "run"
    killed_before_a_checkpoint(run, monkeypatch)
    other = replace(CONFIG, optim=replace(CONFIG.optim, learning_rate=2e-3))
    with pytest.raises(ValueError, match="of another configuration, without a checkpoint"):
        loop.train(other, run)
    assert main.run(["train", "--resume", str(run)]) == 0
    assert "has no checkpoint to go on from: it begins again" in capsys.readouterr().err
    assert_same(run, undisturbed)
    with pytest.raises(ValueError, match="go on with `semraft train --resume"):
        loop.train(CONFIG, run)


def test_a_second_training_of_a_run_is_refused(tmp_path: Path) -> None:
    """Red when: two processes write into one folder; the lock outlives its process; or a lock that is held
    for no reason any more has to be removed by hand."""
    holder = (
        "import sys; from pathlib import Path; from semraft.run_lock import lock_run; "
        "lock = lock_run(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    (tmp_path / "config.json").write_text(to_json(CONFIG))
    with pytest.raises(
        ValueError, match=f"is being trained by process {process.pid} on .*: wait for its end"
    ):
        loop.train(CONFIG, tmp_path)
    process.kill()
    process.communicate(timeout=PATIENCE_S)
    lock_run(tmp_path).close()
    assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} on ")


def test_a_damaged_last_checkpoint_names_the_sound_one_before(tmp_path: Path, undisturbed: Path) -> None:
    """Red when: it is a traceback, or the sound checkpoint is one that is damaged too."""
    checkpoints = tmp_path / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    sound = (undisturbed / "checkpoints" / "step-000002.pt").read_bytes()
    (checkpoints / "step-000002.pt").write_bytes(sound)
    for name in ("step-000004.pt", "last.pt"):
        for damaged in (sound[:1000], b"", b"junk" * 99):
            (checkpoints / name).write_bytes(damaged)
    with pytest.raises(DamagedFile, match=r"last\.pt: .*that of step 2 is sound: `cp .*step-000002\.pt "):
        state.load_last_checkpoint(tmp_path / "run")
    (checkpoints / "step-000002.pt").unlink()
    with pytest.raises(DamagedFile, match="no other checkpoint is sound"):
        state.load_last_checkpoint(tmp_path / "run")


def test_a_training_with_nothing_to_learn_from_ends_with_a_line(tmp_path: Path) -> None:
    """No valid pixel is shorter than the limit. Red when: it ends as if all were well."""
    config = replace(CONFIG, log_every=1, loss=replace(CONFIG.loss, max_flow_px=1e-6))
    seen: list[StepResult] = []
    with pytest.raises(WentWrong, match="nothing to learn from: the gradient of 4 steps up to step 4 is 0"):
        loop.train(
            config, tmp_path / "run", step=lambda *given: seen.append(step.training_step(*given)) or seen[-1]
        )
    assert len(seen) == 4
