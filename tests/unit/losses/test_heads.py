"""Losses of the segmentation decoder and the occlusion head, zero forcing and transform consistency."""

from typing import Any

import numpy as np
import pytest
import torch

from semraft.losses import (
    occlusion,
    segmentation,
    temporal_consistency,
    transform_consistency,
    zero_forcing,
)
from tests.unit.losses.tiny import (
    BATCH,
    GAMMA,
    HEIGHT,
    WIDTH,
    arrays,
    bilinear,
    gradient_is_right,
    in_frame,
    make,
    mean,
    pixels,
    weighted,
)

CLASSES = 12


def logits(rng: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy(rng.normal(0, 1, (BATCH, CLASSES, HEIGHT, WIDTH))).requires_grad_()


def softmax(scores: np.ndarray) -> np.ndarray:
    return np.exp(scores) / np.exp(scores).sum(1, keepdims=True)


def test_segmentation_equals_the_loop(rng: np.random.Generator) -> None:
    """Red when: ignored pixels count, or the labels of the frames change places."""
    case = make(rng)
    first, second = logits(rng), logits(rng)
    found = []
    for scores, labels in ((first, case.labels1), (second, case.labels2)):
        shares = softmax(scores.detach().numpy())
        found += [-np.log(shares[b, labels[b, y, x], y, x]) for b, y, x in pixels() if labels[b, y, x] != 255]
    value = segmentation(first, second, case.labels1, case.labels2)
    assert float(value.detach()) == pytest.approx(mean(found), rel=1e-6)
    assert gradient_is_right(
        lambda first, second: segmentation(first, second, case.labels1, case.labels2), first, second
    )


def test_temporal_consistency_equals_the_loop(rng: np.random.Generator) -> None:
    """Red when: logits are warped instead of probabilities, or what left the frame counts."""
    case = make(rng)
    scores = logits(rng), logits(rng)
    shares = [softmax(score.detach().numpy()) for score in scores]
    loops = []
    for flow in arrays(case.flows):
        found = []
        for b, y, x in pixels():
            target = x + flow[b, 0, y, x], y + flow[b, 1, y, x]
            if not case.mask[b, y, x] or not in_frame(*target):
                continue
            p = shares[0][b, :, y, x]
            q = np.array([bilinear(shares[1][b, k], *target) for k in range(CLASSES)])
            m = (p + q) / 2
            found.append((np.sum(p * np.log(p / m)) + np.sum(q * np.log(q / m))) / 2)
        loops.append(mean(found))
    value = temporal_consistency(case.flows, *scores, case.mask, gamma=GAMMA)
    assert float(value.detach()) == pytest.approx(weighted(loops), rel=1e-6)
    assert gradient_is_right(
        lambda *inputs: temporal_consistency([inputs[0]], inputs[1], inputs[2], case.mask),
        case.flows[0],
        *scores,
    )


@pytest.mark.parametrize("gradient", ["both", "segmentation", "flow"])
def test_temporal_consistency_teaches_whom_it_should(rng: np.random.Generator, gradient: Any) -> None:
    """Red when: the two are confused."""
    case = make(rng)
    scores = logits(rng), logits(rng)
    temporal_consistency(case.flows, *scores, case.mask, gradient).backward()
    assert all((flow.grad is not None) == (gradient != "segmentation") for flow in case.flows)
    assert all((score.grad is not None) == (gradient != "flow") for score in scores)


def test_temporal_consistency_is_finite_where_the_head_is_certain() -> None:
    """Red when: log 0 times 0 is NaN, in value or gradient; two certain and unlike heads are log 2 apart."""
    certain = torch.zeros(2, 3, 8, 10)
    certain[:, 1] = 500.0
    other = certain.roll(1, 1).requires_grad_()
    flow = torch.zeros(2, 2, 8, 10, requires_grad=True)
    value = temporal_consistency([flow], certain, other, torch.ones(2, 8, 10, dtype=torch.bool))
    value.backward()
    assert float(value.detach()) == pytest.approx(np.log(2))
    assert other.grad is not None
    assert other.grad.isfinite().all()


def test_occlusion_equals_the_loop(rng: np.random.Generator) -> None:
    """Red when: occluded and visible change places, or the prior rewards what it should cost."""
    case = make(rng)
    scores = torch.from_numpy(rng.normal(0, 2, (BATCH, HEIGHT, WIDTH))).requires_grad_()
    occluded = torch.from_numpy(rng.random((BATCH, HEIGHT, WIDTH)) > 0.7)
    found = []
    for b, y, x in pixels():
        if case.mask[b, y, x]:
            share = 1 / (1 + np.exp(-float(scores[b, y, x].detach())))
            found.append(-np.log(share if occluded[b, y, x] else 1 - share) + 0.2 * share)
    value = occlusion(scores, occluded, case.mask, prior=0.2)
    assert float(value.detach()) == pytest.approx(mean(found), rel=1e-6)
    assert gradient_is_right(lambda scores: occlusion(scores, occluded, case.mask), scores)


def test_the_prior_makes_everything_occluded_worse_than_nothing() -> None:
    """Red when: a head can call everything occluded for free where the check has no opinion either way."""
    half = torch.zeros(2, 8, 10, dtype=torch.bool)
    half[:, :, :5] = True
    everywhere = torch.ones_like(half)
    all_occluded, none = torch.full((2, 8, 10), 3.0), torch.full((2, 8, 10), -3.0)
    assert occlusion(all_occluded, half, everywhere) > occlusion(none, half, everywhere)
    assert occlusion(all_occluded, half, everywhere, 0.0) == occlusion(none, half, everywhere, 0.0)


def test_zero_forcing_equals_the_definition(rng: np.random.Generator) -> None:
    """Red when: components are averaged, or "occluded" is asked for. Zero at no flow."""
    case = make(rng)
    flows = arrays(case.flows)
    loops = [float(np.abs(flow).sum(1).mean()) for flow in flows]
    assert float(zero_forcing(case.flows, gamma=GAMMA).detach()) == pytest.approx(weighted(loops), rel=1e-6)
    head = torch.from_numpy(rng.normal(0, 1, (BATCH, HEIGHT, WIDTH)))
    loops[-1] += float(np.log1p(np.exp(head.numpy())).mean())
    value = zero_forcing(case.flows, head, GAMMA)
    assert float(value.detach()) == pytest.approx(weighted(loops), rel=1e-6)
    assert zero_forcing([torch.zeros(2, 2, 5, 6)], torch.full((2, 5, 6), -200.0)) == 0


def test_transform_consistency_equals_the_definition(rng: np.random.Generator) -> None:
    """Red when: the transformed branch gets a gradient, or NaN outside the mask leaks."""
    case = make(rng)
    target = torch.where(case.mask[:, None], case.flow_gt.double(), torch.nan).requires_grad_()
    loops = [
        mean(
            [
                np.abs(flow[b, :, y, x] - case.flow_gt[b, :, y, x].numpy()).sum()
                for b, y, x in pixels()
                if case.mask[b, y, x]
            ]
        )
        for flow in arrays(case.flows)
    ]
    value = transform_consistency(case.flows, target, case.mask, GAMMA)
    value.backward()
    assert float(value.detach()) == pytest.approx(weighted(loops), rel=1e-6)
    assert target.grad is None
    assert all(flow.grad is not None and flow.grad.isfinite().all() for flow in case.flows)
