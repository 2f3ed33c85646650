import numpy as np
import pytest
import torch

from semraft.ops import warp
from semraft.ops.matches import in_frame, match_positions


def test_arrays_and_tensors_have_one_rule(rng: np.random.Generator) -> None:
    """Red when: rows and columns change places, the last pixel centre is outside, or NaN is inside."""
    flow = rng.integers(-6, 7, (5, 9, 2)).astype(np.float32)
    flow[0] = 0
    flow[0, [0, 1, 2, 3, 7], 0] = np.nan, np.inf, -2, -3.001, 1.001
    tensor = torch.from_numpy(flow).permute(2, 0, 1)[None]
    for ours, theirs in zip(match_positions(flow), warp.target(tensor), strict=True):
        np.testing.assert_array_equal(ours, theirs[0].numpy())
    inside = in_frame(*match_positions(flow))
    np.testing.assert_array_equal(inside, warp.in_frame(tensor)[0].numpy())
    assert np.flatnonzero(~inside[0]).tolist() == [0, 1, 3, 7]
    assert 0.2 < inside.mean() < 0.8


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_positions_have_the_precision_of_the_flow(dtype: type) -> None:
    """Red when: float32 flow is widened in a hot path, or a small step of float64 flow is lost."""
    flow = np.full((3, 160, 2), 1e-7, dtype)
    x, y = match_positions(flow)
    assert x.dtype == y.dtype == dtype
    assert bool(in_frame(x, y)[0, 159]) == (dtype is np.float32)
