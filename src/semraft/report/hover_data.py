"""Flow of a pair as numbers in a page, shown under the pointer.

Of large frames every second, third, ... pixel is kept. Values are not averaged.
"""

import base64
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int16

MAX_POINTS = 32_768
"""Points of the grid: a frame of 128x256 whole, every eighth pixel of 1080x1920 in both directions."""

STEPS_PER_PX = 32
"""Flow is kept to 1/32 px, up to 1000 px: float16, which it was saved in, is coarser from 32 px on."""

UNKNOWN = -32768
"""Code of a value that is missing or not finite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HoverData:
    """Fields on a grid of `columns` x `rows` points, `stride` px apart from `offset`, in a frame of `size`.

    `data` is base64 of zlib of int16, little endian: field by field, u then v, each row as its first value
    and then the differences from point to point (modulo 2^16). The first field is the ground truth.
    """

    names: list[str]
    size: tuple[int, int]
    rows: int
    columns: int
    stride: int
    offset: int
    data: str


def make_hover_data(
    flow_gt: Float[np.ndarray, "H W 2"],
    valid: Bool[np.ndarray, "H W"],
    flows: Mapping[str, Float[np.ndarray, "H W 2"]],
) -> HoverData:
    """The ground truth and each named flow of a pair."""
    height, width = valid.shape
    stride = max(1, math.ceil(math.sqrt(height * width / MAX_POINTS)))
    offset = stride // 2
    grid = np.s_[offset::stride, offset::stride]
    truth = np.where(valid[..., None], flow_gt, np.nan)[grid]
    planes = [
        _steps(field[..., axis]) for field in (truth, *(f[grid] for f in flows.values())) for axis in (0, 1)
    ]
    rows, columns = planes[0].shape
    packed = zlib.compress(np.diff(np.stack(planes), axis=-1, prepend=np.int16(0)).astype("<i2").tobytes())
    return HoverData(
        names=["Ground truth", *flows],
        size=(height, width),
        rows=rows,
        columns=columns,
        stride=stride,
        offset=offset,
        data=base64.b64encode(packed).decode(),
    )


def _steps(values: Float[np.ndarray, "h w"]) -> Int16[np.ndarray, "h w"]:
    steps = np.round(values.astype(np.float32) * STEPS_PER_PX)
    known = np.isfinite(steps)
    limited = np.where(known, steps, 0).clip(UNKNOWN + 1, -UNKNOWN - 1)
    return np.where(known, limited, UNKNOWN).astype(np.int16)
