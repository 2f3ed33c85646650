"""Is a fault found, and a sound run left alone? Many short trainings with and without a planted fault.

    python -m benchmarks.faults --out FOLDER [--draws judging] [--jobs 2] [--sound 60] [--each 10]
    python -m benchmarks.faults --out FOLDER --wide [--weights FILE] [--minutes 60] [--jobs 1]

Sizes, batches, terms, rates and seeds are drawn, others for each of DRAWS: thresholds are set on the first
two (`seen` was judged once, and thresholds then set again) and judged on the last two, `judged` with a line
of health.jsonl every 30 steps and `judging` by the default.

`--wide` draws more kinds of training instead (`benchmarks.fault_data`): KITTI's layout with truth at 1 to
25 % of the pixels, VIPER's, standing cameras, sets of 20 pairs, batches of 1 to 6, crops of 96x192 to
288x960, starts from given weights, bfloat16. Its first runs are a fair sample of all: it can be ended at any
time, or by `--minutes`, and goes on where it was.

Runs that are there are not repeated. Prints the table of docs/diagnosis.md and writes FOLDER/faults.json.
"""

import json
import math
import multiprocessing
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from benchmarks.fault_data import Layout, data_root

from semraft.agreement import TrainingStopped
from semraft.config import ModelConfig, RunConfig, load_config, parse_term
from semraft.config.recipes import RECIPES
from semraft.diagnosis.record import read_record
from semraft.diagnosis.verdict import judge
from semraft.faults.altered_recipes import ALTERED_RECIPES
from semraft.faults.altered_training import train
from semraft.faults.fault_config import FAULTS, Fault, FaultConfig, fault_of
from semraft.records import read_lines
from semraft.run_records import StepLine
from semraft.tracking import HEALTH, VERDICT

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
    sound: int | None = None
    """Sound runs: 60, or 200 of the wide ones."""
    each: int | None = None
    """Runs of each fault: 10, or 15 of the wide ones."""
    wide: bool = False
    weights: str = ""
    """Weights that half of the wide runs start from; without it a tiny network is trained for 200 steps."""
    arch: Literal["tiny", "small", "large"] = "tiny"
    """Their network."""
    minutes: float = math.inf
    """Begin no run later than this."""


def drawn(number: int, draws: str, fault: Fault) -> RunConfig:
    """Run `number` of a kind: a pure function of its arguments."""
    rng = np.random.default_rng([number, DRAWS.index(draws), ("none", *FAULTS).index(fault)])
    base = ALTERED_RECIPES[f"fault-{fault if fault != 'none' else 'learning-rate'}"].config
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
        altered=() if fault == "none" else (planted(fault, int(steps * rng.uniform(0.4, 0.7))),),
        saved_pairs=1,
    )


def planted(fault: Fault, step: int) -> str:
    return FaultConfig(kind=fault, step=step).text


CROPS = ((96, 192), (128, 256), (192, 384), (288, 960))
CROP_CHANCES = (0.55, 0.25, 0.15, 0.05)
LAYOUTS: tuple[Layout, ...] = ("kitti", "viper", "standing", "world")
SHOWN_IN: dict[str, tuple[Layout, ...]] = {
    "v1-weight": ("viper", "world"),
    "v1-constant": ("viper", "world"),
    "label-resize": ("viper", "world"),
    "flow-scale": ("kitti", "viper", "world"),
    "swapped-flow": ("kitti", "viper", "world"),
    "invalid-zeros": ("kitti", "world"),
    "normalization": ("kitti", "viper", "world"),
}
"""Faults that not every layout can have: labels, moving pixels or pixels without truth are wanted."""
EXACT = ("learning-rate", "batch-norm", "normalization", "half-overflow", "no-clipping", "optimizer-restart")
"""Faults that contradict a number of the same step: runs of 30 steps are enough."""
MOST_PIXELS = 6e6
"""Steps x batch x pixels of a crop: longer runs of large batches are cut, to 40 steps at least."""


def drawn_wide(number: int, fault: Fault, out: Path, weights: str, arch: str) -> RunConfig:
    """Run `number` of a kind of the wide draws, a pure function of its arguments; its data is made here."""
    rng = np.random.default_rng([number, 99, ("none", *FAULTS).index(fault)])
    layout: Layout = rng.choice(SHOWN_IN.get(fault, LAYOUTS))
    large = fault == "batch-norm" or (fault == "none" and number % 20 == 19)
    crop = (
        CROPS[0] if large or fault == "swapped-flow" else CROPS[int(rng.choice(len(CROPS), p=CROP_CHANCES))]
    )
    # Of the samples 1 in 100 is swapped: some must be there.
    batch = 1 if large else int(rng.integers(4 if fault == "swapped-flow" else 1, 7))
    truth_frac = float(rng.choice([0.01, 0.03, 0.08, 0.25]))
    fine_tuned = not large and rng.random() < 0.5
    rate = float(np.exp(rng.uniform(np.log(1e-3), np.log(4e-3)))) * (0.1 if large or fine_tuned else 1)
    steps = 16 if large else 30 if fault in EXACT else int(rng.integers(60, 120))
    steps = 120 if fault == "swapped-flow" else steps
    steps = max(
        min(steps, int(MOST_PIXELS / (batch * crop[0] * crop[1]))),
        min(steps, 120 if fault == "swapped-flow" else 40),
    )
    base = ALTERED_RECIPES["fault-learning-rate"].config
    terms: tuple[str, ...] = () if large or layout in ("kitti", "standing") else TERMS[int(rng.integers(3))]
    if fault in ("v1-weight", "v1-constant"):
        terms = (*TERMS[0], "semantic-v1:0.1")
    name = {"standing": "flying-chairs"}.get(layout, layout)
    root = "" if layout == "world" else str(data_root(out, layout, crop, truth_frac))
    few = rng.random() < 0.5
    world = replace(
        base.data.world,
        size=(crop[0] + 24, crop[1] + 48),
        seed=int(rng.integers(100, 10_000)),
        scenes=20 if few else 60,
    )
    return replace(
        base,
        seed=int(rng.integers(1_000_000)),
        data=replace(
            base.data,
            train=name,
            validation=("world",) if layout == "kitti" else (name,),  # KITTI is always validated whole.
            root=root,
            crop=crop,
            truth="static"
            if layout == "world" and (fault == "invalid-zeros" or rng.random() < 0.5)
            else "all",
            train_pairs=20 if few else None,
            world=world,
            validation_pairs=3,
            workers=0,
        ),
        model=(
            ModelConfig(arch="large", batch_norm="freeze")
            if large
            else replace(
                base.model, arch=arch if fine_tuned else "tiny", weights=weights if fine_tuned else ""
            )
        ),
        loss=replace(base.loss, terms=tuple(map(parse_term, terms))),
        optim=replace(base.optim, steps=steps, batch=batch, learning_rate=rate),
        num_updates=2 if large else int(rng.integers(2, 4)),
        validation_updates=2 if large else int(rng.integers(3, 7)),
        validate_every=max(steps // 4, 1),
        checkpoint_every=steps,
        health_every=20,  # By default short runs of two terms would have one line with gradients.
        precision="bfloat16" if rng.random() < 0.15 else "float32",
        altered=() if fault == "none" else (planted(fault, int(steps * rng.uniform(0.4, 0.7))),),
        saved_pairs=0,
    )


def made_weights(out: Path) -> str:
    """The weights of a tiny network after 200 steps on the world."""
    run = out / "start"
    if not (run / "done").exists():
        base = RECIPES["world-base"].config
        world = replace(base.data.world, size=(120, 240), scenes=60)
        config = replace(
            base,
            data=replace(base.data, world=world, crop=(96, 192), validation_pairs=4, workers=0),
            optim=replace(base.optim, steps=200),
            precision="float32",
            saved_pairs=0,
        )
        shutil.rmtree(run, ignore_errors=True)
        train(config, run)
        (run / "done").touch()
    return str(run / "checkpoints" / "last.pt")


def one_run(task: tuple[int, Fault, Options, str, float]) -> None:
    number, fault, options, weights, until_s = task
    run = options.out / f"{fault}-{number:02d}"
    if (run / "done").exists() or time.time() > until_s:
        return
    torch.set_num_threads(1)
    shutil.rmtree(run, ignore_errors=True)
    if options.wide:
        config = drawn_wide(number, fault, options.out, weights, options.arch)
    else:
        config = drawn(number, options.draws, fault)
    try:
        train(config, run)
    except TrainingStopped as error:
        print(error)
        if json.loads((run / VERDICT).read_text())["state"] not in ("diverged", "stopped"):
            raise  # By a signal: the run is not done.
    for checkpoint in (run / "checkpoints").glob("*.pt"):
        checkpoint.unlink()
    (run / "done").touch()


def judged(run: Path, fault: Fault) -> dict[str, Any]:
    """The diagnosis of a run's record with the present thresholds."""
    verdict = judge(read_record(run))
    planted = fault_of(load_config(run / "config.json").altered).step
    cause = verdict.causes[0].name if verdict.causes else ""
    return {
        "run": run.name,
        "fault": fault,
        "planted": planted,
        "state": verdict.state,
        "first_step": verdict.first_step,
        "causes": [entry.name for entry in verdict.causes],
        "symptoms": [entry.name for entry in verdict.symptoms],
        "found": verdict.state != "healthy",
        "named": cause == NAMED.get(fault, fault),
        "near": verdict.first_step is not None and abs(verdict.first_step - planted) <= NEAR_FRAC * planted,
        "watching_pct": read_lines(run / HEALTH, StepLine).records[-1]["watching_pct"],
    }


def main(options: Options) -> None:
    sound = options.sound or (200 if options.wide else 60)
    each = options.each or (15 if options.wide else 10)
    kinds: list[tuple[Fault, int]] = [("none", sound), *((fault, each) for fault in FAULTS)]
    options.out.mkdir(parents=True, exist_ok=True)
    weights = (options.weights or made_weights(options.out)) if options.wide else ""
    until_s = time.time() + 60 * options.minutes
    # The part of its kind that comes before a run orders all: whenever it ends, kinds are equally far.
    order = sorted((number / count, fault, number) for fault, count in kinds for number in range(count))
    tasks = [(number, fault, options, weights, until_s) for _, fault, number in order]
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=spawned) as pool:
        list(pool.map(one_run, tasks))
    runs = [(options.out / f"{fault}-{number:02d}", fault) for _, fault, number in order]
    rows = [judged(run, fault) for run, fault in runs if (run / "done").exists()]
    (options.out / "faults.json").write_text(json.dumps(rows, indent=1) + "\n")
    print_table(rows, kinds)


def print_table(rows: list[dict[str, Any]], kinds: list[tuple[Fault, int]]) -> None:
    """The table of docs/diagnosis.md, of the runs that are done."""
    print("| fault | runs | found | named | step within 10 % | missed or misnamed |")
    print("| --- | --- | --- | --- | --- | --- |")
    for fault, count in kinds:
        of = [row for row in rows if row["fault"] == fault]
        counts = " | ".join(str(sum(row[what] for row in of)) for what in ("found", "named", "near"))
        odd = "; ".join(
            f"{row['run']}: {', '.join(row['causes']) or 'nothing'}"
            for row in of
            if (row["found"] if fault == "none" else not (row["named"] and row["near"]))
        )
        print(f"| {fault} | {len(of)} of {count} | {counts} | {odd} |")
    watching = np.array([row["watching_pct"] for row in rows])
    low, middle, high = np.percentile(watching, (0, 50, 100))
    within = (watching <= 3).sum()
    print(f"\nwatching: {low:.1f} to {high:.1f} % of the time, median {middle:.1f}; {within} runs within 3 %")


if __name__ == "__main__":
    main(tyro.cli(Options))
