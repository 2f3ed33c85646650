"""Motion of layers: homographies and shears, in pixels from the middle of the frame.

A shear moves every point along one direction by a wave across it: q -> q + u f(k . q + phase), k at right
angles to u. Several of them bend a layer smoothly, and each is undone exactly by the opposite one, so flow
is known both ways.
"""

import math
import random

import numpy as np
from jaxtyping import Float64

Matrix = Float64[np.ndarray, "3 3"]

WAVE_LARGEST = 0.168
"""The largest value of a shear's wave, whose period and steepest slope are 1."""


def affine(a: float, b: float, c: float, d: float, e: float, f: float) -> Matrix:
    """x' = a x + b y + c, y' = d x + e y + f."""
    return np.array([[a, b, c], [d, e, f], [0.0, 0.0, 1.0]])


def shift(x: float, y: float) -> Matrix:
    """x' = x + `x`, y' = y + `y`."""
    return affine(1.0, 0.0, x, 0.0, 1.0, y)


def inverse(matrix: Matrix) -> Matrix:
    """The inverse, its last entry being 1."""
    (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()
    adjoint = np.array(
        [
            [e * i - f * h, c * h - b * i, b * f - c * e],
            [f * g - d * i, a * i - c * g, c * d - a * f],
            [d * h - e * g, b * g - a * h, a * e - b * d],
        ]
    )
    return np.asarray(adjoint / adjoint[2, 2])


def draw_motion(
    rng: random.Random, length_px: float, radius_px: float, centre: tuple[float, float], tilt: float
) -> Matrix:
    """A homography that moves points within a radius of a centre by about a length.

    Args:
        tilt: How much of the motion may be perspective: 0 gives an affine motion.
    """
    shares = [rng.expovariate(weight) for weight in (0.7, 2.0, 3.0, 4.0, 4.0)]
    total = sum(shares)
    pan, zoom, roll, stretch, lean = (share / total for share in shares)
    around = rng.uniform(0, 2 * math.pi)
    length_px *= 1.4  # Shares of different kinds do not add up in one direction.
    pan_px = length_px * pan
    per_px = length_px / radius_px
    grow = _bounded(per_px * zoom * rng.choice((-1, 1)), 0.4)
    turn = _bounded(per_px * roll * rng.choice((-1, 1)), 0.5)
    wide, slant = (_bounded(per_px * stretch * rng.uniform(-1, 1), 0.25) for _ in range(2))
    growth = math.exp(grow)
    cosine, sine = growth * math.cos(turn), growth * math.sin(turn)
    linear = affine(
        cosine * (1 + wide) - sine * slant,
        cosine * slant - sine * (1 - wide),
        0.0,
        sine * (1 + wide) + cosine * slant,
        sine * slant + cosine * (1 - wide),
        0.0,
    )
    leaning = rng.uniform(0, 2 * math.pi)
    per_px2 = _bounded(tilt * per_px * lean, 0.25) / radius_px
    linear[2, :2] = per_px2 * math.cos(leaning), per_px2 * math.sin(leaning)
    x, y = centre
    to_centre = shift(-x, -y)
    and_back = shift(x + pan_px * math.cos(around), y + pan_px * math.sin(around))
    return np.asarray(and_back @ linear @ to_centre)


def part_of(matrix: Matrix, share: float) -> Matrix:
    """The motion `share` times as large, to first order: what a nearer or farther plane does."""
    scaled = matrix / matrix[2, 2]
    return np.asarray(np.eye(3) + share * (scaled - np.eye(3)))


def apply(matrix: Matrix, x: float, y: float) -> tuple[float, float]:
    """The image of a point under a homography."""
    (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()
    depth = g * x + h * y + i
    return (a * x + b * y + c) / depth, (d * x + e * y + f) / depth


def draw_shear(rng: random.Random, period: float, slope: float) -> tuple[float, float, float, float, float]:
    """A shear (k_x, k_y, phase, u_x, u_y) of a period and a steepest slope, in any direction."""
    angle = rng.uniform(0, 2 * math.pi)
    cosine, sine = math.cos(angle), math.sin(angle)
    return cosine / period, sine / period, rng.random(), -sine * slope * period, cosine * slope * period


def _bounded(value: float, largest: float) -> float:
    return largest * math.tanh(value / largest)
