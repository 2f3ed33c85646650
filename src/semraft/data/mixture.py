"""Order of training samples: the shares of data sets in a mixture, and the order of their pairs.

Sample number n of a run is a function of its seed and n; nothing is drawn one after another.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Int64

BLOCK = 100
"""Samples over which the shares of a mixture are exact."""
# The last number of a seed, so that no two kinds of draw share a generator. A sample's own generator has the
# seed (seed, sample number), which NumPy pads with zeros.
PAIR_ORDER, MIXTURE_ORDER, REPLACEMENT = 1, 2, 3


def sample_address(
    number: int, seed: int, lengths: Sequence[int], weights: Sequence[float]
) -> tuple[int, int]:
    """Which data set, and which pair of it, training sample `number` comes from.

    Of every `BLOCK` samples each data set gives its exact share (largest remainder), in random order; the
    pairs of a data set are all used once, in random order, before any is used again.

    Args:
        lengths: Number of pairs of each data set.
        weights: Share of each, in any unit.

    Raises:
        ValueError: A weight too small for one sample in a block.
    """
    block, place = divmod(number, BLOCK)
    order = _block_order(seed, block, block_shares(tuple(weights)))
    dataset = int(order[place])
    used = block * int((order == dataset).sum()) + int((order[:place] == dataset).sum())
    epoch, position = divmod(used, lengths[dataset])
    return dataset, int(_pair_order(seed, dataset, epoch, lengths[dataset])[position])


def block_shares(weights: tuple[float, ...]) -> tuple[int, ...]:
    """Samples of each data set in a block: rounded down, the rest to the largest remainders.

    Raises:
        ValueError: A weight that comes out at no sample at all.
    """
    exact = BLOCK * np.array(weights) / np.sum(weights)
    shares = np.floor(exact).astype(int)
    shares[np.argsort(shares - exact, kind="stable")[: BLOCK - shares.sum()]] += 1
    if shares.min() < 1:
        weight = weights[int(shares.argmin())]
        raise ValueError(
            f"weight {weight} of weights {weights}: below one sample in {BLOCK}; raise or drop it"
        )
    return tuple(shares.tolist())


@lru_cache(maxsize=64)
def _block_order(seed: int, block: int, shares: tuple[int, ...]) -> Int64[np.ndarray, " N"]:
    order = np.repeat(np.arange(len(shares)), shares)
    return np.random.default_rng([seed, block, 0, MIXTURE_ORDER]).permutation(order)


@lru_cache(maxsize=64)
def _pair_order(seed: int, dataset: int, epoch: int, length: int) -> Int64[np.ndarray, " N"]:
    return np.random.default_rng([seed, dataset, epoch, PAIR_ORDER]).permutation(length)
