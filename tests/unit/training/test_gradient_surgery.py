"""A training whose terms are held: what a step does with their gradients, and that it can be resumed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from semraft.agreement import TrainingStopped
from semraft.config import LossConfig, RunConfig, parse_term
from semraft.losses.objective import Objective, objective
from semraft.training import loop, step
from tests.unit.training.test_loop import CONFIG, last

STEPS = 10
"""Past the first batches that the flow loss's start is taken over."""


def config_of(*terms: str, steps: int = STEPS, **loss: Any) -> RunConfig:
    losses = LossConfig(terms=tuple(map(parse_term, terms)), **loss)
    return replace(CONFIG, loss=losses, optim=replace(CONFIG.optim, steps=steps), log_every=5)


def training_lines(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == "train"]


def first_gradients(
    config: RunConfig, run: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, torch.Tensor | None]:
    """The gradients of the first step, before clipping."""
    seen: dict[str, torch.Tensor | None] = {}
    clip = step.clip

    def watched(model: Any, clip_norm: float) -> torch.Tensor:
        if not seen:
            of_all = {name: parameter.grad for name, parameter in model.named_parameters()}
            seen.update({name: None if found is None else found.clone() for name, found in of_all.items()})
        return clip(model, clip_norm)

    with monkeypatch.context() as patch:
        patch.setattr(step, "clip", watched)
        loop.train(replace(config, optim=replace(config.optim, steps=1)), run)
    return seen


def distance(one: dict[str, torch.Tensor | None], other: dict[str, torch.Tensor | None]) -> float:
    """Of two gradients, relative to the norm of the first."""
    assert one.keys() == other.keys()
    assert {name for name, found in one.items() if found is None} == {
        name for name, found in other.items() if found is None
    }
    pairs = [(found, other[name]) for name, found in one.items() if found is not None]
    apart = sum(float((found - value).square().sum()) for found, value in pairs if value is not None)
    return float((apart / sum(float(found.square().sum()) for found, _ in pairs)) ** 0.5)


def test_a_cap_that_is_never_reached_is_the_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when: a loss is left out, weighted twice, summed otherwise over refinements, or a head whose term
    weighs nothing has no gradient, or one without a term has."""
    terms = ("semantic-v1:0.5", "segmentation:0.3", "occlusion:0,ramp=5", "zero-forcing:0.2")
    model = replace(CONFIG.model, heads=("occlusion", "decoder"))
    found = [
        first_gradients(
            replace(config_of(*terms, share_cap=cap), model=model), tmp_path / str(cap), monkeypatch
        )
        for cap in (0.0, 1e9)
    ]
    assert found[0]["occlusion_head.layers.0.weight"] is not None
    assert distance(*found) < 1e-5


def test_a_head_learns_whatever_its_term_does_to_the_flow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when: the decoder's own parameters are shortened with those that the flow loss reaches too."""
    model = replace(CONFIG.model, heads=("decoder",))
    plain, held = (
        first_gradients(
            replace(config_of("segmentation:1", share_cap=cap), model=model), tmp_path / str(cap), monkeypatch
        )
        for cap in (0.0, 1e-12)
    )
    of_decoder = {name for name in plain if name.startswith("decoder.")}
    own = [{name: found[name] for name in of_decoder} for found in (plain, held)]
    assert distance(own[0], own[1]) < 1e-5
    alone = first_gradients(replace(config_of(), model=model), tmp_path / "alone", monkeypatch)
    rest = [
        {name: value for name, value in found.items() if name not in of_decoder} for found in (alone, held)
    ]
    assert distance(rest[0], rest[1]) < 1e-5


def test_the_line_of_a_term_says_what_was_kept(tmp_path: Path) -> None:
    """Red when: what the options do can't be read from the run, or a plain run is told of it."""
    loop.train(config_of("motion-model:50", share_cap=0.1, steps=3), tmp_path / "capped")
    (line,) = training_lines(tmp_path / "capped")
    assert 0 < line["motion_model_loss_kept_frac"] < 0.5
    loop.train(config_of("motion-model:0.5", steps=3), tmp_path / "plain")
    (line,) = training_lines(tmp_path / "plain")
    assert not any(name.endswith(("_kept_frac", "_log_variance", "_weight")) for name in line)


@pytest.mark.usefixtures("scaled")
def test_a_resumed_run_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped inside the flow loss's first batches and after them. Red when: the flow loss's level, a log
    variance or its moments start anew, or the window is not kept."""
    terms = "semantic-v1:1,modulation=uncertainty", "smoothness:1,schedule=flow-loss"
    config = config_of(*terms, combine="project", share_cap=0.5)
    whole, cut_short = tmp_path / "whole", tmp_path / "cut-short"
    loop.train(config, whole)

    def stopped(*arguments: Any) -> Objective:
        if stopped.left == 0:
            raise KeyboardInterrupt
        stopped.left -= 1
        return objective(*arguments)

    for steps_more in (4, 5):
        stopped.left = steps_more
        with monkeypatch.context() as patch:
            patch.setattr(step, "objective", stopped)
            with pytest.raises(TrainingStopped):
                loop.train(config, cut_short, resume=(cut_short / "config.json").exists())
    loop.train(config, cut_short, resume=True)
    assert (cut_short / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    expected, resumed = last(whole), last(cut_short)
    assert all(torch.equal(value, resumed["model"][key]) for key, value in expected["model"].items())
    assert torch.equal(expected["flow_level"], resumed["flow_level"])
    assert expected["log_variances"] == resumed["log_variances"]
    assert float(expected["flow_level"][2]) == 8
    assert float(expected["log_variances"]["semantic-v1"]) != 0
    lines = training_lines(whole)
    assert lines[0]["smoothness_loss_weight"] == 1
    assert lines[0]["semantic_loss_log_variance"] != lines[1]["semantic_loss_log_variance"]


def test_a_modulated_weight_is_applied_and_its_variance_alone_is_added(tmp_path: Path) -> None:
    """Red when: the weight stays what it was given, the variance is clipped or decayed with the network, or a
    checkpoint's network has it."""
    config = config_of("semantic-v1:2,modulation=uncertainty", steps=3)
    loop.train(replace(config, log_every=1), tmp_path / "run")
    for line in training_lines(tmp_path / "run"):
        weight = 2 * torch.exp(-torch.tensor(line["semantic_loss_log_variance"])).item()
        assert line["semantic_loss_weight"] == pytest.approx(weight)
        total = line["flow_loss"] + weight * line["semantic_loss"]
        assert line["total_loss"] == pytest.approx(total, rel=1e-5)
    saved = last(tmp_path / "run")
    groups = saved["optimizer"]["param_groups"]
    assert [len(group["params"]) for group in groups][1:] == [1]
    assert groups[1]["weight_decay"] == 0
    assert groups[1]["lr"] == groups[0]["lr"]
