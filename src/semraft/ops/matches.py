"""Where the flow of an array leads, and whether that is still in the frame; `ops.warp` says it of tensors."""

import numpy as np
from jaxtyping import Bool, Float


def match_positions(
    flow: Float[np.ndarray, "H W 2"], origin: tuple[int, int] = (0, 0)
) -> tuple[Float[np.ndarray, "H W"], Float[np.ndarray, "H W"]]:
    """Column and row, in pixels and in the flow's own precision, of each pixel's match in the other frame.

    `origin` is the row and column of the frame that the array's first pixel has.
    """
    (height, width), (top, left) = flow.shape[:2], origin
    x: np.ndarray = flow[..., 0] + np.arange(left, left + width, dtype=flow.dtype)
    y: np.ndarray = flow[..., 1] + np.arange(top, top + height, dtype=flow.dtype)[:, None]
    return x, y


def in_frame(
    x: Float[np.ndarray, "H W"], y: Float[np.ndarray, "H W"], frame: tuple[int, int] | None = None
) -> Bool[np.ndarray, "H W"]:
    """Where (x, y) lies between the outermost pixel centres, these included; NaN does not.

    `frame` is height and width of the frame where the arrays are only a part of it.
    """
    height, width = frame or x.shape
    return np.asarray((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1))
