"""Folders of runs, and records, whose numbers a test can foretell; no training."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from semraft.config import LossConfig, OptimConfig, RunConfig, TermConfig, to_json
from semraft.diagnosis.record import Line, Record, read_record, series

STEPS = 120
ONSET = 61

CONFIG = RunConfig(
    recipe="made",
    loss=LossConfig(terms=(TermConfig(name="matching", weight=0.5),)),
    optim=OptimConfig(steps=STEPS, learning_rate=2e-3),
    precision="float32",
)


def pulse(changes: Mapping[str, float] | None = None, onset: int = ONSET, noise: int = 0) -> list[Line]:
    """A line a step of a healthy run; from `onset` on the quantities of `changes` are multiplied.

    The batches (their motion, and how hard they are besides) are the same whatever `noise` is, which seeds
    the run's own errors.
    """
    batches, own = np.random.default_rng(5), np.random.default_rng(noise)
    lines = []
    for step in range(1, STEPS + 1):
        motion = float(batches.uniform(2, 6))
        error = 0.3 * motion * float(batches.uniform(0.7, 1.5)) * float(own.uniform(0.9, 1.1))
        line: Line = {
            "true_length_px": motion,
            "trusted_frac": 0.8,
            "length_px": 0.9 * motion,
            "epe_px": error,
            "first_epe_px": 1.4 * error,
            "l1_px": 1.3 * error,
            "flow_loss": 1.3 * error,
            "total_loss": 4 * error,
            "gradient_norm": 10.0,
            "rate_ratio": 1.0,
            "optimizer_steps_missing": 0.0,
            "clipped_ratio_max": 1.0,
            "seen_samples": 4.0,
            "swapped_samples": 0.0,
            "scaled_samples": 0.0,
            "false_still_samples": 0.0,
            "between_classes_frac": 0.01,
            "correlation_abs_max": 8.0,
        }
        if step >= onset:
            line |= {name: line[name] * times for name, times in (changes or {}).items() if name in line}
        lines.append({"step": step, **line})
    return lines


def set_from(lines: Iterable[Line], onset: int = ONSET, **values: float) -> list[Line]:
    """Lines with some quantities set to a value from a step on."""
    return [line | (values if line["step"] >= onset else {}) for line in lines]


def health(moved: float = 1.0, share_pct: float = 4.0, onset: int = ONSET) -> list[Line]:
    """A line every tenth step; from `onset` on steps go `moved` times as far."""
    return [
        {
            "step": step,
            "moved_update": 1e-3 * (moved if step >= onset else 1.0),
            "share_pct_matching": share_pct,
            "cosine_matching_update": 0.3,
            "gradient_norm_matching": 0.2,
            "learning_rate": 2e-3,
            "loss_scale": 1.0,
        }
        for step in [1, *range(10, STEPS + 1, 10)]
    ]


def made(
    pulses: Iterable[Line] | None = None, healths: Iterable[Line] | None = None, config: RunConfig = CONFIG
) -> Record:
    """A record that was never written: of a healthy run, but for what is given."""
    pulses, healths = pulse() if pulses is None else pulses, health() if healths is None else healths
    return Record(config=config, pulse=series(pulses), health=series(healths))


def validation(epe_px: Iterable[float], split: str = "world-val") -> list[dict[str, Any]]:
    """Validations every twentieth step."""
    return [{"step": 20 * number, "split": split, "epe": value} for number, value in enumerate(epe_px, 1)]


def write_run(
    folder: Path,
    *,
    config: RunConfig = CONFIG,
    pulses: Iterable[Line] = (),
    healths: Iterable[Line] = (),
    metrics: Iterable[Line] = (),
) -> Path:
    """The folder of a run; a file without lines is not written."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(to_json(replace(config, output=str(folder))))
    for name, lines in (("pulse", pulses), ("health", healths), ("metrics", metrics)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        if text:
            (folder / f"{name}.jsonl").write_text(text)
    return folder


def record_of(folder: Path, **parts: Any) -> Record:
    """The record of such a run."""
    return read_record(write_run(folder, **parts))
