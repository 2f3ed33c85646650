"""From a scene's light to a picture: blur, uneven light, exposure, noise, eight bits."""

import math
from functools import cache
from typing import no_type_check

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from semraft.data.shapes.palettes import Light
from semraft.kernels.compiled import njit

_NOISE_LENGTH = 1 << 19


def develop(color: Float32[np.ndarray, "H W 3"], light: Light, frame: int) -> UInt8[np.ndarray, "H W 3"]:
    """The picture of frame 0 or 1."""
    if math.hypot(*light.smear_px) >= 1:
        color = cv2.filter2D(color, -1, _line(*light.smear_px))
    sigma = light.blur_px[frame]
    radius = max(1, round(2.6 * sigma))
    color = cv2.GaussianBlur(color, (2 * radius + 1, 2 * radius + 1), sigma)
    picture = np.empty(color.shape, np.uint8)
    height, width, _ = color.shape
    gain, offset, strength = (
        np.float32(value) for value in (light.gain[frame], light.offset[frame], light.noise / 32)
    )
    _expose(
        color.reshape(height, 3 * width),
        gain,
        offset,
        np.array(light.slope[frame]),
        _noise_table(),
        (light.noise_seed + 0x9E3779B1 * frame) & 0xFFFFFFFF,
        strength,
        picture.reshape(height, 3 * width),
    )
    return picture


def _line(x: float, y: float) -> Float32[np.ndarray, "side side"]:
    """The kernel that smears a picture evenly along a line through its middle."""
    reach = math.ceil(max(abs(x), abs(y)) / 2)
    places = np.arange(-reach, reach + 1)
    along = np.linspace(-0.5, 0.5, 65)[:, None]
    columns = np.maximum(0, 1 - np.abs(places - x * along))
    rows = np.maximum(0, 1 - np.abs(places - y * along))
    return np.asarray(rows.T @ columns / len(along), np.float32)


@cache
def _noise_table() -> np.ndarray:
    """Normal numbers of deviation 32, rounded: made once, read from any start."""
    table = np.random.default_rng(0).normal(0, 32, _NOISE_LENGTH)
    return np.rint(np.clip(table, -127, 127)).astype(np.int8)


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _expose(color, gain, offset, slope, table, start, strength, picture):
    height, width = color.shape
    along_x = np.empty(width)
    bright = np.empty(width, np.float32)
    for i in range(width):
        x = (i // 3 + 0.5) * 3 / width - 0.5
        along_x[i] = gain * (slope[0] * x + slope[2] * 2 * x * x)
    half, per_level, last = np.float32(0.5), np.float32(1 / 255), np.float32(255)
    for row in range(height):
        y = (row + 0.5) / height - 0.5
        along_y = gain * (1 + slope[1] * y + slope[2] * (2 * y * y - 0.33))
        for i in range(np.uint64(width)):
            bright[i] = along_x[i] + along_y
        # Lines start anywhere in the table, so that no pattern repeats down the picture.
        first = np.uint64((start + row * 7919) % (table.size - width))
        for i in range(np.uint64(width)):
            value = color[row, i] * bright[i] + offset
            value += strength * np.float32(table[first + i]) * (half + value * per_level)
            picture[row, i] = np.uint8(max(np.float32(0), min(last, value + half)))
