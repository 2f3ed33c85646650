"""Where the flow of an array leads, and whether that is still in the frame; `ops.warp` says it of tensors."""

import numpy as np
from jaxtyping import Bool, Float


def match_positions(
    flow: Float[np.ndarray, "H W 2"],
) -> tuple[Float[np.ndarray, "H W"], Float[np.ndarray, "H W"]]:
    """Column and row, in pixels and in the flow's own precision, of each pixel's match in the other frame."""
    height, width = flow.shape[:2]
    x: np.ndarray = flow[..., 0] + np.arange(width, dtype=flow.dtype)
    y: np.ndarray = flow[..., 1] + np.arange(height, dtype=flow.dtype)[:, None]
    return x, y


def in_frame(x: Float[np.ndarray, "H W"], y: Float[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Where (x, y) lies between the outermost pixel centres, these included; NaN does not."""
    height, width = x.shape
    return np.asarray((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1))
