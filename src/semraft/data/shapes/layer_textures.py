"""Textures of the layered scenes: grey, periodic, procedural; a layer gives them its own colours.

One channel is enough: a layer's palette turns grey levels into colours, so that one texture never looks the
same twice and costs a third. Pictures of the user's have three channels. Textures are made, with their mip
maps, when they are first asked for; each is a function of the bank's seed and its number.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from semraft.data.files.pictures import read_image

COUNT = 200
"""Procedural textures that a bank holds."""
SIDE = 512
"""Texels along each side at full resolution."""
LEVELS = 6
"""Halvings that are kept: 512, 256, ... 16 texels."""
LEVEL_STARTS = np.cumsum([0] + [(SIDE >> level) ** 2 for level in range(LEVELS)])
"""Index of the first texel of each level in a texture; the last entry is the number of texels."""

Tile = Float32[np.ndarray, "512 512"]
_PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm")


class TextureBank:
    """The textures of one seed: `texels[n]` is right once `make(n)` was called. `channels` is 1 or 3."""

    def __init__(self, seed: tuple[int, ...], folder: str) -> None:
        self.seed = seed
        self.pictures = _pictures(folder) if folder else ()
        self.channels = 3 if folder else 1
        self.count = len(self.pictures) or COUNT
        shape = (self.count, int(LEVEL_STARTS[-1]), self.channels)
        self.texels: UInt8[np.ndarray, "N texels channels"] = np.zeros(shape, np.uint8)
        self._made: Bool[np.ndarray, " N"] = np.zeros(self.count, bool)

    def make(self, number: int) -> None:
        """Fills in a texture.

        Raises:
            DamagedFile: A picture that can't be read.
        """
        if self._made[number]:
            return
        if self.pictures:
            base = _periodic_picture(self.pictures[number])
        else:
            rng = np.random.default_rng((*self.seed, number))
            base = _to_bytes(_texture(rng))[..., None]
        _fill_levels(base, self.texels[number])
        self._made[number] = True


@lru_cache(maxsize=4)
def texture_bank(seed: tuple[int, ...], folder: str = "") -> TextureBank:
    """The textures of a seed, or the pictures of a folder; shared by all scenes of a process.

    Raises:
        ValueError: A folder without pictures.
    """
    return TextureBank(seed, folder)


def _pictures(folder: str) -> tuple[Path, ...]:
    root = Path(folder).expanduser()
    found = sorted(path for path in root.rglob("*") if path.suffix.lower() in _PICTURE_SUFFIXES)
    if not found:
        raise ValueError(
            f"--data.shapes.textures {folder}: no picture there; it takes a folder of jpg, png or ppm files"
        )
    return tuple(found)


def _periodic_picture(path: Path) -> UInt8[np.ndarray, "512 512 3"]:
    """The middle of a picture at 512x512, its borders faded into each other."""
    fade = 64
    image = read_image(path)
    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    square = image[top : top + side, left : left + side]
    way = cv2.INTER_AREA if side > SIDE + fade else cv2.INTER_LINEAR
    wide = cv2.resize(square, (SIDE + fade, SIDE + fade), interpolation=way).astype(np.float32)
    share = np.linspace(0, 1, fade, dtype=np.float32)[:, None, None]
    wide[:fade] = share * wide[:fade] + (1 - share) * wide[SIDE:]
    share = share.transpose(1, 0, 2)
    wide[:, :fade] = share * wide[:, :fade] + (1 - share) * wide[:, SIDE:]
    return np.rint(wide[:SIDE, :SIDE]).astype(np.uint8)


def _fill_levels(base: UInt8[np.ndarray, "side side C"], texels: UInt8[np.ndarray, "texels C"]) -> None:
    """All halvings of a texture, the first softened a little: bilinear reading must not alias."""
    level = cv2.GaussianBlur(_wrapped(base.astype(np.float32), 4), (0, 0), 0.45)[4:-4, 4:-4]
    for number in range(LEVELS):
        side = SIDE >> number
        if number:
            level = cv2.resize(level, (side, side), interpolation=cv2.INTER_AREA)
        start, stop = LEVEL_STARTS[number : number + 2]
        texels[start:stop] = np.rint(level).reshape(side * side, -1)


def _wrapped(tile: np.ndarray, margin: int) -> np.ndarray:
    return np.asarray(cv2.copyMakeBorder(tile, margin, margin, margin, margin, cv2.BORDER_WRAP))


def _to_bytes(values: Tile) -> UInt8[np.ndarray, "side side"]:
    return np.asarray(np.clip(values, 0, 1) * 255 + 0.5, np.uint8)


def _texture(rng: np.random.Generator) -> Tile:
    """A texture of any kind, about 0..1, with fine noise of its own as all surfaces have."""
    kinds = (_noise, _leaves, _leaves, _pattern, _cells, _veins, _lettering, _mixture, _mixture, _spots)
    tile = kinds[int(rng.integers(len(kinds)))](rng)
    return np.asarray(tile + _one_of(rng, 0.0, 0.02, 0.06) * (4 * _spectral(rng, 0.7)), np.float32)


def _one_of(rng: np.random.Generator, *values: float) -> float:
    return values[int(rng.integers(len(values)))]


def _spectral(rng: np.random.Generator, exponent: float, stretch: float = 1.0) -> Tile:
    """Periodic noise of mean 0 and deviation 0.25 whose amplitude falls as frequency ** -exponent."""
    frequency_y = np.fft.fftfreq(SIDE, 1 / SIDE)[:, None] * stretch
    radius = np.hypot(frequency_y, np.fft.rfftfreq(SIDE, 1 / SIDE)) + 1e-9
    amplitude = np.where(radius < 1, 0, np.maximum(radius, 1) ** -exponent).astype(np.float32)
    shape = amplitude.shape
    white = rng.standard_normal((2, *shape), dtype=np.float32)
    tile = np.fft.irfft2(amplitude * (white[0] + 1j * white[1]), (SIDE, SIDE))
    return np.asarray(0.25 * tile / tile.std(), np.float32)


def _noise(rng: np.random.Generator) -> Tile:
    stretch = 2 ** _one_of(rng, 0.0, 0.0, 1.0, 2.0, 3.0)
    return np.asarray(0.5 + _spectral(rng, rng.uniform(0.9, 2.1), stretch))


def _veins(rng: np.random.Generator) -> Tile:
    """Ridges of noise: veins, cracks, bark."""
    ridge = 1 - 3 * np.abs(_spectral(rng, rng.uniform(1.3, 2.0), float(2 ** rng.uniform(0, 2))))
    return np.asarray(np.clip(ridge, 0, 1) ** rng.uniform(1, 4) + 0.3 * _spectral(rng, 1.2), np.float32)


def _leaves(rng: np.random.Generator) -> Tile:
    """Dead leaves: opaque pieces of all sizes over each other, as many as their area is small."""
    tile = np.zeros((SIDE, SIDE), np.float32)
    smallest, largest = rng.uniform(3, 14), rng.uniform(60, 160)
    shape = int(rng.integers(4))
    levels = rng.random(int(rng.integers(3, 12)))
    # Radii of density r ** -3, from the largest: the last drawn are on top.
    share = rng.random(int(rng.integers(500, 1500)))
    radii = (smallest**-2 + share * (largest**-2 - smallest**-2)) ** -0.5
    for radius in radii:
        grey = float(np.clip(rng.choice(levels) + rng.normal(0, 0.08), 0, 1))
        _stamp(tile, rng, radius, grey, shape)
    return np.asarray(tile + _one_of(rng, 0.0, 0.3, 0.6) * _spectral(rng, rng.uniform(0.8, 1.5)))


def _stamp(tile: Tile, rng: np.random.Generator, radius: float, grey: float, shape: int) -> None:
    """Draws an ellipse, a box or a triangle anywhere, and its copies across the borders."""
    x, y, angle = rng.uniform(0, SIDE), rng.uniform(0, SIDE), rng.uniform(0, 360)
    narrow = radius * rng.uniform(0.35, 1)
    kind = int(rng.integers(3)) if shape == 3 else shape
    for shift_x in _copies(x, radius):
        for shift_y in _copies(y, radius):
            if kind == 0:
                centre, axes = (
                    (round(16 * shift_x), round(16 * shift_y)),
                    (round(16 * radius), round(16 * narrow)),
                )
                cv2.ellipse(tile, centre, axes, angle, 0, 360, grey, -1, cv2.LINE_AA, 4)
                continue
            box = cv2.boxPoints(((shift_x, shift_y), (2 * radius, 2 * narrow), angle))
            points = np.rint(16 * box[: 5 - kind]).astype(np.int32)
            cv2.fillPoly(tile, [points], grey, cv2.LINE_AA, 4)


def _copies(place: float, radius: float) -> list[float]:
    return [place + shift for shift in (-SIDE, 0, SIDE) if -2 * radius < place + shift < SIDE + 2 * radius]


def _pattern(rng: np.random.Generator) -> Tile:
    """Stripes, checks or bricks with soft or hard edges, bent a little and uneven."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32) / SIDE
    bend = _one_of(rng, 0.0, 0.02, 0.06) * 4
    x = x + bend * _spectral(rng, 2.2)
    y = y + bend * _spectral(rng, 2.2)
    along, across = rng.integers(2, 40, 2)
    hardness = _one_of(rng, 1.0, 3.0, 20.0)
    kind = int(rng.integers(4))
    wave_x = np.sin(2 * np.pi * along * x)
    wave_y = np.sin(2 * np.pi * across * y)
    if kind == 0:  # Stripes, perhaps of two frequencies and at an angle.
        turn = int(rng.integers(-3, 4))
        wave = np.sin(2 * np.pi * (along * x + turn * y)) + _one_of(rng, 0.0, 0.6) * np.sin(
            2 * np.pi * (across * x + rng.random())
        )
    elif kind == 1:  # Checks.
        wave = wave_x * wave_y
    elif kind == 2:  # Bricks: every other row is shifted by half a brick.
        rows = 2 * max(1, int(across) // 2)
        row = np.floor(rows * y)
        wave_x = np.cos(np.pi * ((along * x + 0.5 * (row % 2)) % 1 - 0.5) * 2)
        wave_y = np.cos(2 * np.pi * ((rows * y) % 1 - 0.5))
        wave = np.minimum(wave_x, wave_y) + 0.85
    else:  # A grid of lines.
        wave = 0.8 - np.maximum(wave_x, wave_y) * 1.2
    tile = 0.5 + 0.4 * np.tanh(hardness * wave)
    return np.asarray(tile + _one_of(rng, 0.3, 0.8) * _spectral(rng, rng.uniform(0.8, 1.6)), np.float32)


def _cells(rng: np.random.Generator) -> Tile:
    """Stones, leather or fields: the nearest of random points decides the grey; joints between."""
    count = int(2 ** rng.uniform(4, 10))
    points = rng.integers(0, SIDE, (count, 2))
    margin = SIDE // 4
    seeds = np.ones((SIDE, SIDE), np.uint8)
    seeds[points[:, 0], points[:, 1]] = 0
    distance, label = cv2.distanceTransformWithLabels(
        _wrapped(seeds, margin), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    inner = slice(margin, margin + SIDE)
    grey = np.zeros(int(label.max()) + 1, np.float32)
    # Copies of one point across the borders have labels of their own, but the point's grey.
    rows, columns = np.nonzero(_wrapped(seeds, margin) == 0)
    of_point = rng.random((SIDE, SIDE), dtype=np.float32)
    grey[label[rows, columns]] = of_point[(rows - margin) % SIDE, (columns - margin) % SIDE]
    size = SIDE / count**0.5
    dome = np.clip(distance[inner, inner] / size, 0, 1)
    tile = rng.uniform(0.3, 1) * grey[label[inner, inner]] + rng.uniform(-0.8, 0.8) * dome
    return np.asarray(tile + 0.3 + _one_of(rng, 0.05, 0.3) * _spectral(rng, 1.2), np.float32)


def _lettering(rng: np.random.Generator) -> Tile:
    """Lines of letters of one to three sizes on a plain or uneven ground."""
    ground, ink = rng.random(2)
    letters = np.zeros((SIDE, SIDE), np.uint8)
    top = 0.0
    while top < SIDE:
        size = _one_of(rng, 0.5, 0.8, 1.4, 2.5, 5.0)
        top += 30 * size
        text = "".join(map(chr, rng.integers(33, 123, int(60 / size))))
        font = int(rng.choice([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX]))
        thickness = max(1, round(size * rng.uniform(1, 4)))
        cv2.putText(letters, text, (0, round(top)), font, size, 255, thickness, cv2.LINE_AA)
    share = letters.astype(np.float32) / 255
    uneven = _one_of(rng, 0.0, 0.3) * _spectral(rng, 1.8)
    return np.asarray(ground + share * (ink - ground) + uneven, np.float32)


def _spots(rng: np.random.Generator) -> Tile:
    """Gravel, foliage, sand: noise of a narrow band of frequencies, soft or hard."""
    fine = _spectral(rng, 0.3)
    width = 2 ** rng.uniform(0.2, 3)
    band: np.ndarray = cv2.GaussianBlur(_wrapped(fine, 64), (0, 0), width)[64:-64, 64:-64]
    band -= cv2.GaussianBlur(_wrapped(fine, 64), (0, 0), 2 * width)[64:-64, 64:-64]
    spots = np.tanh(_one_of(rng, 1.0, 4.0) * band / band.std())
    return np.asarray(0.5 + 0.3 * spots + 0.4 * _spectral(rng, 1.8), np.float32)


def _mixture(rng: np.random.Generator) -> Tile:
    """One texture where another, thresholded, is high, and a third elsewhere."""
    kinds: tuple[Callable[[np.random.Generator], Tile], ...] = (
        _noise,
        _leaves,
        _pattern,
        _cells,
        _veins,
        _spots,
    )
    first, second = (kinds[int(number)](rng) for number in rng.integers(len(kinds), size=2))
    mask = np.tanh(_one_of(rng, 3.0, 40.0) * _spectral(rng, rng.uniform(1.6, 2.4))) / 2 + 0.5
    return np.asarray(mask * first + (1 - mask) * second, np.float32)
