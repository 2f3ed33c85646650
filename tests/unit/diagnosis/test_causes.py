"""semraft.diagnosis.causes: the experiment that would settle each suspicion changes what it is about."""

from dataclasses import replace
from pathlib import Path

import pytest

from semraft.config import DataConfig, LossConfig, ModelConfig, RunConfig, TermConfig
from semraft.diagnosis import causes
from semraft.diagnosis.causes import CONTRADICTORY, Kind
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
    ("kind", "config", "expected"),
    [
        (causes.RATE, CONFIG, again("--optim.learning-rate 0.000666667", "rate-0.000667")),
        (CONTRADICTORY["learning-rate"], CONFIG, again("--optim.learning-rate 0.06", "rate-0.06")),
        (CONTRADICTORY["optimizer-restart"], CONFIG, again("", "unbroken")),
        (CONTRADICTORY["no-clipping"], CONFIG, again("--optim.clip-norm 0", "unclipped")),
        (CONTRADICTORY["batch-norm"], FROZEN, again("--model.batch-norm train", "batch-norm-train")),
        (CONTRADICTORY["batch-norm"], CONFIG, again("--model.batch-norm freeze", "batch-norm-freeze")),
        (CONTRADICTORY["normalization"], CONFIG, again("--loss.normalize all", "normalize-all")),
        (CONTRADICTORY["invalid-zeros"], CONFIG, CHECK),
        (CONTRADICTORY["swapped-flow"], FILES, "semraft data check /d --dataset viper"),
        (CONTRADICTORY["flow-scale"], CONFIG, again("--data.augment.no-enabled", "unaugmented")),
        (CONTRADICTORY["label-resize"], PLAIN, CHECK),
        (CONTRADICTORY["half-overflow"], HALF, again("--precision float32", "float32")),
        (CONTRADICTORY["skipped-steps"], HALF, again("--precision float32", "float32")),
        (causes.PRECISION, CONFIG, again("--optim.learning-rate 0.000666667", "rate-0.000667")),
        (causes.OVERFITTING, CONFIG, again("--data.world.scenes 1280", "scenes-1280")),
        (causes.OVERFITTING, FEW, again("--data.train-pairs None", "all-pairs")),
        (causes.VALIDATION, CONFIG, f"{SCORE} world --split val --pairs 200 --size 128 256"),
        (causes.OVERFITTING, FILES, f"{SCORE} viper --root /d --split train --pairs 200"),
        (causes.VALIDATION, FILES, f"{SCORE} viper --root /d --split val --pairs 200"),
        (causes.BATCHES, CONFIG, again("--seed 1", "seed1")),
    ],
)
def test_what_it_changes(kind: Kind, config: RunConfig, expected: str) -> None:
    """In the end the weights move at a thirtieth of the rate asked for. Red when: the experiment is another
    one, or its setting is the one that the run has."""
    assert kind.experiment(made(RATES, config=config), RUN, "") == expected


@pytest.mark.parametrize("kind", [causes.TERM, causes.DEAD_TERM])
def test_the_term_it_is_about_is_left_out(kind: Kind) -> None:
    record = made(config=replace(CONFIG, loss=TERMS))
    left = again("--loss.terms matching:0.5", "without-census")
    assert kind.experiment(record, RUN, "census") == left


def test_a_run_that_one_stands_in_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when: what is beside `.` is written as `.-rate`."""
    monkeypatch.chdir(tmp_path)
    command = causes.BATCHES.experiment(made(), Path(), "")
    assert command == f"semraft train --from {tmp_path} --seed 1 --output {tmp_path}-seed1"
