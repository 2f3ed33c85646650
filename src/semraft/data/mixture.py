"""Which sample is next: mixtures of data sets, where they lie, and the order of their pairs.

Sample number n of a run is a function of its seed and n; nothing is drawn one after another.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Int64

BLOCK = 100
"""Samples over which the shares of a mixture are exact."""
# The last number of a seed, so that no two kinds of draw share a generator. A sample's own generator has the
# seed (seed, sample number), which NumPy pads with zeros.
PAIR_ORDER, MIXTURE_ORDER, REPLACEMENT = 1, 2, 3


def parse_mixture(text: str) -> tuple[tuple[str, float], ...]:
    """Reads `viper` or `viper,kitti` (equal weights) or `viper:0.7,virtual-kitti:0.3`, in the order written.

    Raises:
        ValueError: Not of this form, a data set twice, or a weight that is not a positive number.
    """
    form = "expected NAME or NAME:WEIGHT,NAME:WEIGHT,..."
    mixture: dict[str, float] = {}
    for part in text.split(","):
        name, colon, weight = (piece.strip() for piece in part.partition(":"))
        if not name:
            raise ValueError(f"data mixture {text!r}: a name is empty; {form}")
        if name in mixture:
            raise ValueError(f"data mixture {text!r}: {name} is there twice; write it once, with one weight")
        if bool(colon) != (":" in text):
            raise ValueError(f"data mixture {text!r}: {name} has no weight but others have; {form}")
        try:
            mixture[name] = float(weight) if colon else 1.0
        except ValueError:
            raise ValueError(
                f"data mixture {text!r}: the weight {weight!r} is not a number; {form}"
            ) from None
        if not 0 < mixture[name] < float("inf"):
            raise ValueError(f"data mixture {text!r}: the weight of {name} must be above 0, got {weight}")
    return tuple(mixture.items())


def parse_roots(text: str, names: Sequence[str]) -> dict[str, Path | None]:
    """Where each of the data sets `names` lies, None where `text` does not say.

    `text` is empty, or one folder (a data set is in its subfolder NAME if there is one, else in the folder
    itself), or NAME=FOLDER,NAME=FOLDER,... for some or all of the names and perhaps others.

    Raises:
        ValueError: NAME=FOLDER for some parts only, or a name twice.
    """
    if not text:
        return dict.fromkeys(names)
    if "=" not in text:
        root = Path(text).expanduser()
        return {name: root / name if (root / name).is_dir() else root for name in names}
    folders: dict[str, Path] = {}
    for part in text.split(","):
        name, equals, folder = (piece.strip() for piece in part.partition("="))
        if not (name and equals and folder):
            raise ValueError(f"data root {text!r}: expected NAME=FOLDER in every part, got {part!r}")
        if name in folders:
            raise ValueError(f"data root {text!r}: {name} is there twice; keep one folder")
        folders[name] = Path(folder).expanduser()
    return {name: folders.get(name) for name in names}


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
