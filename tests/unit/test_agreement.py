"""Agreement of processes, with replies made up here; with real processes: tests/e2e/test_endings.py."""

from pathlib import Path

import pytest
import torch

from semraft import agreement
from semraft.agreement import Ending, TrainingStopped, agreed_ending, by_all, lost_processes_named
from semraft.runtime import Processes

FINITE, NOT_FINITE = torch.tensor(True), torch.tensor(False)
GLOO = "[../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:12011"


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Another process: its number in each exchange, added by the test; what is sent to it replaces it."""
    says: list[float] = []

    def largest(value: torch.Tensor, group: object = None) -> torch.Tensor:
        says.append(float(value))
        return torch.maximum(value, torch.tensor(says.pop(0)))

    monkeypatch.setattr(agreement, "largest_over_processes", largest)
    return says


@pytest.mark.parametrize("own", Ending)
@pytest.mark.parametrize("others", Ending)
def test_the_gravest_ending_of_all_counts(other: list[float], own: Ending, others: Ending) -> None:
    """A signal or a clock of one. Red when: only the process that has it stops; or a stop hides a loss that
    is not finite, and the weights move."""
    other.append(float(others))
    assert agreed_ending(own, FINITE) is max(own, others)
    assert other == [float(own)]
    assert agreed_ending(own, NOT_FINITE) is Ending.NOT_FINITE


def test_an_ending_alone_is_the_own() -> None:
    assert [agreed_ending(own, FINITE) for own in Ending] == list(Ending)


def test_work_has_failed_for_all_when_it_has_in_one(other: list[float]) -> None:
    """Red when: one process goes on without the other, or another's error replaces the own."""
    processes, done = Processes(rank=0, count=2), []
    for fails_there in (0.0, 1.0):
        other.append(fails_there)
        with pytest.raises(ValueError, match="no folder"), by_all(processes):
            raise ValueError("no folder")
    assert other == [1.0, 1.0]
    other[:] = [0.0]
    with by_all(processes):
        done.append("here")
    other[:] = [1.0]
    with pytest.raises(TrainingStopped, match="another process can't go on"), by_all(processes):
        done.append("here")
    assert (done, other) == (["here", "here"], [0.0])


def test_an_exchange_with_a_lost_process_is_told_in_a_line() -> None:
    """Red when: it is a traceback of gloo's or NCCL's; or an error of our own passes for it."""
    two, run = Processes(rank=1, count=2), Path("runs/a")
    for lost in (RuntimeError(GLOO), torch.distributed.DistBackendError("NCCL error: remote process exited")):
        with pytest.raises(TrainingStopped) as told, lost_processes_named(two, run):
            raise lost
        assert str(told.value) == (
            "process 1 of 2 has lost another, which was killed or failed: go on with "
            "`semraft train --resume runs/a`"
        )
    with pytest.raises(RuntimeError, match="shapes"), lost_processes_named(two, run):
        raise RuntimeError("shapes do not fit")
    with pytest.raises(RuntimeError, match="gloo"), lost_processes_named(Processes(), run):
        raise RuntimeError(GLOO)
