import dataclasses
import errno
import multiprocessing
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data._utils.pin_memory import pin_memory

from semraft.config import AugmentConfig, DataConfig, OptimConfig, WorldConfig
from semraft.config.data import parse_mixture, parse_roots
from semraft.data import open_dataset
from semraft.data.augment import resize
from semraft.data.loader import (
    TrainingBatch,
    _next_loaded,
    _on_their_way,
    _Steps,
    collate,
    keep_in_memory,
    limit_pairs,
    training_batches,
    training_sample,
    validation_draw,
)
from semraft.data.mixture import BLOCK, block_shares, sample_address
from semraft.sample import DamagedFile, FlowDataset, FlowSample, Pair, WrongSize, unreadable_is_damaged
from tests.helpers import global_numpy, make_sample
from tests.unit.data.fake_trees import write_kitti

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

CONFIG = DataConfig(
    crop=(64, 72), workers=0, augment=AugmentConfig(eraser_size_px=(3, 6), asymmetric_probability=0.5)
)
OPTIM = OptimConfig(steps=5, batch=4)


def read(pair: Pair) -> FlowSample:
    if pair.scene == "damaged":
        raise DamagedFile(pair.files["flow"], "is truncated")
    sample = make_sample(np.random.default_rng(int(pair.id.split("/")[1])), 70, 90)
    return dataclasses.replace(sample, id=pair.id)


def make_dataset(name: str = "one", length: int = 7, damaged: tuple[int, ...] = ()) -> FlowDataset:
    pairs = tuple(
        Pair(
            id=f"{name}/{number:03d}",
            scene="damaged" if number in damaged else "sound",
            files={"flow": Path(f"/data/{name}/{number:03d}.flo")},
        )
        for number in range(length)
    )
    return FlowDataset(name=name, split="train", pairs=pairs, read=read, provides=frozenset())


def assert_same(first: TrainingBatch, second: TrainingBatch) -> None:
    assert first.skipped == second.skipped
    for field in dataclasses.fields(first.batch):
        one, other = getattr(first.batch, field.name), getattr(second.batch, field.name)
        if isinstance(one, torch.Tensor):
            assert torch.equal(one, other), field.name
        else:
            assert one == other


# ---- what a user writes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("viper", (("viper", 1.0),)),
        ("viper,kitti", (("viper", 1.0), ("kitti", 1.0))),
        (" viper:0.7, virtual-kitti:0.3 ", (("viper", 0.7), ("virtual-kitti", 0.3))),
    ],
)
def test_a_mixture_is_read(text: str, expected: tuple[tuple[str, float], ...]) -> None:
    assert parse_mixture(text) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("viper,", "empty"),
        (":0.3", "empty"),
        ("viper,viper", "twice"),
        ("viper:0.7,kitti", "kitti has no weight"),
        ("viper,kitti:0.7", "viper has no weight"),
        ("viper:much", "'much' is not a number"),
        ("viper:0", "above 0"),
        ("viper:-1", "above 0"),
        ("viper:nan", "above 0"),
        ("viper:inf", "above 0"),
    ],
)
def test_a_wrong_mixture_is_named(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_mixture(text)


def test_roots(tmp_path: Path) -> None:
    """Red when: one folder for all ignores its subfolders, or a set without a root gets another's."""
    (tmp_path / "kitti").mkdir()
    assert parse_roots("", ["viper", "kitti"]) == {"viper": None, "kitti": None}
    assert parse_roots(str(tmp_path), ["viper", "kitti"]) == {"viper": tmp_path, "kitti": tmp_path / "kitti"}
    assert parse_roots("viper=/a, kitti=/b/c=d", ["kitti", "world"]) == {
        "kitti": Path("/b/c=d"),
        "world": None,
    }


@pytest.mark.parametrize("name", ["seed=3,lr=1e-4", "a,b", "kitti=2015", "x,viper=y"])
def test_roots_may_hold_what_else_parts_an_option(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when: a folder with `=` or `,` in its name can't be given, alone or by name."""
    folder = tmp_path / name
    folder.mkdir()
    assert parse_roots(str(folder), ["sintel"]) == {"sintel": folder}
    assert parse_roots(f"kitti-2012=/k,sintel={folder}", ["sintel"]) == {"sintel": folder}
    assert parse_roots(f"sintel={folder},kitti-2012=/k", ["sintel", "kitti-2012"]) == {
        "sintel": folder,
        "kitti-2012": Path("/k"),
    }
    monkeypatch.chdir(tmp_path)
    assert parse_roots(name, ["sintel"]) == {"sintel": Path(name)}


@pytest.mark.parametrize(
    ("text", "says"),
    [("viper=,kitti=/b", "viper has no value"), ("viper=/a,viper=/b", "viper is there twice")],
)
def test_wrong_roots_are_named(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=f"--data.root .*{says}"):
        parse_roots(text, ["viper", "kitti"])


def test_a_table_is_chosen_for_all_or_by_name() -> None:
    assert DataConfig(label_table="train-ids").table_of("kitti") == "train-ids"
    by_name = DataConfig(label_table="kitti=train-ids,viper=viper-ids")
    assert [by_name.table_of(name) for name in ("kitti", "viper", "kitti-2012")] == [
        "train-ids",
        "viper-ids",
        None,
    ]
    with pytest.raises(ValueError, match=r"--data\.label-table is trainIds: expected label-ids or train-ids"):
        DataConfig(label_table="kitti=trainIds")


def test_a_frame_smaller_than_the_crop_is_refused_unless_enlarging_was_asked_for(tmp_path: Path) -> None:
    """Red when: a crop that no frame has room for trains on enlarged frames without a word."""
    write_kitti(tmp_path / "training", [1])
    kitti = open_dataset("kitti", tmp_path, "train", WorldConfig())
    config = DataConfig(crop=(64, 64))
    with pytest.raises(WrongSize, match=r"000001_10.png: is 9x6 .*, smaller than the crop of 64x64.*enlarge"):
        training_sample(0, 0, [kitti], [1.0], config)
    enlarged = training_sample(0, 0, [kitti], [1.0], dataclasses.replace(config, small_frames="enlarge"))
    assert enlarged.sample.valid.shape == (64, 64)


# ---- the order of samples ----------------------------------------------------------------------------------


def test_every_pair_is_used_once_before_any_is_used_again() -> None:
    """Red when: pairs are drawn with replacement, or every epoch has the same order."""
    orders = [
        [sample_address(epoch * 7 + place, 3, [7], [1.0])[1] for place in range(7)] for epoch in range(60)
    ]
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert len({tuple(order) for order in orders}) > 50


def test_shares_are_exact_in_every_block_and_pairs_of_each_set_take_turns() -> None:
    """Red when: shares hold on average only, or a set's pairs restart with every block."""
    lengths, weights = [7, 230, 31], [5.0, 3.0, 1.0]
    addresses = [sample_address(number, 11, lengths, weights) for number in range(10 * BLOCK)]
    for first in range(0, 10 * BLOCK, BLOCK):
        block = addresses[first : first + BLOCK]
        assert Counter(dataset for dataset, _ in block) == {0: 56, 1: 33, 2: 11}
    for dataset, length in enumerate(lengths):
        pairs = [pair for which, pair in addresses if which == dataset]
        for epoch in range(len(pairs) // length):
            assert sorted(pairs[epoch * length : (epoch + 1) * length]) == list(range(length))


def test_the_order_depends_on_the_seed_and_on_nothing_else() -> None:
    """Facts 1, three seeds that were one. Red when: the seed is ignored or a generator keeps state."""
    numbers = list(range(300))
    random.Random(0).shuffle(numbers)
    for lengths, weights in (([40, 25], [2.0, 1.0]), ([40], [1.0])):
        shuffled = {number: sample_address(number, 5, lengths, weights) for number in numbers}
        in_order = [sample_address(number, 5, lengths, weights) for number in range(300)]
        assert [shuffled[number] for number in range(300)] == in_order
        assert in_order != [sample_address(number, 6, lengths, weights) for number in range(300)]


def test_a_weight_that_would_never_be_drawn_is_refused() -> None:
    """Red when: a data set is asked for and silently left out."""
    assert block_shares((1.0, 1.0, 1.0)) == (34, 33, 33)
    assert sum(block_shares((0.7, 0.3))) == BLOCK
    with pytest.raises(ValueError, match=r"weight 0\.001"):
        block_shares((1.0, 0.001))


# ---- samples and batches -----------------------------------------------------------------------------------


def test_a_sample_depends_on_seed_and_number_alone() -> None:
    """Trap 18. Red when: a global generator is used, or all samples are augmented alike."""
    arguments = [make_dataset()], [1.0], CONFIG
    first = training_sample(3, 42, *arguments).sample
    global_numpy().seed(1)  # Must not matter.
    again = training_sample(3, 42, *arguments).sample
    np.testing.assert_array_equal(first.image1, again.image1)
    same_pair = next(n for n in range(7, 14) if training_sample(n, 42, *arguments).sample.id == first.id)
    assert not np.array_equal(training_sample(same_pair, 42, *arguments).sample.image1, first.image1)
    others = [training_sample(n, 43, *arguments).sample for n in range(7)]
    same_id = next(sample for sample in others if sample.id == first.id)
    assert not np.array_equal(same_id.image1, first.image1)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_the_batches(workers: int) -> None:
    """Trap 18. Red when: workers draw from generators of their own, or batches come out of order."""
    datasets, weights = [make_dataset("one"), make_dataset("two", 4)], [2.0, 1.0]
    alone = list(training_batches(datasets, weights, CONFIG, 42, OPTIM))
    config = dataclasses.replace(CONFIG, workers=workers)
    together = list(training_batches(datasets, weights, config, 42, OPTIM))
    assert len(alone) == len(together) == 5
    for one, other in zip(alone, together, strict=True):
        assert_same(one, other)


def test_a_resume_goes_on_where_it_stopped() -> None:
    """Red when: the order starts again at the first sample."""
    whole = list(training_batches([make_dataset()], [1.0], CONFIG, 42, OPTIM))
    rest = list(training_batches([make_dataset()], [1.0], CONFIG, 42, OPTIM, first_step=3))
    assert len(rest) == 2
    for one, other in zip(whole[3:], rest, strict=True):
        assert_same(one, other)


def test_the_parts_of_two_processes_are_the_batch_of_one() -> None:
    """Red when: both processes load the same samples, or interleave them."""
    whole = list(training_batches([make_dataset()], [1.0], CONFIG, 42, OPTIM))
    parts = [
        list(training_batches([make_dataset()], [1.0], CONFIG, 42, OPTIM, 0, rank, 2)) for rank in (0, 1)
    ]
    for step, (batch, _) in enumerate(whole):
        left, right = parts[0][step].batch, parts[1][step].batch
        assert batch.ids == left.ids + right.ids
        assert torch.equal(batch.image2, torch.cat([left.image2, right.image2]))
        assert torch.equal(batch.flow, torch.cat([left.flow, right.flow]))


def test_a_batch_that_processes_cannot_share_is_refused_at_once() -> None:
    """Red when: the remainder is dropped, or the error waits for the first batch."""
    with pytest.raises(ValueError, match=r"batch 4 .* 3 processes"):
        training_batches([make_dataset()], [1.0], CONFIG, 42, OPTIM, 0, 0, 3)
    with pytest.raises(ValueError, match="empty: no usable pair"):
        training_batches([make_dataset("empty", 0)], [1.0], CONFIG, 42, OPTIM)


def test_loading_leaves_the_global_generators_alone() -> None:
    """Facts, the last trap. Red when: DataLoader takes its seed from torch's global generator."""
    state = torch.get_rng_state()
    numpy = global_numpy().get_state()[1].copy()
    for workers in (0, 1):
        list(
            training_batches([make_dataset()], [1.0], dataclasses.replace(CONFIG, workers=workers), 1, OPTIM)
        )
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(global_numpy().get_state()[1], numpy)


def test_reading_and_augmenting_the_world_leaves_the_global_generators_alone() -> None:
    """Facts, the last trap. Red when: random state is set inside a reader, which re-seeds the whole run."""
    state = torch.get_rng_state()
    numpy = global_numpy().get_state()[1].copy()
    dataset = open_dataset("world", None, "train", WorldConfig(size=(64, 72), scenes=2))
    list(training_batches([dataset], [1.0], CONFIG, 1, OptimConfig(steps=1, batch=2)))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(global_numpy().get_state()[1], numpy)


def test_workers_survive_a_parent_that_has_used_opencv_threads() -> None:
    """Red when: workers call cv2.setNumThreads(1), which waits for threads that a fork does not copy."""
    large = np.zeros((1500, 2000, 3), np.uint8)
    for _ in range(3):
        cv2.GaussianBlur(cv2.resize(large, (1900, 1400)), (9, 9), 2)
    config = dataclasses.replace(CONFIG, workers=1)
    assert len(list(training_batches([make_dataset()], [1.0], config, 42, OPTIM))) == 5


# ---- damaged files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_pair_stops_the_run_by_name(workers: int) -> None:
    """Red when: a worker's DamagedFile arrives as another exception with a traceback for a message."""
    config = dataclasses.replace(CONFIG, workers=workers)
    with pytest.raises(DamagedFile) as caught:
        list(training_batches([make_dataset(damaged=(2,))], [1.0], config, 42, OPTIM))
    assert str(caught.value) == "/data/one/002.flo: is truncated"


def test_a_damaged_pair_is_skipped_and_named() -> None:
    """Red when: the replacement is silent, random, or changes the samples beside it."""
    config = dataclasses.replace(CONFIG, damaged="skip")
    damaged = [make_dataset(damaged=(2, 5))]
    batches = list(training_batches(damaged, [1.0], config, 42, OPTIM))
    skipped = [entry for _, entries in batches for entry in entries]
    due = [number for number in range(20) if sample_address(number, 42, [7], [1.0])[1] in (2, 5)]
    assert sorted({entry["sample_number"] for entry in skipped}) == due
    assert {entry["id"] for entry in skipped} == {"one/002", "one/005"}
    assert skipped[0]["dataset"] == "one"
    assert skipped[0]["path"] == f"/data/{skipped[0]['id']}.flo"
    assert skipped[0]["reason"] == "is truncated"
    for workers in (0, 2):
        again = training_batches(damaged, [1.0], dataclasses.replace(config, workers=workers), 42, OPTIM)
        for one, other in zip(batches, again, strict=True):
            assert_same(one, other)
    ids = [name for batch, _ in batches for name in batch.ids]
    sound = [
        name
        for batch, _ in training_batches([make_dataset()], [1.0], CONFIG, 42, OPTIM)
        for name in batch.ids
    ]
    assert [n for n in range(20) if ids[n] != sound[n]] == due


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EIO])
def test_a_file_that_cannot_be_opened_is_damaged(number: int) -> None:
    """Deleted, no permission, a disk that fails. Red when: only what is read and found wrong is skipped; a
    lack of the process's own passes for a damaged file; or the file is not named."""

    def refused(pair: Pair) -> FlowSample:
        if pair.id == "one/002":
            named = () if number == errno.EIO else (str(pair.files["flow"]),)  # Some errors name no file.
            raise OSError(number, os.strerror(number), *named)
        return read(pair)

    dataset = dataclasses.replace(make_dataset(), read=refused)
    config = dataclasses.replace(CONFIG, damaged="skip")
    due = next(n for n in range(20) if sample_address(n, 42, [7], [1.0])[1] == 2)
    (skipped,) = training_sample(due, 42, [dataset], [1.0], config).skipped
    assert (skipped["id"], skipped["path"]) == ("one/002", "/data/one/002.flo")
    assert skipped["reason"] == f"can't be read: {os.strerror(number)}"
    with pytest.raises(DamagedFile, match=r"/data/one/002\.flo: can't be read"):
        training_sample(due, 42, [dataset], [1.0], CONFIG)
    with pytest.raises(OSError, match="Too many"), unreadable_is_damaged(dataset.pairs[0]):
        raise OSError(errno.EMFILE, "Too many open files")


def test_the_death_of_a_worker_is_an_error_of_the_next_batch() -> None:
    """Red when: it is raised wherever the training stands, in the midst of a step; it is a traceback of
    DataLoader's; or its other workers outlive it."""
    before = signal.getsignal(signal.SIGCHLD)
    optim = dataclasses.replace(OPTIM, steps=50)
    batches = training_batches([make_dataset()], [1.0], dataclasses.replace(CONFIG, workers=2), 1, optim)
    next(batches)
    workers = multiprocessing.active_children()
    assert signal.getsignal(signal.SIGCHLD) == before
    workers[0].kill()
    workers[0].join()
    with pytest.raises(ChildProcessError, match=r"^a loader process was killed, for lack of mem"):
        list(batches)
    assert not any(worker.is_alive() for worker in workers)


def test_a_socket_that_a_dead_worker_leaves_is_its_death() -> None:
    """Red when: a worker that dies while its batch is fetched is told as a lost connection; or a fault of
    ours passes for a death."""

    def failing(error: Exception) -> Iterator[Any]:
        raise error
        yield

    for lost in (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), EOFError()):
        assert isinstance(_next_loaded(failing(lost)), ChildProcessError)
    with pytest.raises(RuntimeError, match="shapes"):
        _next_loaded(failing(RuntimeError("shapes do not fit")))


def test_a_data_set_that_is_damaged_throughout_stops_the_run() -> None:
    """Red when: skipping never ends."""
    config = dataclasses.replace(CONFIG, damaged="skip")
    with pytest.raises(DamagedFile, match="truncated"):
        training_sample(0, 42, [make_dataset(damaged=tuple(range(7)))], [1.0], config)


def test_an_error_that_is_no_damaged_file_is_never_skipped() -> None:
    """Red when: skipping hides mistakes of the program."""

    def wrong(pair: Pair) -> FlowSample:
        raise KeyError(pair.id)

    config = dataclasses.replace(CONFIG, damaged="skip")
    with pytest.raises(KeyError):
        training_sample(0, 42, [dataclasses.replace(make_dataset(), read=wrong)], [1.0], config)


# ---- collate -----------------------------------------------------------------------------------------------


def test_collate_stacks_every_field() -> None:
    """Red when: channels stay last, labels become floats, or images are scaled to 0..1."""
    samples = [make_sample(np.random.default_rng(n)) for n in range(2)]
    batch = collate(samples)
    assert batch.image1.shape == (2, 3, 37, 53)
    assert batch.image1.is_contiguous()
    assert batch.image1[1, 2, 5, 9] == samples[1].image1[5, 9, 2]
    assert batch.flow[1, 0, 5, 9] == samples[1].flow[5, 9, 0]
    assert batch.instances2 is not None
    assert batch.instances2.dtype == torch.int64
    assert samples[0].instances2 is not None
    assert batch.instances2[0, 5, 9] == samples[0].instances2[5, 9]
    assert batch.valid.dtype == torch.bool
    assert all(getattr(batch, field.name) is not None for field in dataclasses.fields(batch))


def test_collate_gives_none_for_what_any_sample_lacks() -> None:
    """Red when: a field that one data set of a mixture lacks is stacked or made up."""
    samples = [make_sample(np.random.default_rng(n)) for n in range(2)]
    batch = collate([samples[0], dataclasses.replace(samples[1], labels2=None)])
    assert batch.labels2 is None
    assert batch.labels1 is not None


def test_collate_refuses_different_sizes() -> None:
    samples = [make_sample(np.random.default_rng(0), height) for height in (37, 38)]
    with pytest.raises(ValueError, match=r"one size, got \[\(37, 53\), \(38, 53\)\]"):
        collate(samples)


class Crossings(TorchDispatchMode):
    """Notes the types of the tensors that go from the CPU to another device."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: list[torch.dtype] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = operation(*args, **(kwargs or {}))
        if operation is torch.ops.aten._to_copy.default and args[0].device != found.device:
            self.dtypes.append(args[0].dtype)
        return found


def test_what_is_sent_to_a_device_is_small_and_becomes_a_batch_there() -> None:
    """Red when: images cross as floats or labels as int64, two and a half times the bytes, or each field by
    itself."""
    with Crossings() as crossings:
        there = torch.device("meta")
        batches = training_batches([make_dataset()], [1.0], CONFIG, 42, OPTIM, device=there)
        batch = next(batches).batch
    assert crossings.dtypes == [torch.uint8]
    here = next(training_batches([make_dataset()], [1.0], CONFIG, 42, OPTIM)).batch
    for field in dataclasses.fields(here):
        one, other = getattr(here, field.name), getattr(batch, field.name)
        if isinstance(one, torch.Tensor):
            assert (one.shape, one.dtype, there) == (other.shape, other.dtype, other.device), field.name
            assert other.is_contiguous()


def test_pinned_memory_holds_the_same_small_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when: DataLoader's pinning thread, which runs only with a GPU, loses, widens or changes a field."""
    pinned: list[int] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor.nbytes)
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    config = dataclasses.replace(CONFIG, damaged="skip")
    datasets = [make_dataset(damaged=(2, 5))]
    steps = _Steps(datasets, [1.0], config, 42, 4, 0, 1, resize)
    expected = training_batches(datasets, [1.0], config, 42, OPTIM)
    for sent in _on_their_way([pin_memory(steps[step]) for step in range(5)], torch.device("cpu")):
        assert_same(sent, next(expected))
    # A pixel: two pictures, two flows, labels, instances, four masks and two of validity.
    bytes_a_pixel = 2 * 3 + 2 * 8 + 2 + 2 * 4 + 6
    assert pinned == [4 * 64 * 72 * bytes_a_pixel] * 5


# ---- drawing and keeping -----------------------------------------------------------------------------------


def test_the_validation_draw_is_the_same_everywhere() -> None:
    """Red when: it depends on listing order, on a generator's version, or on the run."""
    dataset = make_dataset(length=50)
    drawn = validation_draw(dataset, 5, 0)
    assert drawn == (15, 17, 35, 43, 46)
    mixed = dataclasses.replace(dataset, pairs=tuple(reversed(dataset.pairs)))
    assert [mixed.pairs[i].id for i in validation_draw(mixed, 5, 0)] == [dataset.pairs[i].id for i in drawn]
    assert validation_draw(dataset, 5, 1) != drawn


def test_the_validation_draw_of_fewer_pairs_is_all_of_them() -> None:
    """Red when: pairs are repeated to reach the number."""
    assert validation_draw(make_dataset(), 200, 0) == tuple(range(7))
    with pytest.raises(ValueError, match="got 0"):
        validation_draw(make_dataset(), 0, 0)


def test_a_missing_pair_changes_one_place_of_the_draw() -> None:
    """Red when: one damaged file on one machine gives another validation set."""
    dataset = make_dataset(length=50)
    drawn = {dataset.pairs[i].id for i in validation_draw(dataset, 20, 0)}
    lost = sorted(drawn)[3]
    fewer = dataclasses.replace(dataset, pairs=tuple(pair for pair in dataset.pairs if pair.id != lost))
    assert len(drawn - {fewer.pairs[i].id for i in validation_draw(fewer, 20, 0)}) == 1


def test_limit_pairs_keeps_the_drawn_ones() -> None:
    dataset = make_dataset(length=50)
    limited = limit_pairs(dataset, 5, 0)
    assert [pair.id for pair in limited.pairs] == [
        dataset.pairs[i].id for i in validation_draw(dataset, 5, 0)
    ]
    assert limited.name == "one"


def test_samples_are_kept_up_to_the_limit() -> None:
    """Red when: samples are read again, kept beyond the limit, or mixed up."""
    reads: list[str] = []

    def counted(pair: Pair) -> FlowSample:
        reads.append(pair.id)
        return read(pair)

    dataset = dataclasses.replace(make_dataset(), read=counted)
    one_mb = (
        sum(
            value.nbytes
            for field in dataclasses.fields(FlowSample)
            if isinstance(value := getattr(dataset[0], field.name), np.ndarray)
        )
        / 1e6
    )
    reads.clear()
    kept = keep_in_memory(dataset, 2.5 * one_mb)
    for _ in range(2):
        assert [kept[index].id for index in (0, 1, 2)] == ["one/000", "one/001", "one/002"]
    assert reads == ["one/000", "one/001", "one/002", "one/002"]
