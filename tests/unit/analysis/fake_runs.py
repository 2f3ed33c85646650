"""Run directories made of numbers that a test can foretell; no training."""

import csv
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semraft.analysis.runs import Run, load_run
from semraft.config import DataConfig, LossConfig, OptimConfig, RunConfig, TermConfig

SPLIT = "world-val"
IDS = ("scene/000003", "scene/000011")


def make_config(recipe: str = "world-base", seed: int = 0, **changes: Any) -> RunConfig:
    """A configuration of 400 steps; a recipe with "semantic" in its name has the semantic term."""
    terms = (TermConfig(name="semantic-v1", weight=0.5),) if "semantic" in recipe else ()
    config = RunConfig(
        recipe=recipe,
        seed=seed,
        output=f"runs/{recipe}-seed{seed}",
        data=DataConfig(validation=("world", "kitti")),
        loss=LossConfig(terms=terms),
        optim=OptimConfig(steps=400),
    )
    return dataclasses.replace(config, **changes)


def make_environment(
    ids: Sequence[str] = IDS, fingerprint: str = "f0", seed: int | None = None
) -> dict[str, Any]:
    """The environment record of a run; with a seed, its fingerprints as well."""
    started = {name: f"{name} {seed}" for name in ("initial_weights", "sample_order", "first_batches")}
    draw = {"ids": list(ids), "fingerprint": fingerprint}
    return {
        "semraft": "0.1.0",
        "torch": "2.13.0",
        "python": "3.11.2",
        "device": "x86_64",
        "precision": "float32",
        "commit": "50582b6aa2c90e3c18d2f9a7a50fe2fa2e2b3b11",
        "started": "2026-03-04T05:06:07+00:00",
        "classes": [
            {"id": 0, "name": "road", "color": [128, 64, 128]},
            {"id": 10, "name": "car", "color": [0, 0, 142]},
        ],
        "data": {
            "train": [{"name": "world", "pairs": 320, "problems": 0, "fingerprint": "t0"}],
            "validation": {SPLIT: draw},
            "left_out": ["kitti: no root given"],
        },
        "warnings": [],
        **({} if seed is None else {"fingerprints": started}),
    }


def make_scores(epe: float) -> dict[str, float]:
    """The numbers of one validation, all told by its EPE."""
    scores = {
        "epe": epe,
        "epe_image_mean": epe * 1.01,
        "1px": 1 / (1 + epe),
        "3px": 3 / (3 + epe),
        "5px": 5 / (5 + epe),
        "fl": 10 * epe,
        "wauc": 90 - 5 * epe,
        "valid": 6000,
        "non_finite": 0,
        "valid_moving": 600,
        "epe_moving": 2 * epe,
        "fl_moving": 15 * epe,
        "valid_occluded": 300,
        "epe_occluded": 3 * epe,
        "valid_car": 900,
        "epe_car": 2.5 * epe,
    }
    refinements = {f"epe_iter_{t:03d}": epe * (1 + 2.0 ** (1 - t)) for t in range(6)}
    return scores | refinements | {"pairs": float(len(IDS)), "skipped": 0.0}


def make_rows(epes: Sequence[float], ids: Sequence[str]) -> list[dict[str, Any]]:
    """One row a pair of the scores that are linear in its EPE: pooled, they are those of the mean."""
    nonlinear = ("1px", "3px", "5px", "epe_image_mean", "pairs", "skipped")
    return [
        {"split": SPLIT, "id": pair_id, "scene": f"scene of {pair_id}"}
        | {name: value for name, value in make_scores(epe).items() if name not in nonlinear}
        for pair_id, epe in zip(ids, epes, strict=True)
    ]


def make_pair(pair_id: str, error_px: float = 0.5, size: tuple[int, int] = (37, 53)) -> dict[str, Any]:
    """A saved pair whose flow is wrong by `error_px` everywhere; the top quarter has no ground truth."""
    height, width = size
    rng = np.random.default_rng(len(pair_id))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    flow_gt = np.stack([x / 8 - 2, y / 16], axis=-1)
    valid = y > height // 4
    return {
        "id": np.array(pair_id),
        "image1": rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
        "image2": rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
        "flow_gt": np.where(valid[..., None], flow_gt, 0).astype(np.float16),
        "valid": valid,
        "flow": (flow_gt + np.float32([error_px, 0])).astype(np.float16),
        "labels1": np.where(x > width / 2, 10, 0).astype(np.uint8),
        "occluded1": x > width - 4,
    }


def make_run(
    path: Path,
    recipe: str = "world-base",
    seed: int = 0,
    epe: float = 2.0,
    steps: tuple[int, ...] = (200, 400),
    validated: tuple[int, ...] = (200, 400),
    environment: dict[str, Any] | None = None,
    config: RunConfig | None = None,
    by_scene: Sequence[float] = (0.125, -0.125),
) -> Path:
    """Writes a run whose last validation has this EPE, and 1 px more for each validation before.

    `by_scene` is how far the EPE of each pair is above; a mean other than 0 is taken off it.
    """
    path.mkdir(parents=True)
    config = config or make_config(recipe, seed)
    (path / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    (path / "environment.json").write_text(json.dumps(environment or make_environment()))
    lines: list[dict[str, Any]] = [
        {
            "step": step,
            "split": "train",
            "total_loss": 100.0 / step + epe,
            "flow_loss": 90.0 / step + epe,
            "epe": 200.0 / step + epe,
            "learning_rate": 1e-4 * (1 - step / 500),
            "flow_loss_iter_000": 3.0,
        }
        for step in steps
    ]
    for back, step in enumerate(reversed(validated)):
        lines.append({"step": step, "split": SPLIT, **make_scores(epe + back)})
    lines.sort(key=lambda line: line["step"])
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if validated:
        ids = (environment or make_environment())["data"]["validation"][SPLIT]["ids"]
        above = np.resize(by_scene, len(ids))
        rows = make_rows((epe + above - above.mean()).tolist(), ids)
        with (path / "per_sample.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        (path / "pairs" / SPLIT).mkdir(parents=True)
        for pair_id in IDS:
            name = pair_id.replace("/", "_") + ".npz"
            np.savez_compressed(path / "pairs" / SPLIT / name, **make_pair(pair_id))
    return path


def rewrite(run: Run, split: str, **changes: Any) -> Run:
    """The run with these metrics of its last validation changed in its files."""
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    [line for line in lines if line["split"] == split][-1].update(changes)
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return load_run(run.path)


def make_study(
    folder: Path,
    effects: Mapping[str, Sequence[float]],
    scenes: int = 24,
    kind: Sequence[float] | np.ndarray | None = None,
    **changes: Any,
) -> Path:
    """A study of finished runs: base's EPE of seed k is 2 + k/100, a variant's is above it by its effects.

    Scenes differ in difficulty, and in how they take a variant: `kind` on top of the effect. Scene 7 is the
    kindest by default. `changes` go to `make_run`.
    """
    study = folder / "study"
    ids = [f"s/{number:03d}" for number in range(scenes)]
    hard = 0.4 * np.sin(np.arange(scenes))
    kind = 0.05 * np.cos(1.7 * (np.arange(scenes) - 7) + np.pi) if kind is None else np.asarray(kind)
    for variant, of_seeds in effects.items():
        for seed, effect in enumerate(of_seeds):
            make_run(
                study / "runs" / f"{variant}-seed{seed}",
                seed=seed,
                epe=2 + seed / 100 + effect,
                environment=make_environment(ids, seed=seed),
                config=make_config(variant, seed),
                by_scene=hard if variant == "base" else hard + kind,
                **changes,
            )
    described = {
        "name": "made",
        "base": "base",
        "protocol": {"optim.steps": 400, "optim.batch": 6, "precision": "auto"},
        "variants": list(effects),
        "seeds": list(range(len(next(iter(effects.values()))))),
    }
    (study / "study.json").write_text(json.dumps(described))
    return study
