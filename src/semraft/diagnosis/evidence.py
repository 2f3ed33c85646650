"""Facts for or against a cause: one sentence with its numbers each.

`ranking` weighs them. A fact without numbers in the record is left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from semraft.diagnosis.invariants import HALF_RANGE
from semraft.diagnosis.record import Record, Series, with_truth
from semraft.diagnosis.symptoms import SPIKE_LINES, relative_error

MOVED_TIMES = 2.0
"""Least ratio of the lengths of steps that counts as longer."""
GRADIENT_TIMES = 3.0
BACK_TIMES = 1.3
"""Largest ratio to the earlier error that counts as back."""
BACK_LINES = 5
HARD_TIMES = 1.5
"""Least ratio of a batch's motion to the usual that counts as hard."""
CHANGED_FRAC = 0.05
"""Least change of the training error that counts."""
NEAR_RANGE_FRAC = 0.25
HEAVY_SHARE_PCT = 45.0
"""Share of the gradient above which a term decides as much as the flow loss."""
EARLY_FRAC, LATE_FRAC = 0.5, 0.2
"""Fractions of the peak learning rate: above the first a rate may be too high, below the second hardly."""
COSINE = 0.05
"""Least cosine that counts: below it gradients are about at right angles."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """One sentence, and whether it supports a cause or speaks against it."""

    text: str
    supports: bool


def around(series: Series, name: str, onset: int | None) -> tuple[float, float] | None:
    """Medians of a quantity before a step and from it on; None where either is not known.

    Step 1 is left out: its rate is small and its weights are untrained.
    """
    steps, values = series.known(name)
    if onset is None:
        return None
    before, after = values[(steps < onset) & (steps > 1)], values[steps >= onset]
    return (float(np.median(before)), float(np.median(after))) if len(before) and len(after) else None


def active_context(record: Record) -> Iterator[Fact]:
    """The share of context channels that no cell of a batch uses, at most."""
    _, share = record.health.finite("inactive_context_pct")
    if len(share):
        yield Fact(
            text=f"at most {share.max():.0f}% of the context channels are 0 in a whole batch", supports=False
        )


def moves(record: Record, onset: int | None) -> Iterator[Fact]:
    """Whether steps have become longer against the weights they move."""
    found = {
        name.removeprefix("moved_"): pair
        for name in record.health.values
        if name.startswith("moved_") and (pair := around(record.health, name, onset)) and pair[0] > 0
    }
    if found:
        module = max(found, key=lambda name: found[name][1] / found[name][0])
        before, after = found[module]
        yield Fact(
            text=f"a step moves the {module} {after / before:.2g} times as far as before "
            f"({before:.2g} of its weights, then {after:.2g})",
            supports=after > MOVED_TIMES * before,
        )


def gradients(record: Record, onset: int | None) -> Iterator[Fact]:
    """Whether gradients have become longer."""
    if (pair := around(record.pulse, "gradient_norm", onset)) and pair[0] > 0:
        times = pair[1] / pair[0]
        if times > GRADIENT_TIMES or times < GRADIENT_TIMES / 2:
            yield Fact(
                text=f"gradients are {times:.2g} times as long as before ({pair[0]:.3g}, then {pair[1]:.3g})",
                supports=times > GRADIENT_TIMES,
            )


def refinements(record: Record, onset: int | None) -> Iterator[Fact]:
    """Whether refinements still refine."""
    steps, first, last = with_truth(record.pulse, "first_epe_px", "epe_px")
    since = steps >= (onset or 1)
    if since.any():
        before, after = float(np.median(first[since])), float(np.median(last[since]))
        yield Fact(
            text=f"the last refinement is {'better' if after < before else 'no better'} than the first "
            f"({after:.2f} px against {before:.2f})",
            supports=after >= before,
        )


def schedule(record: Record, onset: int | None) -> Iterator[Fact]:
    """Where in the schedule of the rate it began: rates too high show near the peak."""
    steps, rate = record.health.known("learning_rate")
    if onset is None or not len(rate):
        return
    near = int(np.abs(steps - onset).argmin())
    part = float(rate[near]) / record.config.optim.learning_rate
    if part > EARLY_FRAC or part < LATE_FRAC:
        yield Fact(
            text=f"at step {steps[near]} the rate is {100 * part:.0f} % of --optim.learning-rate",
            supports=part > EARLY_FRAC,
        )


def comes_back(record: Record, onset: int | None) -> Iterator[Fact]:
    """Whether an error that rose is back, as after a spell of hard batches, and whether those were hard."""
    steps, error = relative_error(record)
    if onset is None and len(error) > SPIKE_LINES:
        yield Fact(text="no error jumped or rose and stayed", supports=False)
    if onset is None or len(error) < SPIKE_LINES + BACK_LINES or not 1 < onset <= steps[-1]:
        return
    place = int(np.searchsorted(steps, onset))
    usual = float(np.median(error[max(0, place - SPIKE_LINES) : place])) if place else 0.0
    windows = [
        float(np.median(error[first : first + BACK_LINES]))
        for first in range(place + 1, len(error) - BACK_LINES + 1)
    ]
    back = next((number for number, value in enumerate(windows) if value < BACK_TIMES * usual), None)
    if usual and windows:
        says = (
            f"has not come back in {steps[-1] - steps[place]} steps"
            if back is None
            else f"is back where it was at step {steps[place + 1 + back]}"
        )
        yield Fact(text=f"the error {says}", supports=back is not None)
        lengths = with_truth(record.pulse, "true_length_px", "epe_px")[1]  # Of the same lines as `error`.
        times = float(lengths[place : place + 3].mean() / max(np.median(lengths[:place]), 1e-6))
        yield Fact(text=f"its batches move {times:.2g} times as far as usual", supports=times > HARD_TIMES)


def training_since(record: Record, step: int) -> Iterator[Fact]:
    """Whether the error on training batches has fallen since a step, over SPIKE_LINES lines each."""
    steps, error = relative_error(record)
    before, after = error[steps <= step][-SPIKE_LINES:], error[steps > step][-SPIKE_LINES:]
    if len(before) and len(after):
        change = float(after.mean() / before.mean() - 1)
        if abs(change) > CHANGED_FRAC:
            yield Fact(
                text=f"since step {step} the error on training batches "
                f"{'fell' if change < 0 else 'rose'} by {abs(change):.0%}",
                supports=change < 0,
            )


def numbers(record: Record) -> Iterator[Fact]:
    """The range of the network's arithmetic, and the numbers in it."""
    precision, largest = record.config.precision, record.pulse.known("correlation_abs_max")[1]
    half = precision in ("float16", "bfloat16")
    yield Fact(text=f"the network computes in {precision}", supports=half)
    if precision == "float16" and len(largest):
        yield Fact(
            text=f"correlations reach {largest.max():.3g} of the {HALF_RANGE:.0f} that float16 can hold",
            supports=bool(largest.max() > NEAR_RANGE_FRAC * HALF_RANGE),
        )
    scale = record.health.known("loss_scale")[1]
    if precision == "float16" and len(scale) > 1:
        fell = bool(scale[-1] < scale.max())
        yield Fact(
            text=f"the loss scale {'fell' if fell else 'did not fall'} ({scale.max():g}, then {scale[-1]:g})",
            supports=fell,
        )


def share(record: Record, term: str) -> Iterator[Fact]:
    """A term's share of the gradient."""
    found = record.health.known(f"share_pct_{term}")[1]
    if len(found):
        yield Fact(
            text=f"{term} has up to {found.max():.2g} % of the gradient, lately {found[-1]:.2g} %",
            supports=bool(found.max() > HEAVY_SHARE_PCT),
        )


def floor(record: Record, term: str) -> Iterator[Fact]:
    """Whether a term prefers another flow to the true one."""
    _, lowest, value = record.health.finite(f"floor_{term}", f"value_{term}")
    if len(lowest):
        above = bool(lowest[-1] > value[-1])
        yield Fact(
            text=f"it is {lowest[-1]:.3g} on the true flow and {value[-1]:.3g} on the prediction: it pulls "
            f"{'away from' if above else 'towards'} the truth",
            supports=above,
        )


def agreement(record: Record, term: str) -> Iterator[Fact]:
    """Whether a term's gradient works with that of the flow loss, where flow is made."""
    cosine = record.health.known(f"cosine_{term}_update")[1]
    if len(cosine) and abs(cosine[-1]) > COSINE:
        works = "against" if cosine[-1] < 0 else "with"
        yield Fact(
            text=f"in the update block it works {works} the flow loss (cosine {cosine[-1]:.2f})",
            supports=bool(cosine[-1] < 0),
        )


def lengths(record: Record, onset: int | None) -> Iterator[Fact]:
    """Whether flow became shorter against the truth."""
    found, true = (around(record.pulse, name, onset) for name in ("length_px", "true_length_px"))
    if found and true:
        before, after = (one / max(other, 1e-6) for one, other in zip(found, true, strict=True))
        yield Fact(
            text=f"flow is {before:.0%} as long as the truth before, {after:.0%} after",
            supports=after < (1 - 2 * CHANGED_FRAC) * before,
        )
