"""Training batches from a list of data sets, and validation draws.

Every training sample is a function of (seed, sample number): its pair, its crop, its colours. Step s of a run
uses the numbers s * batch ... s * batch + batch - 1, so neither the workers, nor a resume, nor the number of
processes changes what is trained on. No random state is kept anywhere.
"""

import dataclasses
import hashlib
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from semraft.config import DataConfig, OptimConfig
from semraft.data.augment import Resize, augment_part, draw_window, resize
from semraft.data.block import Block, block_of, is_pinned_for
from semraft.data.mixture import REPLACEMENT, block_shares, sample_address
from semraft.sample import DamagedFile, FlowBatch, FlowDataset, FlowSample, Pair, Window, WrongSize

CPU = torch.device("cpu")
WORLD_MEMORY_MB = 4000.0
"""Scenes of the procedural world are made once and kept, up to this size."""
ATTEMPTS = 20
"""Pairs tried for one sample before damaged files are taken for the rule rather than the exception."""


class Skipped(TypedDict):
    """A damaged pair that a training sample should have come from: a line of the run's skipped.jsonl."""

    sample_number: int
    dataset: str
    id: str
    path: str
    reason: str


class TrainingSample(NamedTuple):
    """A sample, and the damaged pairs passed over for it."""

    sample: FlowSample
    skipped: tuple[Skipped, ...]


class TrainingBatch(NamedTuple):
    """A batch, and the damaged pairs passed over for it."""

    batch: FlowBatch
    skipped: tuple[Skipped, ...]


def training_sample(
    number: int,
    seed: int,
    datasets: Sequence[FlowDataset],
    weights: Sequence[float],
    config: DataConfig,
    resized: Resize = resize,
) -> TrainingSample:
    """Training sample `number` of a run with `seed`, read and augmented.

    With `config.damaged == "skip"` a damaged pair is replaced by another of the same data set, drawn from
    (seed, number, attempt), and named in the result.

    Raises:
        DamagedFile: With "refuse", a damaged pair; with "skip", the last of `ATTEMPTS` that all were.
    """
    which, pair = sample_address(number, seed, [len(dataset) for dataset in datasets], weights)
    dataset = datasets[which]
    skipped: list[Skipped] = []
    while True:
        try:
            generator = np.random.default_rng([seed, number])
            sample = _augmented(dataset, dataset.pairs[pair], config, generator, resized)
        except DamagedFile as error:
            if config.damaged == "refuse" or len(skipped) == ATTEMPTS - 1:
                raise
            damaged = dataset.pairs[pair].id
            skipped.append(
                Skipped(
                    sample_number=number,
                    dataset=dataset.name,
                    id=damaged,
                    path=str(error.path),
                    reason=error.reason,
                )
            )
            again = np.random.default_rng([seed, number, len(skipped), REPLACEMENT])
            pair = int(again.integers(len(dataset)))
        else:
            return TrainingSample(sample, tuple(skipped))


def _augmented(
    dataset: FlowDataset, pair: Pair, config: DataConfig, generator: np.random.Generator, resized: Resize
) -> FlowSample:
    """`augment` of the pair, of which only what becomes the crop is read.

    Raises:
        WrongSize: The frame is smaller than the crop, and is not to be enlarged.
    """
    drawn: list[Window] = []

    def choose(frame: tuple[int, int]) -> Window:
        if config.small_frames == "refuse" and (frame[0] < config.crop[0] or frame[1] < config.crop[1]):
            raise WrongSize(
                pair.files.get("image1", Path(pair.id)),
                f"is {frame[1]}x{frame[0]} (width x height), smaller than the crop of {config.crop[1]}x"
                f"{config.crop[0]}: take a smaller --data.crop, or --data.small-frames enlarge",
            )
        drawn.append(draw_window(frame, config.crop, config.augment, generator))
        return drawn[-1]

    part, frame = dataset.read_part(pair, choose)
    return augment_part(part, frame, drawn[-1], config.augment, config.crop, generator, resized)


def collate(samples: Sequence[FlowSample]) -> FlowBatch:
    """Stacks samples; a field that any of them lacks is None.

    Raises:
        ValueError: Samples of different sizes.
    """
    sizes = {sample.valid.shape for sample in samples}
    if len(sizes) != 1:
        raise ValueError(
            f"a batch needs samples of one size, got {sorted(sizes)}; crop them, or use a batch of 1"
        )
    return block_of(samples).on(CPU)


def training_batches(
    datasets: Sequence[FlowDataset],
    weights: Sequence[float],
    config: DataConfig,
    seed: int,
    optim: OptimConfig,
    first_step: int = 0,
    rank: int = 0,
    processes: int = 1,
    device: torch.device = CPU,
    resized: Resize = resize,
) -> Generator[TrainingBatch, None, None]:
    """The batches of steps `first_step` ... `optim.steps` - 1, loaded ahead by `config.workers` processes.

    Args:
        config: With a number of workers, not `auto`.
        first_step: 0, or the number of steps that a resumed run has done.
        rank: This process of `processes`, which gets its contiguous part of every batch of `optim.batch`.
        device: Where the batches' tensors are.
        resized: Resizes a sample to the crop.

    Raises:
        ValueError: A batch that the processes can't share evenly, an empty data set, or a weight too small.
        DamagedFile: As in `training_sample`; the same one whether workers load or not.
        ChildProcessError: A worker was killed.
    """
    assert config.workers != "auto"
    if optim.batch % processes:
        raise ValueError(
            f"batch {optim.batch} can't be shared by {processes} processes: take a multiple of it"
        )
    for dataset in datasets:
        if not len(dataset):
            raise ValueError(f"{dataset.name}: no usable pair in split {dataset.split!r}; check --data.root")
    block_shares(tuple(weights))
    loader = DataLoader(
        _Steps(datasets, weights, config, seed, optim.batch, rank, processes, resized),
        batch_size=None,
        sampler=range(first_step, optim.steps),
        num_workers=config.workers,
        collate_fn=_unchanged,
        worker_init_fn=_start_worker,
        pin_memory=is_pinned_for(device),
        generator=torch.Generator(),  # DataLoader draws a seed for its workers: not from the global one.
    )
    return _on_their_way(loader, device)


class _Loaded(NamedTuple):
    """One process's part of a batch as a worker sends it, and the damaged pairs passed over for it."""

    block: Block
    skipped: tuple[Skipped, ...]


class _Steps(Dataset[_Loaded | DamagedFile | OSError]):
    """One process's part of the batch of each step."""

    def __init__(
        self,
        datasets: Sequence[FlowDataset],
        weights: Sequence[float],
        config: DataConfig,
        seed: int,
        batch: int,
        rank: int,
        processes: int,
        resized: Resize,
    ) -> None:
        self.sources = seed, datasets, weights, config, resized
        self.batch, self.rank, self.part = batch, rank, batch // processes

    def __getitem__(self, step: int) -> _Loaded | DamagedFile | OSError:
        first = step * self.batch + self.rank * self.part
        try:
            loaded = [training_sample(first + i, *self.sources) for i in range(self.part)]
        except (DamagedFile, OSError) as error:
            # As a value: DataLoader would raise another exception, with a traceback for a message.
            return error
        skipped = [entry for _, skipped in loaded for entry in skipped]
        return _Loaded(block_of([sample for sample, _ in loaded]), tuple(skipped))


def _on_their_way(
    loader: Iterable[_Loaded | DamagedFile | OSError], device: torch.device
) -> Generator[TrainingBatch, None, None]:
    before = signal.getsignal(signal.SIGCHLD)
    batches: Any = iter(loader)
    if threading.current_thread() is threading.main_thread():
        # DataLoader's own handler would raise in the midst of a step, wherever a worker's death is heard of.
        signal.signal(signal.SIGCHLD, before)
    try:
        while (loaded := _next_loaded(batches)) is not None:
            if isinstance(loaded, DamagedFile | OSError):
                raise loaded
            # Pinning makes a list of it.
            yield TrainingBatch(loaded.block.on(device), tuple(loaded.skipped))
    finally:
        if hasattr(batches, "_shutdown_workers"):
            # Not left to the garbage collector: an error's traceback keeps the iterator, and Python would
            # wait for ever at its end for workers that SIGTERM does not end.
            batches._shutdown_workers()


def _next_loaded(
    batches: Iterator[_Loaded | DamagedFile | OSError],
) -> _Loaded | DamagedFile | OSError | None:
    """The next batch or the error in it, None after the last; a worker's death is an error too."""
    try:
        return next(batches, None)
    except (RuntimeError, OSError, EOFError) as error:
        # DataLoader's own error, or that of the socket which a batch comes by: errors of reading are values.
        if isinstance(error, RuntimeError) and all(
            worker.is_alive() for worker in getattr(batches, "_workers", ())
        ):
            raise
        return ChildProcessError(f"a loader process was killed, for lack of memory perhaps ({error})")


def _unchanged(loaded: Any) -> Any:
    return loaded


def _start_worker(worker: int) -> None:
    # One core each. Not 1: a forked OpenCV would wait for ever for the threads that its parent had.
    cv2.setNumThreads(0)
    # Ctrl-C, torchrun and SLURM signal the workers too: the training stops when it has saved, and ends them.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def validation_draw(dataset: FlowDataset, pairs: int, draw_seed: int) -> tuple[int, ...]:
    """Indices of `pairs` pairs drawn at random, all if there are no more, in the order of their ids.

    Those whose SHA-256 of seed and id is smallest: the same in every run, on every machine and with every
    NumPy, whatever order the pairs are listed in; a pair that one machine lacks changes one place only.

    Raises:
        ValueError: Fewer than 1 pair asked for.
    """
    if pairs < 1:
        raise ValueError(f"pairs to draw from {dataset.name}: expected 1 or more, got {pairs}")

    def lot(index: int) -> bytes:
        return hashlib.sha256(f"{draw_seed} {dataset.pairs[index].id}".encode()).digest()

    drawn = sorted(range(len(dataset)), key=lot)[:pairs]
    return tuple(sorted(drawn, key=lambda index: dataset.pairs[index].id))


def limit_pairs(dataset: FlowDataset, pairs: int, draw_seed: int) -> FlowDataset:
    """The data set of `pairs` pairs only, those of `validation_draw`."""
    kept = validation_draw(dataset, pairs, draw_seed)
    return dataclasses.replace(dataset, pairs=tuple(dataset.pairs[index] for index in kept))


def keep_in_memory(dataset: FlowDataset, max_mb: float) -> FlowDataset:
    """The data set with samples read once and kept, until they take `max_mb` (10^6 bytes).

    Every loader process keeps its own, so that the memory is up to `max_mb` for each worker.
    """
    return dataclasses.replace(dataset, read=_KeptInMemory(dataset.read, max_mb), read_window=None)


@dataclasses.dataclass(slots=True)
class _KeptInMemory:
    """A data set's `read` with a memory. No closure: a loader process that is spawned gets it pickled."""

    read: Callable[[Pair], FlowSample]
    max_mb: float
    used_mb: float = 0.0
    kept: dict[str, FlowSample] = dataclasses.field(default_factory=dict)

    def __call__(self, pair: Pair) -> FlowSample:
        if pair.id in self.kept:
            return self.kept[pair.id]
        sample = self.read(pair)
        arrays = (getattr(sample, field.name) for field in dataclasses.fields(sample))
        size_mb = sum(array.nbytes for array in arrays if isinstance(array, np.ndarray)) / 1e6
        if self.used_mb + size_mb <= self.max_mb:
            self.kept[pair.id] = sample
            self.used_mb += size_mb
        return sample
