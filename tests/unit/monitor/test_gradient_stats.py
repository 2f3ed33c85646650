"""Gradient statistics, against the same worked out by hand on a small network."""

import itertools
import time
from dataclasses import replace
from pathlib import Path
from typing import cast
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from semraft import tracking
from semraft.config import LossConfig, ModelConfig, RunConfig, WorldConfig, parse_term
from semraft.config.recipes import RECIPES
from semraft.data import open_dataset
from semraft.data.loader import collate
from semraft.losses.gradient_surgery import (
    Gradients,
    StepGradients,
    combine,
    flow_gradient,
    term_gradients,
)
from semraft.losses.objective import Objective, objective
from semraft.losses.reduction import refinement_sum
from semraft.losses.term_weights import gradients_of
from semraft.models.raft import RAFT
from semraft.models.weights import build_model
from semraft.monitor import gradient_stats
from semraft.monitor.monitor import Monitor
from semraft.sample import FlowBatch, Prediction
from semraft.training.state import TrainingState, initial_state
from semraft.training.step import training_step

LOSS = LossConfig(terms=(parse_term("semantic-v1:0.5"), parse_term("signed-distance:3,where=things")))
CPU = torch.device("cpu")
LOSSES = {
    (repr(recipe.config.loss), repr(recipe.config.model)): name
    for name, recipe in RECIPES.items()
    if name.startswith("world-")
}
"""A recipe of each loss and network that the recipes of the world have."""
WEIGHTS = {"semantic-v1": 0.5, "signed-distance": 3.0}


@pytest.fixture(scope="module")
def batch() -> FlowBatch:
    world = open_dataset("world", None, "train", WorldConfig(size=(64, 104), scenes=2))
    loaded = collate([world[0], world[1]])
    return replace(loaded, image1=loaded.image1.float(), image2=loaded.image2.float())


@pytest.fixture(scope="module")
def model() -> RAFT:
    return build_model(ModelConfig(arch="tiny"), 3)


def losses_of(model: RAFT, batch: FlowBatch) -> tuple[Prediction, Objective]:
    prediction = model(batch.image1, batch.image2, 3)
    return prediction, objective(prediction, batch, LOSS, WEIGHTS)


def separated(
    losses: Objective, model: RAFT, config: LossConfig = LOSS, weights: dict[str, float] = WEIGHTS
) -> dict[str, float]:
    """Gradient statistics of a step with a loss scale of 1024."""
    parameters = list(model.parameters())

    def scale(loss: torch.Tensor) -> torch.Tensor:
        return 1024 * loss

    kept_frac: dict[str, torch.Tensor] = {}
    terms = term_gradients(losses, weights, parameters, config, scale)
    if not config.has_surgery:
        flow = flow_gradient(gradients_of(scale(losses.total), parameters), terms)
    else:
        flow = gradients_of(scale(refinement_sum(losses.values["flow_loss"], config.gamma)), parameters)
        _, kept_frac = combine(flow, terms, config)
    one = torch.ones(())
    found = StepGradients(flow=flow, terms=terms, kept_frac=kept_frac, loss_scale=scale(one), norm=one)
    values = gradient_stats.gradient_statistics(found, [name for name, _ in model.named_parameters()])
    return {name: float(value) for name, value in values.items()}


def test_gradients_by_loss_and_module(model: RAFT, batch: FlowBatch) -> None:
    """Against a backward pass of every loss. Red when: a weight or the gradient scale is left in or out,
    modules are mixed, heads are counted, or the flow's gradient is not what terms leave of the whole."""
    _, losses = losses_of(model, batch)
    values = separated(losses, model)
    named = dict(model.named_parameters())
    flat: dict[str, dict[str, torch.Tensor]] = {}
    for name, scalar, weight in (
        ("flow", "flow_loss", 1.0),
        ("semantic-v1", "semantic_loss", 0.5),
        ("signed-distance", "signed_distance_loss", 3.0),
    ):
        loss = weight * refinement_sum(losses.values[scalar], LOSS.gamma)
        found = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
        flat[name] = {key: g for key, g in zip(named, found, strict=True) if g is not None}
    norms = {name: torch.cat([g.flatten() for g in found.values()]).norm() for name, found in flat.items()}
    for name, norm in norms.items():
        assert values[f"gradient_norm_{name}"] == pytest.approx(float(norm), rel=1e-4)
    share = 100 * norms["signed-distance"] / torch.stack(list(norms.values())).sum()
    assert values["share_pct_signed-distance"] == pytest.approx(float(share), rel=1e-4)
    for prefix, module in gradient_stats.MODULES.items():
        both = [key for key in flat["flow"] if key.startswith(prefix) and key in flat["semantic-v1"]]
        one, two = (
            torch.cat([flat[name][key].flatten() for key in both]) for name in ("flow", "semantic-v1")
        )
        cosine = torch.nn.functional.cosine_similarity(one.double(), two.double(), dim=0)
        assert values[f"cosine_semantic-v1_{module}"] == pytest.approx(float(cosine), abs=1e-4)


def test_a_batch_without_flow_truth_has_no_flow_gradient(model: RAFT, batch: FlowBatch) -> None:
    """Red when: rounding of a difference is taken for a gradient, with cosines that mean nothing."""
    blind = replace(batch, valid=torch.zeros_like(batch.valid))
    prediction = model(batch.image1, batch.image2, 2)
    config = LossConfig(terms=(parse_term("matching:0.5"), parse_term("signed-distance:3,where=things")))
    losses = objective(prediction, blind, config)
    values = separated(losses, model, config, {"matching": 0.5, "signed-distance": 3.0})
    acting = [name for name in ("matching", "signed-distance") if values[f"gradient_norm_{name}"] > 0]
    assert acting
    assert values["gradient_norm_flow"] == 0
    assert sum(values[f"share_pct_{name}"] for name in acting) == pytest.approx(100)
    assert all(values[f"cosine_{name}_update"] == 0 for name in acting)


def length(gradients: Gradients) -> float:
    (gradient,) = gradients
    assert gradient is not None
    return float(gradient.norm())


def test_what_rounding_leaves_is_no_gradient() -> None:
    """Two terms and no flow loss. Red when: the difference's last digits are taken for a flow gradient."""
    generator = torch.Generator().manual_seed(0)
    terms = {name: [torch.randn(1000, generator=generator)] for name in ("one", "other")}
    total = terms["other"][0] * (1 + 1e-6) + terms["one"][0]
    assert (total - terms["one"][0] - terms["other"][0]).norm() > 0
    assert length(flow_gradient([total], terms)) == 0
    louder = total + 1e-3 * torch.randn(1000, generator=generator)
    assert length(flow_gradient([louder], terms)) > 0


def test_a_term_that_is_held_has_the_share_it_is_let(model: RAFT, batch: FlowBatch) -> None:
    """Red when: a capped term is called too large for what it asks, or a norm is no longer what it asks."""
    _, losses = losses_of(model, batch)
    free, held = (separated(losses, model, replace(LOSS, share_cap=cap)) for cap in (0.0, 0.01))
    for name in WEIGHTS:
        assert free[f"share_pct_{name}"] > 1
        assert held[f"share_pct_{name}"] == pytest.approx(100 * 0.01 / 1.02, rel=1e-4)
        asked = f"gradient_norm_{name}"
        assert held[asked] == pytest.approx(free[asked], rel=1e-4)


def test_a_term_without_weight_has_no_gradient(model: RAFT, batch: FlowBatch) -> None:
    prediction = model(batch.image1, batch.image2, 2)
    weights = WEIGHTS | {"semantic-v1": 0.0}
    values = separated(objective(prediction, batch, LOSS, weights), model, LOSS, weights)
    assert "gradient_norm_signed-distance" in values
    assert not any("semantic-v1" in name for name in values)


def test_flow_against_the_truth(batch: FlowBatch) -> None:
    """Half of the truth after the last refinement, exact before. Red when: invalid pixels count, the speeds
    are those of the prediction, or the order of refinements is lost."""
    invalid = batch.flow + 1e6 * (~batch.valid[:, None]).float()
    flows = [torch.zeros_like(batch.flow), invalid, 0.5 * invalid]
    prediction = Prediction(flows=flows, features1=batch.flow, features2=batch.flow)
    known = replace(batch, flow=invalid)
    numbers = gradient_stats.refinement_statistics(prediction, known, LossConfig())
    values = gradient_stats.read_statistics(numbers, prediction, known, LossConfig())
    length = batch.flow.norm(dim=1)[batch.valid]
    speeds = [value for name, value in values.items() if name.startswith("shrinkage_speed")]
    assert len(speeds) == len({int(px >= 10) + int(px >= 40) for px in length.tolist()})
    assert speeds == pytest.approx([0.5] * len(speeds), rel=1e-5)
    assert values["undone_px"] == pytest.approx(0.5 * float(length.mean()), rel=1e-4)
    assert values["gained_px"] == pytest.approx(0.5 * float(length.mean()), rel=1e-4)
    road = batch.valid & (batch.labels1 == 0)
    expected = 0.5 * float(batch.flow.norm(dim=1)[road].mean())
    assert values["epe_road"] == pytest.approx(expected, rel=1e-4)
    assert {"epe_boundary", "epe_interior", "epe_moving"} <= values.keys()


def test_floors_are_the_terms_on_the_true_flow(batch: FlowBatch) -> None:
    """Red when: a floor is measured on the prediction, the unknown is taken for zero flow, or a class's floor
    is that of all."""
    off = batch.flow + 40 * torch.rand(batch.flow.shape, generator=torch.Generator().manual_seed(0))
    prediction = Prediction(flows=[off + 1, off], features1=off, features2=off)
    floors = gradient_stats.floors(prediction, batch, LOSS, by_class=True)
    found = {name: float(value) for name, value in floors.items()}
    mixed = torch.where(batch.valid[:, None], batch.flow, off)
    for flow, ending in ((mixed, "floor"), (off, "value")):
        expected = objective(replace(prediction, flows=[flow]), batch, LOSS, WEIGHTS).values
        for term, value in (("semantic-v1", "semantic_loss"), ("signed-distance", "signed_distance_loss")):
            assert found[f"{ending}_{term}"] == pytest.approx(float(expected[value][-1]), rel=1e-5)
    assert 0 < found["floor_semantic-v1"] < found["value_semantic-v1"]
    of_road = objective(
        replace(prediction, flows=[mixed]),
        replace(batch, valid=batch.valid & (batch.labels1 == 0)),
        LOSS,
        WEIGHTS,
    ).values["semantic_loss"]
    assert found["floor_semantic-v1_road"] == pytest.approx(float(of_road[-1]), rel=1e-5)
    assert found["floor_semantic-v1_road"] != found["floor_semantic-v1"]
    assert not any(name.startswith("floor_signed-distance_road") for name in found)


@pytest.fixture(scope="module")
def one_pair() -> FlowBatch:
    return collate([open_dataset("world", None, "train", WorldConfig(size=(64, 72), scenes=1))[0]])


@pytest.mark.parametrize("name", LOSSES.values())
def test_every_recipe_has_gradient_statistics(name: str, one_pair: FlowBatch, tmp_path: Path) -> None:
    """Red when: a recipe's losses can't be separated, or a term that is not of the flow has a floor."""
    recipe = RECIPES[name].config
    config = replace(recipe, data=replace(recipe.data, crop=(64, 72)), num_updates=2, precision="float32")
    state = initial_state(config, CPU)
    state.model.train()
    monitor = monitor_of(state, replace(config, health_every=1), tmp_path)
    separates = gradient_stats.separates_terms(monitor.config, 1)
    monitor.observe(training_step(state, one_pair, config, separates), one_pair)
    assert monitor.tracker is not None
    (_, values), _ = cast(Mock, monitor.tracker).log_health.call_args
    floors = {key.removeprefix("floor_").split("_")[0] for key in values if key.startswith("floor_")}
    of_flow = {chosen.name for chosen in config.loss.terms} - {
        "matching",
        "segmentation",
        "occlusion",
        "zero-forcing",
        "transform-consistency",
    }
    assert floors == of_flow
    acting = {chosen.name for chosen in config.loss.terms if chosen.share is None and not chosen.ramp}
    assert {f"gradient_norm_{name}" for name in ("flow", *acting)} <= values.keys()
    assert state.step == 1


def monitor_of(state: TrainingState, config: RunConfig, run: Path) -> Monitor:
    return Monitor(
        run=run,
        config=config,
        model=state.model,
        optimizer=state.optimizer,
        scaler=state.scaler,
        statistics=state.statistics,
        tracker=Mock(spec=tracking.Tracker),
    )


def test_all_that_monitoring_costs_is_counted(
    batch: FlowBatch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By a clock that goes on by a second whenever it is read.

    A look at each of three refinements; beside it the whole of `observe`, and what separating terms took: a
    span without another reading in it takes one second. In steps with gradient statistics the hidden state
    and, once, the context are looked at too, and the clock is read once more for the share of the time.
    Red when: one of them is left out, or one is counted twice.
    """
    base = RECIPES["world-base"].config
    data = replace(base.data, crop=(64, 104))
    config = replace(base, data=data, num_updates=3, precision="float32", health_every=3)
    config = replace(config, optim=replace(config.optim, steps=9000))
    state = initial_state(config, CPU)
    state.model.train()
    monkeypatch.setattr(time, "perf_counter", itertools.count(0.0).__next__)
    monitor = monitor_of(state, config, tmp_path)
    spent = [0.0]
    for step in (1, 2, 3):
        separates = gradient_stats.separates_terms(config, step)
        monitor.observe(training_step(state, batch, config, separates), batch)
        spent.append(monitor.spent_s)
    assert np.diff(spent).tolist() == [2 * 3 + 1 + 2, 3 + 1, 2 * 3 + 1 + 2 + 1]


def test_inactive_channels_are_those_that_no_cell_of_the_batch_uses() -> None:
    """Of four context channels one is negative everywhere, one 0, one positive in a single cell.

    Red when: a channel counts by its mean, by one sample, or channels of the hidden state count.
    """
    encoded = torch.ones(2, 6, 3, 3)
    encoded[:, :3] = -1.0
    encoded[:, 3] = 0.0
    encoded[:, 4] = -1.0
    encoded[1, 4, 2, 2] = 0.5
    assert float(gradient_stats.inactive_pct(encoded, (2, 4))) == 50.0


def test_activations_and_updates(model: RAFT, batch: FlowBatch) -> None:
    """Red when: only the last refinement is seen, or updates are not relative to the weights."""
    model.train()
    ranges = gradient_stats.ActivationRanges(model)
    ranges.sees_hidden = True
    model(batch.image1, batch.image2, 2)
    found = {name: float(value) for name, value in ranges.take().items()}
    ranges.close()
    assert ranges.take() == {}
    assert 0 < found["hidden_abs_max"] <= 1
    assert 0 <= found["inactive_context_pct"] < 60
    # Unit features: a correlation is at most sqrt(C) and blends are means.
    assert 0 < found["correlation_abs_max"] <= 8.001
    before = gradient_stats.shared_weights(model)
    with torch.no_grad():
        for parameter in model.update_block.parameters():
            parameter *= 1.01
    values = gradient_stats.update_sizes(before, model)
    assert float(values["moved_update"]) == pytest.approx(0.01, rel=1e-3)
    assert values["moved_encoder"] == 0


def test_when_there_are_statistics() -> None:
    """Red when: a run with more terms, each of which costs a backward pass, has them as often."""
    assert [step for step in range(1, 200) if gradient_stats.has_statistics(RunConfig(), step)] == [
        1,
        60,
        120,
        180,
    ]
    assert gradient_stats.statistics_every(RunConfig(loss=LOSS)) == 120
    assert gradient_stats.statistics_every(RunConfig(loss=LOSS, health_every=7)) == 7
