"""Layout of the driving world: places of all things, and the camera's motion.

The camera of frame 1 is above the origin. Everything is drawn from the generator given.
"""

import math
import random
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Shaped

from semraft.data.world.bodies import (
    BARRIER,
    BUILDING,
    ROAD,
    SIDEWALK,
    SKY,
    TERRAIN,
    THIN,
    VEGETATION,
    Body,
    Scene,
    Street,
    Vector,
    box_faces,
    dimmed,
    draw_color,
    place,
    upright,
)
from semraft.data.world.geometry import PATCH
from semraft.data.world.textures import SIDE, Number, TextureBank
from semraft.data.world.traffic import add_people, add_traffic

SKY_DISTANCE_M = 5000.0


class Ego(NamedTuple):
    """Camera positions and angles in both frames: (x, y, z) and (yaw, pitch, roll)."""

    position1: Vector
    angles1: Vector
    position2: Vector
    angles2: Vector


def build(rng: random.Random, bank: TextureBank) -> tuple[Shaped[np.ndarray, " Q"], Ego]:
    """The patches of one scene and the camera's motion through it."""
    scene = Scene(rng, bank)
    ego = _ego(rng)
    speed = ego.position2[2] - ego.position1[2]
    street = _street(rng)
    kind = rng.choices(("city", "suburb", "country"), (0.45, 0.35, 0.2))[0]
    _sky_and_ground(scene, street, ego)
    for side in (-1, 1):
        _roadside(scene, street, side, kind)
    add_traffic(scene, street, speed, kind)
    if kind != "country":
        add_people(scene, street)
    return np.array(scene.rows, dtype=PATCH), ego


def _ego(rng: random.Random) -> Ego:
    """One frame at 10 Hz: up to 32 km/h, curves, a nodding and rolling car; one in twelve stands still."""
    moves = rng.random() > 1 / 12
    speed = rng.uniform(0.12, 0.9) if moves else 0.0
    heading = rng.gauss(0, 0.06)
    turn = min(max(rng.gauss(0, 0.009), -0.03), 0.03) * moves
    height = rng.uniform(1.3, 1.9)
    pitch, roll = rng.gauss(-0.02, 0.02), rng.gauss(0, 0.01)
    forward = heading + turn / 2
    return Ego(
        (0.0, -height, 0.0),
        (heading, pitch, roll),
        (speed * math.sin(forward), -height + rng.gauss(0, 0.008) * moves, speed * math.cos(forward)),
        (heading + turn, pitch + rng.gauss(0, 0.003) * moves, roll + rng.gauss(0, 0.002) * moves),
    )


def _street(rng: random.Random) -> Street:
    lanes = rng.choices((2, 3, 4), (0.3, 0.4, 0.3))[0]
    width = rng.uniform(3.0, 3.6)
    own = rng.randrange(lanes // 2, lanes)
    left = -(own + 0.5) * width + rng.uniform(-0.3, 0.3)
    return Street(
        tuple(left + (lane + 0.5) * width for lane in range(lanes)), own, left, left + lanes * width, width
    )


def _static(x: Number, z: Number, label: int, yaw: Number = 0.0) -> Body:
    return Body((x, 0.0, z), (yaw, 0.0), (x, 0.0, z), (yaw, 0.0), label, 0, False)


def _sky_and_ground(scene: Scene, street: Street, ego: Ego) -> None:
    """The sky goes where the camera goes; terrain lies a little below the road, so that the road hides it."""
    sky = Body(ego.position1, (0.0, 0.0), ego.position2, (0.0, 0.0), SKY, 0, False)
    edges = ((-25_000.0, -5_500.0, SKY_DISTANCE_M), (50_000.0, 0.0, 0.0), (0.0, 5_700.0, 0.0))
    place(scene, sky, edges, "sky", tint=(250, 250, 250), texels_per_m=(1 / 24, SIDE / 5_700))
    scene.rows[-1] = _with_start(scene.rows[-1], (scene.rng.random() * SIDE, 0.0))
    ground = ((-2_000.0, 0.06, 2_000.0), (4_000.0, 0.0, 0.0), (0.0, 0.0, -2_010.0))
    tint = draw_color(scene.rng, (170, 180, 120), (250, 240, 200))
    place(scene, _static(0, 0, TERRAIN), ground, "terrain", tint=tint, texels_per_m=SIDE / 5)
    width = street.right - street.left
    road = ((street.left, 0.0, 500.0), (width, 0.0, 0.0), (0.0, 0.0, -510.0))
    tint = draw_color(scene.rng, (0.95, 0.95, 0.93), (1, 1, 1), scene.rng.uniform(170, 250))
    kind = f"road{len(street.lane_x)}"
    place(scene, _static(0, 0, ROAD), road, kind, tint=tint, texels_per_m=(SIDE / width, SIDE / 11))
    scene.rows[-1] = _with_start(scene.rows[-1], (0.0, scene.rng.random() * SIDE))


def _with_start(row: tuple[object, ...], start: tuple[Number, Number]) -> tuple[object, ...]:
    """The same patch with its texture shifted to begin at `start`."""
    assert PATCH.names is not None
    place = PATCH.names.index("texel_start")
    return (*row[:place], start, *row[place + 1 :])


def _roadside(scene: Scene, street: Street, side: int, kind: str) -> None:
    """Everything on one side, from the kerb outwards: pavement or barrier, poles, trees, buildings, hills."""
    rng = scene.rng
    edge = street.left if side < 0 else street.right
    if kind == "country":
        walk = 0.0
        if rng.random() < 0.7:
            _barrier_line(scene, edge + side * rng.uniform(0.4, 1.0), rng.uniform(0.6, 0.9))
    else:
        walk = rng.uniform(2.0, 4.5)
        _pavement(scene, edge, side, walk)
        if rng.random() < 0.25:
            _barrier_line(scene, edge + side * (walk + 0.3), rng.uniform(0.8, 1.6))
    verge = edge + side * (walk + 0.5)
    z = rng.uniform(4, 14)
    while z < 75:
        _pole_or_tree(scene, edge + side * rng.uniform(0.4, 1.0 + 0.4 * walk), z, side, kind)
        z += rng.uniform(7, 18)
    for _ in range(rng.randrange(2) if kind == "city" else rng.randrange(1, 5)):
        _bush(scene, verge + side * rng.uniform(0.5, 5), rng.uniform(5, 50))
    if kind == "city" or (kind == "suburb" and rng.random() < 0.6):
        _buildings(scene, verge, side, dense=kind == "city")
    hill = _static(side * rng.uniform(60, 160), 0, VEGETATION)
    height = rng.uniform(8, 30)
    edges = ((-200.0, -height, rng.uniform(180, 400)), (400.0, 0.0, 0.0), (0.0, height + 1, 0.0))
    place(scene, hill, edges, "foliage", tint=(150, 170, 150), texels_per_m=SIDE / 25)


def _pavement(scene: Scene, edge: Number, side: int, width: Number) -> None:
    near = edge if side > 0 else edge - width
    body = _static(0, 0, SIDEWALK)
    tint = draw_color(scene.rng, (0.95, 0.95, 0.93), (1, 1, 1), scene.rng.uniform(170, 260))
    top = ((near, -0.14, 300.0), (width, 0.0, 0.0), (0.0, 0.0, -310.0))
    place(scene, body, top, "slabs", tint=tint, texels_per_m=SIDE / 4.0)
    kerb = ((edge, -0.14, -10.0), (0.0, 0.0, 310.0), (0.0, 0.16, 0.0))
    place(scene, body, kerb, "plain", tint=dimmed(tint, 0.8), texels_per_m=SIDE / 3)


def _barrier_line(scene: Scene, x: Number, height: Number) -> None:
    start, length = scene.rng.uniform(-5, 10), scene.rng.uniform(30, 120)
    edges = ((x, -height, start), (0.0, 0.0, length), (0.0, height + 0.05, 0.0))
    tint = draw_color(scene.rng, (0.8, 0.8, 0.8), (1, 1, 1), scene.rng.uniform(150, 260))
    place(scene, _static(0, 0, BARRIER), edges, "barrier", tint=tint, texels_per_m=(SIDE / 4, SIDE / height))


def _pole_or_tree(scene: Scene, x: Number, z: Number, side: int, kind: str) -> None:
    if scene.rng.random() < (0.35 if kind == "city" else 0.65):
        _tree(scene, x + side * scene.rng.uniform(0, 3), z)
    else:
        _pole(scene, x, z, side)


def _tree(scene: Scene, x: Number, z: Number) -> None:
    rng = scene.rng
    body = _static(x, z, VEGETATION)
    trunk, crown = rng.uniform(1.8, 3.2), rng.uniform(1.3, 2.6)
    edges = upright(0, -0.1, rng.uniform(0.2, 0.45), trunk + crown)
    place(scene, body, edges, "plain", tint=(120, 95, 75), texels_per_m=SIDE / 2)
    tint = draw_color(rng, (130, 160, 110), (240, 250, 200))
    for _ in range(rng.randrange(3, 6)):
        width, height = crown * rng.uniform(0.9, 1.6), crown * rng.uniform(0.9, 1.6)
        shift, rise, depth = (
            rng.uniform(-0.6, 0.6) * crown,
            rng.uniform(0.2, 1.0) * crown,
            rng.uniform(-0.5, 0.5),
        )
        edges = upright(shift, trunk + rise - 0.3 * height, width, height, z=depth * crown)
        leaves = dimmed(tint, rng.uniform(0.75, 1.1))
        place(scene, body, edges, "foliage", tint=leaves, texels_per_m=SIDE / 3, ellipse=True)


def _bush(scene: Scene, x: Number, z: Number) -> None:
    rng = scene.rng
    tint = draw_color(rng, (130, 160, 110), (230, 240, 190))
    for _ in range(2):
        width, height = rng.uniform(1.0, 3.5), rng.uniform(0.8, 2.0)
        body = _static(x + rng.uniform(-1, 1), z + rng.uniform(-0.6, 0.6), VEGETATION)
        edges = upright(0, -0.3 * height, width, height * 1.2)
        place(scene, body, edges, "foliage", tint=tint, texels_per_m=SIDE / 2.5, ellipse=True)


def _pole(scene: Scene, x: Number, z: Number, side: int) -> None:
    """A lamp post, a sign or a traffic light."""
    rng = scene.rng
    body = _static(x, z, THIN)
    grey = dimmed((220, 220, 220), rng.uniform(0.4, 1))
    sort = rng.randrange(3)
    height = (rng.uniform(5, 8), rng.uniform(2.2, 3.2), rng.uniform(3, 4.5))[sort]
    place(
        scene,
        body,
        upright(0, -0.1, rng.uniform(0.09, 0.2), height),
        "plain",
        tint=grey,
        texels_per_m=SIDE / 2,
    )
    if sort == 0:
        arm = upright(-side * 0.9, height - 0.25, 1.8, 0.14, z=0.02)
        place(scene, body, arm, "plain", tint=grey, texels_per_m=SIDE / 2)
    elif sort == 1:
        plate = upright(0, height - 0.8, rng.uniform(0.6, 1.1), rng.uniform(0.6, 0.9), z=-0.05)
        place(scene, body, plate, "sign", tint=(240, 240, 240), ellipse=rng.random() < 0.5)
    else:
        place(
            scene,
            body,
            upright(0, height - 1, 0.36, 1.0, z=-0.05),
            "plain",
            tint=(40, 44, 40),
            texels_per_m=SIDE,
        )
        for lamp, tint in enumerate(((250, 60, 40), (250, 190, 40), (60, 230, 90))):
            light = upright(0, height - 0.32 - 0.31 * lamp, 0.24, 0.24, z=-0.07)
            place(scene, body, light, "plain", tint=tint, texels_per_m=SIDE, ellipse=True)


def _buildings(scene: Scene, verge: Number, side: int, *, dense: bool) -> None:
    """Boxes along the street; of each the street front and the end that faces the camera can be seen."""
    rng = scene.rng
    z = rng.uniform(-12, 6)
    while z < 140:
        length, height, depth = rng.uniform(8, 22), rng.uniform(4, 22 if dense else 9), rng.uniform(8, 14)
        front = verge + side * (rng.uniform(0, 1.5) if dense else rng.uniform(2, 9))
        body = _static(front + side * depth / 2, z, BUILDING)
        faces = box_faces(depth, -0.1, height, 0.0, length)
        tint = draw_color(rng, (0.75, 0.75, 0.75), (1.05, 1.05, 1.05), rng.uniform(150, 270))
        texels = (SIDE / rng.uniform(9, 13), SIDE / rng.uniform(8, 11))
        for face in ("left" if side > 0 else "right", "rear"):
            place(scene, body, faces[face], "facade", tint=tint, texels_per_m=texels, closed=True)
        z += length + (rng.choices((0.0, 4.0), (0.6, 0.4))[0] if dense else rng.uniform(3, 20))


def sunlight(
    patches: Shaped[np.ndarray, " Q"], toward_sun: Float64[np.ndarray, "3"], ambient: Number
) -> Float64[np.ndarray, " Q"]:
    """Brightness of each patch in frame 1, 0..1: a matt surface under a sun and a bright sky."""
    outward = np.cross(patches["down"], patches["right"])
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    yaw = patches["turn1"][:, 0]
    x = outward[:, 0] * np.cos(yaw) + outward[:, 2] * np.sin(yaw)
    z = outward[:, 2] * np.cos(yaw) - outward[:, 0] * np.sin(yaw)
    facing = x * toward_sun[0] + outward[:, 1] * toward_sun[1] + z * toward_sun[2]
    return np.asarray(
        ambient + (1 - ambient) * np.where(patches["closed"], np.maximum(facing, 0), np.abs(facing))
    )
