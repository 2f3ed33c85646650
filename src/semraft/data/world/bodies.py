"""Rigid bodies of the driving world, made of flat textured patches.

Metres; x right, y down, z forward along the street; the road surface is y = 0. A body is what moves rigidly;
its patches are given in its own coordinates, with its origin on the ground and z along its heading.
Everything is drawn from the scene's generator.
"""

import math
import random
from dataclasses import dataclass, field
from typing import NamedTuple

from semraft.data.taxonomy import CLASSES
from semraft.data.world.textures import SIDE, Number, TextureBank

(
    ROAD,
    SIDEWALK,
    TERRAIN,
    BUILDING,
    BARRIER,
    THIN,
    VEGETATION,
    SKY,
    PERSON,
    TWO_WHEELER,
    CAR,
    LARGE_VEHICLE,
) = (entry.id for entry in CLASSES)

Vector = tuple[Number, Number, Number]
Edges = tuple[Vector, Vector, Vector]
"""Corner, right, down of a patch in its body's coordinates."""


class Body(NamedTuple):
    """A rigid body's position and (yaw, roll) in both frames."""

    position1: Vector
    turn1: tuple[Number, Number]
    position2: Vector
    turn2: tuple[Number, Number]
    label: int
    instance: int
    moving: bool


@dataclass(slots=True)
class Scene:
    """The patches so far, and what all builders draw from."""

    rng: random.Random
    bank: TextureBank
    rows: list[tuple[object, ...]] = field(default_factory=list)
    instances: int = 0

    def new_instance(self) -> int:
        self.instances += 1
        return self.instances


def place(
    scene: Scene,
    body: Body,
    edges: Edges,
    kind: str,
    *,
    tint: Vector,
    texels_per_m: Number | tuple[Number, Number] | None = None,
    ellipse: bool = False,
    closed: bool = False,
) -> None:
    """Adds one patch. Without `texels_per_m` the texture covers it exactly once."""
    textures = scene.bank.kinds[kind]
    corner, right, down = edges
    start, count = (0.0, 0.0), (float(SIDE), float(SIDE))
    if texels_per_m is not None:
        per_column, per_row = (
            texels_per_m if isinstance(texels_per_m, tuple) else (texels_per_m, texels_per_m)
        )
        start = (scene.rng.random() * SIDE, scene.rng.random() * SIDE)
        count = (math.hypot(*right) * per_column, math.hypot(*down) * per_row)
    texture = textures[int(scene.rng.random() * len(textures))]
    poses = (body.position1, body.turn1, body.position2, body.turn2)
    looks = (texture, start, count, tint, body.label, body.instance, ellipse, closed, body.moving)
    scene.rows.append((corner, right, down, *poses, *looks))


def draw_color(rng: random.Random, darkest: Vector, lightest: Vector, brightness: Number = 1.0) -> Vector:
    """Each channel drawn between two bounds, then scaled."""
    red, green, blue = (
        brightness * rng.uniform(low, high) for low, high in zip(darkest, lightest, strict=True)
    )
    return red, green, blue


def dimmed(color: Vector, factor: Number) -> Vector:
    return color[0] * factor, color[1] * factor, color[2] * factor


def upright(x: Number, bottom: Number, width: Number, height: Number, z: Number = 0.0) -> Edges:
    """A rectangle facing the camera: centre x, lower edge at height `bottom` above the ground."""
    return (x - width / 2, -bottom - height, z), (width, 0.0, 0.0), (0.0, height, 0.0)


def box_faces(width: Number, bottom: Number, height: Number, start: Number, end: Number) -> dict[str, Edges]:
    """Rear, front, two sides and top of a box from z = start to end; right x down points inwards."""
    half, top, length = width / 2, -bottom - height, end - start
    down = (0.0, height, 0.0)
    return {
        "rear": ((-half, top, start), (width, 0.0, 0.0), down),
        "front": ((half, top, end), (-width, 0.0, 0.0), down),
        "right": ((half, top, start), (0.0, 0.0, length), down),
        "left": ((-half, top, end), (0.0, 0.0, -length), down),
        "top": ((-half, top, start), (0.0, 0.0, length), (width, 0.0, 0.0)),
    }


class Street(NamedTuple):
    """The cross-section: lane centres left to right, which of them is ours, the road's edges."""

    lane_x: tuple[float, ...]
    own_lane: int
    left: float
    right: float
    lane_width: float
