"""Symptoms in the validations of a run: worse than its start, worse than its best, refinements undone."""

from collections.abc import Iterator
from itertools import product

import numpy as np
from jaxtyping import Bool, Float64

from semraft.diagnosis.record import Record, Series
from semraft.diagnosis.symptoms import Finding
from semraft.metrics import SPEED_EDGES_PX, SPEEDS

LEAST_CHANGE = 0.02
VALIDATIONS_APART = ((2, 5.0), (4, 3.0))
"""Numbers of validations in a row, and the times of their usual difference that all are above the best."""
WORSE_THAN_START_FRAC = 0.1
UNDONE_FRAC = 0.1
LOW, HIGH = SPEED_EDGES_PX
SPEED_WORDS = dict(
    zip(SPEEDS, (f"below {LOW} px", f"{LOW} to {HIGH} px", f"{HIGH} px and more"), strict=True)
)


def validation_worsening(record: Record) -> Iterator[Finding]:
    """A validation error that left its best value in this training, by more than validations differ."""
    for split, found in record.validation.items():
        steps, epe_px = found.finite("epe")
        steps, epe_px = steps[steps > 0], epe_px[steps > 0]
        changes = np.diff(np.log(epe_px))
        for last, (row, apart) in product(range(3, len(epe_px)), VALIDATIONS_APART):
            before = last + 1 - row
            if before < 2:
                continue
            best = int(epe_px[:before].argmin())
            usual = max(float(np.median(np.abs(changes[:before]))), LEAST_CHANGE)
            if np.log(epe_px[before : last + 1] / epe_px[best]).min() > apart * usual:
                yield Finding(
                    name="validation-worsening",
                    first_step=int(steps[best]) + 1,
                    evidence=f"{split}: EPE {epe_px[best]:.2f} px at step {steps[best]}, "
                    f"{epe_px[last]:.2f} at {steps[last]}",
                )
                break


def worse_than_start(record: Record) -> Iterator[Finding]:
    """A run from given weights whose validation error is above that of the weights it began with."""
    for split, found in record.validation.items():
        steps, epe_px = found.finite("epe")
        if not len(steps) or steps[0] != 0:
            continue
        worse = epe_px[1:] > (1 + WORSE_THAN_START_FRAC) * epe_px[0]
        if (since := _lasting(worse, record)) is None:
            continue
        parts = [
            f"{split}: EPE {epe_px[-1]:.2f} px at step {steps[-1]}, {epe_px[0]:.2f} before the first step",
            *_by_speed(found),
            *_by_refinement(found),
        ]
        yield Finding(name="worse-than-start", first_step=int(steps[since]) + 1, evidence="; ".join(parts))


def refinements_undone(record: Record) -> Iterator[Finding]:
    """Validations whose last refinement is further from the truth than an earlier one.

    Weights that a run began with and that undo as much are not this run's doing. A network from scratch is
    held to as many refinements as it is trained with, and from its second validation on: it has yet to learn
    to stay.
    """
    for split, found in record.validation.items():
        steps, errors_px = refinement_errors(found)
        if len(steps) and steps[0] != 0:
            if len(steps) < 2:
                continue
            errors_px = errors_px[:, : record.config.num_updates]
        if not len(steps) or errors_px.shape[1] < 2:
            continue
        rise = errors_px[:, -1] / errors_px.min(axis=1) - 1
        started = float(rise[0]) if steps[0] == 0 else 0.0
        trained = steps > 0
        undone = (rise[trained] > UNDONE_FRAC) & (rise[trained] > started)
        if (since := _lasting(undone, record)) is None:
            continue
        best = int(errors_px[-1].argmin())
        yield Finding(
            name="refinements-undone",
            first_step=int(steps[trained][since]),
            evidence=f"{split}: EPE {errors_px[-1, best]:.2f} px after refinement {best + 1}, "
            f"{errors_px[-1, -1]:.2f} after refinement {errors_px.shape[1]}: refinements from {best + 2} on "
            f"undo earlier ones",
        )


VALIDATION_SYMPTOMS = (validation_worsening, worse_than_start, refinements_undone)


def refinement_errors(found: Series) -> tuple[np.ndarray, Float64[np.ndarray, "N T"]]:
    """Steps of the validations that have the error after each refinement, and these errors in px."""
    names = sorted(name for name in found.values if name.startswith("epe_iter_"))
    if not names:
        return np.empty(0, np.int64), np.empty((0, 0))
    steps, *errors_px = found.finite(*names)
    return steps, np.stack(errors_px, axis=1)


def _lasting(wrong: Bool[np.ndarray, " N"], record: Record) -> int | None:
    """The first of the validations at the end that all are `wrong`.

    One validation is not enough, unless it is the run's last: after the first steps an error may be high.
    """
    right = np.flatnonzero(~wrong)
    since = int(right[-1]) + 1 if len(right) else 0
    ended = record.last_step >= record.config.optim.steps
    return since if len(wrong) - since >= (1 if ended else 2) else None


def _by_speed(found: Series) -> Iterator[str]:
    """The speed of motion that adds most to a rise of the error, and the error at each speed."""
    rises: dict[str, tuple[float, str]] = {}
    for speed, words in SPEED_WORDS.items():
        steps, epe_px, pixels = found.finite(f"epe_{speed}", f"valid_{speed}")
        if len(steps) > 1 and steps[0] == 0:
            text = f"{words} {epe_px[0]:.2f}, now {epe_px[-1]:.2f}"
            rises[speed] = float((epe_px[-1] - epe_px[0]) * pixels[-1]), text
    if rises:
        ordered = sorted(rises.values(), reverse=True)
        yield f"by motion, most of it first: {'; '.join(text for _, text in ordered)} px"


def _by_refinement(found: Series) -> Iterator[str]:
    """The refinement from which on the error is above that of the start."""
    steps, errors_px = refinement_errors(found)
    if len(steps) < 2 or steps[0] != 0:
        return
    better = np.flatnonzero(errors_px[-1] <= errors_px[0])
    if len(better) == 0:
        yield "worse at every refinement"
    elif (last := int(better[-1])) + 1 < errors_px.shape[1]:
        yield (
            f"worse from refinement {last + 2} on, better up to it "
            f"(refinement {last + 1}: {errors_px[0, last]:.2f}, now {errors_px[-1, last]:.2f} px)"
        )
