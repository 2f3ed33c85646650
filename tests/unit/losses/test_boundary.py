"""The boundary-weighted sequence loss against a loop."""

import numpy as np
import pytest
import torch

from semraft.losses import boundary_weight, sequence_loss
from tests.unit.losses.tiny import GAMMA, arrays, gradient_is_right, make, mean, pixels, weighted
from tests.unit.ops.test_distance import slow_distance


def test_equals_the_loop(rng: np.random.Generator) -> None:
    """Red when: d counts from the centre of a segment, k or s change places, or weights are normalised."""
    case = make(rng)
    distance = [slow_distance(labels.numpy()) for labels in case.labels1]
    truth, valid = case.flow_gt.double().numpy(), case.valid.numpy()
    loops = []
    for flow in arrays(case.flows):
        found = [
            (1 + 3 * np.exp(-distance[b][y, x] / 2)) * np.abs(flow[b, :, y, x] - truth[b, :, y, x]).sum()
            for b, y, x in pixels()
            if valid[b, y, x]
        ]
        loops.append(mean(found))
    loss = boundary_weight(case.flows, case.flow_gt, case.labels1, case.valid, 3.0, 2.0, GAMMA)
    assert float(loss.detach()) == pytest.approx(weighted(loops), rel=1e-6)


def test_gradient_and_poison(rng: np.random.Generator) -> None:
    """Red when: NaN without truth leaks. With gain 0 it is the sequence loss."""
    case = make(rng)
    truth = torch.where(case.valid[:, None], case.flow_gt, torch.nan)
    assert gradient_is_right(
        lambda flow: boundary_weight([flow], truth, case.labels1, case.valid), case.flows[0]
    )
    flows = [flow.detach().float() for flow in case.flows]
    plain = boundary_weight(flows, truth, case.labels1, case.valid, gain=0.0)
    assert torch.allclose(plain, sequence_loss(flows, case.flow_gt, case.valid))


def test_far_from_every_boundary_nothing_is_added() -> None:
    """Red when: an image of one class weighs as if it were a boundary."""
    flow, truth = torch.ones(2, 2, 9, 14), torch.zeros(2, 2, 9, 14)
    one = torch.full((2, 9, 14), 3)
    assert abs(float(boundary_weight([flow], truth, one, one == 3)) - 2) < 2 * 2 * 4e-4
