"""Invariants of a training: two numbers that must agree and are found in different ways.

A symptom shows that a run is ill; a broken invariant names the cause. `causes.CAUSES` has each with its
meaning and the experiment that would settle it.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from numpy.lib.stride_tricks import sliding_window_view

from semraft.diagnosis.record import Record, Values, with_truth
from semraft.diagnosis.symptoms import FALSE_ALARM, Finding, again, first

RATE_RATIO = 1.5
SWAPPED_FRACS, SWAPPED_ALARM = (1e-4, 0.01), 5.0
"""Rates of samples that fit better with u and v exchanged: of a sound run, of one to be named; and how much
likelier the second must be, in nats."""
SCALED_FRACS, SCALED_ALARM = (0.01, 0.12), 12.0
"""The same of samples that fit better at another length of flow (sound runs: up to 0.011)."""
STANDING_FRACS, STANDING_ALARM = (0.03, 0.3), 12.0
"""The same of samples whose still pixels fit worse than their moving ones (standing cameras: up to 0.03)."""
BETWEEN_FRAC = 0.06
"""Sound labels have up to 0.023 of their borders' pixels between both classes by chance, blended ones 0.1."""
NORMALIZATION_FRAC = 0.01
"""The loss and the mean are over the same pixels: they differ by rounding alone."""
HALF_RANGE = 65504.0
SKIPPED_LINES, SKIPPED_FRAC = 20, 0.5
"""A scaler looks for its scale by skipping: a few steps at the start, one in 2000 later."""
EMPTY_LINES, EMPTY_AT_FIRST = 20, 5
"""Lines in a row without flow truth, and without any since the start, that are no chance."""


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of an invariant: its numbers in a sentence, and the first step that breaks it."""

    text: str
    first_step: int | None = None


Invariant = Callable[[Record], Check | None]
"""A check of a record; None where the record lacks the numbers."""


def half_overflow(record: Record) -> Check | None:
    """The largest correlation is inside the range of float16."""
    steps, largest = record.pulse.known("correlation_abs_max")
    return _check(
        steps,
        first(largest >= HALF_RANGE),
        lambda at: f"correlations reach {largest[at]:.3g}: float16 ends at {HALF_RANGE:.0f}",
        lambda: f"correlations reach {largest.max():.3g}; float16 ends at {HALF_RANGE:.0f}",
    )


def learning_rate(record: Record) -> Check | None:
    """The rate that moves the weights is the schedule's."""
    steps, ratio = record.pulse.known("rate_ratio")
    return _check(
        steps,
        first((ratio > RATE_RATIO) | (ratio < 1 / RATE_RATIO)),
        lambda at: f"weights move at {ratio[at]:.3g} times the schedule's rate",
        lambda: f"the rate is the schedule's, within {np.abs(ratio - 1).max():.1%}",
    )


def optimizer_restart(record: Record) -> Check | None:
    """AdamW's moments have seen no fewer steps than before."""
    steps, missing = record.pulse.finite("optimizer_steps_missing")
    known = steps - missing
    at = first(np.diff(known) < 0)
    return _check(
        steps,
        None if at is None else at + 1,
        lambda at: f"the optimiser's moments have seen {known[at]:.0f} steps, and {known[at - 1]:.0f} before",
        lambda: f"of {steps[-1]} steps {missing.max():.0f} are missing in the optimiser's moments",
    )


def skipped_steps(record: Record) -> Check | None:
    """A gradient scaler finds a scale to go on with."""
    steps, missing = record.pulse.finite("optimizer_steps_missing")
    if len(steps) <= SKIPPED_LINES:
        at, often = None, np.empty(0)
    else:
        skipped = np.clip(np.diff(missing), 0, np.diff(steps)) / np.diff(steps)
        often = sliding_window_view(skipped, SKIPPED_LINES).mean(axis=1)
        at = first(often > SKIPPED_FRAC)
    return _check(
        steps,
        None if at is None else at + 1,
        lambda at: f"{often[at - 1]:.0%} of the steps were skipped: no scale keeps gradients inside float16",
        lambda: f"of {steps[-1]} steps {missing.max():.0f} were skipped",
    )


def no_clipping(record: Record) -> Check | None:
    """The gradient that moves the weights is no longer than --optim.clip-norm."""
    steps, ratio = record.pulse.known("clipped_ratio_max")
    return _check(
        steps,
        first(ratio > 1.01),
        lambda at: f"the gradient after clipping is {ratio[at]:.3g} times as long as --optim.clip-norm",
        lambda: f"the longest gradient after clipping has {ratio.max():.4g} of --optim.clip-norm",
    )


def batch_norm(record: Record) -> Check | None:
    """Frozen statistics of batch norm stay as they are."""
    steps, sums = record.pulse.known("batch_norm_sum")
    asked = record.config.model.batch_norm
    if asked != "freeze":
        return Check(f"batch norm may learn in this run (--model.batch-norm {asked})")
    at = first(np.abs(np.diff(sums)) > 1e-9 * np.maximum(np.abs(sums[:-1]), 1))
    return _check(
        steps,
        None if at is None else at + 1,
        lambda at: "running statistics of batch norm move, which --model.batch-norm freeze forbids",
        lambda: f"running statistics of batch norm stay at {sums[0]:.6g}",
    )


def flow_truth(record: Record) -> Check | None:
    """Batches have pixels with flow truth."""
    steps, part = record.pulse.known("trusted_frac")
    data, optim = record.config.data, record.config.optim
    if data.truth_frac == 0:
        return Check("no flow truth is asked for (--data.truth-frac 0)")
    found = np.flatnonzero(part > 0)
    gaps = np.diff(np.concatenate([[-1], found, [len(part)]])) - 1
    least = np.full(len(gaps), EMPTY_LINES)
    least[0] = EMPTY_AT_FIRST
    if data.truth_frac < 1 and len(steps):  # Pairs without truth may follow each other by chance.
        samples = optim.batch * max(1, int(steps[0]))
        least = np.maximum(least, math.log(FALSE_ALARM) / math.log1p(-data.truth_frac) / samples)
    gap = first(gaps >= least)
    at = None if gap is None else int(np.concatenate([[-1], found])[gap]) + 1
    return _check(
        steps,
        at,
        lambda at: (
            f"not one valid pixel in the {gaps[gap]} lines from step {steps[at]} on: nothing is learnt"
        ),
        lambda: f"{np.median(part):.1%} of the pixels have flow truth (median)",
    )


def invalid_zeros(record: Record) -> Check | None:
    """Pixels with a flow of exactly 0 fit their pictures as well as those that move."""
    return _samples(
        record,
        "false_still_samples",
        STANDING_FRACS,
        STANDING_ALARM,
        "have pixels with a flow of exactly 0 that fit worse than moving ones",
        "pixels without truth count as valid",
    )


def swapped_flow(record: Record) -> Check | None:
    """Samples fit their pictures as given, not with u and v exchanged."""
    how = "fit their pictures with u and v exchanged, and not as given"
    return _samples(record, "swapped_samples", SWAPPED_FRACS, SWAPPED_ALARM, how, "stored or read so")


def flow_scale(record: Record) -> Check | None:
    """Samples fit their pictures at the length of their flow."""
    how = "fit their pictures better at another length of flow"
    return _samples(record, "scaled_samples", SCALED_FRACS, SCALED_ALARM, how, "resized without it")


def label_resize(record: Record) -> Check | None:
    """Pixels at borders have the class of one of both sides."""
    steps, part = record.pulse.known("between_classes_frac")
    how = "of the pixels at borders have a class numbered between both sides'"
    return _check(
        steps,
        again(part > BETWEEN_FRAC),
        lambda at: f"{part[at]:.0%} {how}: labels were blended",
        lambda: f"{np.median(part):.1%} {how}, {part.max():.1%} at most",
    )


def normalization(record: Record) -> Check | None:
    """The flow loss is the mean L1 distance over the pixels that --loss.normalize asks for."""
    asked = record.config.loss.normalize
    steps, loss, distance_px = with_truth(record.pulse, "flow_loss", "l1_px")
    ratio = np.maximum(loss, 1e-9) / np.maximum(distance_px, 1e-9)
    pixels = f"{'all' if asked == 'all' else 'the valid'} pixels, which --loss.normalize {asked} asks for"
    return _check(
        steps,
        again(np.abs(np.log(ratio)) > NORMALIZATION_FRAC),
        lambda at: f"the flow loss is {ratio[at]:.2f} times the mean distance over {pixels}",
        lambda: f"the flow loss is {np.median(ratio):.3f} times the mean distance over {pixels} (median)",
    )


PULLING_SHARE_PCT = 12.0
PULL = 1.25
"""A floor so many times the value is more than the difference that noise makes."""
RULED = 0.05
"""A value below this part of the floor: the flow is the one that the term prefers."""


def heavy_term(record: Record) -> Iterator[Finding]:
    """Terms that prefer another flow to the true one, with a large part of the gradient.

    A term's value on the truth (its floor) above that on the prediction pulls away from the truth. With
    PULLING_SHARE_PCT of the gradient it biases the flow, the more the less is left to learn; where its value
    has all but vanished it rules.
    """
    for term in (chosen.name for chosen in record.config.loss.terms):
        steps, share, floor, value = record.health.finite(
            f"share_pct_{term}", f"floor_{term}", f"value_{term}"
        )
        pulls = (floor > PULL * value) & (share > PULLING_SHARE_PCT) & (steps > 1)
        if not pulls.any():
            continue
        ruled = (value < RULED * floor) & pulls
        place = int((ruled if ruled.any() else pulls).argmax())
        yield Finding(
            name="term-too-heavy" if ruled.any() else "term-biased",
            first_step=_weight_since(record, term, int(steps[pulls.argmax()])),
            evidence=f"{term} has {share[place]:.0f} % of the gradient and pulls away from the truth: it is "
            f"{floor[place]:.3g} there and {value[place]:.3g} on the prediction",
            term=term,
        )


def _weight_since(record: Record, term: str, seen: int) -> int:
    """The step since which a term has had the weight it has at `seen`, if it jumped there; else `seen`."""
    steps, weight = record.pulse.known(f"weight_{term}")
    before = steps <= seen
    steps, weight = steps[before], weight[before]
    if not len(weight):
        return seen
    jumps = np.flatnonzero((weight[1:] > 2 * weight[:-1]) & (weight[:-1] > 0))  # Not where it begins.
    return int(steps[jumps[-1] + 1]) if len(jumps) else seen


def alarm(hits: Values, seen: Values, fracs: tuple[float, float], height: float) -> int | None:
    """The line at which hits became as frequent as the second of `fracs`, by a cumulative sum (Page 1954).

    Args:
        hits: Of each line.
        seen: The number of possible hits.
        fracs: Usual and alarming rates.
        height: Log likelihood ratio of an alarm.
    """
    usual, alarming = fracs
    gains = hits * np.log(alarming / usual) + (seen - hits) * np.log((1 - alarming) / (1 - usual))
    total, start = 0.0, 0
    for place, gain in enumerate(gains):
        if total + gain <= 0:
            total, start = 0.0, place + 1
            continue
        total += gain
        if total > height:
            return start
    return None


def _samples(
    record: Record, quantity: str, fracs: tuple[float, float], height: float, how: str, why: str
) -> Check | None:
    """The check of the rate of samples that are counted in `quantity`."""
    steps, hits, seen = record.pulse.finite(quantity, "seen_samples")
    return _check(
        steps,
        alarm(hits, seen, fracs, height),
        lambda at: f"{hits[at:].sum():.0f} of {seen[at:].sum():.0f} samples {how}: {why}",
        lambda: f"{hits.sum():.0f} of {seen.sum():.0f} samples {how}",
    )


def _check(
    steps: Int64[np.ndarray, " N"], at: int | None, breach: Callable[[int], str], passed: Callable[[], str]
) -> Check | None:
    """The check of lines at `steps`, broken from place `at` on or not at all; None without lines."""
    if not len(steps):
        return None
    return Check(passed()) if at is None else Check(breach(at), int(steps[at]))
