"""From the record of a run to its verdict: verdict.json."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from semraft.diagnosis.causes import CAUSES
from semraft.diagnosis.invariants import heavy_term
from semraft.diagnosis.record import Record
from semraft.diagnosis.symptoms import (
    Detector,
    Finding,
    collapse,
    conflict,
    dead_term,
    inactive_context,
    non_finite,
    shrinkage,
    spike,
    worsening,
)
from semraft.diagnosis.validation_symptoms import VALIDATION_SYMPTOMS
from semraft.records import read_json
from semraft.run_records import Environment
from semraft.tracking import ENVIRONMENT, VERDICT, write_text

State = Literal["healthy", "worse", "diverged", "stopped"]
DETECTORS: tuple[Detector, ...] = (
    non_finite,
    spike,
    worsening,
    collapse,
    shrinkage,
    conflict,
    dead_term,
    inactive_context,
    *VALIDATION_SYMPTOMS,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The state of a run, its symptoms, and its causes: the invariants that it breaks."""

    state: State
    first_step: int | None
    causes: tuple[Finding, ...]
    """The likeliest first; without a broken invariant the symptoms."""
    symptoms: tuple[Finding, ...]

    def to_json(self) -> dict[str, Any]:
        """The content of verdict.json."""

        def entry(found: Finding) -> dict[str, Any]:
            about = {"term": found.term} if found.term else {}
            text = {"name": found.name, "first_step": found.first_step, "evidence": found.evidence}
            return text | about

        return {
            "state": self.state,
            "first_step": self.first_step,
            "causes": [entry(cause) for cause in self.causes],
            "symptoms": [entry(symptom) for symptom in self.symptoms],
        }


def judge(record: Record, stopped: bool = False) -> Verdict:
    """The verdict on a run so far."""
    symptoms = tuple(sorted((found for see in DETECTORS for found in see(record)), key=_by_step))
    broken = sorted(
        (
            Finding(name=name, first_step=check.first_step, evidence=check.text)
            for name, cause in CAUSES.items()
            if cause.check and (check := cause.check(record)) and check.first_step is not None
        ),
        key=_by_step,
    )
    # A wrong rate also shrinks the flow, and then a term pulls: terms come last.
    broken += sorted(heavy_term(record), key=_by_step)
    causes = tuple(broken) or symptoms
    if any(symptom.name == "non-finite" for symptom in symptoms):
        state: State = "diverged"
    elif stopped:
        state = "stopped"
    else:
        state = "worse" if causes else "healthy"
    first = causes[0].first_step if causes else None
    return Verdict(state=state, first_step=first, causes=causes, symptoms=symptoms)


def write_verdict(run: Path, verdict: Verdict, rollbacks: Sequence[str] = ()) -> None:
    """Writes verdict.json, whole or not at all, and only where it changes: a disk is slow.

    Args:
        rollbacks: The run's earlier rollbacks, in words.
    """
    content = verdict.to_json() | {
        name: list(texts)
        for name, texts in (("rollbacks", rollbacks), ("notes", validation_notes(run)))
        if texts
    }
    path, text = run / VERDICT, json.dumps(content, indent=2) + "\n"
    if not path.exists() or path.read_text() != text:
        write_text(path, text)


def validation_notes(run: Path) -> tuple[str, ...]:
    """A sentence for each validation set with pairs that the run trains on (environment.json)."""
    file = run / ENVIRONMENT
    recorded = read_json(file, Environment) if file.is_file() else Environment()
    return tuple(
        f"{split}: {count} of {len(entry.get('ids', ()))} validation pairs are trained on: their error says "
        "nothing of other pairs"
        for split, entry in recorded.get("data", {}).get("validation", {}).items()
        if (count := entry.get("trained_on", 0))
    )


def _by_step(found: Finding) -> int:
    return found.first_step
