"""The diagnosis of a run from its folder: `semraft diagnose`."""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semraft.diagnosis.ranking import RankedCause, ranked_causes
from semraft.diagnosis.record import Line, Record, Series, read_record, read_whole_lines, series
from semraft.diagnosis.rollback import read_rollbacks
from semraft.diagnosis.run_diff import Comparison, compare_records
from semraft.diagnosis.symptoms import Finding
from semraft.diagnosis.verdict import Verdict, judge, validation_notes
from semraft.records import read_json
from semraft.run_records import MetricsLine, VerdictFile
from semraft.tracking import HEALTH, METRICS, PULSE, VERDICT


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """A run's verdict, its ranked causes, and notes."""

    run: Path
    record: Record
    """As written; a run without pulse.jsonl has the errors of metrics.jsonl there."""
    verdict: Verdict
    causes: tuple[RankedCause, ...]
    against: Comparison | None
    other: Record | None
    notes: tuple[str, ...]
    """Sentences that belong before all else: rollbacks, pairs that are trained on, files that are missing."""

    @property
    def first_symptom(self) -> Finding | None:
        """The earliest symptom."""
        return next(iter(self.verdict.symptoms), None)

    @property
    def likely(self) -> tuple[RankedCause, ...]:
        """Causes with a fact for them."""
        return tuple(cause for cause in self.causes if cause.evidence_for)

    @property
    def ruled_out(self) -> tuple[RankedCause, ...]:
        """Causes with facts against them alone."""
        return tuple(cause for cause in self.causes if cause.evidence_against and not cause.evidence_for)

    @property
    def not_judged(self) -> tuple[RankedCause, ...]:
        """Causes that the run's files have no fact of."""
        return tuple(cause for cause in self.causes if not (cause.evidence_for or cause.evidence_against))

    def to_json(self) -> dict[str, Any]:
        """The diagnosis for programs."""
        first = self.first_symptom
        found = {
            "run": str(self.run),
            "step": self.record.last_step,
            "steps": self.record.config.optim.steps,
            **self.verdict.to_json(),
            "first_symptom": first and dataclasses.asdict(first),
            "ranked_causes": [dataclasses.asdict(cause) for cause in self.causes],
            "against": self.against and dataclasses.asdict(self.against),
            "notes": list(self.notes),
        }
        return {name: _ready(value) for name, value in found.items()}


def diagnose(run: Path, against: Path | None = None) -> Diagnosis:
    """The diagnosis of a run from its files, finished or not.

    Args:
        against: A run that went well, to compare with.

    Raises:
        ValueError: One of the folders is no run.
    """
    record, lacks = _read(run)
    other = _read(against)[0] if against else None
    compared = compare_records(record, other, against.resolve().name) if other and against else None
    verdict = judge(record, _was_stopped(run))
    return Diagnosis(
        run=run,
        record=record,
        verdict=verdict,
        causes=ranked_causes(record, verdict, run, compared),
        against=compared,
        other=other,
        notes=(*(rollback.text() for rollback in read_rollbacks(run)), *validation_notes(run), *lacks),
    )


def _read(run: Path) -> tuple[Record, tuple[str, ...]]:
    """The record of a run, with the errors of metrics.jsonl where it has no pulse; and what it lacks."""
    record = read_record(run)
    lacks = []
    if not len(record.pulse.steps):
        lines = [line for line in read_whole_lines(run / METRICS, MetricsLine) if line["split"] == "train"]
        record = dataclasses.replace(record, pulse=pulse_of_metrics(lines))
        lacks.append(
            f"no {PULSE}: it is judged by the {len(lines)} training lines of {METRICS}, and what its "
            "batches, its rate and its optimiser were like is not known"
        )
    if not len(record.health.steps):
        lacks.append(f"no {HEALTH}: what terms have of the gradient and how far steps move is not known")
    if not record.validation:
        lacks.append("no validation yet")
    return record, tuple(lacks)


TAKEN = {
    "epe": "epe_px",
    "epe_iter_000": "first_epe_px",
    "total_loss": "total_loss",
    "gradient_norm": "gradient_norm",
}
"""Name of a training metric in metrics.jsonl -> its name in pulse.jsonl."""


def pulse_of_metrics(lines: Iterable[Line]) -> Series:
    """Training lines of metrics.jsonl as lines of pulse.jsonl; the unknown motion of batches is 1."""
    unknown = {"true_length_px": 1.0, "length_px": 1.0}
    return series(
        {"step": line["step"], **unknown} | {new: line[old] for old, new in TAKEN.items() if old in line}
        for line in lines
        if "epe" in line
    )


def _was_stopped(run: Path) -> bool:
    """Whether the training gave up, which stands in verdict.json alone."""
    file = run / VERDICT
    return file.is_file() and read_json(file, VerdictFile)["state"] == "stopped"


def _ready(value: Any) -> Any:
    """A value with None for numbers that JSON does not have, and plain numbers for NumPy's."""
    if isinstance(value, dict):
        return {name: _ready(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_ready(item) for item in value]
    if isinstance(value, np.generic):
        return _ready(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value
