"""The terms on the world's own truth: least there where they should be, biased where they are known to be."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from semraft.config import LossConfig, parse_term
from semraft.data.loader import collate
from semraft.data.world import scene
from semraft.losses.objective import objective
from semraft.losses.terms import TERMS
from semraft.sample import FlowBatch, Prediction


@pytest.fixture(scope="module")
def batch() -> FlowBatch:
    return collate([scene(0, index, (96, 192), "val") for index in range(4)])


def value(batch: FlowBatch, flow: Tensor, term: str) -> float:
    """A term's value for one flow; the true flow is also what a perfect head would check it with."""
    prediction = Prediction(flows=[flow], features1=flow, features2=flow, backward_flow=batch.backward_flow)
    chosen = parse_term(term)
    found = objective(prediction, batch, LossConfig(terms=(chosen,)))
    return float(found.values[TERMS[chosen.name].scalar])


@pytest.mark.parametrize(
    ("term", "at_most"),
    [
        ("gradient-matching:1", 0.0),
        ("boundary-weight:1", 0.0),
        ("label-warp:1", 0.03),
        ("label-warp:1,where=things,boundary=instance", 0.08),
        ("label-distance:1", 0.003),
        ("signed-distance:1", 0.08),
        ("signed-distance:1,where=things,boundary=instance", 0.08),
        ("census:1", 0.25),
        ("census:1,where=things,mask=forward-backward", 0.25),
    ],
)
def test_the_truth_is_better_than_what_is_not(batch: FlowBatch, term: str, at_most: float) -> None:
    """Red when: a sign or an axis of the flow is wrong, the frames are exchanged, or occlusion is not masked.

    Zero, u and v exchanged, turned around, and moved by two pixels in each direction.
    """
    truth = batch.flow
    moved = [
        truth + torch.tensor([u, v]).view(1, 2, 1, 1) for u, v in ((2.0, 0), (-2.0, 0), (0, 2.0), (0, -2.0))
    ]
    best = value(batch, truth, term)
    assert best <= at_most
    # A wrong motion of everything alike has no gradient of its own.
    wrong = [] if term.startswith("gradient") else moved
    for flow in (torch.zeros_like(truth), truth.flip(1), -truth, *wrong):
        assert value(batch, flow, term) > 1.2 * best + 1e-4


def test_planes_move_as_planes(batch: FlowBatch) -> None:
    """Red when: a road does not fit a homography, or the quadratic model fits it as well."""
    truth = torch.where(batch.valid[:, None], batch.flow, 0)
    road = "motion-model:1,where=road,boundary=instance"
    assert value(batch, truth, road) < 2e-3
    assert value(batch, truth, f"{road},plane-model=quadratic") > 10 * value(batch, truth, road)
    noisy = truth + torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    assert value(batch, noisy, road) > 1


def test_smoothness_is_biased_to_standing_still_and_order_two_hardly(batch: FlowBatch) -> None:
    """Perspective alone: at the truth order 1 is far from 0, order 2 much nearer; both are 0 at rest."""
    still = torch.zeros_like(batch.flow)
    first, second = "smoothness:1,order=1,boundary=instance", "smoothness:1,boundary=instance"
    assert (
        value(batch, still, first) == value(batch, still, second) == value(batch, still, "semantic-v1:1") == 0
    )
    assert value(batch, batch.flow, "semantic-v1:1") > 0.1
    assert 0 < 8 * value(batch, batch.flow, second) < value(batch, batch.flow, first)


def test_two_occlusion_masks_of_the_truth_agree(batch: FlowBatch) -> None:
    """Red when: the check of true forward and backward flow is not the exact occlusion, nearly."""
    by_data = value(batch, batch.flow, "label-warp:1")
    by_check = value(batch, batch.flow, "label-warp:1,mask=forward-backward")
    assert by_check == pytest.approx(by_data, abs=0.01)
    unmasked = value(replace(batch, occluded1=None), batch.flow, "label-warp:1,mask=none")
    assert unmasked > 2 * max(by_data, by_check)
