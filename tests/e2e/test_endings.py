"""How a training on two processes ends: for both at one step, whatever comes to one of them (`endings`)."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.e2e.test_training import lines

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
    said = [process.communicate(timeout=900)[1] for process in processes]
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
    assert first.startswith(
        "together: TrainingStopped: loss of another process not finite at step 3, samples"
    )
    assert second.startswith("together: TrainingStopped: loss flow_loss not finite at step 3, samples")
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
    assert second == "together: DamagedFile: /data/003.png: is truncated"
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
        assert said.startswith(
            "together: TrainingStopped: loss term 'smoothness' has no share of the gradient"
        )


def test_the_other_ends_with_a_line_when_one_is_killed(endings: Path) -> None:
    """Red when: it waits for the dead one, or ends with a traceback of the exchange."""
    said = (endings / "killed-0.txt").read_text()
    assert said.startswith("alone: TrainingStopped: process 0 of 2 has lost another, which was killed")
    assert SAVED in said
    assert last_step(endings, "killed") == 2
