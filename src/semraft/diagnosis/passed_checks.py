"""What speaks against each contradiction: the numbers it would show in, where they are sound."""

from collections.abc import Callable

import numpy as np

from semraft.diagnosis.invariants import HALF_RANGE
from semraft.diagnosis.record import Record, Values

Say = Callable[[Values, int], str]
"""From the values of a quantity and the last step to a sentence."""

CLEARED: dict[str, tuple[str, Say]] = {
    "learning-rate": (
        "rate_ratio",
        lambda found, step: f"the rate is the schedule's, within {np.abs(found - 1).max():.1%}",
    ),
    "optimizer-restart": (
        "optimizer_steps_missing",
        lambda found, step: f"of {step} steps {found.max():.0f} are missing in the optimiser's moments",
    ),
    "skipped-steps": (
        "optimizer_steps_missing",
        lambda found, step: f"of {step} steps {found.max():.0f} were skipped",
    ),
    "no-clipping": (
        "clipped_ratio_max",
        lambda found, step: f"the longest gradient after clipping has {found.max():.4g} of --optim.clip-norm",
    ),
    "label-resize": (
        "between_classes_frac",
        lambda found, step: (
            f"{np.median(found):.1%} of the pixels at borders, {found.max():.1%} at most, have "
            f"a class between both sides'"
        ),
    ),
    "half-overflow": (
        "correlation_abs_max",
        lambda found, step: f"correlations reach {found.max():.3g}; float16 ends at {HALF_RANGE:.0f}",
    ),
}
"""Contradiction -> the quantity of pulse.jsonl it is seen in, and what that says."""

SAMPLES = {
    "swapped-flow": ("swapped_samples", "with u and v exchanged"),
    "flow-scale": ("scaled_samples", "at another length of flow"),
    "invalid-zeros": ("false_still_samples", "where they move than where they stand still"),
}
"""Those that samples are counted for."""


def cleared(record: Record, name: str) -> str | None:
    """Why a run is not guilty of a contradiction that was not found; None where it can't be told."""
    last = record.pulse.steps[-1] if len(record.pulse.steps) else 0
    if name == "batch-norm":
        return _batch_norm(record)
    if name == "normalization":
        return _normalization(record)
    if name in SAMPLES:
        return _samples(record, *SAMPLES[name])
    quantity, say = CLEARED[name]
    values = record.pulse.known(quantity)[1]
    return say(values, int(last)) if len(values) else None


def _batch_norm(record: Record) -> str | None:
    if record.config.model.batch_norm != "freeze":
        return f"batch norm may learn in this run (--model.batch-norm {record.config.model.batch_norm})"
    sums = record.pulse.known("batch_norm_sum")[1]
    return f"running statistics of batch norm stay at {sums[0]:.6g}" if len(sums) else None


def _normalization(record: Record) -> str | None:
    loss, distance = (record.pulse.get(name) for name in ("flow_loss", "l1_px"))
    both = np.isfinite(loss) & np.isfinite(distance) & (distance > 0)
    if not both.any():
        return None
    ratio = float(np.median(loss[both] / distance[both]))
    return f"the flow loss is {ratio:.2f} times the mean that --loss.normalize asks for (median)"


def _samples(record: Record, quantity: str, how: str) -> str | None:
    _, found, seen = record.pulse.finite(quantity, "seen_samples")
    return f"{found.sum():.0f} of {seen.sum():.0f} samples fit better {how}" if len(found) else None
