"""Layers to pictures: compiled loops over tiles of 8x8 pixels, front to back.

A tile that an outline's signed distance leaves out is skipped, one well inside needs no outline, and only at
a border is coverage taken pixel by pixel: the distance in pixels, cut to a pixel's width. Loops are plain
float64 without reordering: every processor computes the same picture.
"""

import math
from typing import NamedTuple, no_type_check

import numpy as np
from jaxtyping import Bool, Float32, Int16

from semraft.data.shapes.layer_textures import LEVEL_STARTS, LEVELS, TextureBank
from semraft.data.shapes.layer_textures import SIDE as TEXTURE_SIDE
from semraft.data.shapes.layered_scene import Layers
from semraft.data.shapes.outlines import EVERYWHERE, OutlineBank
from semraft.data.shapes.points import distances, onto_surface, slopes
from semraft.kernels.compiled import njit

NEAR_PX = 0.75
"""A pixel is near a border that passes closer than this."""
_TILE = 8
_TILE_PX, _BLOCK_PX = 5.0 + NEAR_PX, 22.0 + NEAR_PX
"""From the middle of a tile, and of a block of 4x4 tiles, to what may be near its farthest pixel's centre."""
_FINEST = 1.3
"""Texels a pixel that a texture is read at, at most."""
_ONE = np.uint64(1)
_POINTS = (_TILE + 2) ** 2
"""Points of a tile with an edge of one pixel around it: their distances give the slopes at its own pixels."""
_PI = math.pi


class Rendered(NamedTuple):
    """A frame: its light before blur and noise, the layer each pixel's centre sees, and where that is not the
    whole story: borders of that layer, or of one in front, near the centre."""

    color: Float32[np.ndarray, "H W 3"]
    layer: Int16[np.ndarray, "H W"]
    near: Bool[np.ndarray, "H W"]


def render(
    layers: Layers, frame: int, size: tuple[int, int], outlines: OutlineBank, textures: TextureBank
) -> Rendered:
    """Frame 0 or 1 of a scene at a height and width."""
    color = np.zeros((*size, 3), np.float32)
    layer = np.full(size, -1, np.int16)
    near = np.zeros(size, bool)
    clear = np.ones(size, np.float32)
    _paint(
        frame, layers.to_plane, layers.shears, layers.shear_count, layers.boxes, layers.outline, layers.form,
        layers.texture, layers.to_texel, layers.palette, outlines.fields, textures.texels, LEVEL_STARTS,
        color, layer, near, clear,
    )  # fmt: skip
    return Rendered(color, layer, near)


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _paint(
    frame, to_plane, shears, shear_count, boxes, outline, form, texture, to_texel, palette, fields, texels,
    level_starts, color, layer, near, clear,
):  # fmt: skip
    """Paints a frame, front to back. `clear` is what is still seen through, at first 1 everywhere."""
    height, width = layer.shape
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    full = np.zeros(((height + 7) // 8, (width + 7) // 8), np.bool_)
    points, indices = np.empty((3, _POINTS)), np.empty((3, _POINTS), np.uint32)
    shares = np.empty((2, _POINTS), np.float32)
    a, b, signed = points[0], points[1], points[2]
    found = np.empty(full.size, np.int64)
    for k in range(outline.size):
        colors, surface = palette[k], texels[texture[k]]
        count = _find_tiles(
            frame, to_plane, shears, shear_count, boxes, outline, form, fields, k, middle_x, middle_y, points,
            full, found,
        )  # fmt: skip
        for tile in found[:count]:
            tile_y, tile_x = tile // full.shape[1], tile % full.shape[1]
            x, y = tile_x * _TILE - middle_x, tile_y * _TILE - middle_y
            ax, ay, bx, by = slopes(to_plane, shears, shear_count, frame, k, x + 3.5, y + 3.5)
            reach = _reach(ax, ay, bx, by, shears, shear_count, frame, k, _TILE_PX)
            middle = _distance(
                frame, to_plane, shears, shear_count, outline, form, fields, k, x + 3.5, y + 3.5, points
            )
            if middle > reach:
                continue
            edge = 0 if middle < -reach else 1
            size = _lattice(x, y, edge, a, b)
            onto_surface(to_plane, shears, shear_count, frame, k, a, b, size)
            if edge:
                distances(outline, form, fields, k, a, b, signed, size)
            level = _level(to_texel, k, ax, ay, bx, by)
            _find_texels(to_texel, k, level, level_starts[level], a, b, size, indices, shares)
            close = _reach(ax, ay, bx, by, shears, shear_count, frame, k, NEAR_PX)
            full[tile_y, tile_x] = _paint_tile(
                k, edge, close, signed, colors, surface, indices, shares, tile_y * _TILE, tile_x * _TILE,
                color, layer, near, clear,
            )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _find_tiles(
    frame, to_plane, shears, shear_count, boxes, outline, form, fields, k, middle_x, middle_y, points,
    full, found,
):  # fmt: skip
    """The tiles of a layer's box that are not full, but for blocks of 4x4 that its outline leaves out."""
    first_y, last_y = boxes[frame, k, 0] // _TILE, (boxes[frame, k, 1] - 1) // _TILE
    first_x, last_x = boxes[frame, k, 2] // _TILE, (boxes[frame, k, 3] - 1) // _TILE
    count = 0
    for top in range(first_y - first_y % 4, last_y + 1, 4):
        for left in range(first_x - first_x % 4, last_x + 1, 4):
            if outline[k] != EVERYWHERE:
                x, y = left * _TILE + 15.5 - middle_x, top * _TILE + 15.5 - middle_y
                ax, ay, bx, by = slopes(to_plane, shears, shear_count, frame, k, x, y)
                reach = _reach(ax, ay, bx, by, shears, shear_count, frame, k, _BLOCK_PX)
                if reach < _distance(
                    frame, to_plane, shears, shear_count, outline, form, fields, k, x, y, points
                ):
                    continue
            for tile_y in range(max(first_y, top), min(last_y, top + 3) + 1):
                for tile_x in range(max(first_x, left), min(last_x, left + 3) + 1):
                    if not full[tile_y, tile_x]:
                        found[count] = tile_y * full.shape[1] + tile_x
                        count += 1
    return count


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _distance(frame, to_plane, shears, shear_count, outline, form, fields, k, x, y, points):
    """The signed distance of one point of a frame from a layer's outline, on the layer's surface."""
    points[0, 0], points[1, 0] = x, y
    onto_surface(to_plane, shears, shear_count, frame, k, points[0], points[1], 1)
    distances(outline, form, fields, k, points[0], points[1], points[2], 1)
    return points[2, 0]


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _level(to_texel, k, ax, ay, bx, by):
    """The halving of a texture that has at most _FINEST texels a pixel."""
    s_x, s_y = (
        to_texel[k, 0, 0] * ax + to_texel[k, 0, 1] * bx,
        to_texel[k, 0, 0] * ay + to_texel[k, 0, 1] * by,
    )
    t_x, t_y = (
        to_texel[k, 1, 0] * ax + to_texel[k, 1, 1] * bx,
        to_texel[k, 1, 0] * ay + to_texel[k, 1, 1] * by,
    )
    footprint, level = max(s_x * s_x + t_x * t_x, s_y * s_y + t_y * t_y), 0
    while footprint > _FINEST**2 and level < LEVELS - 1:
        footprint, level = footprint / 4, level + 1
    return level


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _lattice(x, y, edge, xs, ys):
    """The points of a tile whose first pixel is (x, y), with an edge of so many pixels around it, row by row;
    returns how many they are."""
    side = _TILE + 2 * edge
    for row in range(side):
        for column in range(side):
            xs[row * side + column], ys[row * side + column] = x + (column - edge), y + (row - edge)
    return side * side


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _reach(ax, ay, bx, by, shears, shear_count, frame, k, radius_px):
    """A bound of how far on a layer's surface a radius around a tile's middle goes: the longest that the
    slopes there make it, and what shears can change them on the way."""
    total, area = ax * ax + ay * ay + bx * bx + by * by, ax * by - ay * bx
    longest = np.sqrt((total + np.sqrt(max(0.0, total * total - 4 * area * area))) / 2)
    reach = 1.08 * radius_px * longest
    for i in range(4):
        if (frame == 1 and i < shear_count[k, 0]) or 0 <= i - 2 < shear_count[k, 1]:
            per_unit = np.sqrt(shears[k, i, 0] ** 2 + shears[k, i, 1] ** 2)
            slope = per_unit * np.sqrt(shears[k, i, 3] ** 2 + shears[k, i, 4] ** 2)
            reach *= 1 + slope * min(2.0, 2 * _PI * per_unit * reach)
    return reach


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _find_texels(to_texel, k, level, start, a, b, count, indices, shares):
    """The four texels around each place: index of the first, steps to the right and down, and the shares by
    which the place lies between them."""
    side, shrink = np.int32(TEXTURE_SIDE >> level), 1.0 / (1 << level)
    last, one, start = side - np.int32(1), np.int32(1), np.int32(start)
    # The middle of a coarse texel is that of the fine ones that it is made of.
    s_a, s_b, s_0 = (
        shrink * to_texel[k, 0, 0],
        shrink * to_texel[k, 0, 1],
        shrink * (to_texel[k, 0, 2] + 0.5) - 0.5,
    )
    t_a, t_b, t_0 = (
        shrink * to_texel[k, 1, 0],
        shrink * to_texel[k, 1, 1],
        shrink * (to_texel[k, 1, 2] + 0.5) - 0.5,
    )
    for i in range(np.uint64(count)):
        s, t = s_a * a[i] + s_b * b[i] + s_0, t_a * a[i] + t_b * b[i] + t_0
        floor_s, floor_t = np.floor(s), np.floor(t)
        shares[0, i], shares[1, i] = s - floor_s, t - floor_t
        column, row = np.int32(floor_s), np.int32(floor_t)
        indices[0, i] = start + (row & last) * side + (column & last)
        indices[1, i] = ((column + one) & last) - (column & last)
        indices[2, i] = (((row + one) & last) - (row & last)) * side


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _paint_tile(
    k, edge, close, signed, colors, texels, indices, shares, top, left, color, layer, near, clear
):  # fmt: skip
    """Paints one layer on one tile; returns whether nothing behind it can be seen there any more.

    The points have an edge of 1 pixel around the tile if a border may cross it, 0 if none does.
    """
    height, width = layer.shape
    channels, line = texels.shape[1], np.uint64(_TILE + 2 * edge)
    full = True
    for row in range(np.uint64(top), np.uint64(min(top + _TILE, height))):
        first = np.uint64((row - top + edge) * line + edge)
        for column in range(np.uint64(left), np.uint64(min(left + _TILE, width))):
            i = first + (column - np.uint64(left))
            seen = clear[row, column]
            if seen == 0:
                continue
            share = seen
            if edge == 0:
                if layer[row, column] < 0:
                    layer[row, column] = k
            else:
                here = signed[i]
                if layer[row, column] < 0:
                    if abs(here) < close:
                        near[row, column] = True
                    if here < 0:
                        layer[row, column] = k
                # The larger of both sides': an outline's inside is thin, or turns, within a pixel.
                along_x = max(abs(signed[i + _ONE] - here), abs(here - signed[i - _ONE]))
                along_y = max(abs(signed[i + line] - here), abs(here - signed[i - line]))
                slope = np.sqrt(along_x * along_x + along_y * along_y)
                share *= np.float32(max(0.0, min(1.0, 0.5 - here / max(slope, 1e-9))))
                if share == 0:
                    full = False
                    continue
            at, right, down = indices[0, i], indices[1, i], indices[2, i]
            share_s, share_t = shares[0, i], shares[1, i]
            red = green = blue = _blended(texels, at, right, down, 0, share_s, share_t)
            if channels == 3:
                green = _blended(texels, at, right, down, 1, share_s, share_t)
                blue = _blended(texels, at, right, down, 2, share_s, share_t)
            color[row, column, 0] += share * colors[red, 0]
            color[row, column, 1] += share * colors[green, 1]
            color[row, column, 2] += share * colors[blue, 2]
            seen -= share
            clear[row, column] = seen
            if seen > 0:
                full = False
    return full


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _blended(texels, at, right, down, c, share_s, share_t):
    """Four texels of a channel read bilinearly, rounded."""
    upper, lower = np.float32(texels[at, c]), np.float32(texels[np.uint32(at + down), c])
    upper += share_s * (np.float32(texels[np.uint32(at + right), c]) - upper)
    lower += share_s * (np.float32(texels[np.uint32(at + down + right), c]) - lower)
    return np.uint32(upper + share_t * (lower - upper) + np.float32(0.5))
