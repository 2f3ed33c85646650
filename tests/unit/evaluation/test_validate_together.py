"""Two processes that validate together, against one."""

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing

from semraft.agreement import TrainingStopped
from semraft.config import DataConfig, ModelConfig, RunConfig
from semraft.evaluation.evaluate import Evaluation
from semraft.evaluation.validate import Validation, share_of, validate
from semraft.models.raft import RAFT
from semraft.models.weights import build_model
from semraft.runtime import Processes, leave_processes
from semraft.sample import DamagedFile
from tests.helpers import make_sample
from tests.unit.evaluation.test_evaluate import make_dataset

SKIP = DataConfig(damaged="skip")
BROKEN: dict[Literal["skip", "refuse"], int] = {"skip": 2, "refuse": 1}
"""Way with damaged files -> the pair that can't be read."""
CONFIG = RunConfig(validation_updates=2, saved_pairs=2, precision="float32", data=SKIP)


def network(rank: int) -> RAFT:
    """One with batch norm, whose statistics are each process's own, as after a step of training."""
    model = build_model(ModelConfig(arch="large"), seed=0)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer += rank
    return model


def draws(broken: int) -> Validation:
    """Two data sets; the pair `broken` of the first can't be read."""
    rng = np.random.default_rng(5)
    samples = [make_sample(rng, 64, 72) for _ in range(5)]
    first = [DamagedFile("b.npz", "truncated") if n == broken else sample for n, sample in enumerate(samples)]
    bare = dataclasses.replace(samples[4], labels1=None, occluded1=None)
    return {"a-val": (make_dataset(first), (4, 0, 2, 1)), "b": (make_dataset([bare]), (0,))}


def scored(run: Path, config: RunConfig, broken: int, processes: Processes) -> dict[str, Evaluation]:
    return validate(network(processes.rank), draws(broken), config, run, processes, keep_pairs=True)


def in_a_process(rank: int, folder: Path) -> None:
    """The work of each of two processes: a validation that goes on past the damaged pair, then one that does
    not; the outcomes go into files of its own."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    processes = Processes(rank, 2, torch.distributed.new_group(backend="gloo"))
    for damaged, broken in BROKEN.items():
        config = dataclasses.replace(CONFIG, data=DataConfig(damaged=damaged))
        try:
            said = repr(scored(folder / damaged, config, broken, processes))
        except (DamagedFile, TrainingStopped) as error:
            said = str(error)
        (folder / f"{damaged}-{rank}.txt").write_text(said)
    if torch.distributed.is_initialized():
        leave_processes(processes)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what two processes scored."""
    folder = tmp_path_factory.mktemp("together")
    for damaged in BROKEN:
        (folder / damaged).mkdir()
    torch.multiprocessing.spawn(in_a_process, (folder,), nprocs=2)
    return folder


def test_two_processes_score_what_one_scores(together: Path, tmp_path: Path) -> None:
    """To the bit and in the same order, one pair of the second process damaged. Red when: pairs are
    left out or scored twice, rows come in another order, a process goes by its own batch norm, or the pairs
    of the report are kept by whoever scores them, or not at all."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # As in the two: other numbers of threads round differently.
    expected = scored(tmp_path, CONFIG, BROKEN["skip"], Processes())
    torch.set_num_threads(threads)
    assert (len(expected["a-val"].per_sample), len(expected["a-val"].skipped)) == (3, 1)
    assert [(together / f"skip-{rank}.txt").read_text() for rank in (0, 1)] == [repr(expected)] * 2
    runs = tmp_path, together / "skip"
    kept = [sorted(path.relative_to(run) for path in run.rglob("*.npz")) for run in runs]
    assert kept[0] == kept[1]
    assert len(kept[0]) == 3


def test_a_damaged_pair_ends_the_validation_of_both(together: Path) -> None:
    """Red when: the process that meets it leaves, and the other waits for its scores."""
    other, met = ((together / f"refuse-{rank}.txt").read_text() for rank in (0, 1))
    assert met == "b.npz: truncated"
    assert other.startswith("another process can't go on")


@pytest.mark.parametrize("least", [0, 3])
@pytest.mark.parametrize("length", [0, 1, 5, 12])
@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_shares_are_all_pairs_in_order(length: int, count: int, least: int) -> None:
    """Red when: a pair is in no share or in two, or one of the first is not in the first share."""
    indices = tuple(range(100, 100 + length))
    shares = [share_of(indices, rank, count, least) for rank in range(count)]
    assert sum(shares, ()) == indices
    assert shares[0][:least] == indices[:least]
    if count > 1 and least == 0:
        assert max(map(len, shares)) <= -(-length // count)
