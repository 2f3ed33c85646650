"""The further passes of a step: what the network is given, what learns, and what a perfect one loses."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from semraft import raft_large, raft_tiny
from semraft.config import LossConfig, RunConfig, parse_term
from semraft.losses.objective import Objective, objective
from semraft.sample import FlowBatch, Prediction
from semraft.training import loop, step
from semraft.training.auxiliary_passes import UPDATES, add_passes
from tests.unit.training.test_terms import config_of

HEIGHT, WIDTH = 80, 112


class Ruler(nn.Module):
    """Reads flow off pictures that say where their pixels come from and go to: it moves as its pictures do.

    Frame 1 holds x and y, frame 2 u and v of the untransformed pair. `forgets` breaks it in one way.
    """

    def __init__(self, forgets: str = "nothing") -> None:
        super().__init__()
        self.forgets = forgets
        self.calls: list[tuple[Tensor, Tensor, int]] = []

    def forward(
        self, image1: Tensor, image2: Tensor, num_updates: int, labels1: Any = None, labels2: Any = None
    ) -> Prediction:
        self.calls.append((image1, image2, num_updates))
        per_px = torch.stack([image1[:, 0].diff(dim=2).mean(), image1[:, 1].diff(dim=1).mean()])
        per_px = {"sign": per_px.abs(), "scale": per_px.sign()}.get(self.forgets, per_px)
        flow = image2[:, :2] / per_px.view(1, 2, 1, 1)
        return Prediction(flows=[flow] * num_updates, features1=flow, features2=flow)


class Still(nn.Module):
    """Knows that what it is given does not move."""

    def forward(self, image1: Tensor, image2: Tensor, num_updates: int, **_: Any) -> Prediction:
        flow = (image2 - image1)[:, :2]
        return Prediction(flows=[flow] * num_updates, features1=flow, features2=flow)


def ramps() -> FlowBatch:
    """Frames as Ruler reads them, of a flow that bilinear sampling blends exactly."""
    y, x = torch.meshgrid(torch.arange(HEIGHT).float(), torch.arange(WIDTH).float(), indexing="ij")
    flow = torch.stack([torch.stack([3 + 0.1 * x, 0.2 * y - 5]), torch.stack([4 - 0.05 * y, 0.1 * x + 2])])
    images = torch.stack([x, y, 0 * x]).expand(2, -1, -1, -1)
    return FlowBatch(
        ids=("a", "b"),
        image1=images,
        image2=torch.cat([flow, 0 * flow[:, :1]], dim=1),
        flow=flow,
        valid=torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool),
    )


def of_step(model: nn.Module, batch: FlowBatch, number: int, *terms: str) -> tuple[Prediction, Objective]:
    config = RunConfig(
        loss=LossConfig(terms=tuple(map(parse_term, terms))), num_updates=6, precision="float32", seed=3
    )
    prediction = model(batch.image1, batch.image2, 2)
    add_passes(prediction, model, batch, config, number)
    return prediction, objective(prediction, batch, config.loss)


@pytest.mark.parametrize("number", range(12))
def test_a_network_that_moves_with_its_pictures_is_consistent(number: int) -> None:
    """Whatever view is drawn. Red when: u keeps its sign in a mirror or its length in a view of another
    scale, here or in the network; when frames are seen in two views; or when steps share one."""
    batch = ramps()
    prediction, losses = of_step(Ruler(), batch, number, "transform-consistency:1")
    assert prediction.viewed is not None
    assert len(prediction.viewed.flows) == UPDATES
    assert losses.values["transform_consistency_loss"].abs().max() < 1e-3
    _, again = of_step(Ruler(), batch, number, "transform-consistency:1")
    assert torch.equal(again.total, losses.total)
    other, _ = of_step(Ruler(), batch, number + 1, "transform-consistency:1")
    assert other.viewed is not None
    assert other.viewed.view != prediction.viewed.view
    for forgets in ("sign", "scale"):
        _, wrong = of_step(Ruler(forgets), batch, number, "transform-consistency:1")
        view = prediction.viewed.view
        told = view.left_to_right or view.upside_down if forgets == "sign" else abs(view.scale - 1) > 0.01
        assert (wrong.values["transform_consistency_loss"].min() > 0.05) == told


def test_a_network_that_knows_rest_loses_nothing() -> None:
    """Red when: it is not given one frame twice."""
    _, losses = of_step(Still(), ramps(), 1, "zero-forcing:1")
    assert not losses.values["zero_forcing_loss"].any()
    _, losses = of_step(Ruler(), ramps(), 1, "zero-forcing:1")
    assert losses.values["zero_forcing_loss"].min() > 1


def test_passes_are_made_where_terms_ask() -> None:
    """Red when: every run pays for them, or a pass is as large as the step."""
    for terms, passes in (((), 0), (("census:1,mask=none",), 0), (("zero-forcing:0",), 1)):
        model = Ruler()
        of_step(model, ramps(), 1, *terms)
        _, *further = model.calls
        assert len(further) == passes
        for image1, image2, updates in further:
            assert image1 is image2
            assert (image1.shape[-2:], updates) == ((64, 64), UPDATES)


def test_batch_norm_learns_nothing_and_all_else_does() -> None:
    """Red when: the running statistics move, the network is in another mode when its activations are made
    again for the gradient, or a pass has no gradient."""
    torch.manual_seed(0)
    model = raft_large().train()
    image1, image2 = (torch.rand(2, 3, 64, 72) * 255 for _ in range(2))
    nothing = torch.zeros(2, 64, 72)
    batch = FlowBatch(
        ids=("a", "b"),
        image1=image1,
        image2=image2,
        flow=nothing[:, None].repeat(1, 2, 1, 1),
        valid=nothing > 0,
    )
    terms = LossConfig(terms=(parse_term("zero-forcing:1"), parse_term("transform-consistency:1")))
    config = RunConfig(loss=terms, num_updates=1, precision="float32")
    gradients: list[Sequence[Tensor]] = []
    for mode in ("nothing", "ends"):
        model.recompute = mode
        prediction = model(image1, image2, 1)
        before = {name: value.clone() for name, value in model.named_buffers()}
        add_passes(prediction, model, batch, config, 1)
        losses = objective(prediction, batch, config.loss)
        gradients.append(torch.autograd.grad(losses.total, list(model.parameters())))
        assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    assert all(gradient.any() for gradient in gradients[0][:4])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().max()) + 1e-8)


def test_passes_run_in_the_precision_of_the_step() -> None:
    """Red when: a pass is made without autocast, or a loss of it is taken in half precision."""
    torch.manual_seed(0)
    model, batch = raft_tiny().train(), ramps()
    config = RunConfig(
        loss=LossConfig(terms=(parse_term("zero-forcing:1"), parse_term("transform-consistency:1"))),
        num_updates=1,
    )
    found: dict[str, tuple[Tensor, Objective]] = {}
    for precision in ("float32", "bfloat16"):
        prediction = model(batch.image1, batch.image2, 1)
        add_passes(prediction, model, batch, replace(config, precision=precision), 1)
        assert prediction.still is not None
        found[precision] = prediction.still.flow.detach(), objective(prediction, batch, config.loss)
    (flow, full), (rounded, half) = found.values()
    assert 1e-6 < (flow - rounded).abs().max() / flow.abs().max() < 0.1
    for name, value in full.values.items():
        assert half.values[name].dtype == torch.float32
        torch.testing.assert_close(half.values[name], value, rtol=0.1, atol=1e-3)


def test_a_run_with_further_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when: the loop leaves them out, or the pair's own flow learns from being the teacher."""
    seen: list[Any] = []

    def watched(*arguments: Any) -> Objective:
        seen.append(arguments[:2])
        return objective(*arguments)

    monkeypatch.setattr(step, "objective", watched)
    config = config_of(
        "zero-forcing:0.1", "transform-consistency:0.2,where=things,mask=forward-backward", steps=2
    )
    loop.train(config, tmp_path / "run")
    views = [prediction.viewed.view for prediction, _ in seen]
    assert len(set(views)) == 2
    prediction, batch = seen[0]
    assert prediction.still.flow.requires_grad
    no_truth = replace(batch, valid=torch.zeros_like(batch.valid))
    losses = objective(prediction, no_truth, config.loss)
    assert losses.values["transform_consistency_loss"].all()
    taught = torch.autograd.grad(losses.total, prediction.viewed.flows, retain_graph=True)
    teachers = torch.autograd.grad(losses.total, prediction.flows)
    assert all(gradient.any() for gradient in taught)
    assert not any(gradient.any() for gradient in teachers)
