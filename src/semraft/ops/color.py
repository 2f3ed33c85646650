"""Flow and labels as images, without torch. Figures with axes are made elsewhere."""

import numpy as np
from jaxtyping import Bool, Float, UInt8

# Baker et al., "A Database and Evaluation Methodology for Optical Flow" (2007): six colours around the circle
# and the steps from each to the next, chosen so that equal angles look about equally different.
_WHEEL_COLORS = ((1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1), (1, 0, 0))
_WHEEL_STEPS = (15, 6, 4, 11, 13, 6)


def flow_to_color(
    flow: Float[np.ndarray, "H W 2"],
    valid: Bool[np.ndarray, "H W"] | None = None,
    max_px: float | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """Paints flow by the Middlebury colour code: hue is direction, saturation is speed.

    Right is red, down yellow, left light blue, up violet; no motion is white, `max_px` the full hue, and
    faster the hue darkened by a quarter. `max_px` is the fastest valid pixel unless given: give it to compare
    pictures. Invalid and non-finite pixels are black.

    Differs from the published code: its table of 55 shades spans 54/55 of a turn and jumps at the right.

    Raises:
        ValueError: `max_px` is not positive.
    """
    if max_px is not None and not max_px > 0:
        raise ValueError(f"max_px: {max_px}, expected more than 0")
    seen = np.isfinite(flow).all(-1)
    if valid is not None:
        seen &= valid
    u, v = np.moveaxis(np.where(seen[..., None], flow, 0).astype(np.float32), -1, 0)
    speed_px = np.hypot(u, v)
    speed = speed_px / (max_px or speed_px.max(initial=0) or 1.0)
    angle = np.arctan2(v, u) % (2 * np.pi)

    corners = 2 * np.pi * np.cumsum((0, *_WHEEL_STEPS)) / sum(_WHEEL_STEPS)
    color = np.empty((*flow.shape[:2], 3), np.float32)
    for channel, levels in enumerate(zip(*_WHEEL_COLORS, strict=True)):
        hue = np.interp(angle, corners, levels)
        color[..., channel] = np.where(speed <= 1, 1 - speed * (1 - hue), 0.75 * hue)
    color[~seen] = 0
    picture: UInt8[np.ndarray, "H W 3"] = np.rint(255 * color).astype(np.uint8)
    return picture


def color_wheel_legend(size_px: int) -> UInt8[np.ndarray, "S S 3"]:
    """Draws the colour code as a disc on white: what a flow from the centre to a pixel is painted with."""
    offset = np.linspace(-1, 1, size_px)
    flow = np.dstack(np.meshgrid(offset, offset))
    legend = flow_to_color(flow, max_px=1.0)
    legend[np.hypot(flow[..., 0], flow[..., 1]) > 1] = 255
    return legend


def labels_to_color(
    labels: UInt8[np.ndarray, "H W"], palette: UInt8[np.ndarray, "K 3"]
) -> UInt8[np.ndarray, "H W 3"]:
    """Paints label k with row k of `palette` (RGB), for instance `taxonomy.PALETTE`.

    Raises:
        ValueError: A label that the palette lacks.
    """
    if labels.size and labels.max() >= len(palette):
        raise ValueError(f"labels: {labels.max()} found, the palette has {len(palette)} colours from 0")
    return palette.take(labels, axis=0)
