"""Places where a training does something else than its configuration, its truth or its numbers say.

Signs (`diagnosis.signs`) tell that a run is ill; a contradiction names the illness. None is a guess: each
compares two things that must agree, found on different ways.
"""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Int64
from numpy.lib.stride_tricks import sliding_window_view

from semraft.diagnosis.record import Record, Values, with_truth
from semraft.diagnosis.symptoms import Detector, Sign, again, first

RATE_RATIO = 1.5
SWAPPED_FRACS = (1e-4, 0.01)
"""Samples that fit better with u and v exchanged: of a sound run (1 in 10 000), of one to be named."""
SCALED_FRACS = (0.01, 0.12)
"""Samples that fit better at another length of flow: of a sound run (up to 0.011), of one to be named."""
STANDING_FRACS = (0.03, 0.3)
"""Samples whose still pixels fit worse than their moving ones: of a standing camera, of one to be named."""
SWAPPED_ALARM, SCALED_ALARM, STANDING_ALARM = 5.0, 12.0, 12.0
"""How much likelier, in nats, the second rate must be."""
BETWEEN_FRAC = 0.06
"""Sound labels have up to 0.023 of their borders' pixels between both classes by chance, blended ones 0.1."""
NORMALIZATION_FRAC = 0.01
"""The loss and the mean are over the same pixels, so that they differ by rounding alone."""
HALF_RANGE = 65504.0
SKIPPED_LINES, SKIPPED_FRAC = 20, 0.5
"""A scaler looks for its scale by skipping: a few steps at the start, one in 2000 later."""


def learning_rate(record: Record) -> Iterator[Sign]:
    """The rate that moves the weights is not the schedule's."""
    steps, ratio = record.pulse.known("rate_ratio")
    return _sign(
        "learning-rate",
        steps,
        first((ratio > RATE_RATIO) | (ratio < 1 / RATE_RATIO)),
        lambda at: f"weights move at {ratio[at]:.3g} times the schedule's rate",
    )


def optimizer_restart(record: Record) -> Iterator[Sign]:
    """AdamW's moments know of fewer steps than they did before."""
    steps, missing = record.pulse.finite("optimizer_steps_missing")
    known = steps - missing
    return _sign(
        "optimizer-restart",
        steps[1:],
        first(np.diff(known) < 0),
        lambda at: (
            f"the optimiser's moments know of {known[at + 1]:.0f} steps, and of {known[at]:.0f} before"
        ),
    )


def skipped_steps(record: Record) -> Iterator[Sign]:
    """A gradient scaler that skips steps and does not find a scale to go on with."""
    steps, missing = record.pulse.finite("optimizer_steps_missing")
    if len(steps) <= SKIPPED_LINES:
        return iter(())
    skipped = np.clip(np.diff(missing), 0, np.diff(steps)) / np.diff(steps)
    often = sliding_window_view(skipped, SKIPPED_LINES).mean(axis=1)
    return _sign(
        "skipped-steps",
        steps[1:],
        first(often > SKIPPED_FRAC),
        lambda at: (
            f"{often[at]:.0%} of the steps were skipped: gradients leave float16's range at every scale"
        ),
    )


def no_clipping(record: Record) -> Iterator[Sign]:
    """The gradient that moved the weights is longer than it may be."""
    steps, ratio = record.pulse.known("clipped_ratio_max")
    return _sign(
        "no-clipping",
        steps,
        first(ratio > 1.01),
        lambda at: (
            f"the gradient after clipping is {ratio[at]:.3g} times as long as --optim.clip-norm allows"
        ),
    )


def batch_norm(record: Record) -> Iterator[Sign]:
    """Statistics of batch norm that are to be frozen move."""
    steps, sums = record.pulse.known("batch_norm_sum")
    moved = np.abs(np.diff(sums)) > 1e-9 * np.maximum(np.abs(sums[:-1]), 1)
    return _sign(
        "batch-norm",
        steps[1:],
        first(moved) if record.config.model.batch_norm == "freeze" else None,
        lambda at: "running statistics of batch norm move, which --model.batch-norm freeze forbids",
    )


def normalization(record: Record) -> Iterator[Sign]:
    """The flow loss is not the mean distance over the pixels that it should be the mean of."""
    steps, loss, distance = with_truth(record.pulse, "flow_loss", "l1_px")
    ratio = np.maximum(loss, 1e-9) / np.maximum(distance, 1e-9)
    off = np.abs(np.log(ratio)) > NORMALIZATION_FRAC
    pixels = "all" if record.config.loss.normalize == "all" else "the valid"
    return _sign(
        "normalization",
        steps,
        again(off) if record.config.loss.normalize != "valid-broadcast" else None,
        lambda at: (
            f"the flow loss is {ratio[at]:.2f} times the mean distance over {pixels} pixels, which "
            f"--loss.normalize {record.config.loss.normalize} asks for"
        ),
    )


def swapped_flow(record: Record) -> Iterator[Sign]:
    """Samples whose pictures fit with u and v exchanged, and not as given."""
    steps, hits, seen = record.pulse.finite("swapped_samples", "seen_samples")
    return _sign(
        "swapped-flow",
        steps,
        alarm(hits, seen, SWAPPED_FRACS, SWAPPED_ALARM),
        lambda at: (
            f"{hits[at:].sum():.0f} of {seen[at:].sum():.0f} samples fit their pictures with u and v "
            f"exchanged, and not as they are"
        ),
    )


def flow_scale(record: Record) -> Iterator[Sign]:
    """More samples than chance would have fit their pictures at another length of flow."""
    steps, hits, seen = record.pulse.finite("scaled_samples", "seen_samples")
    return _sign(
        "flow-scale",
        steps,
        alarm(hits, seen, SCALED_FRACS, SCALED_ALARM),
        lambda at: (
            f"{hits[at:].sum():.0f} of {seen[at:].sum():.0f} samples fit their pictures better with their "
            f"flow longer or shorter: resized, and their flow not?"
        ),
    )


def invalid_zeros(record: Record) -> Iterator[Sign]:
    """Valid flow of exactly 0 where pictures differ by more than along the flow of what moves."""
    steps, hits, seen = record.pulse.finite("false_still_samples", "seen_samples")
    return _sign(
        "invalid-zeros",
        steps,
        alarm(hits, seen, STANDING_FRACS, STANDING_ALARM),
        lambda at: (
            f"in {hits[at:].sum():.0f} of {seen[at:].sum():.0f} samples pixels with a flow of exactly 0 fit "
            f"their pictures worse than those that move: pixels without truth that count?"
        ),
    )


def label_resize(record: Record) -> Iterator[Sign]:
    """Classes at borders that lie between both sides' numbers."""
    steps, frac = record.pulse.known("between_classes_frac")
    return _sign(
        "label-resize",
        steps,
        again(frac > BETWEEN_FRAC),
        lambda at: (
            f"{frac[at]:.0%} of the pixels at borders have a class numbered between both sides': labels were "
            f"blended"
        ),
    )


def half_overflow(record: Record) -> Iterator[Sign]:
    """Correlations at the end of half precision's range."""
    steps, largest = record.pulse.known("correlation_abs_max")
    return _sign(
        "half-overflow",
        steps,
        first(largest >= HALF_RANGE),
        lambda at: f"correlations reach {largest[at]:.3g}: float16 ends at {HALF_RANGE:.0f}",
    )


PULLING_SHARE_PCT = 12.0
PULL = 1.25
"""A floor so many times the value is more than the difference that noise makes."""
RULED = 0.05
"""A value below this part of the floor: the flow is what the term wants."""


def heavy_term(record: Record) -> Iterator[Sign]:
    """A term that would rather have another flow than the true one, with a large part of the gradient.

    Its value on the truth (the floor) is above that on the prediction: it pulls away from the truth. With
    PULLING_SHARE_PCT of the gradient it bends what is learnt, the more the less is left to learn; where its
    value has all but vanished it rules.
    """
    for term in (chosen.name for chosen in record.config.loss.terms):
        steps, share, floor, value = record.health.finite(
            f"share_pct_{term}", f"floor_{term}", f"value_{term}"
        )
        pulls = (floor > PULL * value) & (share > PULLING_SHARE_PCT) & (steps > 1)
        if not pulls.any():
            continue
        place = int(pulls.argmax())
        ruled = (value < RULED * floor) & pulls
        place = int(ruled.argmax()) if ruled.any() else place
        yield Sign(
            name="term-too-heavy" if ruled.any() else "term-biased",
            first_step=_weight_since(record, term, int(steps[pulls.argmax()])),
            confidence=0.9,
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


CONTRADICTIONS: tuple[Detector, ...] = (
    half_overflow,
    learning_rate,
    optimizer_restart,
    skipped_steps,
    no_clipping,
    batch_norm,
    invalid_zeros,
    swapped_flow,
    flow_scale,
    label_resize,
    normalization,
    heavy_term,
)


def alarm(hits: Values, seen: Values, fracs: tuple[float, float], height: float) -> int | None:
    """The line at which hits became as frequent as the second of `fracs`, by a cumulative sum (Page 1954).

    Args:
        hits: Of each line.
        seen: How many there could have been.
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


def _sign(
    name: str, steps: Int64[np.ndarray, " N"], at: int | None, say: Callable[[int], str]
) -> Iterator[Sign]:
    """What is wrong from place `at` of `steps` on, in the words of `say`; nothing without a place."""
    if at is not None:
        yield Sign(name=name, first_step=int(steps[at]), confidence=0.99, evidence=say(at))
