"""Shadows: soft patches of less light that move over the layers in a way of their own, and are no motion.

Real frames have them wherever something moves; a network that never saw one takes it for an object.
"""

import math
import random
from typing import NamedTuple, no_type_check

import numpy as np
from jaxtyping import Float32, Float64, Int64

from semraft.data.shapes import layer_motion
from semraft.data.shapes.outlines import REACH, OutlineBank
from semraft.data.shapes.points import distances, project
from semraft.kernels.compiled import njit


class Shadows(NamedTuple):
    """The shadows of a scene; perhaps none."""

    to_plane: Float64[np.ndarray, "2 S 3 3"]
    """From each frame, in pixels from its middle, to the samples of the outline's field."""
    outline: Int64[np.ndarray, " S"]
    softness: Float64[np.ndarray, " S"]
    """Over how many samples of the field the border fades."""
    light: Float64[np.ndarray, " S"]
    """The share of light that is left within."""


def draw_shadows(
    rng: random.Random, probability: float, size: tuple[int, int], speed_px: float, outlines: OutlineBank
) -> Shadows:
    """Draws one to three shadows, with a probability, each moving by about a speed."""
    count = rng.randint(1, 3) if rng.random() < probability else 0
    to_plane = np.zeros((2, count, 3, 3))
    outline, softness, light = np.zeros(count, np.int64), np.zeros(count), np.zeros(count)
    for number in range(count):
        outline[number] = rng.randrange(len(outlines.fields))
        outlines.make(int(outline[number]))
        per_px = REACH / (math.sqrt(size[0] * size[1]) * rng.uniform(0.15, 1.0))
        turn = rng.uniform(0, 2 * math.pi)
        cosine, sine = per_px * math.cos(turn), per_px * math.sin(turn)
        onto = layer_motion.affine(cosine, sine, 0.0, -sine, cosine, 0.0)
        place = rng.uniform(-0.6, 0.6) * size[1], rng.uniform(-0.6, 0.6) * size[0]
        away, way = rng.uniform(0, 2 * math.pi), speed_px * rng.expovariate(1)
        moved = place[0] + way * math.cos(away), place[1] + way * math.sin(away)
        to_plane[0, number] = onto @ layer_motion.shift(-place[0], -place[1])
        to_plane[1, number] = onto @ layer_motion.shift(-moved[0], -moved[1])
        softness[number] = per_px * rng.uniform(1, 5) + (rng.random() < 0.4) * rng.uniform(0, 15)
        light[number] = rng.uniform(0.35, 0.9)
    return Shadows(to_plane, outline, softness, light)


def cast(shadows: Shadows, frame: int, outlines: OutlineBank, color: Float32[np.ndarray, "H W 3"]) -> None:
    """Darkens frame 0 or 1, in place."""
    form = np.zeros((len(shadows.outline), 4))
    arrays = shadows.to_plane, shadows.outline, shadows.softness, shadows.light
    _darken(frame, *arrays, form, outlines.fields, color)


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _darken(frame, to_plane, outline, softness, light, form, fields, color):
    height, width, _ = color.shape
    points = np.empty((3, width))
    for k in range(outline.size):
        for row in range(height):
            for column in range(width):
                points[0, column], points[1, column] = column - (width - 1) / 2, row - (height - 1) / 2
            project(to_plane, frame, k, points[0], points[1], width)
            distances(outline, form, fields, k, points[0], points[1], points[2], width)
            for column in range(width):
                depth = max(0.0, min(1.0, 0.5 - points[2, column] / softness[k]))
                if depth > 0:
                    left = np.float32(1 - (1 - light[k]) * depth * depth * (3 - 2 * depth))
                    for c in range(3):
                        color[row, column, c] *= left
