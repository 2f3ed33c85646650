"""The share of validation in a training at the study's protocol, from parts measured one by one.

    python benchmarks/validation.py [--device auto] [--precision auto] [--batch 6] [--rounds 3]

The parts: a training step (RAFT large, crops of 288x960, 12 refinements; with another batch than 6 its time
is taken in proportion), the flow of a VIPER pair (1080x1920) and of a KITTI pair (375x1242) after 24 with the
errors of all of them, reading a pair, scoring it. Pairs are made, in the layouts of both. On the CPU all is
CPU time; on a GPU steps and flow are wall-clock time until it is done. Reading and scoring run in threads
beside the flow (`score_pairs`), so that of each pair the slowest of the three counts. A part is the median of
its rounds, all parts taken in turn, after a round that does not count.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from semraft import runtime
from semraft.config import WorldConfig
from semraft.config.recipes import STUDY
from semraft.data import index_dataset
from semraft.data.loader import training_batches
from semraft.data.world.export import synthesize
from semraft.evaluation.evaluate import readers, score_pairs, scorers
from semraft.evaluation.validate import network_predictor
from semraft.sample import Estimate, FlowDataset
from semraft.training.state import initial_state, resolve_config
from semraft.training.step import training_step

SIZES = {"viper": (1080, 1920), "kitti": (375, 1242)}
PAIRS = 200
"""Pairs of each of them in a validation."""


def parts(folder: Path, device: torch.device, precision: str, batch: int) -> dict[str, Callable[[], object]]:
    """Name -> a function that does the part once."""
    asked = replace(
        STUDY,
        precision=precision,
        data=replace(STUDY.data, train="viper"),
        optim=replace(STUDY.optim, batch=batch),
    )
    config = resolve_config(asked, device)
    assert config.precision != "auto"
    datasets = {name: made(folder / name, name) for name in SIZES}
    state = initial_state(config, device)
    state.model.train()
    data = replace(config.data, workers=0)
    loaded = next(training_batches([datasets["viper"]], [1.0], data, 0, config.optim, device=device)).batch
    predict = network_predictor(state.model, config.validation_updates, config.precision)
    work: dict[str, Callable[[], object]] = {"step": lambda: training_step(state, loaded, config)}
    for name, dataset in datasets.items():
        sample = dataset[0]
        guess = Estimate(flows=[sample.flow + 1], errors_px=[0.0] * (config.validation_updates - 1))
        kept = replace(dataset, read=lambda pair, sample=sample: sample)
        work |= {
            f"{name}, flow": lambda sample=sample: predict(sample),
            f"{name}, reading": lambda dataset=dataset: dataset[0],
            f"{name}, scoring": lambda kept=kept, guess=guess: score_pairs(lambda _: guess, kept, [0]),
        }
    return work


def made(root: Path, name: str) -> FlowDataset:
    """A pair in the layout of a data set, to read or to train on."""
    synthesize(root, name, train=1, val=1, size=SIZES[name], seed=0, progress=False)
    return index_dataset(name, root, "train", WorldConfig())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--batch", type=int, default=STUDY.optim.batch)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    device = runtime.choose_device(options.device)
    runtime.keep_freed_memory()
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = parts(Path(folder), device, options.precision, options.batch)
        for _ in range(options.rounds + 1):
            for name, part in work.items():
                on_gpu = device.type != "cpu" and not name.endswith(("reading", "scoring"))
                clock = time.perf_counter if on_gpu else time.process_time
                started = clock()
                part()
                runtime.synchronize(device)
                seconds.setdefault(name, []).append(clock() - started)
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    training_s = STUDY.validate_every * medians["step"] * STUDY.optim.batch / options.batch
    flow_s = validation_s = 0.0
    for name in SIZES:
        shared = medians[f"{name}, reading"] / readers(), medians[f"{name}, scoring"] / scorers()
        flow_s += PAIRS * medians[f"{name}, flow"]
        validation_s += PAIRS * max(medians[f"{name}, flow"], *shared)
    for name, time_s in medians.items():
        print(f"{name:16} {1000 * time_s:10.1f} ms")
    print(
        f"{device}, {runtime.own_cores()} cores: {validation_s:.0f} s a validation, {flow_s:.0f} s of it flow"
    )
    share_pct = 100 * validation_s / training_s
    print(f"{share_pct:.2f} % of the {training_s:.0f} s of {STUDY.validate_every} steps")


if __name__ == "__main__":
    main()
