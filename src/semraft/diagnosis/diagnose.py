"""All that can be said of a run from its folder: `semraft diagnose`."""

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semraft.diagnosis.ranking import Suspect, suspects
from semraft.diagnosis.record import Line, Record, Series, read_lines, read_record, series
from semraft.diagnosis.rollback import read_rollbacks
from semraft.diagnosis.run_diff import Comparison, compare_records
from semraft.diagnosis.symptoms import Sign
from semraft.diagnosis.verdict import Verdict, judge
from semraft.tracking import HEALTH, METRICS, PULSE, VERDICT


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """A run's verdict, who is suspected of it, and what a reader must know before all else."""

    run: Path
    record: Record
    """As written; a run without pulse.jsonl has the errors of metrics.jsonl there."""
    verdict: Verdict
    suspects: tuple[Suspect, ...]
    against: Comparison | None
    other: Record | None
    notes: tuple[str, ...]
    """What to know before all else, in sentences: where the run went back, what it did not write."""

    @property
    def first_sign(self) -> Sign | None:
        """What could be seen first."""
        return next(iter(self.verdict.signs), None)

    @property
    def suspected(self) -> tuple[Suspect, ...]:
        """Those for whom something speaks."""
        return tuple(suspect for suspect in self.suspects if suspect.evidence_for)

    @property
    def cleared(self) -> tuple[Suspect, ...]:
        """Those for whom nothing speaks, and something against."""
        return tuple(s for s in self.suspects if s.evidence_against and not s.evidence_for)

    @property
    def unknown(self) -> tuple[Suspect, ...]:
        """Those of whom the run tells nothing."""
        return tuple(s for s in self.suspects if not (s.evidence_for or s.evidence_against))

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        first = self.first_sign
        found = {
            "run": str(self.run),
            "step": self.record.last_step,
            "steps": self.record.config.optim.steps,
            **self.verdict.to_json(),
            "first_sign": first and dataclasses.asdict(first),
            "suspects": [dataclasses.asdict(suspect) for suspect in self.suspects],
            "against": self.against and dataclasses.asdict(self.against),
            "notes": list(self.notes),
        }
        return {name: _ready(value) for name, value in found.items()}


def diagnose(run: Path, against: Path | None = None) -> Diagnosis:
    """Judges a run anew from what it has written, finished or not.

    Args:
        against: A run that went well, to be set beside it.

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
        suspects=suspects(record, verdict, run, compared),
        against=compared,
        other=other,
        notes=(*(rollback.text() for rollback in read_rollbacks(run)), *lacks),
    )


def _read(run: Path) -> tuple[Record, tuple[str, ...]]:
    """A run, with the errors of metrics.jsonl where it has no pulse; and what it lacks."""
    record = read_record(run)
    lacks = []
    if not len(record.pulse.steps):
        lines = [line for line in read_lines(run / METRICS) if line.get("split") == "train"]
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
"""What metrics.jsonl says of training -> the name it has in pulse.jsonl."""


def pulse_of_metrics(lines: Iterable[Line]) -> Series:
    """Training lines of metrics.jsonl as those of pulse.jsonl; the motion of batches is not known, and 1."""
    unknown = {"true_length_px": 1.0, "length_px": 1.0}
    return series(
        {"step": line["step"], **unknown} | {new: line[old] for old, new in TAKEN.items() if old in line}
        for line in lines
        if "epe" in line
    )


def _was_stopped(run: Path) -> bool:
    """Whether the training gave up, which only it can tell."""
    try:
        said = json.loads((run / VERDICT).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(said, dict) and said.get("state") == "stopped"


def _ready(value: Any) -> Any:
    """The same with None for numbers that JSON does not have, and plain numbers for NumPy's."""
    if isinstance(value, dict):
        return {name: _ready(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_ready(item) for item in value]
    if isinstance(value, np.generic):
        return _ready(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value
