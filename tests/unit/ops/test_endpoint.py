"""Endpoint errors summed where the flow is, against the metric's own definition."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semraft.metrics import endpoint_error
from semraft.ops.endpoint import endpoint_error_sums


def slow_sum(flow: torch.Tensor, flow_gt: torch.Tensor, valid: torch.Tensor) -> float:
    """The definition: float64, one sample at a time."""
    samples = zip(flow.permute(0, 2, 3, 1), flow_gt.permute(0, 2, 3, 1), valid, strict=True)
    return math.fsum(endpoint_error(*(array.numpy() for array in arrays)).sum() for arrays in samples)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.01, 1.0, 300.0]), st.sampled_from([0.0, 1.0, 500.0]))
@settings(max_examples=25, deadline=None)
def test_sums_are_those_of_the_definition(seed: int, error_px: float, length_px: float) -> None:
    """To 1e-6, whatever the size of errors and flow. Red when: the sum runs in float32 over the whole image,
    over invalid pixels or over some samples only, or the error is squared or is of one component."""
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 4)), 2, int(rng.integers(1, 80)), int(rng.integers(1, 300)))
    flow_gt = torch.from_numpy(rng.normal(0, length_px, shape).astype(np.float32))
    flows = [
        flow_gt + torch.from_numpy(rng.normal(0, factor * error_px, shape).astype(np.float32))
        for factor in (3.0, 1.0)
    ]
    valid = torch.from_numpy(rng.random((shape[0], *shape[2:])) < 0.7)
    sums = endpoint_error_sums(flows, flow_gt, valid)
    assert sums == pytest.approx([slow_sum(flow, flow_gt, valid) for flow in flows], rel=1e-6)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_an_infinite_error_where_valid_and_nothing_elsewhere(poison: float) -> None:
    """Red when: 0 x NaN is NaN, or NaN passes for a number."""
    flow_gt, valid = torch.zeros(2, 2, 5, 7), torch.ones(2, 5, 7, dtype=torch.bool)
    valid[1, 3, 4] = False
    outside, inside = torch.full((2, 2, 2, 5, 7), 3.0).unbind(0)
    outside, inside = outside.clone(), inside.clone()
    outside[1, :, 3, 4] = poison
    inside[1, 0, 3, 3] = poison
    sums = endpoint_error_sums([outside, inside], flow_gt, valid)
    assert sums == [pytest.approx(69 * 18**0.5, rel=1e-6), math.inf]
    assert sums[1] == slow_sum(inside, flow_gt, valid)


def test_huge_errors_do_not_overflow_and_no_flow_has_no_sum() -> None:
    """Red when: components are squared in float32."""
    flow, valid = torch.full((1, 2, 3, 4), 3e30), torch.ones(1, 3, 4, dtype=torch.bool)
    assert endpoint_error_sums([flow], 0 * flow, valid) == [pytest.approx(12 * 3e30 * 2**0.5, rel=1e-6)]
    assert endpoint_error_sums([], flow, valid) == []
