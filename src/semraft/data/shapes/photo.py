"""From a scene's light to a picture: blur, uneven light, exposure, noise, eight bits."""

from functools import cache
from typing import no_type_check

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from numba import njit

from semraft.data.shapes.palettes import Light

_NOISE_LENGTH = 1 << 19


def develop(
    color: Float32[np.ndarray, "H W 3"], light: Light, frame: int, seed: int
) -> UInt8[np.ndarray, "H W 3"]:
    """The picture of frame 0 or 1."""
    sigma = light.blur_px[frame]
    radius = max(1, round(2.6 * sigma))
    color = cv2.GaussianBlur(color, (2 * radius + 1, 2 * radius + 1), sigma)
    picture = np.empty(color.shape, np.uint8)
    table, start = _noise_table(), (seed + 0x9E3779B1 * frame) % _NOISE_LENGTH
    strength, slope = light.noise[frame] / 32, np.array(light.slope[frame])
    _expose(color, light.gain[frame], light.offset[frame], slope, table, start, strength, picture)
    return picture


@cache
def _noise_table() -> np.ndarray:
    """Normal numbers of deviation 32, rounded: made once, read from any start."""
    table = np.random.default_rng(0).normal(0, 32, _NOISE_LENGTH)
    return np.rint(np.clip(table, -127, 127)).astype(np.int8)


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _expose(color, gain, offset, slope, table, start, strength, picture):
    height, width, _ = color.shape
    for row in range(height):
        y = (row + 0.5) / height - 0.5
        for column in range(width):
            x = (column + 0.5) / width - 0.5
            bright = gain * (1 + slope[0] * x + slope[1] * y + slope[2] * (2 * (x * x + y * y) - 0.33))
            for c in range(3):
                value = color[row, column, c] * bright + offset
                if strength > 0:
                    # Lines start anywhere in the table, so that no pattern repeats down the picture.
                    place = (start + 3 * column + c + row * 7919) % table.size
                    value += strength * table[place] * (0.5 + value * (1 / 255))
                picture[row, column, c] = np.uint8(max(0.0, min(255.0, value + 0.5)))
