"""The terms on the world's own truth: least there where they should be, biased where they are known to be."""

from dataclasses import replace

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from semraft.config import LossConfig, parse_term
from semraft.data.loader import collate
from semraft.data.world.driving_scene import scene
from semraft.losses.auxiliary_term import required
from semraft.losses.label_consistency import label_warp
from semraft.losses.objective import objective
from semraft.losses.terms import TERMS
from semraft.ops.classes import CLASSES
from semraft.ops.distance import boundary_distance
from semraft.ops.warp import warp
from semraft.sample import FlowBatch, Prediction


@pytest.fixture(scope="module")
def batch() -> FlowBatch:
    return collate([scene(0, index, (96, 192), "val") for index in range(4)])


def logits_of(labels: Tensor) -> Tensor:
    """Logits of a decoder that is sure of its classes; ignored pixels are road."""
    classes = labels.where(labels < len(CLASSES), 0)
    return 12.0 * torch.nn.functional.one_hot(classes, len(CLASSES)).movedim(-1, 1).float()


def value(batch: FlowBatch, flow: Tensor, term: str, heads: FlowBatch | None = None) -> float:
    """A term's value for one flow and the heads of a perfect network, or what `heads` makes of them."""
    said = heads or batch
    prediction = Prediction(
        flows=[flow],
        features1=flow,
        features2=flow,
        backward_flow=batch.backward_flow,
        occlusion=None if said.occluded1 is None else torch.where(said.occluded1, 12.0, -12.0),
        segmentation1=logits_of(required(said.labels1)),
        segmentation2=logits_of(required(said.labels2)),
    )
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
        ("temporal-consistency:1", 0.03),
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


def test_heads_that_say_the_truth_lose_next_to_nothing(batch: FlowBatch) -> None:
    """Red when: the frames' labels change places, occluded is 0, or what a head says is compared with
    another pixel. The price on occlusion is paid for what is occluded."""
    moved = replace(
        batch,
        labels1=required(batch.labels1).roll(3, 2),
        labels2=required(batch.labels2).roll(3, 2),
        occluded1=~required(batch.occluded1),
    )
    swapped = replace(batch, labels1=batch.labels2, labels2=batch.labels1)
    assert value(batch, batch.flow, "segmentation:1") < 1e-3
    assert value(batch, batch.flow, "occlusion:1,prior=0") < 1e-3
    assert value(batch, batch.flow, "occlusion:1") < 0.05
    for heads in (moved, swapped):
        assert value(batch, batch.flow, "segmentation:1", heads) > 0.1
    assert value(batch, batch.flow, "occlusion:1", moved) > 10


def test_no_label_disagrees_inside(batch: FlowBatch) -> None:
    """Where a visible pixel's target has one class around it, that is its own: `zero inside`. Red when: the
    world's labels, flow and occlusion are of different moments, or a blend reaches further than a pixel."""
    labels1, labels2 = required(batch.labels1), required(batch.labels2)
    around, seen = warp(boundary_distance(labels2, 99)[:, None], batch.flow)
    inside = batch.valid & seen & ~required(batch.occluded1) & (around[:, 0] > 1.5)
    assert inside.float().mean() > 0.4
    assert label_warp([batch.flow], labels1, labels2, inside) < 1e-3
    assert label_warp([batch.flow + 8], labels1, labels2, inside) > 0.02


@pytest.mark.parametrize("term", ["label-warp:1", "label-distance:1", "signed-distance:1", "census:1"])
@given(number=st.integers(0, 10_000), angle=st.floats(0, 6.28), length_px=st.floats(1.5, 6))
@settings(max_examples=4, deadline=None, phases=(Phase.explicit, Phase.generate))
def test_no_other_motion_suits_a_scene_better(term: str, number: int, angle: float, length_px: float) -> None:
    """Any scene, moved anywhere. Red when: a term that looks into frame 2 has its least elsewhere."""
    drawn = collate([scene(4, number, (96, 192), "val"), scene(4, number + 1, (96, 192), "val")])
    step = length_px * torch.tensor([angle, angle - 1.5708]).cos().view(1, 2, 1, 1)
    assert value(drawn, drawn.flow, term) < value(drawn, drawn.flow + step, term)
