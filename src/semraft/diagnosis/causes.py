"""The ways in which a training goes wrong that `semraft diagnose` weighs, each with what would settle it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from semraft.diagnosis import follow_up
from semraft.diagnosis.record import Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One way to go wrong."""

    means: str
    """What it would mean, in a sentence."""
    experiment: Callable[[Record, Path, str], str]
    """The command that would settle it, of record, run and the term it is about."""
    settles: str
    """What its outcome says."""
    settings: tuple[str, ...] = ()
    """Beginnings of configuration fields that bear on it."""
    quantities: tuple[str, ...] = ()
    """Beginnings of names of pulse.jsonl and health.jsonl that it shows in."""


DATA = ("data.train", "data.root", "data.truth", "data.crop", "data.augment", "data.world", "data.shapes")


def _rate(record: Record, run: Path, term: str) -> str:
    return follow_up.at_rate(run, record.config.optim.learning_rate / follow_up.LOWER)


def _rate_as_asked(record: Record, run: Path, term: str) -> str:
    ratio = record.pulse.known("rate_ratio")[1]
    times = float(ratio[-1]) if len(ratio) and ratio[-1] > 0 else 1.0
    return follow_up.at_rate(run, record.config.optim.learning_rate / (times if times != 1 else 3))


def _unbroken(record: Record, run: Path, term: str) -> str:
    return follow_up.repeat(run, "unbroken")


def _unclipped(record: Record, run: Path, term: str) -> str:
    return follow_up.repeat(run, "unclipped", "--optim.clip-norm", "0")


def _learning_norm(record: Record, run: Path, term: str) -> str:
    other = "train" if record.config.model.batch_norm == "freeze" else "freeze"
    return follow_up.repeat(run, f"batch-norm-{other}", "--model.batch-norm", other)


def _other_norm(record: Record, run: Path, term: str) -> str:
    other = "all" if record.config.loss.normalize == "valid" else "valid"
    return follow_up.repeat(run, f"normalize-{other}", "--loss.normalize", other)


def _data(record: Record, run: Path, term: str) -> str:
    return follow_up.data_check(record.config.data)


def _unaugmented(record: Record, run: Path, term: str) -> str:
    if not record.config.data.augment.enabled:
        return _data(record, run, term)
    return follow_up.repeat(run, "unaugmented", "--data.augment.no-enabled")


def _float32(record: Record, run: Path, term: str) -> str:
    if record.config.precision == "float32":
        return _rate(record, run, term)
    return follow_up.repeat(run, "float32", "--precision", "float32")


def _without(record: Record, run: Path, term: str) -> str:
    return follow_up.without_term(run, record.config.loss.terms, term)


def _more_data(record: Record, run: Path, term: str) -> str:
    return follow_up.more_data(run, record.config)


def _held_out(record: Record, run: Path, term: str) -> str:
    return follow_up.score(run, record.config, "val")


def _other_order(record: Record, run: Path, term: str) -> str:
    seed = record.config.seed + 1
    return follow_up.repeat(run, f"seed{seed}", "--seed", str(seed))


CONTRADICTORY: dict[str, Kind] = {
    "half-overflow": Kind(
        means="Correlations leave what half precision can hold, and what is looked up is no longer true.",
        experiment=_float32,
        settles="If the error stays down, the range of numbers was it.",
        settings=("precision",),
        quantities=("correlation_abs_max",),
    ),
    "learning-rate": Kind(
        means="The weights are moved at another rate than the configuration asks for.",
        experiment=_rate_as_asked,
        settles="What acts is then what was asked for: if the error stays down, the rate was it.",
        settings=("optim.",),
        quantities=("rate_ratio", "moved_"),
    ),
    "optimizer-restart": Kind(
        means="The optimiser lost its memory of gradients, and took steps that nothing damps.",
        experiment=_unbroken,
        settles="A run in one piece: if its error stays down, the restart was it.",
        settings=("optim.",),
        quantities=("optimizer_steps_missing", "moved_"),
    ),
    "skipped-steps": Kind(
        means="Gradients leave half precision's range at every loss scale, and most steps are not taken.",
        experiment=_float32,
        settles="If steps are taken in float32, the range of numbers was it.",
        settings=("precision",),
        quantities=("loss_scale",),
    ),
    "no-clipping": Kind(
        means="Long gradients move the weights at their full length.",
        experiment=_unclipped,
        settles="Without clipping on purpose: if it goes wrong in the same way, the missing clipping was it.",
        settings=("optim.clip_norm",),
        quantities=("clipped_ratio_max", "gradient_norm"),
    ),
    "batch-norm": Kind(
        means="Batch norm learns statistics of small batches that it should have kept from its weights.",
        experiment=_learning_norm,
        settles="Learning on purpose: if it goes wrong in the same way, the moving statistics were it.",
        settings=("model.batch_norm",),
        quantities=("batch_norm_sum",),
    ),
    "invalid-zeros": Kind(
        means="Pixels without truth count as valid ones that stand still, and flow learns to be 0 there.",
        experiment=_data,
        settles="If it finds flow that does not fit its pictures, the data is it; if not, the loading.",
        settings=DATA,
        quantities=("false_still_samples", "trusted_frac"),
    ),
    "swapped-flow": Kind(
        means="Some truth has its components exchanged: a part of the data teaches another direction.",
        experiment=_data,
        settles="If it finds flow that does not fit its pictures, the data is it; if not, the loading.",
        settings=DATA,
        quantities=("swapped_samples",),
    ),
    "flow-scale": Kind(
        means="Pictures were resized and their flow was not: its length is wrong by the resize.",
        experiment=_unaugmented,
        settles="If no sample fits better at another length now, the augmentation's resize was it.",
        settings=DATA,
        quantities=("scaled_samples", "true_length_px"),
    ),
    "label-resize": Kind(
        means="Labels were blended like pictures: borders have classes that are not there.",
        experiment=_unaugmented,
        settles="If borders are clean now, the augmentation's resize was it; if not, the stored labels.",
        settings=DATA,
        quantities=("between_classes_frac",),
    ),
    "normalization": Kind(
        means="The flow loss is divided by other pixels than asked for: against its terms it weighs less.",
        experiment=_other_norm,
        settles="The other way on purpose: if it goes wrong in the same way, the division was it.",
        settings=("loss.normalize",),
        quantities=("flow_loss", "total_loss"),
    ),
}
"""Contradiction -> what it is; terms have kinds of their own."""

TERM = Kind(
    means="A loss term has so much of the gradient that it decides where flow goes, not the truth.",
    experiment=_without,
    settles="If the error stays down without it, the term was it.",
    settings=("loss.terms",),
    quantities=("share_pct_", "cosine_", "weight_", "value_"),
)
DEAD_TERM = Kind(
    means="A loss term is computed and moves nothing: something cuts its gradient.",
    experiment=_without,
    settles="If nothing changes without it, it did nothing.",
    settings=("loss.terms",),
    quantities=("gradient_norm_",),
)
RATE = Kind(
    means="The learning rate is what was asked for, and too high for this network and data.",
    experiment=_rate,
    settles="If the error stays down at a third of the rate, the rate was it.",
    settings=("optim.learning_rate", "optim.batch", "optim.warm_up_frac"),
    quantities=("moved_", "gradient_norm", "rate_ratio"),
)
OVERFITTING = Kind(
    means="The network learns its training pairs by heart, and other pairs pay for it.",
    experiment=_more_data,
    settles="If validation no longer gets worse (or training pairs did get better), it was overfitting.",
    settings=("data.train_pairs", "data.world.scenes", "data.augment", "optim.weight_decay"),
)
VALIDATION = Kind(
    means="What is validated on differs from what is trained on, and the network leaves it behind.",
    experiment=_held_out,
    settles="If the last checkpoint is the better one on held-out pairs of its own data, the sets differ.",
    settings=("data.train", "data.validation"),
)
BATCHES = Kind(
    means="A spell of hard batches: the run is well, and what it was given was harder than usual.",
    experiment=_other_order,
    settles="In another order the spell moves to another step, or does not come; if it stays, it is the run.",
    settings=("seed",),
    quantities=("true_length_px",),
)
PRECISION = Kind(
    means="The network computes in half precision, and its numbers are too coarse or too large for that.",
    experiment=_float32,
    settles="If the error stays down in float32, the precision was it.",
    settings=("precision",),
    quantities=("correlation_abs_max", "hidden_abs_max", "loss_scale"),
)
