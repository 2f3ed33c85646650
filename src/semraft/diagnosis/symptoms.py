"""Signs that something is wrong with a training: what can be seen, not yet why.

Every detector is a function of a `Record` that gives the first step of what it sees, or nothing. Those that
judge by chance state their false-alarm rate; every threshold was set on other runs than those it is judged on
(docs/diagnosis.md).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import stdtr

from semraft.diagnosis.record import Record, Values, with_truth

FALSE_ALARM = 1e-5
"""How often a healthy run's noise may give a statistical sign, for each place looked at."""
AGAIN = 3
"""Of five lines in a row, so many must show what one alone may by chance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sign:
    """Something that a sound run does not show."""

    name: str
    first_step: int
    confidence: float
    """0 to 1: one minus the chance that a sound run shows it."""
    evidence: str
    term: str = ""
    """The loss term it is about."""


Detector = Callable[[Record], Iterator[Sign]]


def non_finite(record: Record) -> Iterator[Sign]:
    """A loss that is no number."""
    for name in ("flow_loss", "total_loss"):
        found = ~np.isfinite(record.pulse.get(name)) & ~np.isnan(record.pulse.get(name))
        if found.any():
            step = int(record.pulse.steps[found.argmax()])
            yield Sign(name="non-finite", first_step=step, confidence=1.0, evidence=f"{name} is not finite")
            return


SPIKE_TIMES = 4.0
"""An error so many times the median of the SPIKE_LINES before is a spike, if it stays above half that for
SPIKE_STAYS lines: of sound runs some come back after three."""
SPIKE_LINES, SPIKE_STAYS = 20, 5


def spike(record: Record) -> Iterator[Sign]:
    """An error, for its batch's motion, that jumps and does not come back at once."""
    steps, values = relative_error(record)
    if len(values) < SPIKE_LINES + SPIKE_STAYS:
        return
    usual = np.median(sliding_window_view(values, SPIKE_LINES)[:-SPIKE_STAYS], axis=1)
    times = sliding_window_view(values[SPIKE_LINES:], SPIKE_STAYS) / np.maximum(usual, 1e-6)[:, None]
    jumps = (times[:, 0] > SPIKE_TIMES) & (times > SPIKE_TIMES / 2).all(axis=1)
    if jumps.any():
        place = int(jumps.argmax())
        yield Sign(
            name="spike",
            first_step=int(steps[place + SPIKE_LINES]),
            confidence=0.99,
            evidence=f"error is {times[place, 0]:.1f} times that of the {SPIKE_LINES} lines before",
        )


MIN_LINES = 15
"""Fewer lines on one side say nothing of a change."""
WORSE_FRAC = 0.05
COLLAPSED_FRAC = 0.03
LEAST_CHANGE = 0.02
VALIDATIONS_APART = ((2, 5.0), (4, 3.0))
"""So many validations in a row are above the best by so many times what two usually differ by."""


def worsening(record: Record) -> Iterator[Sign]:
    """The error on training batches rises and stays: a change point, by Welch's t between both its sides."""
    steps, values = relative_error(record)
    if found := change_point(np.log(np.maximum(values, 1e-6)), MIN_LINES, WORSE_FRAC):
        place, p, rise = found
        yield Sign(
            name="worsening",
            first_step=int(steps[place]),
            confidence=1 - p,
            evidence=f"error on training batches, for their motion, {np.expm1(rise):+.0%} (p {p:.1g})",
        )


def validation_worsening(record: Record) -> Iterator[Sign]:
    """A validation error that left its best value, by more than validations differ from each other."""
    for split, found in record.validation.items():
        steps, epe_px = found.finite("epe")
        changes = np.diff(np.log(epe_px))
        for last, (row, apart) in product(range(3, len(epe_px)), VALIDATIONS_APART):
            before = last + 1 - row
            if before < 2:
                continue
            best = int(epe_px[:before].argmin())
            usual = max(float(np.median(np.abs(changes[:before]))), LEAST_CHANGE)
            if np.log(epe_px[before : last + 1] / epe_px[best]).min() > apart * usual:
                yield Sign(
                    name="validation-worsening",
                    first_step=int(steps[best]) + 1,
                    confidence=0.95,
                    evidence=f"{split}: EPE {epe_px[best]:.2f} px at step {steps[best]}, "
                    f"{epe_px[last]:.2f} at {steps[last]}",
                )
                break


def collapse(record: Record) -> Iterator[Sign]:
    """The last refinement is further from the truth than the first."""
    steps, first, last = with_truth(record.pulse, "first_epe_px", "epe_px")
    if len(first) < MIN_LINES:
        return
    windows = sliding_window_view((last - first) / np.maximum(first, 1e-6), MIN_LINES)
    error = np.maximum(windows.std(axis=1, ddof=1) / MIN_LINES**0.5, 1e-12)
    p = stdtr(MIN_LINES - 1, (COLLAPSED_FRAC - windows.mean(axis=1)) / error)
    if (p < FALSE_ALARM).any():
        place = int((p < FALSE_ALARM).argmax())
        yield Sign(
            name="refinement-collapse",
            first_step=int(steps[place]),
            confidence=1 - p[place],
            evidence=f"the last refinement's error is {windows[place].mean():.0%} above the first's "
            f"(p {p[place]:.1g})",
        )


SHRUNK_FRAC = 0.15


def shrinkage(record: Record) -> Iterator[Sign]:
    """Flow becomes shorter against the truth than it was."""
    steps, found, true = with_truth(record.pulse, "length_px", "true_length_px")
    lengths = np.log(np.maximum(found, 1e-3) / np.maximum(true, 1e-3))
    if change := change_point(-lengths, MIN_LINES, SHRUNK_FRAC):
        place, p, fall = change
        yield Sign(
            name="shrinkage",
            first_step=int(steps[place]),
            confidence=1 - p,
            evidence=f"flow is {-np.expm1(-fall):.0%} shorter against the truth than before (p {p:.1g})",
        )


CONFLICT_COSINE = -0.2
CONFLICT_SHARE_PCT = 10.0


def conflict(record: Record) -> Iterator[Sign]:
    """A term's gradient works against that of the flow, and is large enough to matter, twice in a row."""
    for term in (chosen.name for chosen in record.config.loss.terms):
        steps, cosine, share = record.health.known(f"cosine_{term}_update", f"share_pct_{term}")
        against = (cosine < CONFLICT_COSINE) & (share > CONFLICT_SHARE_PCT)
        twice = against[1:] & against[:-1]
        if twice.any():
            place = int(twice.argmax())
            yield Sign(
                name="gradient-conflict",
                first_step=int(steps[place]),
                confidence=0.9,
                evidence=f"cosine {cosine[place]:.2f} with the flow gradient at {share[place]:.0f} % of all",
                term=term,
            )


def dead_term(record: Record) -> Iterator[Sign]:
    """A weighted term without any gradient, three times in a row."""
    for term in (chosen.name for chosen in record.config.loss.terms):
        steps, norm = record.health.known(f"gradient_norm_{term}")
        dead = norm < 1e-12
        for place in range(len(dead) - 2):
            if dead[place : place + 3].all():
                yield Sign(
                    name="dead-term",
                    first_step=int(steps[place]),
                    confidence=0.99,
                    evidence="its gradient is 0 at three watched steps in a row",
                    term=term,
                )
                break


DETECTORS: tuple[Detector, ...] = (
    non_finite,
    spike,
    worsening,
    validation_worsening,
    collapse,
    shrinkage,
    conflict,
    dead_term,
)


def relative_error(record: Record) -> tuple[np.ndarray, Values]:
    """Steps, and EPE over the mean length of the true flow: motion is half of the noise of batches."""
    steps, epe_px, true_px = with_truth(record.pulse, "epe_px", "true_length_px")
    return steps, epe_px / np.maximum(true_px, 0.1)


def change_point(values: Values, at_least: int, rise: float) -> tuple[int, float, float] | None:
    """Where a series rose by `rise` or more and stayed: the place, p by Welch's t, and by how much.

    Each place is judged by all that follows it against as many values before it; the most significant one
    counts, at FALSE_ALARM for each.
    """
    places = np.arange(at_least, len(values) - at_least + 1)
    if not len(places):
        return None
    end = len(values)
    before, before_variance = _moments(values, np.maximum(0, 2 * places - end), places)
    after, after_variance = _moments(values, places, np.full_like(places, end))
    counts = np.stack([np.minimum(places, end - places), end - places])
    errors = np.stack([before_variance, after_variance]) / counts
    change, error = after - before, np.maximum(errors.sum(axis=0), 1e-12)
    freedom = error**2 / np.maximum((errors**2 / (counts - 1)).sum(axis=0), 1e-24)
    p = np.where(change >= rise, stdtr(freedom, -change / np.sqrt(error)), 1.0)
    place = int(p.argmin())
    return (int(places[place]), float(p[place]), float(change[place])) if p[place] < FALSE_ALARM else None


def _moments(
    values: Values, first: Int64[np.ndarray, " P"], end: Int64[np.ndarray, " P"]
) -> tuple[Float64[np.ndarray, " P"], Float64[np.ndarray, " P"]]:
    """Mean and variance of values[first:end] for each place."""
    centred = values - values.mean()
    sums, squares = (np.concatenate([[0], np.cumsum(part)]) for part in (centred, centred**2))
    count = end - first
    mean = (sums[end] - sums[first]) / count
    variance = ((squares[end] - squares[first]) - count * mean**2) / (count - 1)
    return mean + values.mean(), np.maximum(variance, 0)


def first(found: Bool[np.ndarray, " N"]) -> int | None:
    """The first place of `found`."""
    return int(found.argmax()) if found.any() else None


def again(found: Bool[np.ndarray, " N"]) -> int | None:
    """The first place of `found` that AGAIN of the five lines from it on share."""
    for place in np.flatnonzero(found):
        if found[place : place + 5].sum() >= AGAIN:
            return int(place)
    return None
