"""Smoothness of both orders and gradient matching, against loops written from the definitions."""

from typing import Any

import numpy as np
import pytest
import torch

from semraft.losses import gradient_matching, smoothness
from semraft.ops.labels import segment_ids
from tests.unit.losses.tiny import (
    BATCH,
    GAMMA,
    HEIGHT,
    WIDTH,
    arrays,
    gradient_is_right,
    make,
    mean,
    weighted,
)


def by_loops(flow: np.ndarray, segments: np.ndarray, mask: np.ndarray, order: int, penalty: str) -> float:
    last = 1 if order == 2 else 0
    found = []
    for b in range(BATCH):
        for y in range(1, HEIGHT - last):
            for x in range(1, WIDTH - last):
                here = segments[b, y, x]
                if not mask[b, y, x] or here == 255:
                    continue
                rough = 0.0
                for dy, dx in ((0, 1), (1, 0)):
                    steps = (-1,) if order == 1 else (-1, 1)
                    if any(segments[b, y + s * dy, x + s * dx] != here for s in steps):
                        continue
                    for c in range(2):
                        before = flow[b, c, y - dy, x - dx]
                        d = flow[b, c, y, x] - before
                        if order == 2:
                            d = before - 2 * flow[b, c, y, x] + flow[b, c, y + dy, x + dx]
                        rough += abs(d) if penalty == "l1" else np.sqrt(d * d + 1e-6)
                found.append(rough)
    return mean(found)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("penalty", ["l1", "charbonnier"])
@pytest.mark.parametrize("by_instance", [False, True])
def test_smoothness_equals_the_loop(
    rng: np.random.Generator, order: Any, penalty: Any, by_instance: bool
) -> None:
    """Red when: one pixel of a difference may lie elsewhere, u and v are not summed, or 255 is a class."""
    case = make(rng)
    segments = segment_ids(case.labels1, case.instances1 if by_instance else None)
    loss = smoothness(case.flows, segments, case.mask, order, GAMMA, penalty)
    loops = [
        by_loops(flow, segments.numpy(), case.mask.numpy(), order, penalty) for flow in arrays(case.flows)
    ]
    assert float(loss.detach()) == pytest.approx(weighted(loops), rel=1e-6)


@pytest.mark.parametrize("order", [1, 2])
def test_smoothness_has_the_right_gradient(rng: np.random.Generator, order: Any) -> None:
    """Red when: a difference is detached, or its neighbour gets no gradient."""
    case = make(rng)
    flow = case.flows[0]
    for penalty in ("l1", "charbonnier"):
        assert gradient_is_right(
            lambda flow, penalty=penalty: smoothness([flow], case.labels1, case.mask, order, penalty=penalty),
            flow,
        )


def test_second_order_is_blind_to_a_plane_and_first_order_is_not() -> None:
    """Red when: order 2 takes differences of differences across the wrong axes."""
    rows, columns = torch.meshgrid(torch.arange(9.0), torch.arange(14.0), indexing="ij")
    flow = torch.stack([0.5 * columns - rows, 3 + 0.25 * rows])[None].repeat(2, 1, 1, 1)
    one = torch.zeros(2, 9, 14, dtype=torch.int64)
    everywhere = one == 0
    assert smoothness([flow], one, everywhere) == 0
    assert smoothness([flow], one, everywhere, order=1) == 0.5 + 1 + 0.25


def test_gradient_matching_equals_the_loop(rng: np.random.Generator) -> None:
    """Red when: the difference of magnitudes is taken, or one invalid pixel of two is enough."""
    case = make(rng)
    labels, valid, truth = case.labels1.numpy(), case.valid.numpy(), case.flow_gt.double().numpy()
    loops = []
    for flow in arrays(case.flows):
        found = []
        for b in range(BATCH):
            for y in range(1, HEIGHT):
                for x in range(1, WIDTH):
                    if not valid[b, y, x] or labels[b, y, x] == 255:
                        continue
                    wrong = 0.0
                    for i, j in ((y, x - 1), (y - 1, x)):
                        if valid[b, i, j] and labels[b, i, j] == labels[b, y, x]:
                            d_flow = flow[b, :, y, x] - flow[b, :, i, j]
                            d_truth = truth[b, :, y, x] - truth[b, :, i, j]
                            wrong += np.abs(d_flow - d_truth).sum()
                    found.append(wrong)
        loops.append(mean(found))
    loss = gradient_matching(case.flows, case.flow_gt, case.labels1, case.valid, GAMMA)
    assert float(loss.detach()) == pytest.approx(weighted(loops), rel=1e-6)


def test_gradient_matching_has_the_right_gradient_and_is_zero_at_the_truth(rng: np.random.Generator) -> None:
    """Red when: the truth is not subtracted, or NaN where there is none reaches the value."""
    case = make(rng)
    truth = torch.where(case.valid[:, None], case.flow_gt, torch.nan)
    assert gradient_is_right(
        lambda flow: gradient_matching([flow], truth, case.labels1, case.valid), case.flows[1]
    )
    assert gradient_matching([case.flow_gt + 3], truth, case.labels1, case.valid) < 1e-6
