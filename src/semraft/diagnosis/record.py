"""The record of a run: its .jsonl files as arrays over steps."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from semraft.config import RunConfig, load_config
from semraft.records import DamagedFile, lines_of
from semraft.run_records import MetricsLine, StepLine
from semraft.tracking import CONFIG, HEALTH, METRICS, PULSE

Line = dict[str, Any]
"""A line of a .jsonl file: `step`, and numbers by name."""
Values = Float64[np.ndarray, " N"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Lines of one file as arrays: a number a line for each name, NaN where a line lacks it."""

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
        """As `known`, without NaN and infinity."""
        found = [self.get(name) for name in names]
        there = np.isfinite(found).all(axis=0)
        return self.steps[there], *(values[there] for values in found)


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """The files of a run as far as it has come."""

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


LEAST_TRUTH_FRAC = 0.001
"""Lines of batches with less flow truth are left out of series of errors."""


def with_truth(pulse: Series, *names: str) -> tuple[np.ndarray, ...]:
    """`Series.finite` of the lines that have flow truth; of all lines where it was not counted."""
    trusted = pulse.get("trusted_frac")
    enough = np.isnan(trusted) | (trusted >= LEAST_TRUTH_FRAC)
    kept = {name: np.where(enough, pulse.get(name), math.nan) for name in names}
    return Series(steps=pulse.steps, values=kept).finite(*names)


@dataclass(kw_only=True, slots=True)
class Columns:
    """Lines on their way to a `Series`, each with its `step`. JSON null becomes infinite."""

    steps: list[int] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, line: Line) -> None:
        """Adds a line; names that it is the first to have are NaN in those before."""
        for name in line:
            if name not in self.values and name not in ("step", "split"):
                self.values[name] = [math.nan] * len(self.steps)
        for name, values in self.values.items():
            values.append(_number(line[name]) if name in line else math.nan)
        self.steps.append(line["step"])

    def series(self) -> Series:
        """The lines so far."""
        values = {name: np.array(found, np.float64) for name, found in self.values.items()}
        return Series(steps=np.array(self.steps, np.int64), values=values)


class RecordReader:
    """Reads a run as far as it has come, and each time only what was written since.

    Raises:
        ValueError: No run lies there, or its configuration can't be read.
    """

    def __init__(self, run: Path) -> None:
        if not (run / CONFIG).is_file():
            raise ValueError(f"{run} is no run: it has no {CONFIG}")
        self._run, self._config = run, load_config(run / CONFIG)
        self._read_bytes: dict[str, int] = {}
        self._pulse, self._health = Columns(), Columns()
        self._validation: dict[str, Columns] = {}

    def read(self) -> Record:
        """The record so far; files that are not there are empty."""
        for line in self._new(PULSE, StepLine):
            self._pulse.add(line)
        for line in self._new(HEALTH, StepLine):
            self._health.add(line)
        for line in self._new(METRICS, MetricsLine):
            if line["split"] != "train":
                self._validation.setdefault(line["split"], Columns()).add(line)
        return Record(
            config=self._config,
            pulse=self._pulse.series(),
            health=self._health.series(),
            validation={split: found.series() for split, found in self._validation.items()},
        )

    def _new(self, name: str, shape: type) -> list[Line]:
        """The whole lines of a file that were not read yet."""
        if not (self._run / name).exists():
            return []
        with open(self._run / name, "rb") as file:
            file.seek(self._read_bytes.get(name, 0))
            whole = file.read().rpartition(b"\n")[0]
        self._read_bytes[name] = self._read_bytes.get(name, 0) + len(whole) + bool(whole)
        return whole_lines(self._run / name, whole, shape)


def read_record(run: Path) -> Record:
    """The record of a run directory; files that are not there are empty.

    Raises:
        ValueError: No run lies there, or its configuration can't be read.
    """
    return RecordReader(run).read()


def series(lines: Iterable[Line]) -> Series:
    """Lines as arrays."""
    columns = Columns()
    for line in lines:
        columns.add(line)
    return columns.series()


def read_whole_lines(path: Path, shape: type) -> list[Any]:
    """The records of a .jsonl file in their order, without a last line that is torn; none without a file.

    Raises:
        DamagedFile: A whole line is no JSON, or of another shape.
    """
    return whole_lines(path, path.read_bytes().rpartition(b"\n")[0] if path.exists() else b"", shape)


def whole_lines(path: Path, content: bytes, shape: type) -> list[Any]:
    """The records of whole lines; as `read_whole_lines`."""
    lines = lines_of(path, content, shape)
    if lines.torn:
        raise DamagedFile(path, f"line {lines.torn[0]} is no JSON")
    return lines.records


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not math.isnan(value) else math.inf
