"""`semraft train --profile`: the parts are those of a real step, and nothing is left of them."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.autograd.profiler_util import FunctionEvent

from semraft.cli import main
from semraft.config import LossConfig, RunConfig, parse_term
from semraft.data.loader import training_batches
from semraft.sample import FlowBatch
from semraft.training import profile, run_data
from semraft.training.profile import APART, BASE, READ, Profile, parts_of
from semraft.training.state import initial_state
from semraft.training.step import training_step
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


def profiled(config: RunConfig) -> dict[str, float]:
    """The parts of one step."""
    state = initial_state(config, torch.device("cpu"))
    state.model.train()
    names = {*BASE, *READ, APART, *(chosen.name for chosen in config.loss.terms)}
    batch = next(batches(config))
    with (
        profile.heads_named(state.model),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler,
    ):
        training_step(state, batch, config)
    return parts_of(profiler.events(), names)


def test_the_parts_of_a_step() -> None:
    """Red when: a part has no range in the step, a head's time is the network's too, or a term's backward is
    the network's."""
    parts = profiled(VARIANT)
    names = [chosen.name for chosen in VARIANT.loss.terms]
    assert set(parts) == {*BASE, *names, *READ}
    assert min(parts.values()) > 0


def test_gradients_that_are_taken_apart_are_counted() -> None:
    """Red when: `--loss.combine gate` looks as cheap as the sum."""
    loss = replace(VARIANT.loss, terms=VARIANT.loss.terms[:3], combine="gate")
    parts = profiled(replace(VARIANT, loss=loss))
    assert parts[APART] > parts["network backward"]


def event(
    name: str, ms: float, parent: FunctionEvent | None = None, sequence_nr: int = -1, backward: bool = False
) -> FunctionEvent:
    prefix = f"{profile.BACKWARD_OP}: " if backward else ""
    made = FunctionEvent(0, prefix + name, thread=1, start_us=0, end_us=1e3 * ms, sequence_nr=sequence_nr)
    if parent is not None:
        made.set_cpu_parent(parent)
    return made


def test_a_backward_operation_counts_for_the_range_that_recorded_it() -> None:
    """Red when: nested ranges are counted twice, an operation inside another is not found, or the network's
    own backward pass is moved."""
    forward, flow_loss, backward = (event(name, ms) for name, ms in zip(BASE[:3], (10, 3, 20), strict=True))
    heads = event("heads", 2, forward)
    convolution = event("aten::conv2d", 1, heads)
    events = [
        *(forward, flow_loss, backward, heads, convolution),
        event("aten::mul", 1, forward, 1),
        event("aten::convolution", 1, convolution, 2),
        event("aten::sub", 1, flow_loss, 3),
        event("MulBackward0", 8, backward, 1, backward=True),
        event("ConvolutionBackward0", 4, backward, 2, backward=True),
        event("SubBackward0", 1, backward, 3, backward=True),
        event("torch::autograd::AccumulateGrad", 2, backward, backward=True),
        event("aten::lerp", 5),
    ]
    found = parts_of(events, {*BASE, *READ})
    assert found == pytest.approx(
        {
            "network forward": 0.008,
            "flow loss": 0.004,
            "network backward": 0.015,
            "optimiser": 0,
            "heads": 0.006,
        }
    )


def test_what_is_printed() -> None:
    """Red when: heads or passes are taken for terms, or a share is not of the whole step."""
    seconds = {"network forward": 3.0, "flow loss": 1.0, "network backward": 5.0, "optimiser": 1.0}
    found = Profile(clock="wall time", parts=seconds | {"heads": 2.0, "smoothness": 4.0, "matching": 1.0})
    values = found.to_json()
    assert (values["step_s"], values["base_s"]) == (17, 10)
    assert values["terms_of_base_pct"] == pytest.approx(50)
    assert values["added_of_base_pct"] == pytest.approx(70)
    assert sum(part["share_pct"] for part in values["parts"].values()) == pytest.approx(100)
    table = found.table().splitlines()
    assert table[-1].endswith("10000.0 ms; terms add 50.0 % to it, with passes and heads 70.0 %")
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
    assert found["clock"] == "wall time on the CPU"
    assert set(found["parts"]) == {*BASE, "matching", "semantic-v1"}
    assert found["step_s"] > found["base_s"] > 0
    assert not list(tmp_path.iterdir())
    for arguments, says in (
        (["--resume", "run", "--profile"], "--profile goes on with no run"),
        (["world-base", "--profile", "--output", "run"], "--profile writes no run"),
    ):
        assert main.run(["train", *arguments]) == 2
        assert says in capsys.readouterr().err
