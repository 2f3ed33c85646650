"""The causes of a bad training: meaning, check, and the experiment that would settle each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from semraft.diagnosis import follow_up, invariants
from semraft.diagnosis.invariants import Invariant
from semraft.diagnosis.record import Record

Experiment = Callable[[Record, Path, str], str]
"""The command that would settle a cause, from a record, its run's folder, and the loss term it is about."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """One cause of a bad training."""

    means: str
    """Its meaning in a sentence."""
    experiment: Experiment
    settles: str = "If the error stays down then, this was the cause."
    """The reading of the experiment's outcome."""
    settings: tuple[str, ...] = ()
    """Beginnings of configuration fields that bear on it."""
    quantities: tuple[str, ...] = ()
    """Beginnings of names of pulse.jsonl and health.jsonl that it shows in; the first is drawn."""
    check: Invariant | None = None
    """The invariant that it breaks."""


DATA = ("data.train", "data.root", "data.truth", "data.crop", "data.augment", "data.world", "data.shapes")
DATA_OR_LOADING = "If it finds a problem, the data is the cause; if not, the loading."
AUGMENTATION = (
    "If the numbers are sound now, the augmentation's resize was the cause; if not, the stored data."
)
ON_PURPOSE = "The same on purpose: if the run goes wrong in the same way, this was the cause."


def _again(suffix: str, *options: str) -> Experiment:
    """The run once more with other options."""
    return lambda record, run, term: follow_up.repeat(run, suffix, *options)


def _lower_rate(record: Record, run: Path, term: str) -> str:
    return follow_up.at_rate(run, record.config.optim.learning_rate / follow_up.LOWER)


def _longer_warm_up(record: Record, run: Path, term: str) -> str:
    """A warm-up over the first half of the run, to half of the rate."""
    rate = f"{record.config.optim.learning_rate / 2:.6g}"
    options = ("--optim.warm-up-frac", "0.5", "--optim.learning-rate", rate)
    return follow_up.repeat(run, "warm-up", *options)


def _acting_rate(record: Record, run: Path, term: str) -> str:
    """At a configured rate with which the rate that acts is the one that was asked for."""
    ratio = record.pulse.known("rate_ratio")[1]
    times = float(ratio[-1]) if len(ratio) and ratio[-1] > 0 else 1.0
    return follow_up.at_rate(run, record.config.optim.learning_rate / (times if times != 1 else 3))


def _other_batch_norm(record: Record, run: Path, term: str) -> str:
    other = "train" if record.config.model.batch_norm == "freeze" else "freeze"
    return follow_up.repeat(run, f"batch-norm-{other}", "--model.batch-norm", other)


def _other_normalization(record: Record, run: Path, term: str) -> str:
    other = "all" if record.config.loss.normalize == "valid" else "valid"
    return follow_up.repeat(run, f"normalize-{other}", "--loss.normalize", other)


def _data_check(record: Record, run: Path, term: str) -> str:
    return follow_up.data_check(record.config.data)


def _unaugmented(record: Record, run: Path, term: str) -> str:
    if not record.config.data.augment.enabled:
        return _data_check(record, run, term)
    return follow_up.repeat(run, "unaugmented", "--data.augment.no-enabled")


def _float32(record: Record, run: Path, term: str) -> str:
    if record.config.precision == "float32":
        return _lower_rate(record, run, term)
    return follow_up.repeat(run, "float32", "--precision", "float32")


def _without_term(record: Record, run: Path, term: str) -> str:
    return follow_up.without_term(run, record.config.loss.terms, term)


def _more_refinements(record: Record, run: Path, term: str) -> str:
    updates = str(record.config.validation_updates)
    return follow_up.repeat(run, f"refinements-{updates}", "--num-updates", updates)


def _next_seed(record: Record, run: Path, term: str) -> str:
    seed = record.config.seed + 1
    return follow_up.repeat(run, f"seed{seed}", "--seed", str(seed))


CAUSES: dict[str, Cause] = {
    "no-flow-truth": Cause(
        check=invariants.flow_truth,
        means="No pixel of the batches has flow truth that counts: the flow loss is 0 and teaches nothing.",
        experiment=_data_check,
        settles=DATA_OR_LOADING,
        settings=(*DATA, "loss.max_flow_px"),
        quantities=("trusted_frac",),
    ),
    "half-overflow": Cause(
        check=invariants.half_overflow,
        means="Correlations leave the range of half precision, and lookups are no longer true.",
        experiment=_float32,
        settings=("precision",),
        quantities=("correlation_abs_max",),
    ),
    "learning-rate": Cause(
        check=invariants.learning_rate,
        means="The weights are moved at another rate than the configuration asks for.",
        experiment=_acting_rate,
        settles="The acting rate is then the one asked for: if the error stays down, the rate was the cause.",
        settings=("optim.",),
        quantities=("rate_ratio", "moved_"),
    ),
    "optimizer-restart": Cause(
        check=invariants.optimizer_restart,
        means="The optimiser lost its moments of the gradients, and took undamped steps.",
        experiment=_again("unbroken"),
        settles="A run in one piece: if its error stays down, the restart was the cause.",
        settings=("optim.",),
        quantities=("optimizer_steps_missing", "moved_"),
    ),
    "skipped-steps": Cause(
        check=invariants.skipped_steps,
        means="Gradients leave half precision's range at every loss scale, and most steps are not taken.",
        experiment=_float32,
        settles="If steps are taken in float32, the range of numbers was the cause.",
        settings=("precision",),
        quantities=("optimizer_steps_missing", "loss_scale"),
    ),
    "no-clipping": Cause(
        check=invariants.no_clipping,
        means="Long gradients move the weights at their full length.",
        experiment=_again("unclipped", "--optim.clip-norm", "0"),
        settles=ON_PURPOSE,
        settings=("optim.clip_norm",),
        quantities=("clipped_ratio_max", "gradient_norm"),
    ),
    "batch-norm": Cause(
        check=invariants.batch_norm,
        means="Batch norm learns statistics of small batches instead of keeping those of its weights.",
        experiment=_other_batch_norm,
        settles=ON_PURPOSE,
        settings=("model.batch_norm",),
        quantities=("batch_norm_sum",),
    ),
    "invalid-zeros": Cause(
        check=invariants.invalid_zeros,
        means="Pixels without truth count as valid ones that stand still, and flow learns to be 0 there.",
        experiment=_data_check,
        settles=DATA_OR_LOADING,
        settings=DATA,
        quantities=("false_still_samples", "trusted_frac"),
    ),
    "swapped-flow": Cause(
        check=invariants.swapped_flow,
        means="Some truth has its components exchanged: a part of the data teaches another direction.",
        experiment=_data_check,
        settles=DATA_OR_LOADING,
        settings=DATA,
        quantities=("swapped_samples",),
    ),
    "flow-scale": Cause(
        check=invariants.flow_scale,
        means="Pictures were resized and their flow was not: its length is wrong by the resize.",
        experiment=_unaugmented,
        settles=AUGMENTATION,
        settings=DATA,
        quantities=("scaled_samples", "true_length_px"),
    ),
    "label-resize": Cause(
        check=invariants.label_resize,
        means="Labels were blended like pictures: borders have classes that are not there.",
        experiment=_unaugmented,
        settles=AUGMENTATION,
        settings=DATA,
        quantities=("between_classes_frac",),
    ),
    "normalization": Cause(
        check=invariants.normalization,
        means="The flow loss is divided by other pixels than asked for: against its terms it weighs less.",
        experiment=_other_normalization,
        settles=ON_PURPOSE,
        settings=("loss.normalize",),
        quantities=("l1_px", "flow_loss", "total_loss"),
    ),
    "term-too-heavy": Cause(
        means="A loss term has so much of the gradient that it decides where flow goes, not the truth.",
        experiment=_without_term,
        settings=("loss.terms",),
        quantities=("share_pct_", "cosine_", "weight_", "value_"),
    ),
    "term-biased": Cause(
        means="A loss term prefers another flow to the true one, and has enough of the gradient to get it.",
        experiment=_without_term,
        settings=("loss.terms",),
        quantities=("share_pct_", "cosine_", "weight_", "value_"),
    ),
    "dead-term": Cause(
        means="A loss term is computed and moves nothing: something cuts its gradient.",
        experiment=_without_term,
        settles="If nothing changes without it, it did nothing.",
        settings=("loss.terms",),
        quantities=("gradient_norm_",),
    ),
    "rate-too-high": Cause(
        means="The learning rate is the one asked for, and too high for this network and data.",
        experiment=_lower_rate,
        settings=("optim.learning_rate", "optim.batch", "optim.warm_up_frac"),
        quantities=("moved_", "gradient_norm", "rate_ratio"),
    ),
    "hasty-start": Cause(
        means="The first steps were too long: while features were noise, flow near 0 was the best answer and "
        "the context was switched off. ReLU does not switch it on again.",
        experiment=_longer_warm_up,
        settles="If the context's channels stay active then, this was the cause.",
        settings=("optim.learning_rate", "optim.warm_up_frac", "optim.batch", "seed"),
        quantities=("inactive_context_pct", "moved_context"),
    ),
    "hard-batches": Cause(
        means="The run is sound, and a spell of batches was harder than usual.",
        experiment=_next_seed,
        settles="In another order the spell moves to another step; if it stays, the run is the cause.",
        settings=("seed",),
        quantities=("true_length_px",),
    ),
    "half-precision": Cause(
        means="The network computes in half precision, and its numbers are too coarse or too large for that.",
        experiment=_float32,
        settings=("precision",),
        quantities=("correlation_abs_max", "hidden_abs_max", "loss_scale"),
    ),
    "overfitting": Cause(
        means="The network learns its training pairs by heart, and other pairs pay for it.",
        experiment=lambda record, run, term: follow_up.more_data(run, record.config),
        settles="If validation no longer gets worse (or training pairs did get better), it was overfitting.",
        settings=("data.train_pairs", "data.world.scenes", "data.augment", "optim.weight_decay"),
    ),
    "validation-differs": Cause(
        means="The validation data differs from the training data, and the network leaves it behind.",
        experiment=lambda record, run, term: follow_up.score(run, record.config, "val"),
        settles="If the last checkpoint is the better one on held-out pairs of its data, the sets differ.",
        settings=("data.train", "data.validation"),
    ),
    "too-few-refinements": Cause(
        means="Validation refines more often than training did, and the network has not learnt to stay.",
        experiment=_more_refinements,
        settles="If the last refinement is the best one then, this was the cause.",
        settings=("num_updates", "validation_updates"),
    ),
}
"""Name -> cause, in the order of verdicts: with a `check` those that an invariant finds, then all others."""
