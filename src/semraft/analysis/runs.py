"""Run directories as values: configuration, logged metrics, health and saved pairs.

Reads files only and never imports torch. Runs are compared in comparability.py and paired_effects.py.
"""

import math
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float16, Float64, UInt8

from semraft.analysis.scene_conditions import metrics_by_condition, rows_by_condition
from semraft.config import flat
from semraft.config.earlier_versions import read_upgraded
from semraft.npz import read_npz
from semraft.records import DamagedFile, read_json, read_lines, read_table, shaped
from semraft.run_records import (
    PAIR_LAYOUT,
    PAIR_MAY_LACK,
    Environment,
    MetricsLine,
    RunFields,
    SkippedLine,
    VerdictFile,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """The contents of one run directory; of an interrupted run, those written before it stopped.

    `config` is flat ("optim.batch" -> 6). `logged` is split -> step -> metric -> value, in order of steps.
    `per_sample` is (split, pair id) -> metric -> value, of the last evaluation, and `scenes` each such pair's
    scene. `verdict` is the content of verdict.json, empty without that file. `notes` are sentences on files
    that could not be read.
    """

    path: Path
    recipe: str
    seed: int
    steps: int
    config: dict[str, Any]
    environment: dict[str, Any]
    logged: dict[str, dict[int, dict[str, float]]]
    per_sample: dict[tuple[str, str], dict[str, float]]
    scenes: dict[tuple[str, str], str]
    verdict: dict[str, Any]
    pair_files: dict[str, tuple[Path, ...]]
    skipped: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.resolve().name

    @property
    def splits(self) -> tuple[str, ...]:
        """The validation splits that were scored at least once."""
        return tuple(split for split in self.logged if split != "train")

    @property
    def last_step(self) -> int:
        """The last step that anything was logged at, 0 before the first."""
        return max((step for rows in self.logged.values() for step in rows), default=0)

    def final(self, split: str) -> tuple[int, dict[str, float]]:
        """The step and the numbers of the last evaluation of a split; (0, {}) if there was none."""
        rows = self.logged.get(split)
        return next(reversed(rows.items())) if rows else (0, {})

    def curve(
        self, split: str, metric: str
    ) -> tuple[Float64[np.ndarray, " points"], Float64[np.ndarray, " points"]]:
        """Steps and values of one metric, where it was logged."""
        points = [(step, row[metric]) for step, row in self.logged.get(split, {}).items() if metric in row]
        steps, values = zip(*points, strict=True) if points else ((), ())
        return np.array(steps, dtype=np.float64), np.array(values, dtype=np.float64)

    def validation(self, split: str) -> dict[str, Any]:
        """The record of a split's validation draw: `ids` and `fingerprint`."""
        return dict(self.environment.get("data", {}).get("validation", {}).get(split, {}))


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedPair:
    """A validation pair as one run saved it: the data and this run's flow. None: not known to the data."""

    id: str
    image1: UInt8[np.ndarray, "H W 3"]
    image2: UInt8[np.ndarray, "H W 3"]
    flow_gt: Float16[np.ndarray, "H W 2"]
    valid: Bool[np.ndarray, "H W"]
    flow: Float16[np.ndarray, "H W 2"]
    labels1: UInt8[np.ndarray, "H W"] | None = None
    occluded1: Bool[np.ndarray, "H W"] | None = None
    found_labels1: UInt8[np.ndarray, "H W"] | None = None
    """Labels decoded by the network, and its occlusion; None without such a head."""
    found_occluded1: Bool[np.ndarray, "H W"] | None = None


def load_run(path: Path) -> Run:
    """Reads one run directory.

    Raises:
        ValueError: A file that a run directory has is missing.
        DamagedFile: One does not hold what it should.
    """
    for name in ("config.json", "environment.json"):
        if not (path / name).is_file():
            raise ValueError(f"{path} is not a run directory: {name} is missing")
    config_file, verdict_file = path / "config.json", path / "verdict.json"
    config = shaped(config_file, flat(read_upgraded(config_file)), RunFields)
    environment = read_json(path / "environment.json", Environment)
    rows, notes = _read_lines(path / "metrics.jsonl", MetricsLine)
    skipped, skipped_notes = _read_lines(path / "skipped.jsonl", SkippedLine)
    if not rows:
        notes.append("nothing was logged yet")
    pair_files, torn_pairs = _find_pairs(path / "pairs")
    per_sample, scenes = _read_per_sample(path / "per_sample.csv")
    per_sample, logged = rows_by_condition(per_sample), _by_split(path, rows)
    for split, steps in logged.items():
        if steps and split != "train":
            final = next(reversed(steps.values()))
            final |= metrics_by_condition(per_sample, split, final)
    return Run(
        path=path,
        recipe=config["recipe"],
        seed=config["seed"],
        steps=config["optim.steps"],
        config=dict(config),
        environment=dict(environment),
        logged=logged,
        per_sample=per_sample,
        scenes=scenes,
        verdict=dict(read_json(verdict_file, VerdictFile)) if verdict_file.is_file() else {},
        pair_files=pair_files,
        skipped=tuple(skipped),
        notes=(*notes, *skipped_notes, *torn_pairs),
    )


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
        broken = list(broken_losses(run))
        ended = "finished" if run.last_step >= run.steps else "unfinished"
        return Health(
            run=run.name,
            state="diverged" if broken else ended,
            first_step=min((step for _, step, _ in broken), default=None),
            causes=tuple(
                Cause(name=f"{metric} not finite", evidence=f"at {count} logged steps")
                for metric, _, count in broken
            ),
        )
    return Health(
        run=run.name,
        state=run.verdict["state"],
        first_step=run.verdict.get("first_step"),
        causes=tuple(
            Cause(name=cause["name"].replace("-", " "), evidence=cause.get("evidence", ""))
            for cause in run.verdict.get("causes") or ()
        ),
    )


def broken_losses(run: Run) -> Iterable[tuple[str, int, int]]:
    """Losses of training that were not finite: name, first such step, and at how many logged steps."""
    for metric in dict.fromkeys(metric for row in run.logged.get("train", {}).values() for metric in row):
        steps = [step for step, row in run.logged["train"].items() if not math.isfinite(row.get(metric, 0.0))]
        if metric.endswith("loss") and steps:
            yield metric, steps[0], len(steps)


def load_pair(path: Path) -> SavedPair:
    """Reads one saved validation pair.

    Raises:
        DamagedFile: No such file, or an array that is missing or of another kind.
    """
    arrays = read_npz(path, PAIR_LAYOUT, may_lack=PAIR_MAY_LACK)
    return SavedPair(**arrays | {"id": str(arrays["id"])})


def _read_lines(path: Path, shape: type) -> tuple[list[dict[str, Any]], list[str]]:
    """Objects of a .jsonl file and notes on lines that a killed process left torn; no file is no lines."""
    lines = read_lines(path, shape)
    return lines.records, [f"line {number} of {path.name} is torn and was ignored" for number in lines.torn]


def _by_split(path: Path, rows: list[dict[str, Any]]) -> dict[str, dict[int, dict[str, float]]]:
    """Later lines win: a resumed run logs the steps after its last checkpoint a second time."""
    logged: dict[str, dict[int, dict[str, float]]] = {}
    for row in rows:
        values = {
            name: math.nan if value is None else float(value)
            for name, value in row.items()
            if name not in ("step", "split") and (value is None or isinstance(value, int | float))
        }
        logged.setdefault(row["split"], {}).setdefault(row["step"], {}).update(values)
    return {split: dict(sorted(steps.items())) for split, steps in logged.items()}


def _find_pairs(folder: Path) -> tuple[dict[str, tuple[Path, ...]], list[str]]:
    """Split -> saved pairs, and notes on those that a killed process left torn."""
    found: dict[str, tuple[Path, ...]] = {}
    notes: list[str] = []
    for split in sorted(path for path in folder.glob("*") if path.is_dir()):
        files = sorted(split.glob("*.npz"))
        found[split.name] = tuple(path for path in files if zipfile.is_zipfile(path))
        torn = [path.name for path in files if path not in found[split.name]]
        notes += [f"pairs/{split.name}/{name} is torn and was ignored" for name in torn]
    return found, notes


def _read_per_sample(
    path: Path,
) -> tuple[dict[tuple[str, str], dict[str, float]], dict[tuple[str, str], str]]:
    """Scores and scene by (split, pair id)."""
    scores: dict[tuple[str, str], dict[str, float]] = {}
    scenes: dict[tuple[str, str], str] = {}
    if not path.is_file():
        return scores, scenes
    for row in read_table(path):
        try:
            pair = row.pop("split"), row.pop("id")
            scenes[pair] = row.pop("scene", "")
            scores[pair] = {name: float(value) if value else math.nan for name, value in row.items()}
        except (KeyError, ValueError) as error:
            raise DamagedFile(path, f"is not a table of scores by pair: {error}") from error
    return scores, scenes
