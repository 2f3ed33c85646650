"""What a run has written of itself, as arrays over steps."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from semraft.config import RunConfig, load_config
from semraft.tracking import CONFIG, HEALTH, METRICS, PULSE

Line = dict[str, Any]
"""A line of a .jsonl file: `step`, and numbers by name."""
Values = Float64[np.ndarray, " N"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Lines of one file: a number a line for each name, NaN where a line does not have it."""

    steps: Int64[np.ndarray, " N"]
    values: Mapping[str, Values]

    def get(self, name: str) -> Values:
        """The values of a name; NaN everywhere if no line has it."""
        return self.values.get(name, np.full(len(self.steps), np.nan))

    def known(self, *names: str) -> tuple[np.ndarray, ...]:
        """The steps that have values of all these names, and the values of each."""
        found = [self.get(name) for name in names]
        there = ~np.isnan(found).any(axis=0)
        return self.steps[there], *(values[there] for values in found)

    def finite(self, *names: str) -> tuple[np.ndarray, ...]:
        """As `known`, without what broke."""
        found = [self.get(name) for name in names]
        there = np.isfinite(found).all(axis=0)
        return self.steps[there], *(values[there] for values in found)


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A run as far as it has come."""

    config: RunConfig
    pulse: Series
    """Every few steps, cheap (pulse.jsonl)."""
    health: Series
    """Rarely, with gradients (health.jsonl)."""
    validation: Mapping[str, Series] = field(default_factory=dict)
    """Split -> its metrics."""

    @property
    def last_step(self) -> int:
        """The last step it has a line of."""
        return max((int(part.steps[-1]) for part in (self.pulse, self.health) if len(part.steps)), default=0)


LEAST_TRUTH_FRAC = 0.01
"""A line of batches with less flow truth says nothing of errors."""


def with_truth(pulse: Series, *names: str) -> tuple[np.ndarray, ...]:
    """As `Series.finite`, of the lines that have flow truth; all lines where nobody counted it."""
    trusted = pulse.get("trusted_frac")
    enough = np.isnan(trusted) | (trusted >= LEAST_TRUTH_FRAC)
    kept = {name: np.where(enough, pulse.get(name), math.nan) for name in names}
    return Series(steps=pulse.steps, values=kept).finite(*names)


def read_record(run: Path, pulses: Sequence[Line] | None = None) -> Record:
    """Reads a run directory; what is not there is empty.

    Args:
        pulses: The lines of pulse.jsonl, where they are known already.

    Raises:
        ValueError: No run lies there, or its configuration can't be read.
    """
    if not (run / CONFIG).is_file():
        raise ValueError(f"{run} is no run: it has no {CONFIG}")
    metrics = read_lines(run / METRICS)
    splits = dict.fromkeys(str(line["split"]) for line in metrics if line.get("split") != "train")
    return Record(
        config=load_config(run / CONFIG),
        pulse=series(read_lines(run / PULSE) if pulses is None else pulses),
        health=series(read_lines(run / HEALTH)),
        validation={split: series(line for line in metrics if line["split"] == split) for split in splits},
    )


def series(lines: Iterable[Line]) -> Series:
    """Lines, each with its `step`, as arrays. What is no number, in JSON null, is infinite."""
    kept = list(lines)
    names = dict.fromkeys(name for line in kept for name in line if name not in ("step", "split"))
    return Series(
        steps=np.array([line["step"] for line in kept], np.int64),
        values={
            name: np.array([_number(line[name]) if name in line else math.nan for line in kept])
            for name in names
        },
    )


def read_lines(path: Path) -> list[Line]:
    """The objects of a .jsonl file in their order, up to a line that is torn; none if there is no file."""
    found: list[Line] = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(text))
        except json.JSONDecodeError:
            break  # The process was killed while it wrote this line.
    return found


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not math.isnan(value) else math.inf
