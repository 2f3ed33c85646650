"""Visibility in the driving world: a depth buffer over affine functions of many flat patches.

A patch is five affine functions of the pixel (`world_geometry` derives them): the last is the inverse depth
of its plane, the others are 0 or more inside the patch. Most patches of a street cover a few hundred
pixels and cost more in calls than in arithmetic: those are evaluated together, in one list of pixels.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int

EDGE_BAND = 1.02
"""A pixel outside a patch is uncertain if an edge passes this near, in widths of a pixel cell along the
edge's normal (|n_x| + |n_y|): nearer than that, the edge may cut a cell of which the pixel is a corner."""
_FARTHEST_INVERSE_M = 1e-6
_SMALL_PX = 1024
"""Patches whose box has fewer pixels are evaluated together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """The patches that a camera can see, near first: number Q, box (x0, x1, y0, y1), functions.

    `along[n, k, y] + across[n, k, x]` is function k of patch n at a pixel: of a rectangle, 0..3 are distances
    to its edges; of an ellipse, 0..2 are c, a, b with c^2 - a^2 - b^2 >= 0 inside. 4 is the inverse depth.
    """

    number: Int[np.ndarray, " N"]
    boxes: Int[np.ndarray, "N 4"]
    along: Float32[np.ndarray, "N 5 H"]
    across: Float32[np.ndarray, "N 5 W"]
    ellipse: Bool[np.ndarray, " N"]
    nearest_depth: Float64[np.ndarray, " N"]
    """Lower bound of the depth of the patch in metres; 0 or less is no bound."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthBuffer:
    """Visible patch of every pixel; uncertain if a patch that would be in front ends next to the pixel."""

    patch: Int[np.ndarray, "H W"]
    inverse_depth: Float32[np.ndarray, "H W"]
    uncertain: Bool[np.ndarray, "H W"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Buffers:
    """Being filled: the place in the list of candidates that a pixel sees, how near that is, and how near the
    nearest patch is that ends next to the pixel (inverse metres)."""

    place: Int[np.ndarray, "H W"]
    inverse_depth: Float32[np.ndarray, "H W"]
    edge_inverse_depth: Float32[np.ndarray, "H W"]


def see(candidates: Candidates) -> DepthBuffer:
    """Finds the nearest patch at every pixel; of two equally near ones, the first of the list."""
    shape = candidates.along.shape[2], candidates.across.shape[2]
    buffers = _Buffers(
        place=np.full(shape, -1, np.int16),
        inverse_depth=np.full(shape, _FARTHEST_INVERSE_M, np.float32),
        edge_inverse_depth=np.zeros(shape, np.float32),
    )
    x0, x1, y0, y1 = candidates.boxes.T
    small = (x1 - x0) * (y1 - y0) < _SMALL_PX
    for n in np.flatnonzero(~small).tolist():
        _see_one(candidates, n, buffers)
    _see_small(candidates, np.flatnonzero(small), buffers)
    number = np.append(candidates.number, 0).astype(np.intp)
    return DepthBuffer(
        patch=number[buffers.place.astype(np.intp)],
        inverse_depth=buffers.inverse_depth,
        uncertain=buffers.edge_inverse_depth > buffers.inverse_depth,
    )


def _see_one(candidates: Candidates, n: int, buffers: _Buffers) -> None:
    """Enters one patch; it comes after all that were entered before."""
    x0, x1, y0, y1 = candidates.boxes[n].tolist()
    box = slice(y0, y1), slice(x0, x1)
    depths, depth = buffers.inverse_depth[box], float(candidates.nearest_depth[n])
    if depth > 0 and depths.min() * depth > 1.001:
        return
    values = candidates.along[n, :, y0:y1, None] + candidates.across[n, :, None, x0:x1]
    if candidates.ellipse[n]:
        values[:3] *= values[:3]
        margin = values[0]
        margin -= values[1]
        margin -= values[2]
    else:
        margin = np.minimum.reduce(values[:4])
    nearer = values[4] > depths
    nearer &= margin > -EDGE_BAND
    inside = margin >= 0
    edges = buffers.edge_inverse_depth[box]
    np.maximum(edges, values[4], out=edges, where=nearer > inside)
    nearer &= inside
    np.copyto(depths, values[4], where=nearer)
    np.copyto(buffers.place[box], n, where=nearer)


def _see_small(candidates: Candidates, chosen: Int[np.ndarray, " n"], buffers: _Buffers) -> None:
    """Enters many patches at once, among those that were entered before."""
    chosen = chosen[::-1]  # A later one overwrites an earlier one below, and the first of the list shall win.
    width = buffers.place.shape[1]
    x0, x1, y0, y1 = candidates.boxes[chosen].T
    # A list of rows of boxes, then one of their pixels.
    row_n, row_y = _ranges(chosen, y0, y1)
    row_box, _ = _ranges(np.arange(len(chosen)), y0, y1)
    pixel_row, pixel_x = _ranges(np.arange(len(row_n)), x0[row_box], x1[row_box])
    along = np.ascontiguousarray(candidates.along[row_n, :, row_y].T)
    across, across_start = candidates.across.reshape(-1), row_n * (5 * width)

    def value(k: int, row: Int[np.ndarray, " P"], x: Int[np.ndarray, " P"]) -> Float32[np.ndarray, " P"]:
        columns = (across_start + k * width).take(row) + x
        return np.asarray(along[k].take(row) + across.take(columns))

    place = row_n.take(pixel_row)
    pixel = (row_y * width).take(pixel_row) + pixel_x
    inverse_depth = value(4, pixel_row, pixel_x)
    before = buffers.inverse_depth.reshape(-1).take(pixel)
    nearer = inverse_depth > before
    tied = np.flatnonzero(inverse_depth == before)
    nearer[tied] = place[tied] < buffers.place.reshape(-1)[pixel[tied]]
    kept = np.flatnonzero(nearer)  # Taking by number is several times as fast as by mask.
    pixel_row, pixel_x, place, pixel, inverse_depth = (
        values.take(kept) for values in (pixel_row, pixel_x, place, pixel, inverse_depth)
    )
    first, second, third, fourth = (value(k, pixel_row, pixel_x) for k in range(4))
    rectangle = np.minimum(np.minimum(first, second), np.minimum(third, fourth))
    margin = np.where(candidates.ellipse[place], first * first - second * second - third * third, rectangle)
    inside = np.flatnonzero(margin >= 0)
    beside = np.flatnonzero((margin < 0) & (margin > -EDGE_BAND))
    np.maximum.at(buffers.edge_inverse_depth.reshape(-1), pixel[beside], inverse_depth[beside])
    pixel, place, inverse_depth = pixel[inside], place[inside], inverse_depth[inside]
    nearest = buffers.inverse_depth.reshape(-1)
    np.maximum.at(nearest, pixel, inverse_depth)
    wins = inverse_depth == nearest[pixel]
    buffers.place.reshape(-1)[pixel[wins]] = place[wins]


def _ranges(
    keys: Int[np.ndarray, " n"], starts: Int[np.ndarray, " n"], ends: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """Every number from start to end of each range, after the key of its range."""
    counts = ends - starts
    before = np.cumsum(counts) - counts
    return np.repeat(keys, counts), np.arange(counts.sum()) + np.repeat(starts - before, counts)
