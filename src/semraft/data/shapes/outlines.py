"""Outlines of the objects: signed distance fields of polygons, blobs, thin, hollow and pierced things.

A field is negative inside. Objects read it bilinearly, so the interpolated field is what the outline is:
renderer and ground truth need no other description. Fields are made when they are first asked for.
"""

import math
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

COUNT = 240
"""Outlines that a bank holds."""
SIDE = 128
"""Samples along each side of a field."""
REACH = 54.0
"""An outline stays within this distance of its field's centre, in samples."""
EVERYWHERE, BARS = -1, -2
"""Instead of an outline's number: a layer without end; parallel bars."""
_FINE = 4
"""Outlines are drawn at so many pixels a sample."""

Mask = UInt8[np.ndarray, "512 512"]


class OutlineBank:
    """The outlines of one seed: `fields[n]` and `reach[n]` are right once `make(n)` was called."""

    def __init__(self, seed: tuple[int, ...]) -> None:
        self.seed = seed
        self.fields: Float32[np.ndarray, "N 128 128"] = np.zeros((COUNT, SIDE, SIDE), np.float32)
        self.reach = np.zeros((COUNT, 2))
        """The farthest that an outline goes from the centre along x and y, in samples."""
        self._made: Bool[np.ndarray, " N"] = np.zeros(COUNT, bool)

    def make(self, number: int) -> None:
        """Fills in an outline: a function of the bank's seed and its number."""
        if self._made[number]:
            return
        rng = np.random.default_rng((*self.seed, number))
        kinds = (_polygon, _polygon, _blob, _blob, _star, _pierced, _pierced, _hollow, _branches, _letter)
        mask = kinds[number % len(kinds)](rng)
        self.fields[number] = _signed_distance(mask)
        rows, columns = np.nonzero(self.fields[number] < 0)
        centre = (SIDE - 1) / 2
        for axis, places in enumerate((columns, rows)):
            self.reach[number, axis] = np.abs(places - centre).max(initial=1) + 1
        self._made[number] = True


@lru_cache(maxsize=4)
def outline_bank(seed: tuple[int, ...]) -> OutlineBank:
    """The outlines of a seed, shared by all scenes of a process."""
    return OutlineBank(seed)


def _signed_distance(mask: Mask) -> Float32[np.ndarray, "128 128"]:
    inside = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    outside = cv2.distanceTransform(1 - mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # A pixel's distance is to the nearest centre on the other side: half a pixel beyond the border.
    fine = np.where(mask > 0, 0.5 - inside, outside - 0.5).astype(np.float32)
    return np.asarray(cv2.resize(fine, (SIDE, SIDE), interpolation=cv2.INTER_AREA) / _FINE)


def _filled(*contours: np.ndarray) -> Mask:
    """The even-odd inside of contours, in samples from the centre."""
    mask = np.zeros((SIDE * _FINE, SIDE * _FINE), np.uint8)
    points = [np.rint((contour + SIDE / 2) * _FINE * 16).astype(np.int32) for contour in contours]
    cv2.fillPoly(mask, points, 1, shift=4)
    return mask


def _scaled(contour: np.ndarray, reach: float = REACH) -> np.ndarray:
    """The contour about its centre, its farthest point at `reach`."""
    contour = contour - (contour.min(0) + contour.max(0)) / 2
    return np.asarray(contour * (reach / np.hypot(*contour.T).max()))


def _radial(radii: np.ndarray, angles: np.ndarray) -> np.ndarray:
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)


def _polygon_contour(rng: np.random.Generator) -> np.ndarray:
    corners = int(rng.integers(3, 10))
    if rng.random() < 0.3:  # A box, of any proportion.
        width, height = 1.0, rng.uniform(0.2, 1)
        return _scaled(np.array([(-width, -height), (width, -height), (width, height), (-width, height)]))
    angles = np.sort(rng.uniform(0, 2 * math.pi, corners))
    angles = 0.5 * angles + 0.5 * np.linspace(0, 2 * math.pi, corners, endpoint=False)
    return _scaled(_radial(rng.uniform(0.45, 1, corners), angles))


def _blob_contour(rng: np.random.Generator) -> np.ndarray:
    angles = np.linspace(0, 2 * math.pi, 240, endpoint=False)
    radii = np.ones_like(angles)
    for harmonic in range(1, 7):
        amplitude = rng.normal(0, 0.42 / harmonic)
        radii += amplitude * np.cos(harmonic * angles + rng.uniform(0, 2 * math.pi))
    return _scaled(_radial(np.maximum(radii, 0.15), angles))


def _contour(rng: np.random.Generator) -> np.ndarray:
    return _polygon_contour(rng) if rng.random() < 0.5 else _blob_contour(rng)


def _polygon(rng: np.random.Generator) -> Mask:
    return _filled(_polygon_contour(rng))


def _blob(rng: np.random.Generator) -> Mask:
    return _filled(_blob_contour(rng))


def _star(rng: np.random.Generator) -> Mask:
    """A star, a gear or a leaf with teeth."""
    teeth = int(rng.integers(4, 16))
    angles = np.linspace(0, 2 * math.pi, 2 * teeth, endpoint=False)
    depth = rng.uniform(0.3, 0.9)
    radii = np.where(np.arange(2 * teeth) % 2, depth, 1) * rng.uniform(0.85, 1, 2 * teeth)
    return _filled(_scaled(_radial(radii, angles)))


def _pierced(rng: np.random.Generator) -> Mask:
    """A shape with one to nine holes."""
    mask = _filled(_contour(rng))
    for _ in range(int(rng.integers(1, 10))):
        hole = _scaled(_contour(rng), rng.uniform(5, 22)) + rng.uniform(-0.6, 0.6, 2) * REACH
        mask &= 1 - _filled(hole)
    return mask if mask.any() else _filled(_contour(rng))


def _hollow(rng: np.random.Generator) -> Mask:
    """A frame: a shape without its inside."""
    outer = _contour(rng)
    return _filled(outer, outer * rng.uniform(0.55, 0.9))


def _branches(rng: np.random.Generator) -> Mask:
    """A tree of straight limbs, each thinner than the one it grows from."""
    mask = np.zeros((SIDE * _FINE, SIDE * _FINE), np.uint8)

    def grow(x: float, y: float, angle: float, length: float, width: float) -> None:
        end_x, end_y = x + length * math.cos(angle), y + length * math.sin(angle)
        if math.hypot(end_x, end_y) > REACH - width:
            return
        ends = [tuple(round((at + SIDE / 2) * _FINE) for at in end) for end in ((x, y), (end_x, end_y))]
        cv2.line(mask, ends[0], ends[1], 1, max(1, round(width * _FINE)))
        if width > 2.5:
            for turn in rng.normal(0, 0.7, int(rng.integers(2, 4))):
                grow(end_x, end_y, angle + turn, length * rng.uniform(0.6, 0.95), width * 0.68)

    grow(0.0, REACH * 0.9, -math.pi / 2, REACH * rng.uniform(0.4, 0.7), rng.uniform(6, 11))
    return mask


def _letter(rng: np.random.Generator) -> Mask:
    """One letter or digit, thick."""
    mask = np.zeros((SIDE * _FINE, SIDE * _FINE), np.uint8)
    text, font = chr(int(rng.integers(ord("A"), ord("Z") + 1))), cv2.FONT_HERSHEY_SIMPLEX
    thickness = int(rng.integers(20, 60))
    (width, height), _ = cv2.getTextSize(text, font, 12.0, thickness)
    middle = SIDE * _FINE // 2
    cv2.putText(mask, text, (middle - width // 2, middle + height // 2), font, 12.0, 1, thickness)
    rows, columns = np.mgrid[: len(mask), : len(mask)] - (len(mask) - 1) / 2
    mask[np.hypot(rows, columns) > REACH * _FINE] = 0
    return mask
