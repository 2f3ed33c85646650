"""Where a run went wrong, by its own verdict or, without one, by the losses it logged."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from semraft.analysis.runs import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """A cause in a run's verdict, with its evidence."""

    name: str
    evidence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """The state of a run, the first step at which something was wrong, and likely causes."""

    run: str
    state: str
    first_step: int | None
    causes: tuple[Cause, ...]


def health_of(run: Run) -> Health:
    """The state in verdict.json; without one, whether losses were finite and the run came to its end."""
    if not run.verdict:
        first = min((step for _, step, _ in broken_losses(run)), default=None)
        state = (
            "diverged" if first is not None else "finished" if run.last_step >= run.steps else "unfinished"
        )
        causes = tuple(
            Cause(name=f"{metric} not finite", evidence=f"at {often} logged steps")
            for metric, _, often in broken_losses(run)
        )
        return Health(run=run.name, state=state, first_step=first, causes=causes)
    return Health(
        run=run.name,
        state=str(run.verdict.get("state", "unknown")),
        first_step=_whole(run.verdict.get("first_step")),
        causes=tuple(
            Cause(
                name=str(cause.get("name", "")).replace("-", " "),
                evidence=str(cause.get("evidence", "")),
            )
            for cause in run.verdict.get("causes") or ()
            if isinstance(cause, dict)
        ),
    )


def broken_losses(run: Run) -> Iterable[tuple[str, int, int]]:
    """Losses of training that were not finite: name, first such step, and at how many logged steps."""
    for metric in dict.fromkeys(metric for row in run.logged.get("train", {}).values() for metric in row):
        steps = [step for step, row in run.logged["train"].items() if not math.isfinite(row.get(metric, 0.0))]
        if metric.endswith("loss") and steps:
            yield metric, steps[0], len(steps)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _whole(value: Any) -> int | None:
    return int(value) if _is_number(value) else None
