"""Points from frames to layers and back: compiled functions on lists of points, in place.

Lists, because a call costs as much as several points, and loops over a list use the processor's vectors.
Every operation is the same for a point whatever list it stands in.
"""

from typing import no_type_check

import numpy as np

from semraft.data.shapes.outlines import BARS, EVERYWHERE, SIDE
from semraft.kernels.compiled import njit


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def project(planes, frame, k, x, y, count):
    """Points through the homography of a frame and a layer."""
    a, b, c = planes[frame, k, 0, 0], planes[frame, k, 0, 1], planes[frame, k, 0, 2]
    d, e, f = planes[frame, k, 1, 0], planes[frame, k, 1, 1], planes[frame, k, 1, 2]
    g, h, w = planes[frame, k, 2, 0], planes[frame, k, 2, 1], planes[frame, k, 2, 2]
    for i in range(np.uint64(count)):
        scale = 1 / (g * x[i] + h * y[i] + w)
        x[i], y[i] = (a * x[i] + b * y[i] + c) * scale, (d * x[i] + e * y[i] + f) * scale


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def bend(shears, k, number, sign, x, y, count):
    """Points through a shear of a layer, or with sign -1 back.

    The wave is a polynomial: odd, of period 1, with a slope of 1 at 0, and smooth to its second derivative.
    """
    k_x, k_y, phase = shears[k, number, 0], shears[k, number, 1], shears[k, number, 2]
    u_x, u_y = sign * shears[k, number, 3], sign * shears[k, number, 4]
    for i in range(np.uint64(count)):
        turns = k_x * x[i] + k_y * y[i] + phase
        t = turns - np.floor(turns + 0.5)
        square = t * t
        value = t * (1 + square * (-40 / 7 + square * (48 / 7)))
        x[i], y[i] = x[i] + u_x * value, y[i] + u_y * value


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def move(shears, shear_count, frame, k, x, y, count):
    """Points of a layer's plane through the shears of its motion, from a frame to the other."""
    shears_of_motion = shear_count[k, 0]
    for i in range(shears_of_motion):
        if frame == 0:
            bend(shears, k, i, 1.0, x, y, count)
        else:
            bend(shears, k, shears_of_motion - 1 - i, -1.0, x, y, count)


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def onto_surface(to_plane, shears, shear_count, frame, k, x, y, count):
    """Points of a frame to the places on a layer's surface that they show."""
    project(to_plane, frame, k, x, y, count)
    if frame == 1:
        move(shears, shear_count, 1, k, x, y, count)
    for i in range(shear_count[k, 1]):
        bend(shears, k, 2 + i, 1.0, x, y, count)


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def distances(outline, form, fields, k, a, b, signed, count):
    """Signed distances from places on a layer's surface to its outline, negative inside."""
    number = outline[k]
    shift, half_width, period, beyond = form[k, 0], form[k, 1], form[k, 2], form[k, 3]
    if number == EVERYWHERE:
        for i in range(np.uint64(count)):
            signed[i] = -1e9
        return
    if number == BARS:
        for i in range(np.uint64(count)):
            bar = max(-beyond, min(beyond, np.floor(b[i] / period + 0.5)))
            signed[i] = max(abs(a[i]) - shift, abs(b[i] - period * bar) - half_width)
        return
    middle = (SIDE - 1) / 2
    for i in range(np.uint64(count)):
        column, row = a[i] + middle, b[i] + middle
        inside_x, inside_y = max(0.0, min(SIDE - 1.001, column)), max(0.0, min(SIDE - 1.001, row))
        left, top = np.uint64(inside_x), np.uint64(inside_y)
        right, bottom = left + np.uint64(1), top + np.uint64(1)
        share_x, share_y = inside_x - left, inside_y - top
        upper, lower = np.float64(fields[number, top, left]), np.float64(fields[number, bottom, left])
        upper += share_x * (fields[number, top, right] - upper)
        lower += share_x * (fields[number, bottom, right] - lower)
        value = upper + share_y * (lower - upper)
        if inside_x != column or inside_y != row:  # Beyond the field: at least so far away.
            value += max(abs(column - inside_x), abs(row - inside_y))
        signed[i] = abs(value - shift) - half_width if half_width > 0 else value


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def slopes(to_plane, shears, shear_count, frame, k, x, y):
    """Derivatives (da/dx, da/dy, db/dx, db/dy) of the place on a layer's surface by the point of a frame."""
    g, h, w = to_plane[frame, k, 2, 0], to_plane[frame, k, 2, 1], to_plane[frame, k, 2, 2]
    scale = 1 / (g * x + h * y + w)
    a = (to_plane[frame, k, 0, 0] * x + to_plane[frame, k, 0, 1] * y + to_plane[frame, k, 0, 2]) * scale
    b = (to_plane[frame, k, 1, 0] * x + to_plane[frame, k, 1, 1] * y + to_plane[frame, k, 1, 2]) * scale
    ax, ay = (to_plane[frame, k, 0, 0] - a * g) * scale, (to_plane[frame, k, 0, 1] - a * h) * scale
    bx, by = (to_plane[frame, k, 1, 0] - b * g) * scale, (to_plane[frame, k, 1, 1] - b * h) * scale
    of_motion, of_form = shear_count[k, 0], shear_count[k, 1]
    for step in range(of_motion * frame + of_form):
        number = of_motion - 1 - step if step < of_motion * frame else 2 + step - of_motion * frame
        sign = -1.0 if step < of_motion * frame else 1.0
        k_x, k_y, phase = shears[k, number, 0], shears[k, number, 1], shears[k, number, 2]
        u_x, u_y = sign * shears[k, number, 3], sign * shears[k, number, 4]
        turns = k_x * a + k_y * b + phase
        t = turns - np.floor(turns + 0.5)
        square = t * t
        value = t * (1 + square * (-40 / 7 + square * (48 / 7)))
        slope = 1 + square * (-120 / 7 + square * (240 / 7))
        along_x, along_y = slope * (k_x * ax + k_y * bx), slope * (k_x * ay + k_y * by)
        a, b = a + u_x * value, b + u_y * value
        ax, ay, bx, by = ax + u_x * along_x, ay + u_x * along_y, bx + u_y * along_x, by + u_y * along_y
    return ax, ay, bx, by
