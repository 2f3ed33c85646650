"""`semraft train --profile`: the parts are those of a real step, and nothing is left of them."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from semraft.cli import main
from semraft.config import LossConfig, RunConfig, parse_term
from semraft.data.loader import training_batches
from semraft.sample import FlowBatch
from semraft.training import profile, run_data
from semraft.training.profile import BASE, Profile, Stopwatch, take_apart
from semraft.training.state import initial_state
from semraft.training.step import take_step
from tests.unit.training.test_loop import CONFIG

TERMS = (
    "smoothness:0.1",
    "segmentation:0.5",
    "occlusion:0.5",
    "label-warp:0.3,mask=forward-backward",
    "zero-forcing:0.2",
    "matching:0.5",
)
VARIANT = replace(
    CONFIG,
    loss=LossConfig(terms=tuple(map(parse_term, TERMS))),
    model=replace(CONFIG.model, heads=("occlusion", "decoder")),
)


def batches(config: RunConfig) -> Iterator[FlowBatch]:
    datasets, weights = run_data.training_data(config.data)
    for batch, _ in training_batches(datasets, weights, config.data, config.seed, config.optim):
        yield batch


def test_the_parts_make_up_a_step() -> None:
    """A clock that counts its readings: one tick a part. Red when: a gradient is lost between the parts, one
    is counted twice (the weights then move otherwise), or a part is not told."""
    # An epsilon of 1 makes AdamW move by the gradient, not by its sign.
    config = replace(VARIANT, optim=replace(VARIANT.optim, epsilon=1.0))
    batch = next(batches(config))
    start, whole, parts = (initial_state(config, torch.device("cpu")) for _ in range(3))
    whole.model.train()
    parts.model.train()
    take_step(whole, batch, config)
    ticks = iter(range(1000))
    watch = Stopwatch(lambda: float(next(ticks)))
    take_apart(parts, batch, config, watch)
    names = [chosen.name for chosen in VARIANT.loss.terms]
    assert set(watch.seconds) == {*BASE, *names, "heads", "backward flow", "further passes"}
    assert watch.seconds["further passes"] == 2
    assert watch.seconds["heads"] == 4
    assert watch.seconds["network forward"] == watch.seconds["network backward"] == 1 - 2
    assert all(watch.seconds[part] == 1 for part in ("flow loss", "optimiser", "backward flow", *names))
    assert parts.step == whole.step == 1
    first, once, apart = (
        torch.cat([value.flatten().double() for value in state.model.state_dict().values()])
        for state in (start, whole, parts)
    )
    assert (apart - once).norm() < 1e-3 * (once - first).norm()


def test_gradients_that_are_taken_apart_are_counted() -> None:
    """Red when: `--loss.combine gate` looks as cheap as the sum, or its graph is used up."""
    config = replace(VARIANT, loss=replace(VARIANT.loss, combine="gate"))
    state = initial_state(config, torch.device("cpu"))
    state.model.train()
    ticks = iter(range(1000))
    watch = Stopwatch(lambda: float(next(ticks)))
    take_apart(state, next(batches(config)), config, watch)
    assert watch.seconds["terms apart"] == len(config.loss.terms)


def test_what_is_printed() -> None:
    """Red when: heads or passes are taken for terms, or a share is not of the whole step."""
    seconds = {"network forward": 3.0, "flow loss": 1.0, "network backward": 5.0, "optimiser": 1.0}
    found = Profile(clock="CPU time", parts=seconds | {"heads": 2.0, "smoothness": 4.0, "matching": 1.0})
    values = found.to_json()
    assert (values["step_s"], values["base_s"]) == (17, 10)
    assert values["terms_of_base_pct"] == pytest.approx(50)
    assert values["added_of_base_pct"] == pytest.approx(70)
    assert sum(part["share_pct"] for part in values["parts"].values()) == pytest.approx(100)
    table = found.table().splitlines()
    assert table[-1].endswith("10000.0 ms; terms add 50.0 % to it, with what they read 70.0 %")
    assert [line.split("  ")[0] for line in table[1:-2]] == list(found.parts)


def test_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Red when: a run folder is left, or options that make no sense are passed over."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(profile, "STEPS", 1)
    monkeypatch.setattr(profile, "WARM_UP_STEPS", 1)
    small = ["--data.crop", "64", "64", "--data.world.size", "64", "72", "--optim.batch", "1"]
    small += ["--num-updates", "1", "--device", "cpu", "--precision", "float32", "--data.world.scenes", "2"]
    assert main.run(["train", "world-semantic-v1", "--profile", "--json", *small]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["clock"] == "CPU time"
    assert set(found["parts"]) == {*BASE, "matching", "semantic-v1"}
    assert found["step_s"] > found["base_s"] > 0
    assert not list(tmp_path.iterdir())
    for arguments, says in (
        (["--resume", "run", "--profile"], "--profile goes on with no run"),
        (["world-base", "--profile", "--output", "run"], "--profile writes no run"),
    ):
        assert main.run(["train", *arguments]) == 2
        assert says in capsys.readouterr().err
