"""Is a fault found, and a sound run left alone? Many short trainings with and without a planted fault.

    python -m benchmarks.faults --out FOLDER [--draws judging] [--jobs 2] [--sound 60] [--each 10]

Sizes, batches, terms, rates and seeds are drawn, others for each of DRAWS: thresholds are set on the first
two (`seen` was judged once, and thresholds then set again) and judged on the last two, `judged` with a line
of health.jsonl every 30 steps and `judging` by the default. Runs that are there are not repeated. Prints the
table of docs/diagnosis.md and writes FOLDER/faults.json.
"""

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro

from semraft.config import ModelConfig, RunConfig, load_config, parse_term
from semraft.config.recipes import RECIPES
from semraft.diagnosis.record import read_lines, read_record
from semraft.diagnosis.verdict import judge
from semraft.faults.fault_config import FAULTS, SOUND, Fault, FaultConfig
from semraft.tracking import HEALTH
from semraft.training.agreement import TrainingStopped
from semraft.training.loop import train

NAMED = {"v1-weight": "term-too-heavy", "v1-constant": "term-biased"}
"""Faults whose cause has another name."""
NEAR_FRAC = 0.1
DRAWS = ("setting", "seen", "judged", "judging")
NEED_INVALID = ("invalid-zeros", "normalization")
"""Faults that show only where some pixels have no flow truth."""
TERMS = (
    ("matching:0.5",),
    ("matching:0.5", "semantic-v1:0.2"),
    ("matching:0.5", "boundary-weight:0.2"),
    ("matching:0.5", "signed-distance:share=0.3,where=things,measure-after=20,ramp=20"),
    ("matching:0.3", "smoothness:share=0.1,measure-after=20"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    out: Path
    draws: Literal["setting", "seen", "judged", "judging"] = "judging"
    jobs: int = 2
    sound: int = 60
    each: int = 10


def drawn(number: int, draws: str, fault: Fault) -> RunConfig:
    """Run `number` of a kind: a pure function of its arguments."""
    rng = np.random.default_rng([number, DRAWS.index(draws), ("none", *FAULTS).index(fault)])
    base = RECIPES[f"fault-{fault if fault != 'none' else 'learning-rate'}"].config
    large = fault == "batch-norm" or (fault == "none" and number % 15 == 14)
    steps = int(rng.integers(50, 70)) if large else int(rng.integers(120, 180))
    batch = 2 if large else 4 if fault == "swapped-flow" else int(rng.integers(2, 6))
    height, width = int(rng.choice([64, 72, 80])), int(rng.choice([96, 104, 128]))
    terms = () if large else TERMS[int(rng.integers(len(TERMS)))]
    if fault in ("v1-weight", "v1-constant"):
        terms = (*TERMS[0], "semantic-v1:0.1")
    truth: Literal["all", "static"] = "static" if fault in NEED_INVALID or rng.random() < 0.5 else "all"
    world = replace(base.data.world, size=(height + 32, width + 56), seed=int(rng.integers(100, 10_000)))
    rate = float(np.exp(rng.uniform(np.log(1e-3), np.log(4e-3)))) * (0.1 if large else 1)
    model = ModelConfig(arch="large", batch_norm="freeze") if large else base.model
    return replace(
        base,
        seed=int(rng.integers(1_000_000)),
        data=replace(base.data, crop=(height, width), truth=truth, world=world, validation_pairs=8),
        model=model,
        loss=replace(base.loss, gamma=float(rng.choice([0.8, 0.85])), terms=tuple(map(parse_term, terms))),
        optim=replace(base.optim, steps=steps, batch=batch, learning_rate=rate),
        num_updates=2 if large else int(rng.integers(2, 5)),
        precision="float32",  # `auto` is another on another processor.
        health_every=0 if draws == "judging" else 30,
        fault=SOUND if fault == "none" else FaultConfig(kind=fault, step=int(steps * rng.uniform(0.4, 0.7))),
        saved_pairs=1,
    )


def one_run(task: tuple[int, str, Fault, Path]) -> None:
    number, draws, fault, run = task
    if (run / "done").exists():
        return
    torch.set_num_threads(1)
    if run.exists():
        for file in sorted(run.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
    try:
        train(drawn(number, draws, fault), run)
    except TrainingStopped as error:
        print(error)
    for checkpoint in (run / "checkpoints").glob("*.pt"):
        checkpoint.unlink()
    (run / "done").touch()


def judged(run: Path, fault: Fault) -> dict[str, Any]:
    """What a run's record says now, with the thresholds as they are now."""
    verdict = judge(read_record(run))
    planted = load_config(run / "config.json").fault.step
    cause = verdict.causes[0].name if verdict.causes else ""
    return {
        "run": run.name,
        "fault": fault,
        "planted": planted,
        "state": verdict.state,
        "first_step": verdict.first_step,
        "causes": [entry.name for entry in verdict.causes],
        "signs": [entry.name for entry in verdict.signs],
        "found": verdict.state != "healthy",
        "named": cause == NAMED.get(fault, fault),
        "near": verdict.first_step is not None and abs(verdict.first_step - planted) <= NEAR_FRAC * planted,
        "watching_pct": read_lines(run / HEALTH)[-1]["watching_pct"],
    }


def main(options: Options) -> None:
    kinds: list[tuple[Fault, int]] = [("none", options.sound), *((fault, options.each) for fault in FAULTS)]
    tasks = sorted(
        (number, options.draws, fault, options.out / f"{fault}-{number:02d}")
        for fault, count in kinds
        for number in range(count)
    )
    options.out.mkdir(parents=True, exist_ok=True)
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=spawned) as pool:
        list(pool.map(one_run, tasks))
    rows = [judged(run, fault) for _, _, fault, run in tasks]
    (options.out / "faults.json").write_text(json.dumps(rows, indent=1) + "\n")
    print("| fault | runs | found | named | step within 10 % | missed or misnamed |")
    print("| --- | --- | --- | --- | --- | --- |")
    for fault, _ in kinds:
        of = [row for row in rows if row["fault"] == fault]
        counts = " | ".join(str(sum(row[what] for row in of)) for what in ("found", "named", "near"))
        odd = "; ".join(
            f"{row['run']}: {', '.join(row['causes']) or 'nothing'}"
            for row in of
            if (row["found"] if fault == "none" else not (row["named"] and row["near"]))
        )
        print(f"| {fault} | {len(of)} | {counts} | {odd} |")
    watching = np.array([row["watching_pct"] for row in rows])
    low, middle, high = np.percentile(watching, (0, 50, 100))
    within = (watching <= 3).sum()
    print(f"\nwatching: {low:.1f} to {high:.1f} % of the time, median {middle:.1f}; {within} runs within 3 %")


if __name__ == "__main__":
    main(tyro.cli(Options))
