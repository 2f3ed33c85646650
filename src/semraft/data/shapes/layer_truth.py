"""Flow and occlusion of layered scenes, from the layers themselves: exact, both ways."""

from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Float32

from semraft.data.shapes.layer_render import Rendered
from semraft.data.shapes.layered_scene import Layers
from semraft.data.shapes.outlines import OutlineBank
from semraft.data.shapes.points import distances, move, onto_surface, project
from semraft.kernels.compiled import njit


def flow_and_occlusion(
    layers: Layers, frame: int, seen: Rendered, other: Rendered, outlines: OutlineBank
) -> tuple[Float32[np.ndarray, "H W 2"], Bool[np.ndarray, "H W"], Bool[np.ndarray, "H W"]]:
    """Flow from a frame (0 or 1) to the other; where its end is hidden or out of frame; where it is in it.

    A point is covered if any layer in front of its own is there. The outlines decide, except where the
    nearest pixel of the other frame is far from every border and decides alone.
    """
    flow = np.empty((*seen.layer.shape, 2), np.float32)
    occluded, stays = np.empty(seen.layer.shape, bool), np.empty(seen.layer.shape, bool)
    asked = np.empty((3, seen.layer.size))
    count = _follow(
        frame, layers.to_plane, layers.from_plane, layers.shears, layers.shear_count, seen.layer, other.layer,
        other.near, flow, occluded, stays, asked,
    )  # fmt: skip
    _cover(
        1 - frame, layers.to_plane, layers.shears, layers.shear_count, layers.boxes, layers.outline,
        layers.form, outlines.fields, seen.layer.reshape(-1), asked[:, :count], occluded.reshape(-1),
    )  # fmt: skip
    return flow, occluded, stays


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _follow(
    frame, to_plane, from_plane, shears, shear_count, layer, other_layer, near, flow, occluded, stays, asked
):  # fmt: skip
    """Follows every pixel, runs of those that see one layer together. Returns how many ends are near borders;
    `asked` has them: column and row from the middle of the frame, and the number of the pixel."""
    height, width = layer.shape
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    x, y = np.empty(width), np.empty(width)
    u, v = np.empty(width, np.float32), np.empty(width, np.float32)
    questions = 0
    for row in range(height):
        start = 0
        while start < width:
            k, stop = layer[row, start], start + 1
            while stop < width and layer[row, stop] == k:
                stop += 1
            count = stop - start
            for i in range(count):
                x[i], y[i] = start + i - middle_x, row - middle_y
            project(to_plane, frame, k, x, y, count)
            move(shears, shear_count, frame, k, x, y, count)
            project(from_plane, 1 - frame, k, x, y, count)
            for i in range(count):
                u[i], v[i] = x[i] - (start + i - middle_x), y[i] - (row - middle_y)
            for i in range(count):
                column = start + i
                flow[row, column, 0], flow[row, column, 1] = u[i], v[i]
                # By the flow as it is stored, so that both agree at the frame's border.
                end_x, end_y = np.float32(column) + u[i], np.float32(row) + v[i]
                stays[row, column] = 0 <= end_x <= width - 1 and 0 <= end_y <= height - 1
                if not stays[row, column]:
                    occluded[row, column] = True
                    continue
                at_row, at_column = np.uint64(end_y + np.float32(0.5)), np.uint64(end_x + np.float32(0.5))
                occluded[row, column] = other_layer[at_row, at_column] < k
                if near[at_row, at_column]:
                    occluded[row, column] = False
                    asked[0, questions], asked[1, questions] = x[i], y[i]
                    asked[2, questions] = row * width + column
                    questions += 1
            start = stop
    return questions


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _cover(frame, to_plane, shears, shear_count, boxes, outline, form, fields, layer, asked, occluded):
    """Marks the pixels whose end, as asked, is behind any layer in front of their own."""
    count = asked.shape[1]
    points, numbers = np.empty((3, count)), np.empty(count, np.int64)
    middle_x, middle_y = (boxes[frame, -1, 3] - 1) / 2, (boxes[frame, -1, 1] - 1) / 2
    for j in range(outline.size - 1):
        top, bottom = boxes[frame, j, 0] - middle_y, boxes[frame, j, 1] - middle_y
        left, right = boxes[frame, j, 2] - middle_x, boxes[frame, j, 3] - middle_x
        inside = 0
        for i in range(count):
            x, y, number = asked[0, i], asked[1, i], np.int64(asked[2, i])
            if layer[number] > j and left <= x < right and top <= y < bottom and not occluded[number]:
                points[0, inside], points[1, inside], numbers[inside] = x, y, number
                inside += 1
        onto_surface(to_plane, shears, shear_count, frame, j, points[0], points[1], inside)
        distances(outline, form, fields, j, points[0], points[1], points[2], inside)
        for i in range(inside):
            if points[2, i] < 0:
                occluded[numbers[i]] = True
