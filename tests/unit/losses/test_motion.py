"""Motion models per segment: what they fit exactly, and a loop that fits each segment by numpy's lstsq."""

from typing import get_args

import numpy as np
import pytest
import torch
from scipy.ndimage import label as connected

from semraft.losses import motion_model
from semraft.losses.motion import FitGradient, motion_model_by_class
from semraft.ops.labels import segment_ids
from semraft.ops.motion_models import PlaneModel
from tests.unit.losses.tiny import gradient_is_right, mean

ROAD, CAR, TREE, IGNORED = 0, 10, 6, 255
HEIGHT, WIDTH = 40, 56


def street() -> tuple[torch.Tensor, torch.Tensor]:
    """A road in two parts, trees, an ignored corner, and two cars that touch: labels and instances."""
    labels = torch.full((2, HEIGHT, WIDTH), TREE)
    labels[:, 15:] = ROAD
    labels[:, 15:, 26:29] = TREE
    labels[:, 20:30, 5:21] = CAR
    labels[1, 32:, :9] = IGNORED
    instances = torch.zeros_like(labels)
    instances[:, 20:30, 5:12], instances[:, 20:30, 12:21] = 1, 2
    return labels, instances


def homography(*, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A flow of 5 to 30 px that a plane seen by a turning, advancing camera has, another in each sample."""
    y, x = torch.meshgrid(torch.arange(HEIGHT).double(), torch.arange(WIDTH).double(), indexing="ij")
    flows = []
    for sign in (1, -1):
        depth = 1 + sign * 1e-3 * x + 4e-3 * y
        moved = (1.05 * x + 0.02 * y + 6) / depth, (0.01 * x + 1.1 * y - 5 * sign) / depth
        flows.append(torch.stack([moved[0] - x, moved[1] - y]))
    return torch.stack(flows).to(dtype)


def test_an_exact_homography_leaves_nothing() -> None:
    """Red when: the target is not in the equations, coordinates are not normalised (float32 then loses
    digits), or the ridge is large. Affine things and quadratic planes do leave something."""
    labels, _ = street()
    road = labels == ROAD
    flow = homography()
    assert motion_model([flow], labels, road) < 1e-3
    assert motion_model([homography(dtype=torch.float64)], labels, road, ridge=1e-12) < 1e-6
    assert motion_model([flow], labels, road, plane_model="quadratic") > 0.01
    assert motion_model([flow], labels, labels == CAR) > 0.01
    by_class = motion_model_by_class(flow, labels, labels != TREE)
    assert by_class.keys() == {ROAD, CAR}
    assert by_class[ROAD] < 1e-3 < by_class[CAR]


def test_each_segment_has_a_motion_of_its_own() -> None:
    """Red when: two parts of the road, two samples or two touching cars share a fit."""
    labels, instances = street()
    flow = homography()
    flow[:, :, 15:, 29:] = 3 + flow[:, :, 15:, 29:].flip(0)
    for sample in range(2):
        flow[sample, :, 20:30, 5:12] = torch.tensor([3.0, -1.0 + sample])[:, None, None]
        flow[sample, :, 20:30, 12:21] = torch.tensor([-4.0, 2.0])[:, None, None]
    modelled = (labels == ROAD) | (labels == CAR)
    mixed = motion_model([flow], labels, modelled)
    assert motion_model([flow], segment_ids(labels, instances), modelled) < 1e-3 < 0.1 < mixed


def left_by_loops(flow: np.ndarray, segments: np.ndarray, mask: np.ndarray, plane: str) -> float:
    """The same linear equations, one segment after another, in pixels and without a ridge."""
    found = []
    for b in range(len(segments)):
        for value in set(segments[b].flat) - {IGNORED, TREE}:
            parts, count = connected(segments[b] == value)
            for part in range(1, count + 1):
                y, x = np.nonzero(parts == part)
                if len(y) < 64:
                    continue
                u, v = flow[b, :, y, x].T
                cx, cy = x - x.mean(), y - y.mean()
                one, zero = np.ones_like(u), np.zeros_like(u)
                tx, ty = (cx + u, cy + v) if plane == "homography" else (cx, cy)
                columns_u, columns_v = [cx, cy, one, zero, zero, zero], [zero, zero, zero, cx, cy, one]
                if value % 256 == ROAD:
                    columns_u += [-tx * cx, -tx * cy]
                    columns_v += [-ty * cx, -ty * cy]
                design = np.concatenate([np.stack(columns_u, 1), np.stack(columns_v, 1)])
                wanted = np.concatenate([u, v])
                best = np.linalg.lstsq(design, wanted, rcond=None)[0]
                left = np.abs(wanted - design @ best).reshape(2, -1).sum(0)
                found += list(left[mask[b, y, x]])
    return mean(found)


@pytest.mark.parametrize("plane", get_args(PlaneModel))
def test_equals_the_loop(rng: np.random.Generator, plane: PlaneModel) -> None:
    """Red when: a column of the equations has the wrong sign, residuals are not scaled back to pixels, small
    segments count, or pixels outside the mask are not fitted."""
    labels, instances = street()
    segments = segment_ids(labels, instances)
    flow = homography(dtype=torch.float64) + torch.from_numpy(rng.normal(0, 1, (2, 2, HEIGHT, WIDTH)))
    mask = torch.from_numpy(rng.random(labels.shape) > 0.4)
    value = motion_model([flow], segments, mask, plane, ridge=1e-12)
    expected = left_by_loops(flow.numpy(), segments.numpy(), mask.numpy(), plane)
    assert float(value) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("plane", get_args(PlaneModel))
def test_has_the_right_gradient(rng: np.random.Generator, plane: PlaneModel) -> None:
    """Red when: the fit is detached. Stopped, the gradient is another one and the value the same."""
    labels, _ = street()
    flow = homography(dtype=torch.float64) + torch.from_numpy(rng.normal(0, 1, (2, 2, HEIGHT, WIDTH)))
    flow.requires_grad_()
    mask = labels != TREE
    assert gradient_is_right(lambda flow: motion_model([flow], labels, mask, plane), flow)
    gradients = []
    for gradient in get_args(FitGradient):
        value = motion_model([flow], labels, mask, plane, gradient)
        gradients.append(torch.autograd.grad(value, flow)[0])
    assert not torch.allclose(*gradients)


def test_only_the_largest_segments_get_a_model() -> None:
    """Red when: the limit is over the batch, or the smallest are kept."""
    labels, _ = street()
    flow = homography()
    for limit, found in ((1, {ROAD}), (3, {ROAD, CAR})):
        residual = motion_model([flow], labels, labels == CAR, max_segments=limit)
        assert (residual > 0) == (CAR in found)
    nothing = torch.full_like(labels, TREE)
    value = motion_model([flow.requires_grad_()], nothing, nothing == TREE)
    value.backward()
    assert value == 0
    assert flow.grad is not None
    assert not flow.grad.any()
