"""Places where a training does something else than its configuration, its truth or its numbers say.

Signs (`diagnosis.signs`) tell that a run is ill; a contradiction names the illness. None is a guess: each
compares two things that must agree, found on different ways.
"""

from collections.abc import Iterator

import numpy as np

from semraft.diagnosis.record import Record
from semraft.diagnosis.signs import Detector, Sign, again

RATE_RATIO = 1.5
SWAPPED_TWICE = 2
"""One sample may fit better with u and v exchanged by chance."""
SCALED_FRAC = 0.01
"""Of sound samples fewer than this fit better at another length."""
FALSE_STILL_FRAC = 0.002
BETWEEN_FRAC = 0.06
"""Sound labels have up to 0.023 of their borders' pixels between both classes by chance, blended ones 0.1."""
NORMALIZATION_FRAC = 0.07
HALF_RANGE = 65504.0


def learning_rate(record: Record) -> Iterator[Sign]:
    """The rate that moves the weights is not the schedule's."""
    steps, ratio = record.pulse.known("rate_ratio")
    wrong = (ratio > RATE_RATIO) | (ratio < 1 / RATE_RATIO)
    if wrong.any():
        place = int(wrong.argmax())
        yield _sign(
            "learning-rate", steps[place], f"weights move at {ratio[place]:.3g} times the schedule's rate"
        )


def optimizer_restart(record: Record) -> Iterator[Sign]:
    """AdamW's moments know of fewer steps than were taken."""
    steps, missing = record.pulse.known("optimizer_steps_missing")
    wrong = missing > 0.5
    if wrong.any():
        place = int(wrong.argmax())
        yield _sign(
            "optimizer-restart",
            steps[place],
            f"the optimiser's moments do not know of {missing[place]:.0f} steps that were taken",
        )


def no_clipping(record: Record) -> Iterator[Sign]:
    """The gradient that moved the weights is longer than it may be."""
    steps, ratio = record.pulse.known("clipped_ratio_max")
    wrong = ratio > 1.01
    if wrong.any():
        place = int(wrong.argmax())
        yield _sign(
            "no-clipping",
            steps[place],
            f"the gradient after clipping is {ratio[place]:.3g} times as long as --optim.clip-norm allows",
        )


def batch_norm(record: Record) -> Iterator[Sign]:
    """Statistics of batch norm that are to be frozen move."""
    if record.config.model.batch_norm != "freeze":
        return
    steps, sums = record.pulse.known("batch_norm_sum")
    moved = np.abs(np.diff(sums)) > 1e-9 * np.maximum(np.abs(sums[:-1]), 1)
    if moved.any():
        yield _sign(
            "batch-norm",
            steps[int(moved.argmax()) + 1],
            "running statistics of batch norm move, which --model.batch-norm freeze forbids",
        )


def normalization(record: Record) -> Iterator[Sign]:
    """The flow loss is not the mean distance over the pixels that it should be the mean of."""
    steps, loss = record.pulse.known("flow_loss")
    _, distance = record.pulse.known("distance_px")
    _, trusted = record.pulse.known("trusted_frac")
    over = {"valid": np.ones_like(trusted), "all": trusted}
    asked = record.config.loss.normalize
    with np.errstate(invalid="ignore", divide="ignore"):
        found = loss / distance
        off = np.abs(np.log(found / over[asked])) > NORMALIZATION_FRAC
    place = again(off & np.isfinite(found))
    if place is not None:
        other = next(name for name in over if name != asked)
        fits = abs(np.log(found[place] / over[other][place])) < NORMALIZATION_FRAC
        yield _sign(
            "normalization",
            steps[place],
            f"the flow loss is {found[place]:.2f} times the mean over valid pixels"
            + (f", as if divided by {other} pixels; {trusted[place]:.0%} are valid" if fits else ""),
        )


def swapped_flow(record: Record) -> Iterator[Sign]:
    """Samples whose pictures fit with u and v exchanged, and not as given."""
    steps, count = record.pulse.known("swapped_samples")
    if count.sum() >= SWAPPED_TWICE:
        yield _sign(
            "swapped-flow",
            steps[int((count > 0).argmax())],
            f"{count.sum():.0f} samples fit their pictures with u and v exchanged, and not as they are",
        )


def flow_scale(record: Record) -> Iterator[Sign]:
    """More samples than chance would have fit their pictures at another length of flow."""
    steps, count = record.pulse.known("scaled_samples")
    found = again(count > 0)
    if found is not None:
        yield _sign(
            "flow-scale",
            steps[found],
            f"{count[found : found + 5].sum():.0f} samples of five lines fit their pictures better with "
            f"their flow shorter or longer: resized without it?",
        )


def invalid_zeros(record: Record) -> Iterator[Sign]:
    """Valid flow of exactly 0 where the pictures differ."""
    steps, frac = record.pulse.known("false_still_frac")
    found = again(frac > FALSE_STILL_FRAC)
    if found is not None:
        yield _sign(
            "invalid-zeros",
            steps[found],
            f"{frac[found]:.1%} of the valid pixels have a flow of exactly 0 and other pictures there: "
            f"invalid ones that count",
        )


def label_resize(record: Record) -> Iterator[Sign]:
    """Classes at borders that lie between both sides' numbers."""
    steps, frac = record.pulse.known("between_classes_frac")
    found = again(frac > BETWEEN_FRAC)
    if found is not None:
        yield _sign(
            "label-resize",
            steps[found],
            f"{frac[found]:.0%} of the pixels at borders have a class numbered between both sides': labels "
            f"were blended",
        )


def half_overflow(record: Record) -> Iterator[Sign]:
    """Correlations at the end of half precision's range."""
    steps, largest = record.pulse.known("correlation_abs_max")
    wrong = largest >= HALF_RANGE
    if wrong.any():
        place = int(wrong.argmax())
        yield _sign(
            "half-overflow",
            steps[place],
            f"correlations reach {largest[place]:.3g}: float16 ends at {HALF_RANGE:.0f}",
        )


HEAVY_SHARE_PCT = 45.0
BIASED_SHARE_PCT = 12.0


def heavy_term(record: Record) -> Iterator[Sign]:
    """A term that would rather have another flow than the true one, with a large part of the gradient.

    Its value on the truth (the floor) is above that on the prediction: it pulls away from the truth. Above
    HEAVY_SHARE_PCT of the gradient it rules; above BIASED_SHARE_PCT it bends what is learnt, the more the
    less is left to learn.
    """
    for chosen in record.config.loss.terms + tuple(_unasked(record)):
        term = chosen if isinstance(chosen, str) else chosen.name
        steps, share = record.health.known(f"share_pct_{term}")
        scalar = SCALARS.get(term, term.replace("-", "_"))
        _, floor = record.health.known(f"{scalar}_floor")
        _, value = record.health.known(f"{scalar}_value")
        count = min(len(share), len(floor), len(value))
        if not count:
            continue
        steps, share, floor, value = steps[-count:], share[-count:], floor[-count:], value[-count:]
        pulls = (floor > value) & (share > BIASED_SHARE_PCT) & (steps > 1)
        if not pulls.any():
            continue
        place = int(pulls.argmax())
        heavy = share[pulls].max() > HEAVY_SHARE_PCT
        yield Sign(
            name="term-too-heavy" if heavy else "term-biased",
            first_step=_weight_since(record, term, int(steps[place])),
            confidence=0.9,
            evidence=f"{term} has {share[place]:.0f} % of the gradient and pulls away from the truth: it is "
            f"{floor[place]:.3g} there and {value[place]:.3g} on the prediction",
            term=term,
        )


SCALARS = {"semantic-v1": "semantic"}
"""Terms whose value has another name than their own."""


def _unasked(record: Record) -> list[str]:
    """Terms that act without being in the configuration."""
    asked = {chosen.name for chosen in record.config.loss.terms}
    names = [name.removeprefix("weight_") for name in record.pulse.values if name.startswith("weight_")]
    return [name for name in names if name not in asked]


def _weight_since(record: Record, term: str, seen: int) -> int:
    """The step since which a term has had the weight it has at `seen`, if it jumped there; else `seen`."""
    steps, weight = record.pulse.known(f"weight_{term}")
    before = steps <= seen
    steps, weight = steps[before], weight[before]
    if not len(weight):
        return seen
    jumps = np.flatnonzero(weight[1:] > 2 * weight[:-1])
    if len(jumps):
        return int(steps[jumps[-1] + 1])
    return int(steps[0]) if steps[0] > record.pulse.steps[0] else seen


CONTRADICTIONS: tuple[Detector, ...] = (
    half_overflow,
    learning_rate,
    optimizer_restart,
    no_clipping,
    batch_norm,
    invalid_zeros,
    swapped_flow,
    flow_scale,
    label_resize,
    normalization,
    heavy_term,
)


def _sign(name: str, step: float, evidence: str) -> Sign:
    return Sign(name=name, first_step=int(step), confidence=0.99, evidence=evidence)
