"""Label warp, label distance and signed distance against loops written from the definitions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from semraft.losses import label_distance, label_warp, signed_distance
from tests.unit.losses.tiny import (
    GAMMA,
    Tiny,
    arrays,
    bilinear,
    gradient_is_right,
    in_frame,
    make,
    mean,
    pixels,
    weighted,
)

RADIUS = 3
LOSSES: dict[str, tuple[Callable[..., Tensor], dict[str, Any]]] = {
    "label-warp": (label_warp, {}),
    "label-distance": (label_distance, {"radius_px": RADIUS}),
    "signed-distance": (signed_distance, {"radius_px": RADIUS}),
}


def distance(mask: np.ndarray) -> np.ndarray:
    return np.minimum(distance_transform_edt(~mask), RADIUS) if mask.any() else np.full(mask.shape, RADIUS)


def signed(labels: np.ndarray, label: int) -> np.ndarray:
    inside = labels == label
    return distance(~inside & (labels != 255)) - distance(inside)


def by_loops(name: str, flow: np.ndarray, case: Tiny) -> float:
    labels1, labels2 = case.labels1.numpy(), case.labels2.numpy()
    maps = {}
    for b in range(len(labels1)):
        maps[b, 255] = labels2[b] == 255, labels2[b]
        for c in set(labels1[b].flat) - {255}:
            inside = labels2[b] == c
            maps[b, c] = {
                "label-warp": (1.0 * inside, None),
                "label-distance": (distance(inside), None),
                "signed-distance": (signed(labels2[b], c), signed(labels1[b], c)),
            }[name]
    found = []
    for b, y, x in pixels():
        c = labels1[b, y, x]
        target = x + flow[b, 0, y, x], y + flow[b, 1, y, x]
        if c == 255 or not case.mask[b, y, x] or not in_frame(*target):
            continue
        if bilinear(maps[b, 255][0], *target) > 0:
            continue
        there = bilinear(maps[b, c][0], *target)
        if name == "label-warp":
            found.append(1 - there)
        elif name == "label-distance":
            found.append(there / RADIUS)
        else:
            found.append(abs(there - maps[b, c][1][y, x]) / RADIUS)
    assert len(found) > 50
    return mean(found)


@pytest.mark.parametrize("name", LOSSES)
def test_equals_the_loop(rng: np.random.Generator, name: str) -> None:
    """Red when: the class of frame 2 is asked for, u and v change places, ignored targets or pixels count,
    or the distance is not divided by the radius."""
    case = make(rng)
    loops = [by_loops(name, flow, case) for flow in arrays(case.flows)]
    loss, options = LOSSES[name]
    value = loss(case.flows, case.labels1, case.labels2, case.mask, gamma=GAMMA, **options)
    assert float(value.detach()) == pytest.approx(weighted(loops), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_has_the_right_gradient(rng: np.random.Generator, name: str) -> None:
    """Red when: the shares of the blend are detached, or |x| has no sign."""
    case = make(rng)
    loss, options = LOSSES[name]
    flow = case.flows[0]
    assert gradient_is_right(
        lambda flow: loss([flow], case.labels1, case.labels2, case.mask, **options), flow
    )


@pytest.mark.parametrize("name", LOSSES)
def test_least_where_a_box_went(name: str) -> None:
    """A box of cars moved by (3, -2): the loss is 0 at its motion and pulls a wrong guess there.

    Red when: the slope has the wrong sign, or does not reach far enough for the distances.
    """
    labels1 = torch.zeros(2, 24, 40, dtype=torch.int64)
    labels1[:, 10:18, 8:20] = 10
    labels2 = labels1.roll((-2, 3), (1, 2))
    box = labels1 == 10
    truth = torch.tensor([3.0, -2.0]).view(1, 2, 1, 1).expand(2, 2, 24, 40)
    loss, _ = LOSSES[name]
    assert loss([truth], labels1, labels2, box) == 0
    guess = (truth - 2.5).clone().requires_grad_()
    value = loss([guess], labels1, labels2, box)
    value.backward()
    assert value > 0
    assert guess.grad is not None
    pull = -guess.grad.sum((0, 2, 3))
    assert (pull > 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_known_is_zero_with_a_zero_gradient(rng: np.random.Generator, name: str) -> None:
    """Red when: an image without a label has no classes to gather from."""
    case = make(rng)
    ignored = torch.full_like(case.labels1, 255)
    loss, options = LOSSES[name]
    for labels1, labels2 in ((ignored, case.labels2), (case.labels1, ignored)):
        for flow in case.flows:
            flow.grad = None
        value = loss(case.flows, labels1, labels2, case.mask, **options)
        value.backward()
        assert value == 0
        assert all(flow.grad is not None and not flow.grad.any() for flow in case.flows)
