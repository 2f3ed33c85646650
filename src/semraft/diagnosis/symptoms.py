"""Symptoms of a run: what a sound run does not show, without its cause.

Every detector is a function of a `Record` that yields the first step of a symptom, or nothing. Statistical
detectors state their false-alarm rate; thresholds were set on other runs than those they are judged on
(docs/diagnosis.md).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import stdtr

from semraft.diagnosis.record import Record, Values, with_truth

FALSE_ALARM = 1e-5
"""Rate of false alarms of a statistical symptom in a sound run's noise, for each place that is looked at."""
AGAIN = 3
"""Number of five consecutive lines that must show a value which one line may have by chance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A symptom of a run, or an invariant that it breaks, with its first step."""

    name: str
    first_step: int
    evidence: str
    """The numbers it was seen in, in a sentence."""
    term: str = ""
    """The loss term it is about."""


Detector = Callable[[Record], Iterator[Finding]]


def non_finite(record: Record) -> Iterator[Finding]:
    """A loss that is NaN or infinite."""
    for name in ("flow_loss", "total_loss"):
        found = ~np.isfinite(record.pulse.get(name)) & ~np.isnan(record.pulse.get(name))
        if found.any():
            step = int(record.pulse.steps[found.argmax()])
            yield Finding(name="non-finite", first_step=step, evidence=f"{name} is not finite")
            return


SPIKE_TIMES = 4.0
"""A spike is an error of so many times the median of the SPIKE_LINES lines before it that stays above half of
that for SPIKE_STAYS lines: in some sound runs an error comes back after three."""
SPIKE_LINES, SPIKE_STAYS = 20, 5


def spike(record: Record) -> Iterator[Finding]:
    """An error, for its batch's motion, that jumps and does not come back at once."""
    steps, values = relative_error(record)
    if len(values) < SPIKE_LINES + SPIKE_STAYS:
        return
    usual = np.median(sliding_window_view(values, SPIKE_LINES)[:-SPIKE_STAYS], axis=1)
    times = sliding_window_view(values[SPIKE_LINES:], SPIKE_STAYS) / np.maximum(usual, 1e-6)[:, None]
    jumps = (times[:, 0] > SPIKE_TIMES) & (times > SPIKE_TIMES / 2).all(axis=1)
    if jumps.any():
        place = int(jumps.argmax())
        yield Finding(
            name="spike",
            first_step=int(steps[place + SPIKE_LINES]),
            evidence=f"error is {times[place, 0]:.1f} times that of the {SPIKE_LINES} lines before",
        )


MIN_LINES = 15
"""Least number of lines on each side of a change."""
WORSE_FRAC = 0.05
COLLAPSED_FRAC = 0.03


def worsening(record: Record) -> Iterator[Finding]:
    """An error on training batches that rises and stays: a change point, by Welch's t between its sides."""
    steps, values = relative_error(record)
    if found := change_point(np.log(np.maximum(values, 1e-6)), MIN_LINES, WORSE_FRAC):
        place, p, rise = found
        yield Finding(
            name="worsening",
            first_step=int(steps[place]),
            evidence=f"error on training batches, for their motion, {np.expm1(rise):+.0%} (p {p:.1g})",
        )


def collapse(record: Record) -> Iterator[Finding]:
    """A last refinement that is further from the truth than the first, on training batches."""
    steps, first, last = with_truth(record.pulse, "first_epe_px", "epe_px")
    if len(first) < MIN_LINES:
        return
    windows = sliding_window_view((last - first) / np.maximum(first, 1e-6), MIN_LINES)
    error = np.maximum(windows.std(axis=1, ddof=1) / MIN_LINES**0.5, 1e-12)
    p = stdtr(MIN_LINES - 1, (COLLAPSED_FRAC - windows.mean(axis=1)) / error)
    if (p < FALSE_ALARM).any():
        place = int((p < FALSE_ALARM).argmax())
        yield Finding(
            name="refinement-collapse",
            first_step=int(steps[place]),
            evidence=f"the last refinement's error is {windows[place].mean():.0%} above the first's "
            f"(p {p[place]:.1g})",
        )


SHRUNK_FRAC = 0.15
LEAST_MOTION_PX = 0.5
"""Least mean motion of batches whose length is judged: before a standing camera nearly all of it is 0."""


def shrinkage(record: Record) -> Iterator[Finding]:
    """Flow that becomes shorter than the truth.

    Flow that was longer and comes down to its length, as before a standing camera, is none.
    """
    steps, found, true = with_truth(record.pulse, "length_px", "true_length_px")
    moves = true >= LEAST_MOTION_PX
    steps, found, true = steps[moves], found[moves], true[moves]
    lengths = np.minimum(np.log(np.maximum(found, 1e-3) / np.maximum(true, 1e-3)), 0)
    if change := change_point(-lengths, MIN_LINES, SHRUNK_FRAC):
        place, p, fall = change
        yield Finding(
            name="shrinkage",
            first_step=int(steps[place]),
            evidence=f"flow is {-np.expm1(-fall):.0%} shorter against the truth than before (p {p:.1g})",
        )


CONFLICT_COSINE = -0.2
CONFLICT_SHARE_PCT = 10.0


def conflict(record: Record) -> Iterator[Finding]:
    """A large gradient of a term against that of the flow loss, at two watched steps in a row."""
    for term in (chosen.name for chosen in record.config.loss.terms):
        steps, cosine, share = record.health.known(f"cosine_{term}_update", f"share_pct_{term}")
        against = (cosine < CONFLICT_COSINE) & (share > CONFLICT_SHARE_PCT)
        twice = against[1:] & against[:-1]
        if twice.any():
            place = int(twice.argmax())
            yield Finding(
                name="gradient-conflict",
                first_step=int(steps[place]),
                evidence=f"cosine {cosine[place]:.2f} with the flow gradient at {share[place]:.0f} % of all",
                term=term,
            )


def dead_term(record: Record) -> Iterator[Finding]:
    """A weighted term without gradient, at three watched steps in a row."""
    for term in (chosen.name for chosen in record.config.loss.terms):
        steps, norm = record.health.known(f"gradient_norm_{term}")
        dead = norm < 1e-12
        for place in range(len(dead) - 2):
            if dead[place : place + 3].all():
                yield Finding(
                    name="dead-term",
                    first_step=int(steps[place]),
                    evidence="its gradient is 0 at three watched steps in a row",
                    term=term,
                )
                break


INACTIVE_PCT, INACTIVE_MORE_PCT = 50.0, 20.0


def inactive_context(record: Record) -> Iterator[Finding]:
    """Context channels that are 0 in whole batches: most of them, and many more than at the first step."""
    steps, share = record.health.finite("inactive_context_pct")
    if not len(share):
        return
    place = again((share > INACTIVE_PCT) & (share > share[0] + INACTIVE_MORE_PCT))
    if place is not None:
        yield Finding(
            name="inactive-context",
            first_step=int(steps[place]),
            evidence=f"{share[place]:.0f}% of the context channels are 0 in whole batches, "
            f"{share[0]:.0f}% at step {steps[0]}",
        )


def relative_error(record: Record) -> tuple[np.ndarray, Values]:
    """Steps, and EPE over the mean length of the true flow: motion makes half of the noise of batches."""
    steps, epe_px, true_px = with_truth(record.pulse, "epe_px", "true_length_px")
    return steps, epe_px / np.maximum(true_px, 0.1)


def change_point(values: Values, at_least: int, rise: float) -> tuple[int, float, float] | None:
    """The place where a series rose by `rise` or more and stayed, its p by Welch's t, and the change.

    Each place is judged by all values that follow it against as many before it; the most significant place
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
    """The first place of `found` from which on AGAIN of five lines are found."""
    for place in np.flatnonzero(found):
        if found[place : place + 5].sum() >= AGAIN:
            return int(place)
    return None
