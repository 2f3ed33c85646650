"""How a training on two processes ends: for both at one step, whatever comes to one of them (`endings`)."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from tests.e2e.test_training import lines, on_two_processes, weights
from tests.helpers import PATIENCE_S

SAVED = "go on with `semraft train --resume"


@pytest.fixture(scope="module")
def endings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs, once two processes have gone through all cases."""
    folder = tmp_path_factory.mktemp("endings")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    launched = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.endings", str(folder)],
            env={**os.environ, **launched, "RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    said = [process.communicate(timeout=PATIENCE_S)[1] for process in processes]
    # The last case kills the second.
    assert [process.returncode for process in processes] == [0, -signal.SIGKILL], "\n".join(said)
    return folder


def ended(folder: Path, case: str) -> list[str]:
    return [(folder / f"{case}-{rank}.txt").read_text() for rank in (0, 1)]


def last_step(folder: Path, case: str) -> int:
    return int(torch.load(folder / case / "checkpoints" / "last.pt", weights_only=True)["step"])


def test_both_stop_where_one_is_asked_to_and_go_on_as_if_nothing_had_been(endings: Path) -> None:
    """Red when: the one that was asked leaves and the other waits; what the first process holds is not saved,
    since it was not asked; or the second goes on with the first one's sums, in the middle of a window."""
    assert ended(endings, "sound") == ["together: done"] * 2
    for said in ended(endings, "asked"):
        assert said.startswith(f"together: TrainingStopped: stopped after step 2: {SAVED}")
    assert ended(endings, "resumed") == ["together: done"] * 2
    whole, resumed = lines(endings / "sound"), lines(endings / "asked")
    assert [line["step"] for line in whole] == [3, 4, 4]
    assert resumed == whole


@pytest.mark.parametrize("case", ["not_finite", "not_finite_scaled"])
def test_both_refuse_a_loss_that_is_not_finite_in_one(endings: Path, case: str) -> None:
    """Red when: the process whose loss is sound moves its weights, or waits for the other; with a gradient
    scaler nothing else would tell it."""
    first, second = ended(endings, case)
    assert first.startswith("together: WentWrong: loss of another process not finite at step 3, samples")
    assert second.startswith("together: WentWrong: loss flow_loss not finite at step 3, samples")
    assert last_step(endings, case) == 2


def test_both_go_back_to_a_sound_checkpoint(endings: Path) -> None:
    """Red when: one of them stops, or trains from another checkpoint than the other: then it waits for ever,
    or their gradients are of different weights."""
    assert ended(endings, "gone_back") == ["together: done"] * 2
    assert len((endings / "gone_back" / "rollbacks.jsonl").read_text().splitlines()) == 1
    assert last_step(endings, "gone_back") == 4


def test_both_stop_where_one_cannot_read_its_next_batch(endings: Path) -> None:
    """Red when: one waits in its third step for the other, or what was learnt is lost."""
    first, second = ended(endings, "damaged")
    assert first.startswith("together: TrainingStopped: stopped after step 2, as another process can't read")
    assert second.startswith(
        f"together: TrainingStopped: /data/003.png: is truncated: ended after step 2: {SAVED}"
    )
    assert last_step(endings, "damaged") == 2


def test_both_end_before_the_first_step_where_one_has_no_data(endings: Path) -> None:
    """Red when: the other waits for it in its first exchange."""
    first, second = ended(endings, "no_data")
    assert (
        first == "together: TrainingStopped: another process can't go on and says why: this one ends with it"
    )
    assert second == "together: ValueError: the root /data is no folder"


def test_both_end_where_the_first_cannot_write(endings: Path) -> None:
    """Red when: the second waits for a step that the first never takes."""
    first, second = ended(endings, "disk_full")
    assert first == "together: OSError: [Errno 28] No space left on device"
    assert second.startswith("together: TrainingStopped: another process can't go on")


def test_both_refuse_a_share_that_cannot_be_measured(endings: Path) -> None:
    for said in ended(endings, "no_gradient"):
        assert said.startswith("together: NoShare: loss term 'smoothness' has no share of the gradient")


def test_the_other_ends_with_a_line_when_one_is_killed(endings: Path) -> None:
    """Red when: it waits for the dead one, ends with a traceback of the exchange, or loses what both had
    done since the last checkpoint."""
    said = (endings / "killed-0.txt").read_text()
    assert said.startswith("alone: TrainingStopped: process 0 of 2 has lost another, which was killed")
    assert SAVED in said
    assert last_step(endings, "killed") == 3


# ---- by torchrun, from outside, at any moment --------------------------------------------------------------

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
WHOLE = [
    *(
        "train",
        "world-base",
        "--seed",
        "3",
        "--optim.steps",
        "120",
        "--optim.batch",
        "2",
        "--data.workers",
        "1",
    ),
    *("--data.world.size", "64", "72", "--data.world.scenes", "8", "--data.crop", "64", "64"),
    *(
        "--data.validation-pairs",
        "1",
        "--validation-updates",
        "1",
        "--num-updates",
        "1",
        "--saved-pairs",
        "0",
    ),
    *("--log-every", "1", "--validate-every", "500", "--checkpoint-every", "3", "--device", "cpu"),
    *("--precision", "float32"),
]


def family(pid: int) -> list[int]:
    """The processes that a process has started, and theirs, the nearest first."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [pid for child in children for pid in family(child)]


def logged(run: Path) -> int:
    """The last step in a run's metrics."""
    metrics = run / "metrics.jsonl"
    return metrics.read_text().count("\n") if metrics.exists() else 0


def interrupted(command: list[str], run: Path, number: signal.Signals, whom: str) -> tuple[int, str, float]:
    """Exit code and words of a training that gets a signal after some steps, and the seconds it took then.

    Args:
        whom: `one` of its two processes, `both`, `torchrun`, or `all` that there are, loaders included.
    """
    due, environment = logged(run) + random.randrange(1, 5), {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(run.with_suffix(".log"), "w+") as log:
        launcher = subprocess.Popen(
            [*TORCHRUN, "-m", "semraft", *command], env=environment, stdout=log, stderr=log
        )
        while logged(run) < due:
            assert launcher.poll() is None, "ended before it was interrupted"
            time.sleep(0.01)
        time.sleep(random.random() / 2)
        everyone = family(launcher.pid)
        of = {"one": [random.choice(everyone[:2])], "both": everyone[:2], "torchrun": [launcher.pid]}
        for pid in of.get(whom, [launcher.pid, *everyone]):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        began_s = time.monotonic()
        code = launcher.wait(timeout=PATIENCE_S)
        took_s = time.monotonic() - began_s
        for pid in everyone:
            assert not Path(f"/proc/{pid}").exists(), f"{pid} outlived the training"
        log.seek(0)
        return code, log.read(), took_s


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_killed_ten_times_and_stopped_ten_times_it_ends_with_the_same_weights(tmp_path: Path) -> None:
    """At random moments. Red when: a process waits for one that is gone or outlives it; a stop leaves no
    checkpoint of its step; or what is resumed is not what was left."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    on_two_processes(*WHOLE, "--output", str(whole))
    command = [*WHOLE, "--output", str(run)]
    for trial in range(10):
        code, said, took_s = interrupted(command, run, signal.SIGKILL, "one")
        print(f"killed {trial + 1}: ended after {took_s:.1f} s at step {logged(run)}")
        assert code != 0
        assert "has lost another, which was killed or failed: go on with `semraft train --resume" in said
        if (run / "checkpoints" / "last.pt").exists():
            command = ["train", "--resume", str(run)]
        else:
            shutil.rmtree(run)
        number = (signal.SIGTERM, signal.SIGINT)[trial // 4 % 2]
        whom = ("one", "both", "torchrun", "all")[trial % 4]
        code, said, took_s = interrupted(command, run, number, whom)
        print(f"{number.name} to {whom} {trial + 1}: ended after {took_s:.1f} s at step {logged(run)}")
        assert code != 0
        assert f"stopped after step {logged(run)}: go on with `semraft train --resume {run}`" in said
        assert "training/loop.py" not in said  # torchrun shows a traceback of its own, and no other is there.
        command = ["train", "--resume", str(run)]
        assert last_step(tmp_path, "run") == logged(run)
    on_two_processes(*command)
    assert all(torch.equal(weights(run)[name], value) for name, value in weights(whole).items())
    assert lines(run) == lines(whole)
