"""Fingerprints of the start of a run: two runs with equal ones are one run twice, whatever their seeds are.

The study this project started from had three seeds that changed neither weights, nor order, nor augmentation.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from semraft.config import RunConfig
from semraft.data.loader import training_batches
from semraft.data.mixture import sample_address
from semraft.sample import FlowDataset

ADDRESSES = 1000
"""Samples whose data set and pair are in `sample_order`."""
BATCHES = 3
"""The first so many samples, read, augmented and in batches of one, are in `first_batches`: as many in every
run, whatever its batch and number of processes; 0.75 s of a core at 1080p."""


def fingerprints(
    config: RunConfig,
    weights: Mapping[str, Tensor],
    datasets: Sequence[FlowDataset],
    shares: Sequence[float],
    draw_seed: int,
) -> dict[str, str]:
    """Digests of a run's initial weights, of its sample order and of its first augmented batches.

    Args:
        config: The run.
        weights: The state of the network before the first step.
        datasets: The training data.
        shares: Weight of each data set in the mixture.
        draw_seed: Seed of sample order and augmentation.

    Raises:
        DamagedFile: One of the first samples, as in training itself.
    """
    lengths = [len(dataset) for dataset in datasets]
    order = [sample_address(number, draw_seed, lengths, shares) for number in range(ADDRESSES)]
    first = training_batches(
        datasets,
        shares,
        replace(config.data, workers=0),
        draw_seed,
        replace(config.optim, steps=BATCHES, batch=1),
    )
    batches = {
        f"{number} {field}": value
        for number, (batch, _) in enumerate(first)
        for field in batch.__slots__
        if isinstance(value := getattr(batch, field), Tensor)
    }
    return {
        "initial_weights": _digest(weights),
        "sample_order": hashlib.sha256(repr(order).encode()).hexdigest()[:16],
        "first_batches": _digest(batches),
    }


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """A digest of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        array = np.ascontiguousarray(tensor.detach().cpu().numpy())
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]
