"""Loss terms in the loop: measured shares that survive a resume, backward flow where a term asks for it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from semraft.agreement import TrainingStopped
from semraft.config import LossConfig, OptimConfig, RunConfig, parse_term
from semraft.losses.objective import Objective, objective
from semraft.losses.term_weights import MEASURED_STEPS
from semraft.training import loop, step
from tests.unit.training.test_loop import CONFIG, last

STEPS = MEASURED_STEPS + 2


def config_of(*terms: str, steps: int) -> RunConfig:
    loss = LossConfig(terms=tuple(map(parse_term, terms)))
    return replace(
        CONFIG, loss=loss, optim=OptimConfig(steps=steps, batch=1, learning_rate=1e-3), log_every=1
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_share_is_measured_recorded_and_survives_a_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of the window. Red when: what is measured is not in the checkpoint, the weight is
    not applied, or a resumed run tells its line twice."""
    config = config_of("smoothness:share=0.3,ramp=2", steps=STEPS)
    whole, cut_short = tmp_path / "whole", tmp_path / "cut-short"
    loop.train(config, whole)
    (found,) = lines(whole / "weights.jsonl")
    assert (found["step"], found["term"]) == (MEASURED_STEPS, "smoothness")
    assert f"loss term smoothness: weight {found['weight']:.4g}" in capsys.readouterr().err
    training = [line for line in lines(whole / "metrics.jsonl") if line["split"] == "train"]
    weights = [line["smoothness_loss_weight"] for line in training]
    full = pytest.approx(found["weight"])
    assert weights == [0] * MEASURED_STEPS + [pytest.approx(found["weight"] / 2), full]
    for line in training:
        total = line["flow_loss"] + line["smoothness_loss_weight"] * line["smoothness_loss"]
        assert line["total_loss"] == pytest.approx(total, rel=1e-5)

    def stopped(*arguments: Any) -> Objective:
        if stopped.left == 0:
            raise KeyboardInterrupt
        stopped.left -= 1
        return objective(*arguments)

    for steps_more in (5, 4):  # In the window, and after it.
        stopped.left = steps_more
        with monkeypatch.context() as patch:
            patch.setattr(step, "objective", stopped)
            with pytest.raises(TrainingStopped):
                loop.train(config, cut_short, resume=(cut_short / "config.json").exists())
    loop.train(config, cut_short, resume=True)
    for name in ("weights.jsonl", "metrics.jsonl"):
        assert (cut_short / name).read_text() == (whole / name).read_text()
    expected, resumed = last(whole)["model"], last(cut_short)["model"]
    assert all(torch.equal(value, resumed[name]) for name, value in expected.items())


def test_a_share_of_nothing_stops_the_run(tmp_path: Path) -> None:
    """No flow truth is trusted. Red when: the weight is infinite, or 0 for the rest of the run."""
    config = config_of("label-warp:share=0.3", steps=STEPS)
    untrusted = replace(config, loss=replace(config.loss, max_flow_px=1e-9))
    with pytest.raises(TrainingStopped, match="has no share of the gradient"):
        loop.train(untrusted, tmp_path / "run")


def test_backward_flow_is_computed_where_a_term_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when: the frames are not exchanged, a gradient passes, or every run pays for the second pass."""
    seen: list[Any] = []

    def watched(*arguments: Any) -> Objective:
        seen.append(arguments[:2])
        return objective(*arguments)

    monkeypatch.setattr(step, "objective", watched)
    loop.train(config_of("label-warp:1,mask=forward-backward", steps=2), tmp_path / "with")
    for prediction, batch in seen:
        assert prediction.backward_flow.shape == batch.flow.shape
        assert not prediction.backward_flow.requires_grad
        there, back = prediction.flow.detach(), prediction.backward_flow
        assert (there - back).abs().mean() > 0.05 * there.abs().mean()
    seen.clear()
    loop.train(config_of("label-warp:1", steps=2), tmp_path / "without")
    assert [prediction.backward_flow for prediction, _ in seen] == [None, None]


def test_a_term_that_needs_a_head_is_refused_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="'segmentation' needs segmentation1 and segmentation2, which the net"
    ):
        loop.train(config_of("segmentation:1", steps=2), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_motion_model_is_told_by_class(tmp_path: Path) -> None:
    """Red when: a run without the term pays for it, classes are told in which nothing is modelled, or their
    values are not those the term has."""
    loop.train(config_of("motion-model:1", steps=1), tmp_path / "with")
    first, _ = lines(tmp_path / "with" / "metrics.jsonl")
    told = {name: value for name, value in first.items() if name.startswith("motion_model_loss_")}
    assert "motion_model_loss_road" in told
    assert not {"motion_model_loss_vegetation", "motion_model_loss_sky"} & told.keys()
    assert min(told.values()) <= first["motion_model_loss"] <= max(told.values())
    loop.train(config_of("smoothness:1", steps=1), tmp_path / "without")
    first, _ = lines(tmp_path / "without" / "metrics.jsonl")
    assert not any(name.startswith("motion_model_loss") for name in first)


def test_a_head_stands_still_until_its_term_weighs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weight is still being measured. Red when: a head that learns gets no gradient at all, for which
    other processes would wait."""
    seen: list[list[torch.Tensor | None]] = []
    config = config_of("occlusion:share=0.3", steps=1)
    config = replace(config, model=replace(config.model, heads=("occlusion", "decoder")))
    clip = step.clip

    def watched(model: Any, clip_norm: float) -> torch.Tensor:
        heads = model.occlusion_head, model.decoder
        seen.extend([parameter.grad for parameter in head.parameters()] for head in heads)
        return clip(model, clip_norm)

    monkeypatch.setattr(step, "clip", watched)
    loop.train(config, tmp_path / "run")
    assert all(gradient is not None and not gradient.any() for gradient in seen[0])
    assert all(gradient is None for gradient in seen[1])
