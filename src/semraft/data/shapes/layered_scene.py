"""Layered scenes: their layers, front to back, drawn from (split, seed, index) and the size.

Coordinates are pixels from the middle of the frame. A layer has a plane of its own: a homography from each
frame to it, then shears. In frame 1 only those of its form act, in frame 2 first those of its motion are
undone. On its plane lie its outline and its texture.
"""

import math
import random
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from semraft.data.shapes import layer_motion
from semraft.data.shapes.layer_textures import SIDE as TEXTURE_SIDE
from semraft.data.shapes.layer_textures import TextureBank
from semraft.data.shapes.outlines import BARS, EVERYWHERE, REACH, OutlineBank
from semraft.data.shapes.palettes import Light, draw_light, draw_palette, lit, with_effects
from semraft.data.shapes.shadows import Shadows, draw_shadows

SHEARS = 2
"""Most shears that a layer's motion has, and that its form has."""


class Layers(NamedTuple):
    """The layers of a scene, front to back; the last is the background."""

    to_plane: Float64[np.ndarray, "2 N 3 3"]
    """From each frame to the plane before its form's shears."""
    from_plane: Float64[np.ndarray, "2 N 3 3"]
    shears: Float64[np.ndarray, "N 4 5"]
    """k_x, k_y, phase, u_x, u_y: two of the motion from frame 1 to 2, then two of the form."""
    shear_count: Int64[np.ndarray, "N 2"]
    boxes: Int64[np.ndarray, "2 N 4"]
    """Rows and columns of each frame that a layer can touch: top, bottom, left, right."""
    outline: Int64[np.ndarray, " N"]
    """A field's number, EVERYWHERE or BARS."""
    form: Float64[np.ndarray, "N 4"]
    """A field's shift and half width of its rim (0: solid); bars' half length, half width, period, and how
    many there are beyond the middle one on each side."""
    texture: Int64[np.ndarray, " N"]
    to_texel: Float64[np.ndarray, "N 2 3"]
    palette: Float32[np.ndarray, "N 256 3"]
    own_motion: Bool[np.ndarray, " N"]
    """True for layers that move relative to the static part of the scene."""


class Scene(NamedTuple):
    """A scene before it is seen."""

    layers: Layers
    light: Light
    shadows: Shadows


class _Layer(NamedTuple):
    depth: float
    to_plane: tuple[layer_motion.Matrix, layer_motion.Matrix]
    motion_shears: list[tuple[float, float, float, float, float]]
    form_shears: list[tuple[float, float, float, float, float]]
    extent: tuple[float, float]
    outline: int
    form: tuple[float, float, float, float]
    texel_per_unit: float
    own_motion: bool


class _View(NamedTuple):
    height: int
    width: int
    side: float
    """Side of the square of the same area, in pixels."""
    speed_px: float
    camera: layer_motion.Matrix


def draw_scene(
    rng: random.Random,
    size: tuple[int, int],
    motion_px: float,
    effects: bool,
    outlines: OutlineBank,
    textures: TextureBank,
) -> Scene:
    """Draws a scene and makes sure that the banks hold what it needs."""
    height, width = size
    side = math.sqrt(height * width)
    # Some scenes are slow as a whole and some fast, and all lengths occur in each.
    speed_px = motion_px * rng.expovariate(1) * rng.choices((0.12, 0.8, 2.4), (0.3, 0.35, 0.35))[0]
    camera_px = min(speed_px * rng.uniform(0.2, 1.8), 0.6 * side)
    camera = layer_motion.draw_motion(rng, camera_px, 0.41 * side, (0.0, 0.0), 1.0)
    view = _View(height, width, side, speed_px, camera)
    layers = [_background(rng, view)]
    count = 2 + min(int(rng.expovariate(1 / 8)), 18)
    layers += [_object(rng, view, count, outlines) for _ in range(count)]
    layers.sort(key=lambda layer: layer.depth)
    # Of their own generator: a scene without effects is the same scene.
    of_effects = random.Random(rng.getrandbits(64))
    light = draw_light(rng)
    if effects:
        light = with_effects(light, of_effects, layer_motion.apply(camera, 0.0, 0.0))
    shadows = draw_shadows(of_effects, 0.35 if effects else 0.0, size, speed_px, outlines)
    return Scene(_packed(rng, view, layers, light, textures), light, shadows)


def _background(rng: random.Random, view: _View) -> _Layer:
    shears = []
    if rng.random() < 0.15:
        shears = _motion_shears(rng, view.speed_px * rng.expovariate(2), 0.4 * view.side)
    form = [
        layer_motion.draw_shear(rng, rng.uniform(0.3, 1.5) * view.side, rng.uniform(0, 0.4)) for _ in range(2)
    ]
    return _Layer(
        depth=1.0,
        to_plane=(np.eye(3), layer_motion.inverse(view.camera)),
        motion_shears=shears,
        form_shears=form,
        extent=(math.inf, math.inf),
        outline=EVERYWHERE,
        form=(0.0, 0.0, 0.0, 0.0),
        texel_per_unit=1.0,
        own_motion=bool(shears),
    )


def _object(rng: random.Random, view: _View, count: int, outlines: OutlineBank) -> _Layer:
    smaller = (7 / count) ** 0.3 if count > 7 else 1.0
    radius_px = view.side * smaller * 0.05 * 11 ** rng.betavariate(1.2, 1.3)
    bars = rng.random() < 0.17
    if bars:
        radius_px = view.side * rng.uniform(0.15, 0.8)
    middle = rng.uniform(-0.55, 0.55) * view.width, rng.uniform(-0.55, 0.55) * view.height
    depth = rng.uniform(0.25, 1.0)
    moves, own_motion = _object_motion(rng, view, depth, middle, radius_px)
    # The middle is half-way: neither frame sees more of the object than the other.
    x, y = layer_motion.apply(moves, *middle)
    shift = (middle[0] - x) / 2, (middle[1] - y) / 2
    start = middle[0] + shift[0], middle[1] + shift[1]
    moves = np.asarray(
        layer_motion.shift(shift[0], shift[1]) @ moves @ layer_motion.shift(-shift[0], -shift[1])
    )
    units_per_px = REACH / radius_px
    narrow = 1.0 if rng.random() < 0.3 else rng.uniform(1.0, 2.5)
    turn = rng.uniform(0, 2 * math.pi)
    cosine, sine = units_per_px * math.cos(turn), units_per_px * math.sin(turn)
    onto = layer_motion.affine(cosine, sine, 0.0, -sine * narrow, cosine * narrow, 0.0)
    onto = np.asarray(onto @ layer_motion.shift(-start[0], -start[1]))
    shears = []
    if rng.random() < 0.35:
        bend_px = min(view.speed_px * rng.expovariate(2), 0.4 * radius_px)
        shears = _motion_shears(rng, bend_px * units_per_px, 0.5 * REACH)
    form_shears = [
        layer_motion.draw_shear(rng, rng.uniform(60, 250), rng.uniform(0, 0.5))
        for _ in range(rng.randint(0, 2))
    ]
    outline, form, extent = _draw_outline(rng, bars, units_per_px, outlines)
    return _Layer(
        depth=depth,
        to_plane=(onto, np.asarray(onto @ layer_motion.inverse(moves))),
        motion_shears=shears,
        form_shears=form_shears,
        extent=extent,
        outline=outline,
        form=form,
        texel_per_unit=1 / units_per_px,
        own_motion=own_motion or bool(shears),
    )


def _object_motion(
    rng: random.Random, view: _View, depth: float, middle: tuple[float, float], radius_px: float
) -> tuple[layer_motion.Matrix, bool]:
    """From frame 1 to frame 2, and whether that is more than the camera's motion."""
    still = rng.random() < 0.4
    nearness = 1.0 if rng.random() < 0.3 else min(1 / depth, 2.5)
    moves = layer_motion.part_of(view.camera, nearness)
    if not _sound(moves, view):
        moves = view.camera
    if not still:
        length_px = view.speed_px * rng.expovariate(1)
        if rng.random() < 0.1:
            length_px = 0.1 * view.side * rng.expovariate(1)
        own = layer_motion.draw_motion(rng, length_px, max(radius_px, length_px), middle, 0.6)
        moves = np.asarray(moves @ own)
        if not _sound(moves, view):
            moves = own
    x, y = layer_motion.apply(moves, *middle)
    gone_px = math.hypot(x - middle[0], y - middle[1])
    if gone_px > 0.5 * view.side:
        back = 1 - 0.5 * view.side / gone_px
        moves = np.asarray(layer_motion.shift(back * (middle[0] - x), back * (middle[1] - y)) @ moves)
    return moves, not still


def _sound(moves: layer_motion.Matrix, view: _View) -> bool:
    """True where no part of a frame, nor of its surroundings of twice the size, is behind a camera."""
    for matrix in (moves / moves[2, 2], layer_motion.inverse(moves)):
        lean = abs(matrix[2, 0]) * view.width + abs(matrix[2, 1]) * view.height
        (a, b, _), (c, d, _), _ = matrix.tolist()
        if not lean < 0.8 or a * d - b * c < 0.1:
            return False
    return True


def _motion_shears(
    rng: random.Random, length: float, period: float
) -> list[tuple[float, float, float, float, float]]:
    """One or two shears that move points by about a length, and fold nothing."""
    shears = []
    for _ in range(rng.randint(1, SHEARS)):
        of_period = period * rng.uniform(1, 4)
        slope = min(length / (of_period * layer_motion.WAVE_LARGEST), 0.35)
        shears.append(layer_motion.draw_shear(rng, of_period, slope))
    return shears


def _draw_outline(
    rng: random.Random, bars: bool, units_per_px: float, outlines: OutlineBank
) -> tuple[int, tuple[float, float, float, float], tuple[float, float]]:
    """An outline's number, its form, and how far it goes along x and y."""
    if bars:
        half_width = max(rng.choice((0.6, 1.0, 1.8, 4.0)) * rng.uniform(1, 1.8) * units_per_px, 0.2)
        period = half_width * rng.uniform(3, 12)
        beyond = float(rng.choice((0, 0, 0, 1, 2, 4, 8)))
        reach = REACH, half_width + beyond * period
        return BARS, (REACH, half_width, period, beyond), reach
    number = rng.randrange(len(outlines.fields))
    outlines.make(number)
    reach_x, reach_y = outlines.reach[number]
    if rng.random() < 0.12:  # Only a thin rim of it is there.
        half_width = rng.choice((0.6, 0.9, 1.5, 3.0)) * rng.uniform(1, 1.5) * units_per_px
        return number, (0.0, half_width, 0.0, 0.0), (reach_x + half_width, reach_y + half_width)
    return number, (0.0, 0.0, 0.0, 0.0), (reach_x, reach_y)


def _packed(
    rng: random.Random, view: _View, layers: list[_Layer], light: Light, textures: TextureBank
) -> Layers:
    count = len(layers)
    to_plane = np.array([[layer.to_plane[frame] for layer in layers] for frame in (0, 1)])
    from_plane = np.array([[layer_motion.inverse(matrix) for matrix in frame] for frame in to_plane])
    shears = np.zeros((count, 2 * SHEARS, 5))
    shear_count = np.zeros((count, 2), np.int64)
    to_texel = np.zeros((count, 2, 3))
    for number, layer in enumerate(layers):
        for kind, drawn in enumerate((layer.motion_shears, layer.form_shears)):
            shear_count[number, kind] = len(drawn)
            for place, shear in enumerate(drawn):
                shears[number, SHEARS * kind + place] = shear
        to_texel[number] = _draw_texel(rng, layer.texel_per_unit)
    texture = np.array([rng.randrange(textures.count) for _ in layers])
    for number in texture.tolist():
        textures.make(number)
    boxes = [[_box(layer, from_plane[frame, n], view) for n, layer in enumerate(layers)] for frame in (0, 1)]
    return Layers(
        to_plane=to_plane,
        from_plane=from_plane,
        shears=shears,
        shear_count=shear_count,
        boxes=np.array(boxes),
        outline=np.array([layer.outline for layer in layers]),
        form=np.array([layer.form for layer in layers]),
        texture=texture,
        to_texel=to_texel,
        palette=lit(
            np.stack([draw_palette(rng, textures.channels) for _ in layers]),
            np.array([layer.depth for layer in layers]),
            light,
        ),
        own_motion=np.array([layer.own_motion for layer in layers]),
    )


def _draw_texel(rng: random.Random, texel_per_unit: float) -> Float64[np.ndarray, "2 3"]:
    """From the plane to texels: 0.6 to 4.2 texels a pixel of frame 1, at any angle, a little stretched."""
    scale = texel_per_unit * 0.6 * 7 ** rng.random()
    turn = rng.uniform(0, 2 * math.pi) if rng.random() < 0.7 else 0.0
    narrow = 2 ** rng.gauss(0, 0.3)
    cosine, sine = scale * math.cos(turn), scale * math.sin(turn)
    start_x, start_y = rng.uniform(0, TEXTURE_SIDE), rng.uniform(0, TEXTURE_SIDE)
    return np.array([[cosine, -sine, start_x], [sine * narrow, cosine * narrow, start_y]])


def _box(layer: _Layer, from_plane: layer_motion.Matrix, view: _View) -> tuple[int, int, int, int]:
    """Rows and columns that a layer can touch, a border of two pixels included."""
    if layer.outline == EVERYWHERE:
        return 0, view.height, 0, view.width
    reach_x, reach_y = layer.extent
    for _, _, _, u_x, u_y in (*layer.motion_shears, *layer.form_shears):
        reach_x += abs(u_x) * layer_motion.WAVE_LARGEST
        reach_y += abs(u_y) * layer_motion.WAVE_LARGEST
    corners = [layer_motion.apply(from_plane, x, y) for x in (-reach_x, reach_x) for y in (-reach_y, reach_y)]
    columns = [x + (view.width - 1) / 2 for x, _ in corners]
    rows = [y + (view.height - 1) / 2 for _, y in corners]
    top, bottom = max(0, math.floor(min(rows)) - 2), min(view.height, math.ceil(max(rows)) + 3)
    left, right = max(0, math.floor(min(columns)) - 2), min(view.width, math.ceil(max(columns)) + 3)
    return (top, bottom, left, right) if top < bottom and left < right else (0, 0, 0, 0)
