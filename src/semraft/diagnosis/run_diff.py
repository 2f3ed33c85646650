"""The differences of a run from one that went well: settings, quantities, the step where errors part."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import stdtr

from semraft.config import RunConfig, TermConfig, flat, term_text
from semraft.diagnosis.record import Record, Series
from semraft.diagnosis.symptoms import FALSE_ALARM, MIN_LINES, relative_error

NOT_COMPARED = ("recipe", "output", "altered", "device", "tracker", "saved_pairs")
"""Names, places and alterations: a diagnosis goes by symptoms."""
SAME_BATCH = 1e-4
"""Largest relative difference of the mean true motion of equal batches: it does not depend on the run."""
PARTED_FRAC = 0.05
"""Least relative difference of errors that have parted."""
APART_FRAC = 0.2
"""Least relative difference that counts at a watched step, which is of one batch."""
OF_DATA = ("true_length_px", "trusted_frac", "between_classes_frac")
"""Quantities of batches alone: equal in two runs that see the same batches."""
FACTORS = ("rate_ratio", "optimizer_steps_missing", "clipped_ratio_max", "weight_")
"""Quantities that settings fix: any difference counts."""

OF_STEPS = ("share_pct_", "moved_", "shrinkage_", "gradient_norm_", "floor_")
"""Quantities of watched steps that are compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parting:
    """Where two errors part and stay apart, how sure that is, and by how much the one is above the other."""

    step: int
    p: float
    rise_frac: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A quantity that is other than in the other run, from a step on."""

    quantity: str
    step: int
    own: float
    other: float
    of_a_term: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A run beside one that went well."""

    name: str
    settings: Mapping[str, tuple[str, str]]
    """Field -> the run's value and the other's, where they differ."""
    shared_lines: int
    """Lines of pulse.jsonl of the same steps."""
    other_batches_from: int | None
    """The first step at which the two saw other batches; None: they saw the same."""
    parted: Parting | None
    earlier: tuple[Difference, ...]
    """Differences that came no later than the errors parted, the earliest first."""


def compare_records(record: Record, other: Record, name: str) -> Comparison:
    """The comparison of a run with another one, which is called `name`."""
    same, other_batches = _batches(record, other)
    parted = parting(record, other, paired=other_batches is None)
    until = parted.step if parted else record.last_step
    return Comparison(
        name=name,
        settings=settings(record.config, other.config),
        shared_lines=same,
        other_batches_from=other_batches,
        parted=parted,
        earlier=tuple(sorted(_earlier(record, other, until, other_batches), key=lambda found: found.step)),
    )


def settings(own: RunConfig, other: RunConfig) -> dict[str, tuple[str, str]]:
    """Fields that two configurations have otherwise, but those that only say what a run is called."""
    both = [flat(dataclasses.asdict(config)) | {"loss.terms": config.loss.terms} for config in (own, other)]
    return {
        field: (_text(both[0][field]), _text(both[1][field]))
        for field in both[0]
        if both[0][field] != both[1][field] and not field.startswith(NOT_COMPARED)
    }


def parting(record: Record, other: Record, paired: bool) -> Parting | None:
    """The first step from which the run's error is above the other's and stays there.

    The logarithms of both errors, over their batches' motion: by t over windows of MIN_LINES lines, at
    FALSE_ALARM each, of their differences where batches are the same (motion and all cancel), else by
    Welch's t. It counts where all that follows is above by PARTED_FRAC as well.
    """
    steps, own, others = _shared(relative_error(record), relative_error(other))
    if len(steps) < MIN_LINES:
        return None
    own, others = np.log(np.maximum(own, 1e-6)), np.log(np.maximum(others, 1e-6))
    rises = own - others
    windows = sliding_window_view(rises, MIN_LINES)
    if paired:
        error, freedom = windows.std(axis=1, ddof=1) / MIN_LINES**0.5, np.full(len(windows), MIN_LINES - 1.0)
    else:
        both = sliding_window_view(np.stack([own, others]), MIN_LINES, axis=1)
        spreads = np.maximum(both.var(axis=2, ddof=1) / MIN_LINES, 1e-18)
        error = np.sqrt(spreads.sum(axis=0))
        freedom = spreads.sum(axis=0) ** 2 / (spreads**2 / (MIN_LINES - 1)).sum(axis=0)
    p = stdtr(freedom, -windows.mean(axis=1) / np.maximum(error, 1e-9))
    stays = np.array([rises[first:].mean() for first in range(len(windows))]) > np.log1p(PARTED_FRAC)
    found = np.flatnonzero((p < FALSE_ALARM) & (windows.mean(axis=1) > np.log1p(PARTED_FRAC)) & stays)
    if not len(found):
        return None
    first = int(found[0])
    # The window reaches back over lines that have not parted yet.
    place = first + int((windows[first] > windows[first].mean() / 2).argmax())
    return Parting(step=int(steps[place]), p=float(p[first]), rise_frac=float(np.expm1(rises[place:].mean())))


def _batches(record: Record, other: Record) -> tuple[int, int | None]:
    """How many lines are of the same steps, and from which on the batches are others."""
    first: list[int] = []
    count = 0
    for name in OF_DATA:
        steps, own, others = _shared(record.pulse.known(name), other.pulse.known(name))
        count = max(count, len(steps))
        apart = np.abs(own - others) > SAME_BATCH * np.maximum(np.abs(others), SAME_BATCH)
        first += steps[apart][:1].tolist()
    return count, (min(first) if first else None) if count else 1


def _earlier(record: Record, other: Record, until: int, other_batches: int | None) -> Iterator[Difference]:
    """Quantities that differ at a step up to `until`: of settings and data by any amount, of watched steps by
    APART_FRAC, these where both saw the same batch."""
    if other_batches != 1:
        seen = [name for name in record.pulse.values if name in OF_DATA or name.endswith("_samples")]
        for name in seen:
            yield from _first(record.pulse, other.pulse, name, until, SAME_BATCH)
        shared = until if other_batches is None else min(until, other_batches - 1)
        for name in record.health.values:
            if name.startswith(OF_STEPS):
                yield from _first(record.health, other.health, name, shared, APART_FRAC)
    for name in record.pulse.values:
        if name.startswith(FACTORS):
            yield from _first(record.pulse, other.pulse, name, until, SAME_BATCH)
        if name.startswith("weight_") and name not in other.pulse.values:
            steps, values = record.pulse.known(name)
            if len(steps) and steps[0] <= until:
                first, own = int(steps[0]), float(values[0])
                yield Difference(quantity=name, step=first, own=own, other=0.0, of_a_term=True)


def _first(own: Series, other: Series, name: str, until: int, apart_frac: float) -> Iterator[Difference]:
    steps, mine, theirs = _shared(own.known(name), other.known(name))
    scale = np.maximum(np.maximum(np.abs(mine), np.abs(theirs)), 1e-9)
    apart = np.flatnonzero((np.abs(mine - theirs) > apart_frac * scale) & (steps <= until))
    if len(apart):
        place = int(apart[0])
        yield Difference(
            quantity=name,
            step=int(steps[place]),
            own=float(mine[place]),
            other=float(theirs[place]),
            of_a_term=name.startswith(("share_pct_", "weight_", "gradient_norm_", "floor_")),
        )


Found = tuple[np.ndarray, ...]
"""Steps and values of one quantity; of two runs they are of different lengths."""


def _shared(own: Found, other: Found) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps that both have, and the values of each there."""
    steps, mine, theirs = np.intersect1d(own[0], other[0], return_indices=True)
    return steps, own[1][mine], other[1][theirs]


def _text(value: Any) -> str:
    """A value as one types it."""
    if isinstance(value, tuple | list):
        return " ".join(_text(part) for part in value) or "none"
    return term_text(value) if isinstance(value, TermConfig) else str(value)
