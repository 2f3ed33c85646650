"""From what was seen of a run to what is wrong with it: verdict.json."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from semraft.diagnosis.invariants import CONTRADICTIONS
from semraft.diagnosis.record import Record
from semraft.diagnosis.symptoms import DETECTORS, Sign
from semraft.tracking import VERDICT, write_text

State = Literal["healthy", "worse", "diverged", "stopped"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What is wrong with a run, since when, and the likely causes, the likeliest first."""

    state: State
    first_step: int | None
    causes: tuple[Sign, ...]
    signs: tuple[Sign, ...]

    def to_json(self) -> dict[str, Any]:
        """As verdict.json has it."""

        def entry(sign: Sign) -> dict[str, Any]:
            about = {"term": sign.term} if sign.term else {}
            return {
                "name": sign.name,
                "confidence": round(sign.confidence, 4),
                "first_step": sign.first_step,
                "evidence": sign.evidence,
                **about,
            }

        return {
            "state": self.state,
            "first_step": self.first_step,
            "causes": [entry(cause) for cause in self.causes],
            "signs": [entry(sign) for sign in self.signs],
        }


def judge(record: Record, stopped: bool = False) -> Verdict:
    """The verdict on a run so far.

    Without a contradiction the signs themselves are the causes that can be named.
    """
    signs = tuple(sorted((sign for see in DETECTORS for sign in see(record)), key=_by_step))
    found = tuple(sorted((cause for see in CONTRADICTIONS for cause in see(record)), key=_likeliest))
    causes = found or signs
    first = causes[0].first_step if causes else None
    if any(sign.name == "non-finite" for sign in signs):
        state: State = "diverged"
    elif stopped:
        state = "stopped"
    else:
        state = "worse" if signs or found else "healthy"
    return Verdict(state=state, first_step=first, causes=causes, signs=signs)


def write_verdict(run: Path, verdict: Verdict, rollbacks: Sequence[str] = ()) -> None:
    """Writes verdict.json, whole or not at all; not where that is what it says, for a disk is slow.

    Args:
        rollbacks: What was done to the run when it went wrong before, in words.
    """
    content = verdict.to_json() | ({"rollbacks": list(rollbacks)} if rollbacks else {})
    path, text = run / VERDICT, json.dumps(content, indent=2) + "\n"
    if not path.exists() or path.read_text() != text:
        write_text(path, text)


def _by_step(sign: Sign) -> int:
    return sign.first_step


def _likeliest(cause: Sign) -> tuple[float, int]:
    return -cause.confidence, cause.first_step
