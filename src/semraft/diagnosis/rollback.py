"""Rollback of a run that went wrong: back to a sound checkpoint, and on from there with a change."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from semraft.config import RunConfig
from semraft.diagnosis.record import read_whole_lines
from semraft.diagnosis.symptoms import Finding
from semraft.diagnosis.verdict import Verdict
from semraft.tracking import CHECKPOINTS, ROLLBACKS

GOES_BACK = ("lower-rate", "drop-term")
"""The values of `when_worse` that need checkpoints to go back to."""
LOWER_RATE_FRAC = 0.5
MAX_ROLLBACKS = 3
"""A run that goes wrong more often is stopped: rollbacks do not help it."""
VALIDATED_STEPS = 180
"""Length of the longest runs that symptoms were validated on (docs/diagnosis.md)."""
OF_ANY_LENGTH = (
    "non-finite",
    "no-flow-truth",
    "half-overflow",
    "learning-rate",
    "optimizer-restart",
    "skipped-steps",
    "no-clipping",
    "batch-norm",
    "normalization",
)
"""Causes that compare numbers of the same step: no chance grows with the length of a run."""
NOT_VALIDATED = ("worse-than-start", "refinements-undone", "inactive-context")
"""Symptoms whose false alarms were not counted yet: nothing is done about them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollback:
    """A line of rollbacks.jsonl: a run went back to `step` and on from there, changed."""

    step: int
    seen_at: int
    """The step at which it was found to have gone wrong."""
    first_step: int
    cause: str
    evidence: str
    rate_frac: float = 1.0
    """Factor of every later learning rate."""
    dropped: str = ""
    """The loss term that was taken out."""

    def text(self) -> str:
        """In words."""
        what = f"without {self.dropped}" if self.dropped else f"at {self.rate_frac:g} of the learning rate"
        return (
            f"went back from step {self.seen_at} to {self.step} and on from there {what}: {self.cause} since "
            f"step {self.first_step} ({self.evidence})"
        )


def is_acted_on(config: RunConfig, cause: Finding) -> bool:
    """Whether `when_worse` acts on a cause: one validated over runs as long as this one."""
    if cause.name in NOT_VALIDATED:
        return False
    return cause.name in OF_ANY_LENGTH or config.optim.steps <= VALIDATED_STEPS


def acted_on(config: RunConfig, verdict: Verdict) -> Finding | None:
    """The likeliest cause that `when_worse` acts on."""
    return next((cause for cause in verdict.causes if is_acted_on(config, cause)), None)


def plan(config: RunConfig, cause: Finding, seen_at: int, sound: Iterable[int]) -> Rollback | None:
    """A rollback to one of the `sound` checkpoints' steps; None if none is from before the cause."""
    before = [step for step in sound if step < cause.first_step]
    if not before:
        return None
    guilty = cause.term if cause.term in {chosen.name for chosen in config.loss.terms} else ""
    dropped = guilty if config.when_worse == "drop-term" else ""
    return Rollback(
        step=max(before),
        seen_at=seen_at,
        first_step=cause.first_step,
        cause=cause.name,
        evidence=cause.evidence,
        rate_frac=1.0 if dropped else LOWER_RATE_FRAC,
        dropped=dropped,
    )


def apply_rollbacks(config: RunConfig, rollbacks: Sequence[Rollback]) -> RunConfig:
    """The configuration that a run goes on with after its rollbacks."""
    loss, optim = config.loss, config.optim
    for rollback in rollbacks:
        kept = tuple(chosen for chosen in loss.terms if chosen.name != rollback.dropped)
        loss = replace(loss, terms=kept)
        optim = replace(optim, learning_rate=optim.learning_rate * rollback.rate_frac)
    return replace(config, loss=loss, optim=optim)


def read_rollbacks(run: Path) -> list[Rollback]:
    """Those of a run, the first one first."""
    return read_whole_lines(run / ROLLBACKS, Rollback)


def sound_checkpoints(run: Path) -> dict[int, Path]:
    """Step -> checkpoint, of those that keep their step's number."""
    return {
        int(path.stem.rsplit("-", 1)[1]): path
        for pattern in ("step-*.pt", "sound-*.pt")
        for path in (run / CHECKPOINTS).glob(pattern)
    }
