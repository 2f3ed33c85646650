"""Sequence loss, semantic smoothness V1 and matching against loops written from the definitions."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from semraft.config import LossConfig, TermConfig
from semraft.losses import matching, semantic_smoothness_v1, sequence_loss, smoothness
from semraft.losses.objective import check_terms, objective
from semraft.losses.reduction import masked_mean
from semraft.losses.sequence import sequence_values, trusted_pixels
from semraft.losses.terms import TERMS
from semraft.sample import FlowBatch, Prediction

BATCH, HEIGHT, WIDTH, UPDATES = 3, 16, 24, 4


@pytest.fixture
def batch(rng: np.random.Generator) -> FlowBatch:
    flow = rng.normal(0, 3, (BATCH, 2, HEIGHT, WIDTH)).astype(np.float32)
    flow[0, :, 2, 3] = 300  # 424 px long: not trusted although valid.
    return FlowBatch(
        ids=("a", "b", "c"),
        image1=torch.zeros(BATCH, 3, HEIGHT, WIDTH),
        image2=torch.zeros(BATCH, 3, HEIGHT, WIDTH),
        flow=torch.from_numpy(flow),
        valid=torch.from_numpy(rng.random((BATCH, HEIGHT, WIDTH)) > 0.3),
        labels1=torch.from_numpy(rng.choice([0, 4, 255], (BATCH, HEIGHT, WIDTH))),
        labels2=torch.from_numpy(rng.choice([0, 4, 255], (BATCH, HEIGHT, WIDTH))),
        occluded1=torch.from_numpy(rng.random((BATCH, HEIGHT, WIDTH)) > 0.8),
    )


@pytest.fixture
def flows(rng: np.random.Generator) -> list[Tensor]:
    return [
        torch.from_numpy(rng.normal(0, 3, (BATCH, 2, HEIGHT, WIDTH)).astype(np.float32)).requires_grad_()
        for _ in range(UPDATES)
    ]


def sequence_by_loops(flows: list[Tensor], batch: FlowBatch, gamma: float, normalize: str) -> float:
    total = 0.0
    truth, valid = batch.flow.double().numpy(), batch.valid.numpy()
    for t, flow in enumerate(flows):
        summed, count = 0.0, 0
        for b in range(BATCH):
            for y in range(HEIGHT):
                for x in range(WIDTH):
                    u, v = truth[b, :, y, x]
                    if valid[b, y, x] and np.hypot(u, v) < 400:
                        p, q = flow[b, :, y, x].tolist()
                        summed += abs(p - u) + abs(q - v)
                        count += 1
        divisor = count if normalize == "valid" else BATCH * HEIGHT * WIDTH
        total += gamma ** (len(flows) - 1 - t) * summed / divisor
    return total


def semantic_v1_by_loops(flows: list[Tensor], batch: FlowBatch, gamma: float) -> float:
    assert batch.labels1 is not None
    assert batch.labels2 is not None
    labels1, labels2 = batch.labels1.numpy(), batch.labels2.numpy()
    total = 0.0
    for t, tensor in enumerate(flows):
        flow = tensor.detach().double().numpy()
        summed, count = 0.0, 0
        for b in range(BATCH):
            for y in range(1, HEIGHT):
                for x in range(1, WIDTH):
                    trusted = batch.valid[b, y, x] and np.hypot(*batch.flow[b, :, y, x].tolist()) < 400
                    here = labels1[b, y, x]
                    if not trusted or here != labels2[b, y, x] or here == 255:
                        continue
                    count += 1
                    for dy, dx in ((0, 1), (1, 0)):
                        if labels1[b, y - dy, x - dx] == here:
                            summed += np.abs(flow[b, :, y, x] - flow[b, :, y - dy, x - dx]).sum()
        total += gamma ** (len(flows) - 1 - t) * summed / count
    return total


@pytest.mark.parametrize("normalize", ["valid", "all"])
@pytest.mark.parametrize("gamma", [0.8, 0.85])
def test_sequence_loss_equals_the_loop(
    flows: list[Tensor], batch: FlowBatch, gamma: float, normalize: Literal["valid", "all"]
) -> None:
    """Red when: gamma's exponent is reversed, all pixels are counted, or 400 px are kept."""
    loss = sequence_loss(flows, batch.flow, batch.valid, gamma, normalize)
    assert float(loss.detach()) == pytest.approx(sequence_by_loops(flows, batch, gamma, normalize), rel=1e-6)


def test_semantic_smoothness_equals_the_loop(flows: list[Tensor], batch: FlowBatch) -> None:
    """Red when: ignore counts, forward differences are taken, or the mask has an axis less (broadcast)."""
    assert batch.labels1 is not None
    assert batch.labels2 is not None
    trusted = trusted_pixels(batch.flow, batch.valid)
    loss = semantic_smoothness_v1(flows, batch.labels1, batch.labels2, trusted, 0.85)
    assert float(loss.detach()) == pytest.approx(semantic_v1_by_loops(flows, batch, 0.85), rel=1e-6)


def test_semantic_smoothness_has_the_right_gradient(batch: FlowBatch, rng: np.random.Generator) -> None:
    """Analytic gradient against central differences in float64, away from the kinks of |x|."""
    assert batch.labels1 is not None
    assert batch.labels2 is not None
    flow = torch.from_numpy(rng.normal(0, 3, (BATCH, 2, HEIGHT, WIDTH))).requires_grad_()
    value = smoothness([flow], batch.labels1, batch.valid, order=1)
    value.backward()
    assert flow.grad is not None
    for b, c, y, x in ((0, 0, 5, 7), (1, 1, 9, 3), (2, 0, 15, 23), (1, 0, 0, 4)):
        step = torch.zeros_like(flow)
        step[b, c, y, x] = 1e-3
        with torch.no_grad():
            ends = [smoothness([flow + sign * step], batch.labels1, batch.valid, order=1) for sign in (1, -1)]
        slope = float(ends[0] - ends[1]) / 2e-3
        assert float(flow.grad[b, c, y, x]) == pytest.approx(slope, abs=2e-5)


def test_semantic_smoothness_is_least_for_constant_flow_not_for_the_truth() -> None:
    """The optimum of the study's loss, in numbers: a known fault of the term, kept as it was.

    The truth is a road whose flow grows downwards, with two cars of one class on it that move apart. Red
    when: the term is no longer the study's first-order one, or the flow loss is not least at the truth.
    """
    rows = torch.arange(HEIGHT, dtype=torch.float32)[:, None].expand(HEIGHT, WIDTH)
    labels = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.int64)
    labels[:, 4:9, 4:20] = 10
    truth = torch.stack([torch.zeros_like(rows), 0.5 * rows])[None]
    truth[:, 0, 4:9, 4:12], truth[:, 0, 4:9, 12:20] = -3, 2
    constant = truth.mean((2, 3), keepdim=True).expand_as(truth)
    everywhere = torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool)
    assert semantic_smoothness_v1([constant], labels, labels, everywhere) == 0
    # Rows: 0.5 for every pixel with one of its class above. Columns: 5 at each of 5 rows between the cars.
    same_above = (labels[0, 1:, 1:] == labels[0, :-1, 1:]).sum()
    expected = (0.5 * same_above + 5 * 5) / ((HEIGHT - 1) * (WIDTH - 1))
    assert torch.allclose(semantic_smoothness_v1([truth], labels, labels, everywhere), expected)
    assert sequence_loss([truth], truth, everywhere) == 0 < sequence_loss([constant], truth, everywhere)


def test_relabelling_classes_changes_nothing(flows: list[Tensor], batch: FlowBatch) -> None:
    assert batch.labels1 is not None
    assert batch.labels2 is not None
    names = {0: 9, 4: 2, 255: 255}
    renamed = [labels.clone().apply_(names.__getitem__) for labels in (batch.labels1, batch.labels2)]
    before = semantic_smoothness_v1(flows, batch.labels1, batch.labels2, batch.valid)
    assert torch.equal(before, semantic_smoothness_v1(flows, *renamed, batch.valid))


def test_one_sample_does_not_mask_another(flows: list[Tensor], batch: FlowBatch) -> None:
    """The study's mask had an axis less and was broadcast: the labels of one sample masked every other."""
    assert batch.labels1 is not None
    assert batch.labels2 is not None
    other = batch.labels2.clone()
    other[1:] = 255
    alone = [flow[:1] for flow in flows]
    whole = semantic_smoothness_v1(flows, batch.labels1, other, batch.valid)
    first = semantic_smoothness_v1(alone, batch.labels1[:1], other[:1], batch.valid[:1])
    assert torch.allclose(whole, first)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf"), 1e10])
def test_values_at_invalid_pixels_change_nothing(
    flows: list[Tensor], batch: FlowBatch, poison: float
) -> None:
    """0 x NaN is NaN: red when a mask multiplies instead of selecting."""
    poisoned = torch.where(batch.valid[:, None], batch.flow, poison)
    results = []
    for truth in (batch.flow, poisoned):
        loss = sequence_loss(flows, truth, batch.valid)
        results.append((loss.detach(), *torch.autograd.grad(loss, flows)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_empty_masks_give_zero_with_zero_gradients(flows: list[Tensor], batch: FlowBatch) -> None:
    """A crop of sky only: sum / sum(mask) would be NaN and reach every parameter in one step."""
    assert batch.labels1 is not None
    assert batch.labels2 is not None
    nothing = torch.zeros_like(batch.valid)
    for loss in (
        sequence_loss(flows, batch.flow, nothing),
        semantic_smoothness_v1(flows, batch.labels1, batch.labels2, nothing),
    ):
        for flow in flows:
            flow.grad = None
        loss.backward()
        assert loss == 0
        assert all(flow.grad is not None and not flow.grad.any() for flow in flows)


def test_masked_mean_is_zero_at_infinite_values_outside_the_mask() -> None:
    values = torch.tensor([1.0, float("nan"), 3.0, float("inf")], requires_grad=True)
    mean = masked_mean(values, torch.tensor([True, False, True, False]))
    mean.backward()
    assert mean == 2
    assert values.grad is not None
    assert values.grad.tolist() == [0.5, 0.0, 0.5, 0.0]


def matching_by_loops(features1: Tensor, features2: Tensor, batch: FlowBatch, mask: Tensor) -> float:
    _, channels, rows, columns = features1.shape
    first, second = features1.double().numpy(), features2.double().numpy()
    summed, count = 0.0, 0
    for b in range(BATCH):
        for i in range(rows):
            for j in range(columns):
                if not mask[b, 8 * i + 4, 8 * j + 4]:
                    continue
                u, v = (batch.flow[b, :, 8 * i + 4, 8 * j + 4].double() / 8).tolist()
                x, y = j + u, i + v
                if not (0 <= x <= columns - 1 and 0 <= y <= rows - 1):
                    continue
                logits = np.einsum("c,chw->hw", first[b, :, i, j], second[b]) / channels**0.5
                log_probability = logits - np.log(np.exp(logits).sum())
                for k in range(rows):
                    for m in range(columns):
                        weight = max(0, 1 - abs(x - m)) * max(0, 1 - abs(y - k))
                        summed -= weight * log_probability[k, m]
                count += 1
    return summed / max(count, 1)


def test_matching_equals_the_loop(batch: FlowBatch, rng: np.random.Generator) -> None:
    """Red when: u and v are swapped, the flow is not divided by 8, or occluded cells count."""
    features = [torch.from_numpy(rng.normal(0, 1, (BATCH, 5, 2, 3)).astype(np.float32)) for _ in range(2)]
    assert batch.occluded1 is not None
    mask = batch.valid & ~batch.occluded1
    value = matching(features[0], features[1], batch.flow, mask)
    expected = matching_by_loops(features[0], features[1], batch, mask)
    assert expected > 0
    assert float(value) == pytest.approx(expected, rel=1e-6)


def test_matching_is_least_at_the_true_target() -> None:
    """Cells of one-hot features: correct matches cost almost nothing, shifted ones a lot."""
    identity = 40 * torch.eye(6).view(1, 6, 2, 3).repeat(2, 1, 1, 1)
    shifted = identity.roll(1, dims=3)
    right = torch.zeros(2, 2, 16, 24)
    right[:, 0] = 8
    everywhere = torch.ones(2, 16, 24, dtype=torch.bool)
    assert matching(identity, shifted, right, everywhere) < 1e-3
    assert matching(identity, shifted, torch.zeros_like(right), everywhere) > 10


@pytest.mark.parametrize("nothing", ["no valid pixel", "all out of frame"])
def test_matching_without_a_cell_is_zero_with_zero_gradients(batch: FlowBatch, nothing: str) -> None:
    """A crop of sky only. Red when: the mean is over the selected cells, which is NaN for none."""
    features = [torch.ones(BATCH, 5, 2, 3, requires_grad=True) for _ in range(2)]
    mask = torch.full_like(batch.valid, nothing == "all out of frame")
    loss = matching(features[0], features[1], torch.full_like(batch.flow, 350), mask)
    loss.backward()
    assert loss == 0
    assert all(feature.grad is not None and not feature.grad.any() for feature in features)


def test_matching_refuses_a_crop_that_is_no_multiple_of_8(batch: FlowBatch) -> None:
    features = torch.zeros(BATCH, 5, 2, 4)
    with pytest.raises(ValueError, match="multiple of 8"):
        matching(features, features, batch.flow, batch.valid)


def make_prediction(flows: list[Tensor]) -> Prediction:
    features = torch.arange(BATCH * 5 * 6, dtype=torch.float32).view(BATCH, 5, 2, 3).sin()
    return Prediction(flows=flows, features1=features, features2=features.cos())


def test_objective_is_the_weighted_sum_of_its_terms(flows: list[Tensor], batch: FlowBatch) -> None:
    config = LossConfig(
        terms=(TermConfig(name="semantic-v1", weight=0.5), TermConfig(name="matching", weight=3.0))
    )
    result = objective(make_prediction(flows), batch, config)
    assert result.values.keys() == {"flow_loss", "semantic_loss", "matching_loss"}
    trusted = trusted_pixels(batch.flow, batch.valid)
    assert batch.labels1 is not None
    assert batch.labels2 is not None
    assert batch.occluded1 is not None
    prediction = make_prediction(flows)
    expected = (
        sequence_loss(flows, batch.flow, batch.valid)
        + 0.5 * semantic_smoothness_v1(flows, batch.labels1, batch.labels2, trusted)
        + 3 * matching(prediction.features1, prediction.features2, batch.flow, trusted & ~batch.occluded1)
    )
    assert torch.allclose(result.total, expected)
    assert torch.equal(result.values["flow_loss"], sequence_values(flows, batch.flow, batch.valid))


def test_matching_leaves_out_what_is_not_visible_or_not_valid(batch: FlowBatch) -> None:
    """Every cell's centre alike, so that none is missed by chance. Red when: occluded or invalid
    cells count, or a data set without occlusion loses its cells."""
    config = LossConfig(terms=(TermConfig(name="matching", weight=1.0),))
    everywhere, nowhere = torch.ones_like(batch.valid), torch.zeros_like(batch.valid)
    still = replace(batch, flow=torch.zeros_like(batch.flow), valid=everywhere, occluded1=nowhere)
    counts = {
        "visible": still,
        "unknown": replace(still, occluded1=None),
        "occluded": replace(still, occluded1=everywhere),
        "invalid": replace(still, valid=nowhere),
    }
    values = {
        name: float(objective(make_prediction([made.flow]), made, config).values["matching_loss"])
        for name, made in counts.items()
    }
    assert values["visible"] == values["unknown"] > 0.1
    assert values["occluded"] == values["invalid"] == 0


def test_the_objective_takes_gamma_divisor_and_limit_from_the_configuration(
    flows: list[Tensor], batch: FlowBatch
) -> None:
    """Red when: one of the three is left at its default, whatever a run's record says."""
    term = (TermConfig(name="semantic-v1", weight=1.0),)
    config = LossConfig(gamma=0.5, normalize="all", max_flow_px=4.0, terms=term)
    trusted = trusted_pixels(batch.flow, batch.valid, 4.0)
    assert batch.labels1 is not None
    assert batch.labels2 is not None
    expected = sequence_loss(flows, batch.flow, batch.valid, 0.5, "all", 4.0)
    expected = expected + semantic_smoothness_v1(flows, batch.labels1, batch.labels2, trusted, 0.5)
    assert torch.allclose(objective(make_prediction(flows), batch, config).total, expected)


def test_a_term_of_weight_zero_equals_no_term(flows: list[Tensor], batch: FlowBatch) -> None:
    gradients = []
    for terms in ((), (TermConfig(name="semantic-v1", weight=0.0),)):
        total = objective(make_prediction(flows), batch, LossConfig(terms=terms)).total
        gradients.append(torch.autograd.grad(total, flows))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_terms_are_checked_before_the_first_step() -> None:
    config = LossConfig(terms=(TermConfig(name="semantic-v1", weight=0.5),))
    check_terms(config, {"viper": frozenset({"labels1", "labels2"})})
    with pytest.raises(ValueError, match="needs labels2, which data set 'kitti' does not have"):
        check_terms(config, {"kitti": frozenset({"labels1"})})
    with pytest.raises(ValueError, match=r"no loss term is called 'semantic'.*semantic-v1"):
        check_terms(LossConfig(terms=(TermConfig(name="semantic", weight=1.0),)), {})
    with pytest.raises(ValueError, match="twice"):
        check_terms(LossConfig(terms=config.terms * 2), {})


def test_every_term_names_a_scalar_of_its_own() -> None:
    scalars = [term.scalar for term in TERMS.values()]
    assert len(set(scalars)) == len(scalars)
    assert "flow_loss" not in scalars
