"""Procedural textures of the driving world, as anisotropic mip maps in one atlas per split.

The training and the validation world share no texture: the seeds differ, the noise differs (value noise
against spectral noise), and so do the counts and the shapes of windows, slabs, stripes and signs. Colours
are mid-tones; the scene multiplies them with its own tints.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8

Split = Literal["train", "val"]
Tile = Float32[np.ndarray, "256 256"]
Number = float | int
"""A float to the type checker; tests check types at run time, where 0 is none."""
Color = Number | tuple[Number, ...] | Float64[np.ndarray, "3"]
Box = tuple[Number, Number, Number, Number]
Texture = Float32[np.ndarray, "256 256 3"]

SIDE = 256
"""Texels along each side of a texture at full resolution."""
LEVELS = 7
"""Halvings of each axis that are kept, independently of the other axis: 256, 128, ... 4 texels."""
LEVEL_STARTS = np.cumsum([0] + [(SIDE >> level) + 1 for level in range(LEVELS - 1)]).astype(np.float32)
"""First texel of each level in a cell: every level repeats it at its end, to interpolate there."""
CELL = int(LEVEL_STARTS[-1]) + (SIDE >> (LEVELS - 1)) + 1

_SEEDS: dict[Split, int] = {"train": 7_001, "val": 9_002}
_COLUMNS = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class TextureBank:
    """All textures of one split: `atlas` holds them in cells of CELL texels, at `origins` (x, y)."""

    atlas: UInt8[np.ndarray, "height width 3"]
    detail: UInt8[np.ndarray, "cell cell"]
    """One cell of grey high-pass noise around 128, for surfaces seen from closer than their texels."""
    origins: Float32[np.ndarray, "N 2"]
    kinds: dict[str, range]
    """Numbers of the textures of each kind: `facade`, `road3` (a road of three lanes), ..."""


@lru_cache(maxsize=2)
def texture_bank(split: Split) -> TextureBank:
    """The textures of a split: a constant, made when first asked for (about a second)."""
    recipes: dict[str, tuple[int, Callable[[np.random.Generator, Split], Texture]]] = {
        "road2": (3, lambda rng, split: _road(rng, split, 2)),
        "road3": (3, lambda rng, split: _road(rng, split, 3)),
        "road4": (3, lambda rng, split: _road(rng, split, 4)),
        "slabs": (4, _slabs),
        "terrain": (4, _terrain),
        "facade": (10, _facade),
        "foliage": (5, _foliage),
        "plain": (3, _plain),
        "sign": (5, _sign),
        "cloth": (5, _cloth),
        "head": (2, _head),
        "barrier": (3, _barrier),
        "car_side": (3, _car_side),
        "car_rear": (3, lambda rng, split: _car_end(rng, split, (0.75, 0.1, 0.1))),
        "car_front": (3, lambda rng, split: _car_end(rng, split, (1.0, 1.0, 0.85))),
        "cabin": (3, _cabin),
        "panel": (4, _panel),
        "wheel": (2, _wheel),
        "sky": (4, _sky),
    }
    kinds: dict[str, range] = {}
    textures: list[UInt8[np.ndarray, "256 256 3"]] = []
    for name, (count, recipe) in recipes.items():
        kinds[name] = range(len(textures), len(textures) + count)
        for _ in range(count):
            rng = np.random.default_rng((_SEEDS[split], len(textures)))
            textures.append(_to_bytes(recipe(rng, split)))
    rows = -(-len(textures) // _COLUMNS)
    atlas = np.zeros((rows * CELL, _COLUMNS * CELL, 3), np.uint8)
    origins = np.array(
        [(n % _COLUMNS * CELL, n // _COLUMNS * CELL) for n in range(len(textures))], np.float32
    )
    for (x, y), texture in zip(origins.astype(int), textures, strict=True):
        atlas[y : y + CELL, x : x + CELL] = _all_levels(texture)
    rng = np.random.default_rng((_SEEDS[split], 1_000))
    fine = _noise(rng, split, 32)
    detail = _to_bytes(
        0.5 + 1.5 * (fine - cv2.GaussianBlur(fine, (0, 0), 2.5, borderType=cv2.BORDER_REFLECT))
    )
    return TextureBank(atlas=atlas, detail=_all_levels(detail), origins=origins, kinds=kinds)


def base_texture(bank: TextureBank, number: int) -> UInt8[np.ndarray, "256 256 3"]:
    """One texture at full resolution."""
    x, y = bank.origins[number].astype(int)
    return bank.atlas[y : y + SIDE, x : x + SIDE]


def _all_levels(texture: UInt8[np.ndarray, "256 256 ..."]) -> UInt8[np.ndarray, "cell cell ..."]:
    """Every combination of halvings of the two axes (a rip map), each closed by its first row and column."""
    cell = np.zeros((CELL, CELL, *texture.shape[2:]), np.uint8)
    rows = texture
    for top in LEVEL_STARTS.astype(int):
        level = rows
        for left in LEVEL_STARTS.astype(int):
            height, width = level.shape[:2]
            closed = cv2.copyMakeBorder(level, 0, 1, 0, 1, cv2.BORDER_WRAP)
            cell[top : top + height + 1, left : left + width + 1] = closed
            level = cv2.resize(level, (width // 2, height), interpolation=cv2.INTER_AREA)
        rows = cv2.resize(rows, (SIDE, rows.shape[0] // 2), interpolation=cv2.INTER_AREA)
    return cell


def _to_bytes(values: Float32[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    return np.asarray(np.clip(values, 0, 1) * 255 + 0.5, np.uint8)


def _noise(rng: np.random.Generator, split: Split, cells: int, stretch: int = 1) -> Tile:
    """Periodic noise of several octaves, about 0..1 around 0.5; the coarsest has `cells` cells a side.

    `stretch` makes the cells so many times as high as wide.
    """
    if split == "train":
        total = np.zeros((SIDE, SIDE), np.float32)
        weight = 1.0
        while cells <= SIDE // 2:
            rows = max(cells // stretch, 1)
            grid = np.pad(rng.random((rows, cells), dtype=np.float32) - 0.5, 2, mode="wrap")
            up_y, up_x = SIDE // rows, SIDE // cells
            smooth = cv2.resize(grid, ((cells + 4) * up_x, (rows + 4) * up_y), interpolation=cv2.INTER_CUBIC)
            total += weight * smooth[2 * up_y : 2 * up_y + SIDE, 2 * up_x : 2 * up_x + SIDE]
            weight, cells = weight * 0.68, cells * 2
    else:
        frequency_y, frequency_x = np.meshgrid(
            np.fft.fftfreq(SIDE, 1 / SIDE), np.fft.rfftfreq(SIDE, 1 / SIDE), indexing="ij"
        )
        radius = np.hypot(frequency_y * stretch, frequency_x)
        amplitude = np.where(radius >= cells / 2, (radius + 1.0) ** -1.45, 0.0)
        white = np.fft.rfft2(rng.standard_normal((SIDE, SIDE)))
        total = np.fft.irfft2(white * amplitude, (SIDE, SIDE)).astype(np.float32)
    return np.asarray(0.5 + 0.2 * (total - total.mean()) / total.std(), np.float32)


def _ramp(tile: Float32[np.ndarray, "256 256"], dark: Color, light: Color) -> Texture:
    """A grey tile as a ramp between two colours."""
    return np.asarray(
        np.asarray(dark, np.float32)
        + tile[..., None] * (np.asarray(light, np.float32) - np.asarray(dark, np.float32)),
        np.float32,
    )


def _fill(
    texture: Texture,
    box: Box,
    color: Color,
    keep: Number = 0.15,
) -> None:
    """Paints a box (x0, y0, x1, y1 in 0..1), letting a little of what was there through."""
    x0, y0, x1, y1 = (round(edge * SIDE) for edge in box)
    part = texture[max(y0, 0) : y1, max(x0, 0) : x1]
    part *= keep
    part += (1 - keep) * np.asarray(color, np.float32)


def _road(rng: np.random.Generator, split: Split, lanes: int) -> Texture:
    """Across: the whole road; along: one dash and one gap. Cracks, repairs, tyre tracks and markings."""
    grey = 0.20 + 0.42 * _noise(rng, split, 16) + 0.25 * (_noise(rng, split, 4, 2) - 0.5)
    ridge = np.abs(_noise(rng, split, 8) - 0.5)
    grey = np.where(ridge < 0.012, grey * 0.6, grey)
    for _ in range(3):
        x, y = rng.integers(0, SIDE - 60, 2)
        width, height = rng.integers(20, 60, 2)
        grey[y : y + height, x : x + width] *= rng.uniform(0.7, 1.2)
    texture = _ramp(grey.astype(np.float32), (0, 0, 0), (1.0, 0.99, 0.96 if split == "train" else 1.02))
    width = rng.uniform(0.05, 0.06) / lanes
    dash = rng.uniform(0.35, 0.45) if split == "train" else rng.uniform(0.5, 0.65)
    for lane in range(lanes + 1):
        solid = lane in (0, lanes) or (lane == lanes // 2 and rng.random() < 0.5)
        centre = np.clip(lane / lanes, 1.4 * width, 1 - 1.4 * width)
        color = (0.95, 0.8, 0.35) if solid and split == "val" and lane == lanes // 2 else (0.93, 0.93, 0.9)
        _fill(texture, (centre - width / 2, 0, centre + width / 2, 1 if solid else dash), color, keep=0.3)
    return texture


def _slabs(rng: np.random.Generator, split: Split) -> Texture:
    """Paving slabs: a square grid in training, shifted rows of bricks in validation."""
    rows, columns = (
        (rng.choice([4, 8]), rng.choice([4, 8])) if split == "train" else (rng.choice([10, 12]), 6)
    )
    y, x = np.meshgrid(np.arange(SIDE) * rows / SIDE, np.arange(SIDE) * columns / SIDE, indexing="ij")
    if split == "val":
        x = x + 0.5 * (np.floor(y) % 2)
    shade = rng.uniform(0.8, 1.1, (rows, columns + 1))[y.astype(int), x.astype(int) % columns]
    joint = (y % 1 < 0.07) | (x % 1 < 0.05)
    grey = shade * (0.3 + 0.5 * _noise(rng, split, 16)) * np.where(joint, 0.6, 1)
    warm = rng.uniform(0.82, 1.0)
    return _ramp(grey.astype(np.float32), (0, 0, 0), (1.0, 0.5 + warm / 2, warm))


def _terrain(rng: np.random.Generator, split: Split) -> Texture:
    """Grass and earth."""
    grass = _ramp(_noise(rng, split, 16), (0.10, 0.22, 0.05), (0.60, 0.72, 0.32))
    earth = _ramp(_noise(rng, split, 32), (0.25, 0.18, 0.10), (0.70, 0.58, 0.42))
    share = np.clip((_noise(rng, split, 4) - rng.uniform(0.4, 0.7)) * 6 + 0.5, 0, 1)[..., None]
    return np.asarray(grass + share * (earth - grass), np.float32)


def _facade(rng: np.random.Generator, split: Split) -> Texture:
    """Windows in rows over plaster or brick: repetitive, as facades are, but no two windows are alike."""
    wall = 0.45 + 0.35 * _noise(rng, split, 8) + 0.3 * (_noise(rng, split, 64) - 0.5)
    if rng.random() < 0.5:
        wall *= np.where((np.arange(SIDE) % (8 if split == "train" else 12) < 2)[:, None], 0.8, 1)
    texture = _ramp(wall.astype(np.float32), (0, 0, 0), rng.uniform(0.75, 1.05, 3))
    columns, rows = (int(rng.choice([3, 4])), 3) if split == "train" else (int(rng.choice([2, 5])), 2)
    width, height = rng.uniform(0.4, 0.6), rng.uniform(0.45, 0.65)
    frame = rng.uniform(0.55, 1.0)
    glass = _noise(rng, split, 8)
    for row in range(rows):
        for column in range(columns):
            left, top = (column + (1 - width) / 2) / columns, (row + (1 - height) / 2) / rows
            right, bottom = left + width / columns, top + height / rows
            _fill(texture, (left - 0.012, top - 0.012, right + 0.012, bottom + 0.02), frame)
            pane = (0.55 + glass[row * 80, column * 50]) * rng.uniform(0.15, 0.5) * np.array([0.9, 1.0, 1.15])
            _fill(texture, (left, top, right, bottom), pane, keep=0.3)
            if split == "train":
                _fill(texture, ((left + right) / 2 - 0.006, top, (left + right) / 2 + 0.006, bottom), frame)
            else:
                _fill(texture, (left, top, right, top + rng.uniform(0, 0.5) * (bottom - top)), frame * 0.85)
    return texture


def _foliage(rng: np.random.Generator, split: Split) -> Texture:
    """Leaves: clumps of light and dark."""
    clumps = 0.55 * _noise(rng, split, 8) + 0.6 * _noise(rng, split, 32) - 0.1
    dark, light = (
        rng.uniform((0.04, 0.10, 0.02), (0.10, 0.18, 0.06)),
        rng.uniform((0.5, 0.65, 0.2), (0.8, 0.9, 0.4)),
    )
    return _ramp(np.clip(1.9 * (clumps - 0.5) + 0.45, 0, 1).astype(np.float32), dark, light)


def _plain(rng: np.random.Generator, split: Split) -> Texture:
    """Bark, concrete, painted metal: vertical streaks."""
    return _ramp(_noise(rng, split, 16, 4), (0.15, 0.14, 0.13), (0.95, 0.92, 0.88))


def _sign(rng: np.random.Generator, split: Split) -> Texture:
    """A sign's face: a border, a shape, bars like writing."""
    color, other = rng.permutation([[0.8, 0.1, 0.1], [0.1, 0.25, 0.7], [0.95, 0.95, 0.95], [0.95, 0.8, 0.1]])[
        :2
    ]
    texture = _ramp(_noise(rng, split, 8), color * 0.7, color * rng.uniform(0.9, 1.0))
    y, x = np.meshgrid(np.linspace(-1, 1, SIDE), np.linspace(-1, 1, SIDE), indexing="ij")
    distance = np.hypot(x, y) if split == "train" else np.abs(x) + np.abs(y)
    shape = (distance < 0.75) & (distance > rng.uniform(0, 0.5))
    texture[shape] = _ramp(_noise(rng, split, 8), other * 0.75, other * 0.95)[shape]
    for top in rng.uniform(0.15, 0.8, 3):
        _fill(texture, (rng.uniform(0.1, 0.4), top, rng.uniform(0.6, 0.9), top + 0.07), 0.1)
    return texture


def _cloth(rng: np.random.Generator, split: Split) -> Texture:
    """Clothes: stripes in training, checks in validation."""
    stripes = np.sin(np.arange(SIDE) * 2 * np.pi * rng.integers(3, 9) / SIDE)
    pattern = stripes[:, None] if split == "train" else stripes[:, None] * stripes
    grey = 0.15 + 0.6 * _noise(rng, split, 8) + rng.uniform(0.05, 0.25) * (pattern > 0.2)
    return _ramp(grey.astype(np.float32), (0, 0, 0), rng.uniform(0.7, 1.1, 3))


def _head(rng: np.random.Generator, split: Split) -> Texture:
    """Hair above, skin below."""
    texture = _ramp(_noise(rng, split, 8), (0.5, 0.35, 0.25), (1.0, 0.8, 0.68))
    _fill(texture, (0, 0, 1, rng.uniform(0.3, 0.5)), rng.uniform(0.05, 0.4), keep=0.3)
    return texture


def _barrier(rng: np.random.Generator, split: Split) -> Texture:
    """Guard rails and fences: rails along, posts across."""
    texture = _ramp(_noise(rng, split, 16), (0.35, 0.35, 0.36), (0.85, 0.85, 0.84))
    for row in (0.12, 0.5) if split == "train" else (0.05, 0.35, 0.65):
        _fill(texture, (0, row, 1, row + 0.12), rng.uniform(0.6, 0.95), keep=0.4)
    posts = rng.integers(2, 5) if split == "train" else rng.integers(5, 8)
    for post in range(posts):
        _fill(texture, (post / posts, 0, post / posts + 0.05, 1), rng.uniform(0.1, 0.4))
    return texture


def _paint(rng: np.random.Generator, split: Split) -> Texture:
    """Car paint: reflections in wide bands and some dirt."""
    grey = 0.5 + 0.45 * _noise(rng, split, 4) + 0.3 * (_noise(rng, split, 16) - 0.5)
    return _ramp(np.asarray(grey * np.linspace(1.1, 0.75, SIDE)[:, None], np.float32), (0, 0, 0), (1, 1, 1))


def _car_side(rng: np.random.Generator, split: Split) -> Texture:
    """Doors, handles, sill."""
    texture = _paint(rng, split)
    for x in (0.3, 0.52, 0.74) if split == "train" else (0.35, 0.66):
        _fill(texture, (x, 0.02, x + 0.012, 0.85), 0.15)
        _fill(texture, (x - 0.09, 0.2, x - 0.03, 0.27), 0.3)
    _fill(texture, (0, 0.86, 1, 1), 0.12, keep=0.3)
    return texture


def _car_end(rng: np.random.Generator, split: Split, lamp: tuple[float, float, float]) -> Texture:
    """Front or rear: two lamps, number plate, grille, bumper."""
    texture = _paint(rng, split)
    height = rng.uniform(0.1, 0.2) if split == "train" else rng.uniform(0.24, 0.34)
    _fill(texture, (0.03, 0.2, 0.24, 0.2 + height), lamp)
    _fill(texture, (0.76, 0.2, 0.97, 0.2 + height), lamp)
    _fill(texture, (0.3, 0.22, 0.7, 0.34), rng.uniform(0.1, 0.3))
    _fill(texture, (0.36, 0.48, 0.64, 0.62), (0.95, 0.95, 0.9))
    _fill(texture, (0.40, 0.52, 0.60, 0.58), 0.2)
    _fill(texture, (0, 0.72, 1, 0.8), 0.25, keep=0.4)
    return texture


def _cabin(rng: np.random.Generator, split: Split) -> Texture:
    """Glass between pillars, with a reflection."""
    texture = _paint(rng, split)
    glass = _ramp(_noise(rng, split, 4), (0.02, 0.03, 0.05), (0.5, 0.56, 0.62))
    for x0, x1 in (
        ((0.06, 0.48), (0.53, 0.94)) if split == "train" else ((0.05, 0.3), (0.34, 0.64), (0.68, 0.95))
    ):
        x = slice(round(x0 * SIDE), round(x1 * SIDE))
        texture[30:220, x] = glass[30:220, x]
    return texture


def _panel(rng: np.random.Generator, split: Split) -> Texture:
    """The side of a truck or bus: panels and blocks of lettering."""
    texture = _paint(rng, split)
    for x in np.arange(0, 1, 0.125 if split == "train" else 0.2):
        _fill(texture, (x, 0, x + 0.01, 1), 0.3)
    for _ in range(4):
        x, y = rng.uniform(0.05, 0.7), rng.uniform(0.1, 0.7)
        _fill(texture, (x, y, x + rng.uniform(0.1, 0.3), y + rng.uniform(0.06, 0.2)), rng.uniform(0, 1, 3))
    return texture


def _wheel(rng: np.random.Generator, split: Split) -> Texture:
    """Tyre, rim and spokes."""
    y, x = np.meshgrid(np.linspace(-1, 1, SIDE), np.linspace(-1, 1, SIDE), indexing="ij")
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    spokes = np.cos(angle * (5 if split == "train" else 7) + rng.uniform(0, 6)) > 0
    grey = np.where(radius > 0.62, 0.12, np.where(spokes | (radius > 0.52), 0.7, 0.2))
    return _ramp((grey + 0.15 * (_noise(rng, split, 16) - 0.5)).astype(np.float32), (0, 0, 0), (1, 1, 1))


def _sky(rng: np.random.Generator, split: Split) -> Texture:
    """Clouds over a gradient, lightest at the horizon (the lower edge)."""
    height = np.linspace(1, 0, SIDE)[:, None] + 0.1 * (_noise(rng, split, 4) - 0.5)
    zenith = rng.uniform((0.22, 0.45, 0.78), (0.34, 0.55, 0.9))
    blue = _ramp(height.astype(np.float32), (0.86, 0.9, 0.94), zenith)
    cover = np.clip((_noise(rng, split, 4, 1) - rng.uniform(0.35, 0.65)) * 3.5, 0, 1)[..., None]
    return np.asarray(
        blue + cover * (0.95 * (0.8 + 0.3 * _noise(rng, split, 8)[..., None]) - blue), np.float32
    )
