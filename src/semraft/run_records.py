"""Shapes of the files of a run directory, as far as they are read again (`records`).

A file may hold more: other versions write other fields. Its config.json is a `RunConfig`.
"""

from typing import Annotated, NotRequired, Required, TypedDict

import msgspec

from semraft.records import Count

PAIR_LAYOUT = {
    "id": ("str", ""),
    "image1": ("uint8", "H W 3"),
    "image2": ("uint8", "H W 3"),
    "flow_gt": ("float16", "H W 2"),
    "valid": ("bool", "H W"),
    "flow": ("float16", "H W 2"),
    "labels1": ("uint8", "H W"),
    "occluded1": ("bool", "H W"),
    "found_labels1": ("uint8", "H W"),
    "found_occluded1": ("bool", "H W"),
}
"""Arrays of a saved validation pair, as `npz.read_npz` checks them."""
PAIR_MAY_LACK = ("labels1", "occluded1", "found_labels1", "found_occluded1")


class StepLine(TypedDict):
    """A line of pulse.jsonl or health.jsonl, without its numbers."""

    step: Count


RunFields = TypedDict("RunFields", {"recipe": str, "seed": int, "optim.steps": Count})
"""Fields of a flat configuration that every run has."""


class ValidationDraw(TypedDict, total=False):
    """A validation set in environment.json."""

    ids: list[str]
    fingerprint: str
    trained_on: int


class TrainingData(TypedDict, total=False):
    """A data set that is trained on, in environment.json."""

    name: str
    fingerprint: str
    pairs: int
    problems: int


class RunData(TypedDict, total=False):
    """The data of a run in environment.json."""

    train: list[TrainingData]
    validation: dict[str, ValidationDraw]
    left_out: list[str]


class ClassEntry(TypedDict):
    """A class in environment.json."""

    id: Annotated[int, msgspec.Meta(ge=0, le=255)]
    name: str
    color: tuple[int, int, int]


class Environment(TypedDict, total=False):
    """The parts of environment.json that are read again."""

    data: RunData
    fingerprints: dict[str, str]
    classes: list[ClassEntry]
    warnings: list[str]


class VerdictCause(TypedDict):
    """A cause or symptom in verdict.json."""

    name: str
    evidence: NotRequired[str]


class VerdictFile(TypedDict, total=False):
    """The content of verdict.json."""

    state: Required[str]
    first_step: int | None
    causes: list[VerdictCause] | None
    rollbacks: list[str]
    notes: list[str]


class MetricsLine(StepLine):
    """A line of metrics.jsonl, without its metrics."""

    split: str


class SkippedLine(TypedDict, total=False):
    """A line of skipped.jsonl."""

    step: Required[Count]
    id: str
    path: str
    reason: str
