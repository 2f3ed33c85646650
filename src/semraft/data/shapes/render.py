"""Layers to pictures: compiled loops over tiles of 8x8 pixels, front to back.

A tile that an outline's signed distance leaves out is skipped, one well inside needs no outline, and only at
a border is coverage taken pixel by pixel: the distance in pixels, cut to a pixel's width. Loops are plain
float64 without reordering: every processor computes the same picture.
"""

from typing import NamedTuple, no_type_check

import numpy as np
from jaxtyping import Bool, Float32, Int16
from numba import njit

from semraft.data.shapes.outlines import SIDE, OutlineBank
from semraft.data.shapes.scene import BARS, EVERYWHERE, Layers
from semraft.data.shapes.textures import LEVEL_STARTS, LEVELS, TextureBank
from semraft.data.shapes.textures import SIDE as TEXTURE_SIDE

_TILE = 8
_HALF_DIAGONAL = 4.95
"""From the middle of a tile to the centre of its corner pixel."""
NEAR_PX = 1.5
"""A pixel is near a border that passes closer than this."""
_STEEPEST = 1.42
"""A field read bilinearly changes no faster than so many times the distance."""
_FINEST = 1.15
"""Texels a pixel that a texture is read at, at most."""


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
        frame, layers.to_plane, layers.shears, layers.shear_count, layers.stretch, layers.boxes,
        layers.outline,
        layers.form, layers.texture, layers.to_texel, layers.palette, outlines.fields, textures.texels,
        LEVEL_STARTS, color, layer, near, clear,
    )  # fmt: skip
    return Rendered(color, layer, near)


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def wave(s):
    """A shear's wave and its slope: odd, of period 1, smooth to the second derivative, slope 1 at 0."""
    t = s - np.floor(s + 0.5)
    square = t * t
    return t * (1 + square * (-40 / 7 + square * (48 / 7))), 1 + square * (-120 / 7 + square * (240 / 7))


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def project(planes, f, k, x, y):
    """A point through the homography of a frame and a layer (whole arrays: a part of one costs more)."""
    depth = 1 / (planes[f, k, 2, 0] * x + planes[f, k, 2, 1] * y + planes[f, k, 2, 2])
    return (
        (planes[f, k, 0, 0] * x + planes[f, k, 0, 1] * y + planes[f, k, 0, 2]) * depth,
        (planes[f, k, 1, 0] * x + planes[f, k, 1, 1] * y + planes[f, k, 1, 2]) * depth,
    )


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def shear(shears, k, i, sign, a, b):
    """A point through shear i of a layer, or with sign -1 back."""
    value, _ = wave(shears[k, i, 0] * a + shears[k, i, 1] * b + shears[k, i, 2])
    return a + sign * shears[k, i, 3] * value, b + sign * shears[k, i, 4] * value


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def on_surface(to_plane, shears, shear_count, frame, k, x, y):
    """The place on a layer's surface that a point of a frame shows."""
    a, b = project(to_plane, frame, k, x, y)
    if frame == 1:
        for i in range(shear_count[k, 0] - 1, -1, -1):
            a, b = shear(shears, k, i, -1.0, a, b)
    for i in range(shear_count[k, 1]):
        a, b = shear(shears, k, 2 + i, 1.0, a, b)
    return a, b


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _bend(shears, k, i, sign, a, b, ax, ay, bx, by):
    k_x, k_y = shears[k, i, 0], shears[k, i, 1]
    u_x, u_y = sign * shears[k, i, 3], sign * shears[k, i, 4]
    value, slope = wave(k_x * a + k_y * b + shears[k, i, 2])
    along_x, along_y = slope * (k_x * ax + k_y * bx), slope * (k_x * ay + k_y * by)
    return (
        a + u_x * value,
        b + u_y * value,
        ax + u_x * along_x,
        ay + u_x * along_y,
        bx + u_y * along_x,
        by + u_y * along_y,
    )


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def on_surface_and_slopes(planes, shears, shear_count, f, k, x, y):
    """As `on_surface`, and its derivatives (da/dx, da/dy, db/dx, db/dy)."""
    a, b, ax, ay, bx, by = _project_and_slopes(planes, f, k, x, y)
    if f == 1:
        for i in range(shear_count[k, 0] - 1, -1, -1):
            a, b, ax, ay, bx, by = _bend(shears, k, i, -1.0, a, b, ax, ay, bx, by)
    for i in range(shear_count[k, 1]):
        a, b, ax, ay, bx, by = _bend(shears, k, 2 + i, 1.0, a, b, ax, ay, bx, by)
    return a, b, ax, ay, bx, by


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _project_and_slopes(planes, f, k, x, y):
    depth = 1 / (planes[f, k, 2, 0] * x + planes[f, k, 2, 1] * y + planes[f, k, 2, 2])
    a, b = project(planes, f, k, x, y)
    return (
        a,
        b,
        (planes[f, k, 0, 0] - a * planes[f, k, 2, 0]) * depth,
        (planes[f, k, 0, 1] - a * planes[f, k, 2, 1]) * depth,
        (planes[f, k, 1, 0] - b * planes[f, k, 2, 0]) * depth,
        (planes[f, k, 1, 1] - b * planes[f, k, 2, 1]) * depth,
    )


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def distance(outline, form, fields, k, a, b):
    """Signed distance to a layer's outline at a place on its surface, and its slopes; negative inside."""
    number = outline[k]
    if number == EVERYWHERE:
        return -1e9, 1.0, 0.0
    if number == BARS:
        bar = max(-form[k, 3], min(form[k, 3], np.floor(b / form[k, 2] + 0.5)))
        off = b - form[k, 2] * bar
        along, across = abs(a) - form[k, 0], abs(off) - form[k, 1]
        if along > across:
            return along, 1.0 if a > 0 else -1.0, 0.0
        return across, 0.0, 1.0 if off > 0 else -1.0
    middle = (SIDE - 1) / 2
    column, row = a + middle, b + middle
    at_x, at_y = max(0.0, min(SIDE - 1.001, column)), max(0.0, min(SIDE - 1.001, row))
    left, top = int(at_x), int(at_y)
    share_x, share_y = at_x - left, at_y - top
    v00, v01 = np.float64(fields[number, top, left]), np.float64(fields[number, top, left + 1])
    v10, v11 = np.float64(fields[number, top + 1, left]), np.float64(fields[number, top + 1, left + 1])
    upper, lower = v00 + share_x * (v01 - v00), v10 + share_x * (v11 - v10)
    value = upper + share_y * (lower - upper)
    along_a, along_b = (v01 - v00) + share_y * ((v11 - v10) - (v01 - v00)), lower - upper
    beyond = abs(column - at_x) + abs(row - at_y)
    if beyond > 0.001:
        return value + np.hypot(column - at_x, row - at_y), 1.0, 0.0
    if form[k, 1] > 0:
        if value < form[k, 0]:
            return form[k, 0] - value - form[k, 1], -along_a, -along_b
        return value - form[k, 0] - form[k, 1], along_a, along_b
    return value, along_a, along_b


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _paint(
    frame, to_plane, shears, shear_count, stretch, boxes, outline, form, texture, to_texel, palette, fields,
    texels,
    level_starts, color, layer, near, clear,
):  # fmt: skip
    """Paints a frame, front to back. `clear` is what is still seen through, at first 1 everywhere."""
    height, width = layer.shape
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    full = np.zeros(((height + 7) // 8, (width + 7) // 8), np.bool_)
    for k in range(outline.size):
        top, bottom, left, right = boxes[frame, k]
        for tile_y in range(top // _TILE, (bottom + 7) // _TILE):
            for tile_x in range(left // _TILE, (right + 7) // _TILE):
                if full[tile_y, tile_x]:
                    continue
                x, y = tile_x * _TILE + 3.5 - middle_x, tile_y * _TILE + 3.5 - middle_y
                _, _, ax, ay, bx, by = _project_and_slopes(to_plane, frame, k, x, y)
                size = np.sqrt(ax * ax + ay * ay + bx * bx + by * by)
                reach = (_HALF_DIAGONAL + NEAR_PX) * _STEEPEST * 1.1 * size * stretch[k]
                a, b, ax, ay, bx, by = on_surface_and_slopes(to_plane, shears, shear_count, frame, k, x, y)
                signed, _, _ = distance(outline, form, fields, k, a, b)
                if signed > reach:
                    continue
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
                full[tile_y, tile_x] = _paint_tile(
                    frame, to_plane, shears, shear_count, stretch, outline, form, to_texel, palette, fields,
                    texels, texture[k], level_starts[level], level, k, tile_x * _TILE, tile_y * _TILE,
                    signed < -reach, color, layer, near, clear,
                )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _paint_tile(
    frame, to_plane, shears, shear_count, stretch, outline, form, to_texel, palette, fields, texels,
    texture, start,
    level, k, left, top, inside, color, layer, near, clear,
):  # fmt: skip
    """Paints one layer on one tile; whether nothing behind it can be seen there any more."""
    height, width = layer.shape
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    side, shrink = TEXTURE_SIDE >> level, 1.0 / (1 << level)
    channels = texels.shape[2]
    full = True
    for row in range(top, min(top + _TILE, height)):
        for column in range(left, min(left + _TILE, width)):
            left_clear = clear[row, column]
            if left_clear == 0:
                continue
            x, y = column - middle_x, row - middle_y
            cover = np.float32(1)
            if inside:
                a, b = on_surface(to_plane, shears, shear_count, frame, k, x, y)
                if layer[row, column] < 0:
                    layer[row, column] = k
            else:
                a, b, ax, ay, bx, by = on_surface_and_slopes(to_plane, shears, shear_count, frame, k, x, y)
                signed, along_a, along_b = distance(outline, form, fields, k, a, b)
                size = np.sqrt(ax * ax + ay * ay + bx * bx + by * by)
                slope = np.hypot(along_a * ax + along_b * bx, along_a * ay + along_b * by)
                cover = np.float32(max(0.0, min(1.0, 0.5 - signed / max(slope, 0.35 * size))))
                if layer[row, column] < 0:
                    # Not by the slope here, which says nothing of what is a pixel away.
                    if abs(signed) < NEAR_PX * _STEEPEST * 1.1 * size * stretch[k]:
                        near[row, column] = True
                    if signed < 0:
                        layer[row, column] = k
                if cover == 0:
                    full = False
                    continue
            s = (to_texel[k, 0, 0] * a + to_texel[k, 0, 1] * b + to_texel[k, 0, 2]) * shrink
            t = (to_texel[k, 1, 0] * a + to_texel[k, 1, 1] * b + to_texel[k, 1, 2]) * shrink
            floor_s, floor_t = np.floor(s), np.floor(t)
            share_s, share_t = np.float32(s - floor_s), np.float32(t - floor_t)
            s0, t0 = int(floor_s) & (side - 1), int(floor_t) & (side - 1)
            s1, t1 = (s0 + 1) & (side - 1), (t0 + 1) & (side - 1)
            t0, t1 = start + t0 * side, start + t1 * side
            share = cover * left_clear
            value = 0
            for c in range(3):
                if c < channels:
                    upper = np.float32(texels[texture, t0 + s0, c])
                    upper += share_s * (np.float32(texels[texture, t0 + s1, c]) - upper)
                    lower = np.float32(texels[texture, t1 + s0, c])
                    lower += share_s * (np.float32(texels[texture, t1 + s1, c]) - lower)
                    value = int(upper + share_t * (lower - upper) + np.float32(0.5))
                color[row, column, c] += share * palette[k, value, c]
            left_clear -= share
            clear[row, column] = left_clear
            if left_clear > 0:
                full = False
    return full
