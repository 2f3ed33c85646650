"""Loader processes that are spawned, as on macOS: all they know comes to them pickled."""

import functools
import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from semraft.config import AugmentConfig, DataConfig, OptimConfig, WorldConfig
from semraft.data import index_dataset
from semraft.data.files import packed
from semraft.data.hidden_truth import hide_truth
from semraft.data.loader import keep_in_memory, limit_pairs, training_batches
from semraft.data.world.export import synthesize
from semraft.sample import FlowDataset
from tests.helpers import PATIENCE_S
from tests.unit.data.test_loader import assert_same

CONFIG = DataConfig(crop=(64, 72), workers=0, augment=AugmentConfig(eraser_size_px=(3, 6)))
OPTIM = OptimConfig(steps=3, batch=2)


@pytest.fixture
def spawned() -> Iterator[None]:
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


def test_every_kind_of_data_set_goes_to_a_spawned_worker(tmp_path: Path, spawned: None) -> None:
    """Scenes kept in memory, files, a pack, hidden truth. Red when: a data set holds a function that can't be
    pickled (a closure, a lambda), which forked workers never notice."""
    root, world = tmp_path / "viper", WorldConfig(size=(64, 72), scenes=3)
    synthesize(root, "viper", train=2, val=1, size=(70, 90), seed=4, progress=False)
    packed.pack(functools.partial(viper, root), root, tmp_path / "pack", ("train",))
    datasets = [
        hide_truth(keep_in_memory(index_dataset("world", None, "train", world), 100.0), "static", 1.0, 0),
        hide_truth(viper(root), "all", 0.5, 0),
        limit_pairs(viper(tmp_path / "pack"), 1, 0),
    ]
    alone = list(training_batches(datasets, [1.0, 1.0, 1.0], CONFIG, 42, OPTIM))
    together = training_batches(datasets, [1.0, 1.0, 1.0], replace(CONFIG, workers=1), 42, OPTIM)
    for one, other in zip(alone, together, strict=True):
        assert_same(one, other)


def viper(root: Path, split: str = "train") -> FlowDataset:
    return index_dataset("viper", root, split, WorldConfig())


def test_workers_go_on_when_the_training_is_asked_to_stop() -> None:
    """Ctrl-C at a terminal, torchrun and SLURM signal them too. Red when: a worker dies of it, and with
    it the training, before it has saved; or workers outlive it."""
    dataset = index_dataset("world", None, "train", WorldConfig(size=(64, 72), scenes=3))
    steps = OptimConfig(steps=12, batch=2)
    batches = training_batches([dataset], [1.0], replace(CONFIG, workers=2), 42, steps)
    next(batches)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:
        for number in (signal.SIGINT, signal.SIGTERM):
            assert worker.pid is not None
            os.kill(worker.pid, number)
    assert len(list(batches)) == 11
    for worker in workers:
        worker.join(timeout=PATIENCE_S)
    assert not any(worker.is_alive() for worker in workers)
