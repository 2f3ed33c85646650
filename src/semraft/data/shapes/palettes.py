"""Colours and light of the layered scenes: palettes of moderate saturation, fog, exposure, blur and noise."""

import colorsys
import math
import random
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64

Color = tuple[float, float, float]
_LEVELS = np.linspace(0, 1, 256)


class Light(NamedTuple):
    """Light and exposure of a scene: common to its frames, or one value for each frame."""

    brightness: float
    contrast: float
    tint: Color
    fog_frac: float
    """Share of fog in the light of the background."""
    fog_color: Color
    blur_px: tuple[float, float]
    """Deviation of each frame's blur."""
    gain: tuple[float, float]
    offset: tuple[float, float]
    slope: tuple[Color, Color]
    """Each frame's relative change of brightness across its width and its height, and to its corners."""
    smear_px: tuple[float, float]
    """Along x and y, how far both frames moved while the shutter was open."""
    noise: float
    """Deviation of the noise in grey levels, where it is brightest: half of it in the dark."""
    noise_seed: int


def draw_light(rng: random.Random) -> Light:
    """Draws the light of a clear scene: the same in both frames."""
    brightness = rng.choices((rng.uniform(0.75, 1.2), rng.uniform(0.35, 0.75)), (0.85, 0.15))[0]
    warm = rng.gauss(0, 0.06)
    blur_px = rng.uniform(0.4, 0.7)
    return Light(
        brightness=brightness,
        contrast=rng.uniform(0.9, 1.5),
        tint=(1 + warm, 1 + rng.gauss(0, 0.02), 1 - warm),
        fog_frac=0.0,
        fog_color=(0.0, 0.0, 0.0),
        blur_px=(blur_px, blur_px),
        gain=(1.0, 1.0),
        offset=(0.0, 0.0),
        slope=((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
        smear_px=(0.0, 0.0),
        noise=0.0,
        noise_seed=0,
    )


def with_effects(light: Light, rng: random.Random, camera_px: tuple[float, float]) -> Light:
    """The light with what spoils it: fog, blur, smear, exposure, uneven light, noise; each in some scenes.

    Args:
        camera_px: The motion of the frame's middle.
    """
    fog = rng.uniform(90, 230)
    change, offset = (rng.gauss(0, 0.06), rng.gauss(0, 4)) if rng.random() < 0.4 else (0.0, 0.0)
    slope_x, slope_y, slope_out = (rng.gauss(0, 0.12) for _ in range(3))
    drift = 0.03 if rng.random() < 0.5 else 0.0
    blurs = [*light.blur_px]
    if rng.random() < 0.2:
        blurs[0] = blurs[1] = blurs[0] + rng.expovariate(2)
    if rng.random() < 0.1:
        blurs[rng.randrange(2)] += rng.uniform(0.3, 1.2)
    open_frac = rng.uniform(0.05, 0.5) if rng.random() < 0.2 else 0.0
    open_frac = min(open_frac, 12 / max(math.hypot(*camera_px), 1e-9))
    return light._replace(
        fog_frac=rng.uniform(0.1, 0.85) if rng.random() < 0.25 else 0.0,
        fog_color=(fog, fog * rng.uniform(0.97, 1.02), fog * rng.uniform(0.97, 1.08)),
        blur_px=(blurs[0], blurs[1]),
        gain=(1.0, math.exp(change)),
        offset=(0.0, offset),
        slope=(
            (slope_x, slope_y, slope_out),
            (slope_x + rng.gauss(0, drift), slope_y + rng.gauss(0, drift), slope_out),
        ),
        smear_px=(open_frac * camera_px[0], open_frac * camera_px[1]),
        noise=rng.expovariate(1 / 3) if rng.random() < 0.7 else 0.0,
        noise_seed=rng.getrandbits(32),
    )


def draw_palette(rng: random.Random, channels: int) -> Float64[np.ndarray, "256 3"]:
    """The colours of a texture's grey levels (of pictures: of each channel's), before light; any values.

    A palette leads through two to four colours that lie around one of the surface's own; low contrast is as
    frequent as high, and saturation moderate, as in photographs.
    """
    if channels == 3:
        contrast, offset = rng.uniform(0.5, 1.2), rng.gauss(0, 15)
        colors = (_LEVELS[:, None] - 0.5) * 255 * contrast + 127 + offset + np.zeros(3)
    else:
        contrast = 15 + 330 * rng.betavariate(1.2, 1.4)
        grey = 105 + (rng.random() - 0.5) * (330 - 0.6 * contrast)
        hue, saturation = rng.random(), 0.85 * rng.betavariate(1.2, 2.2)
        varied = rng.choice((0.03, 0.08, 0.3))
        knots = rng.choice((2, 2, 3, 4))
        direction = rng.choice((-1, 1))
        places = [-0.1, *sorted(rng.random() for _ in range(knots - 2)), 1.1]
        path = []
        for place in places:
            red, green, blue = colorsys.hsv_to_rgb(
                hue + rng.gauss(0, varied), saturation * rng.uniform(0.4, 1.4), 1
            )
            value = grey + direction * contrast * (place - 0.5) + (knots > 2) * rng.gauss(0, 0.2) * contrast
            luminance = 0.299 * red + 0.587 * green + 0.114 * blue
            path.append([value * part / luminance for part in (red, green, blue)])
        colors = np.stack([np.interp(_LEVELS, places, part) for part in zip(*path, strict=True)], 1)
    return np.asarray(colors)


def lit(
    colors: Float64[np.ndarray, "N 256 3"], depths: Float64[np.ndarray, " N"], light: Light
) -> Float32[np.ndarray, "N 256 3"]:
    """The palettes of layers at depths of 0 to 1 in the scene's light and fog, 0 to 255.

    Dark and bright fade out as in a film, so that no large part of a picture is black or white.
    """
    toned = 125 + 120 * np.tanh(light.contrast / 130 * (colors - 125))
    seen = toned * (light.brightness * np.array(light.tint))
    if light.fog_frac > 0:
        fog = light.fog_frac * depths[:, None, None] ** 1.5
        seen = (1 - fog) * seen + fog * np.array(light.fog_color)
    return np.asarray(np.clip(seen, 0, 255), np.float32)
