"""Flow and occlusion of layered scenes, from the layers themselves: exact, both ways."""

from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Float32
from numba import njit

from semraft.data.shapes.outlines import OutlineBank
from semraft.data.shapes.render import Rendered, distance, on_surface, project, shear
from semraft.data.shapes.scene import Layers


def flow_and_occlusion(
    layers: Layers, frame: int, seen: Rendered, other: Rendered, outlines: OutlineBank
) -> tuple[Float32[np.ndarray, "H W 2"], Bool[np.ndarray, "H W"]]:
    """Flow from a frame (0 or 1) to the other, and where its end is covered or out of the frame.

    A point is covered if any layer in front of its own is there; that is asked of the outlines, except where
    the nearest pixel of the other frame is far from every border and says it.
    """
    flow = np.empty((*seen.layer.shape, 2), np.float32)
    occluded = np.empty(seen.layer.shape, bool)
    _follow(
        frame, layers.to_plane, layers.from_plane, layers.shears, layers.shear_count, layers.boxes,
        layers.outline,
        layers.form, outlines.fields, seen.layer, other.layer, other.near, flow, occluded,
    )  # fmt: skip
    return flow, occluded


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _follow(
    frame, to_plane, from_plane, shears, shear_count, boxes, outline, form, fields, layer, other_layer,
    near, flow,
    occluded,
):  # fmt: skip
    height, width = layer.shape
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    for row in range(height):
        for column in range(width):
            k = layer[row, column]
            x, y = column - middle_x, row - middle_y
            a, b = project(to_plane, frame, k, x, y)
            count = shear_count[k, 0]
            for i in range(count):
                if frame == 0:
                    a, b = shear(shears, k, i, 1.0, a, b)
                else:
                    a, b = shear(shears, k, count - 1 - i, -1.0, a, b)
            to_x, to_y = project(from_plane, 1 - frame, k, a, b)
            flow[row, column, 0], flow[row, column, 1] = to_x - x, to_y - y
            # As float32 flow has it, so that flow and occlusion never disagree at the frame's border.
            end_x, end_y = column + flow[row, column, 0], row + flow[row, column, 1]
            if not (end_x >= 0 and end_x <= width - 1 and end_y >= 0 and end_y <= height - 1):
                occluded[row, column] = True
                continue
            at_row, at_column = int(end_y + 0.5), int(end_x + 0.5)
            if near[at_row, at_column]:
                occluded[row, column] = _covered(
                    to_plane, shears, shear_count, boxes, outline, form, fields, 1 - frame, k, to_x, to_y,
                    at_row, at_column,
                )  # fmt: skip
            else:
                occluded[row, column] = other_layer[at_row, at_column] < k


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _covered(to_plane, shears, shear_count, boxes, outline, form, fields, frame, k, x, y, row, column):
    """Whether a layer in front of layer k is at a point of a frame, in the pixel at a row and column."""
    for j in range(k):
        if (
            boxes[frame, j, 0] <= row < boxes[frame, j, 1]
            and boxes[frame, j, 2] <= column < boxes[frame, j, 3]
        ):
            a, b = on_surface(to_plane, shears, shear_count, frame, j, x, y)
            if distance(outline, form, fields, j, a, b)[0] < 0:
                return True
    return False
