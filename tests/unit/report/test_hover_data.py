"""semraft.report.hover_data: what the page decodes is what was there."""

import base64
import zlib

import numpy as np
from jaxtyping import Float64

from semraft.report.hover_data import STEPS_PER_PX, UNKNOWN, HoverData, make_hover_data


def decode(hover: HoverData) -> Float64[np.ndarray, "F 2 h w"]:
    """As pairs.js does it, from its description."""
    steps = np.frombuffer(zlib.decompress(base64.b64decode(hover.data)), "<i2")
    planes = np.cumsum(steps.reshape(-1, hover.rows, hover.columns), axis=-1, dtype=np.int16)
    values = np.where(planes == UNKNOWN, np.nan, planes / STEPS_PER_PX)
    return values.reshape(-1, 2, hover.rows, hover.columns)


def test_small_frames_are_kept_whole(rng: np.random.Generator) -> None:
    """Red when: u and v change places, differences run over rows, or a jump of over 1000 px is lost."""
    truth = rng.uniform(-1000, 1000, (37, 53, 2)).astype(np.float32)
    flow = rng.uniform(-1000, 1000, (37, 53, 2)).astype(np.float16)
    truth[3, 4], flow[0, 0] = (-1000, 1000), (np.nan, 1)
    valid = rng.random((37, 53)) > 0.2
    hover = make_hover_data(truth, valid, {"base seed 0": flow})
    assert (hover.names, hover.stride, hover.offset) == (["Ground truth", "base seed 0"], 1, 0)
    (found_truth, found) = decode(hover)
    assert np.isnan(found_truth[:, ~valid]).all()
    np.testing.assert_allclose(found_truth[:, valid].T, truth[valid], atol=0.5 / STEPS_PER_PX)
    expected = flow.astype(np.float64).transpose(2, 0, 1)
    np.testing.assert_allclose(found, expected, atol=0.5 / STEPS_PER_PX)


def test_large_frames_are_read_at_every_so_many_pixels() -> None:
    """Red when: values are averaged, or the offset is not that of the pixels read."""
    y, x = np.mgrid[:540, :1001].astype(np.float32)
    flow = np.stack([x, -y], axis=-1)
    hover = make_hover_data(flow, np.ones((540, 1001), bool), {})
    assert (hover.stride, hover.offset) == (5, 2)
    assert hover.rows * hover.columns <= 32_768
    (found,) = decode(hover)
    assert found[0, 7].tolist() == [float(2 + 5 * column) for column in range(hover.columns)]
    assert found[1, 7, 0] == -(2 + 5 * 7)


def test_longer_flow_than_can_be_kept_is_cut_not_wrapped() -> None:
    flow = np.full((4, 6, 2), 5000.0, np.float32)
    truth, found = decode(make_hover_data(flow, np.ones((4, 6), bool), {"a": -flow}))
    assert (truth > 1000).all()
    assert (found < -1000).all()
