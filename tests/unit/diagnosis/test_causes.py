"""semraft.diagnosis.causes: the experiment that would settle each cause changes its setting."""

from dataclasses import replace
from pathlib import Path

import pytest

from semraft.config import DataConfig, LossConfig, ModelConfig, RunConfig, TermConfig
from semraft.diagnosis.causes import CAUSES
from tests.unit.diagnosis.made_runs import CONFIG, made

RUN = Path("runs/a")
TERMS = LossConfig(terms=(TermConfig(name="matching", weight=0.5), TermConfig(name="census")))
HALF = replace(CONFIG, precision="float16")
FROZEN = replace(CONFIG, model=ModelConfig(batch_norm="freeze"))
PLAIN = replace(CONFIG, data=replace(CONFIG.data, augment=replace(CONFIG.data.augment, enabled=False)))
FILES = replace(CONFIG, data=DataConfig(train="viper", root="/d"))
FEW = replace(CONFIG, data=replace(CONFIG.data, train_pairs=20))
CHECK = "semraft data check --dataset world"
SCORE = "semraft evaluate runs/a/checkpoints/best.pt runs/a/checkpoints/last.pt --dataset"
RATES = [{"step": 1, "rate_ratio": 1.0}, {"step": 2, "rate_ratio": 1 / 30}]


def again(options: str, suffix: str) -> str:
    return f"semraft train --from runs/a {options}{' ' if options else ''}--output runs/a-{suffix}"


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        ("rate-too-high", CONFIG, again("--optim.learning-rate 0.000666667", "rate-0.000667")),
        ("learning-rate", CONFIG, again("--optim.learning-rate 0.06", "rate-0.06")),
        (
            "hasty-start",
            CONFIG,
            again("--optim.warm-up-frac 0.5 --optim.learning-rate 0.001", "warm-up"),
        ),
        ("optimizer-restart", CONFIG, again("", "unbroken")),
        ("no-clipping", CONFIG, again("--optim.clip-norm 0", "unclipped")),
        ("batch-norm", FROZEN, again("--model.batch-norm train", "batch-norm-train")),
        ("batch-norm", CONFIG, again("--model.batch-norm freeze", "batch-norm-freeze")),
        ("normalization", CONFIG, again("--loss.normalize all", "normalize-all")),
        ("invalid-zeros", CONFIG, CHECK),
        ("swapped-flow", FILES, "semraft data check /d --dataset viper"),
        ("flow-scale", CONFIG, again("--data.augment.no-enabled", "unaugmented")),
        ("label-resize", PLAIN, CHECK),
        ("half-overflow", HALF, again("--precision float32", "float32")),
        ("skipped-steps", HALF, again("--precision float32", "float32")),
        ("half-precision", CONFIG, again("--optim.learning-rate 0.000666667", "rate-0.000667")),
        ("overfitting", CONFIG, again("--data.world.scenes 1280", "scenes-1280")),
        ("overfitting", FEW, again("--data.train-pairs None", "all-pairs")),
        ("validation-differs", CONFIG, f"{SCORE} world --split val --pairs 200 --size 128 256"),
        ("overfitting", FILES, f"{SCORE} viper --root /d --split train --pairs 200"),
        ("validation-differs", FILES, f"{SCORE} viper --root /d --split val --pairs 200"),
        ("hard-batches", CONFIG, again("--seed 1", "seed1")),
        ("no-flow-truth", FILES, "semraft data check /d --dataset viper"),
        ("too-few-refinements", CONFIG, again("--num-updates 24", "refinements-24")),
    ],
)
def test_what_it_changes(name: str, config: RunConfig, expected: str) -> None:
    """In the end the weights move at a thirtieth of the rate asked for. Red when: the experiment is another
    one, or its setting is the one that the run has."""
    assert CAUSES[name].experiment(made(RATES, config=config), RUN, "") == expected


@pytest.mark.parametrize("name", ["term-too-heavy", "term-biased", "dead-term"])
def test_the_term_it_is_about_is_left_out(name: str) -> None:
    record = made(config=replace(CONFIG, loss=TERMS))
    left = again("--loss.terms matching:0.5", "without-census")
    assert CAUSES[name].experiment(record, RUN, "census") == left


def test_a_run_that_one_stands_in_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when: what is beside `.` is written as `.-rate`."""
    monkeypatch.chdir(tmp_path)
    command = CAUSES["hard-batches"].experiment(made(), Path(), "")
    assert command == f"semraft train --from {tmp_path} --seed 1 --output {tmp_path}-seed1"
