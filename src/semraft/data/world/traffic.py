"""Vehicles and people of the driving world: what moves on its own, and what is parked among it."""

import math

from semraft.data.world.bodies import (
    CAR,
    LARGE_VEHICLE,
    PERSON,
    TWO_WHEELER,
    Body,
    Edges,
    Scene,
    Street,
    Vector,
    box_faces,
    dimmed,
    draw_color,
    place,
    upright,
)
from semraft.data.world.textures import SIDE, Number


def add_traffic(scene: Scene, street: Street, speed: Number, kind: str) -> None:
    """Vehicles in the lanes: neighbours of one class at like distances, unlike motions."""
    rng = scene.rng
    taken: list[tuple[int, float]] = []
    wanted = rng.randrange(3, 8)
    for number in range(wanted):
        if number and rng.random() < 0.5:  # Beside the one before.
            lane = taken[-1][0] + rng.choice((-1, 1))
            z = taken[-1][1] + rng.uniform(-2, 2.5)
        else:
            lane, z = rng.randrange(len(street.lane_x)), math.exp(rng.uniform(math.log(5.5), math.log(45)))
        z = max(z, 7.5 if lane == street.own_lane else 4.5)
        if not 0 <= lane < len(street.lane_x) or any(
            lane == other and abs(z - at) < 9 for other, at in taken
        ):
            continue
        taken.append((lane, z))
        _vehicle(scene, street, lane, z, speed, kind)
    if not taken:
        _vehicle(scene, street, street.own_lane, rng.uniform(9, 20), speed, kind)


def _vehicle(scene: Scene, street: Street, lane: int, z: Number, speed: Number, kind: str) -> None:
    rng = scene.rng
    oncoming = lane < len(street.lane_x) // 2
    outermost = lane in (0, len(street.lane_x) - 1) and lane != street.own_lane
    x = street.lane_x[lane] + rng.uniform(-0.35, 0.35)
    heading = (math.pi if oncoming else 0.0) + rng.gauss(0, 0.05)
    advance, turn = max(rng.gauss(0.9 * speed if speed else 0.5, 0.35), 0.05), rng.gauss(0, 0.01)
    if oncoming:
        advance = min(advance, 0.9)
    if outermost and kind != "country" and rng.random() < 0.5:  # Parked.
        advance = turn = 0.0
        x += (-1 if lane == 0 else 1) * (street.lane_width / 2 - 1.15)
    sort = rng.choices(("car", "large", "two-wheeler"), (0.68, 0.12, 0.2))[0]
    if sort == "car":
        _car(scene, _moving_body(scene, x, z, heading, advance, turn, CAR))
    elif sort == "large":
        _large_vehicle(scene, _moving_body(scene, x, z + 3, heading, advance, turn, LARGE_VEHICLE))
    else:
        _two_wheeler(scene, _moving_body(scene, x, z, heading, 0.6 * advance, turn, TWO_WHEELER))


def _moving_body(
    scene: Scene, x: Number, z: Number, heading: Number, advance: Number, turn: Number, label: int
) -> Body:
    """A body that advances along its heading (m a frame) and turns (rad); standing still it is not moving."""
    mean = heading + turn / 2
    second = (x + advance * math.sin(mean), 0.0, z + advance * math.cos(mean))
    moving = advance != 0.0 or turn != 0.0
    return Body(
        (x, 0.0, z), (heading, 0.0), second, (heading + turn, 0.0), label, scene.new_instance(), moving
    )


def _faces(scene: Scene, body: Body, faces: dict[str, Edges], kinds: dict[str, str], tint: Vector) -> None:
    for face, edges in faces.items():
        place(scene, body, edges, kinds[face], tint=tint, closed=True)


def _car(scene: Scene, body: Body) -> None:
    rng = scene.rng
    width, length, height = rng.uniform(1.7, 1.95), rng.uniform(3.7, 4.8), rng.uniform(0.62, 0.78)
    dark = rng.choice((0.3, 0.85))  # Colourful or nearly grey.
    tint = draw_color(rng, (dark, dark, dark), (1, 1, 1), rng.uniform(60, 270))
    low = box_faces(width, 0.24, height, -length / 2, length / 2)
    sides = {
        "rear": "car_rear",
        "front": "car_front",
        "right": "car_side",
        "left": "car_side",
        "top": "plain",
    }
    _faces(scene, body, low, sides, tint)
    start = -length / 2 + rng.uniform(0.05, 0.7)
    cabin = box_faces(
        width - 0.25, 0.22 + height, rng.uniform(0.5, 0.62), start, start + length * rng.uniform(0.5, 0.6)
    )
    _faces(
        scene,
        body,
        cabin,
        dict.fromkeys(("rear", "front", "right", "left"), "cabin") | {"top": "plain"},
        tint,
    )
    _wheels(scene, body, width, (-0.31 * length, 0.31 * length), 0.33)


def _wheels(scene: Scene, body: Body, width: Number, places: tuple[Number, Number], radius: Number) -> None:
    """On both sides, a little outside the body, so that they are in front of it."""
    for side in (-1, 1):
        for z in places:
            corner = (side * (width / 2 + 0.03), -2 * radius, z - side * radius)
            edges = (corner, (0.0, 0.0, side * 2 * radius), (0.0, 2 * radius, 0.0))
            place(scene, body, edges, "wheel", tint=(200, 200, 200), ellipse=True, closed=True)


def _large_vehicle(scene: Scene, body: Body) -> None:
    rng = scene.rng
    width, length, height = rng.uniform(2.2, 2.5), rng.uniform(6, 10), rng.uniform(2.2, 3.0)
    tint = draw_color(rng, (0.6, 0.6, 0.6), (1, 1, 1), rng.uniform(100, 270))
    faces = box_faces(width, 0.4, height, -length / 2, length / 2)
    kinds = {"rear": "panel", "front": "cabin", "right": "panel", "left": "panel", "top": "plain"}
    _faces(scene, body, faces, kinds, tint)
    _wheels(scene, body, width, (-0.33 * length, 0.33 * length), 0.46)


def _two_wheeler(scene: Scene, body: Body) -> None:
    """Two wheels and a frame in the plane of travel, and a rider, who is a person of his own."""
    rng = scene.rng
    body = body._replace(turn1=(body.turn1[0] + 0.25, 0.0), turn2=(body.turn2[0] + 0.25, 0.0))
    for z in (-0.55, 0.55):
        wheel = ((0.02, -0.68, z - 0.34), (0.0, 0.0, 0.68), (0.0, 0.68, 0.0))
        place(scene, body, wheel, "wheel", tint=(190, 190, 190), ellipse=True)
    frame = ((0.0, -0.95, -0.45), (0.0, 0.0, 1.0), (0.0, 0.65, 0.0))
    place(scene, body, frame, "car_side", tint=draw_color(rng, (40, 40, 40), (250, 250, 250)))
    back = ((-0.25, -0.95, -0.4), (0.5, 0.0, 0.0), (0.0, 0.55, 0.0))
    place(scene, body, back, "car_rear", tint=draw_color(rng, (40, 40, 40), (250, 250, 250)))
    rider = body._replace(label=PERSON, instance=scene.new_instance())
    _torso(scene, rider, 0.8, 0.72, z=-0.15)


def add_people(scene: Scene, street: Street) -> None:
    """Groups of people side by side on the pavements, each on a way of his own; sometimes on the road."""
    rng = scene.rng
    for _ in range(rng.randrange(1, 4)):
        z = math.exp(rng.uniform(math.log(6), math.log(25)))
        crossing = rng.random() < 0.25
        edge, side = (street.left, -1) if rng.random() < 0.5 else (street.right, 1)
        x = rng.uniform(street.left, street.right) if crossing else edge + side * rng.uniform(0.5, 2.0)
        if crossing:
            z = max(z, 10)
        for _ in range(rng.randrange(1, 5)):
            _person(scene, x, z, along=not crossing)
            x += rng.uniform(0.4, 0.9) * side
            z += rng.uniform(-0.6, 0.6)


def _person(scene: Scene, x: Number, z: Number, *, along: bool) -> None:
    """Head, trunk and two legs; the legs swing about the hip, so that a person does not move rigidly."""
    rng = scene.rng
    pace = rng.uniform(0.06, 0.18) * rng.choice((-1, 1)) * (rng.random() < 0.85)
    across = rng.uniform(-0.4, 0.4) if along else rng.uniform(0.8, 1.0)
    second = (x + pace * across, 0.0, z + pace * math.sqrt(1 - across**2))
    turn = (rng.uniform(-0.3, 0.3), 0.0)
    body = Body((x, 0.0, z), turn, second, turn, PERSON, scene.new_instance(), pace != 0.0)
    hip = rng.uniform(0.75, 0.95)
    _torso(scene, body, hip - 0.05, rng.uniform(0.6, 0.75))
    tint = draw_color(rng, (0.6, 0.6, 0.6), (1, 1, 1), rng.uniform(50, 240))
    swing, step = rng.uniform(-0.25, 0.25), rng.uniform(0.03, 0.1) * math.copysign(1, pace) * (pace != 0)
    for side in (-1, 1):
        leg = body._replace(
            position1=(x, -hip, z),
            turn1=(turn[0], side * swing),
            position2=(second[0], -hip, second[2]),
            turn2=(turn[0], side * (swing + step)),
        )
        edges = ((side * 0.09 - 0.085, 0.0, 0.01 * side), (0.17, 0.0, 0.0), (0.0, hip, 0.0))
        place(scene, leg, edges, "cloth", tint=tint, texels_per_m=SIDE / 1.2)


def _torso(scene: Scene, body: Body, hip: Number, height: Number, z: Number = 0.0) -> None:
    rng = scene.rng
    tint = draw_color(rng, (0.5, 0.5, 0.5), (1, 1, 1), rng.uniform(60, 270))
    place(
        scene,
        body,
        upright(0, hip, 0.46, height * 0.85, z - 0.02),
        "cloth",
        tint=tint,
        texels_per_m=SIDE / 1.2,
    )
    shoulders = upright(0, hip + height * 0.35, 0.56, height * 0.66, z - 0.04)
    place(scene, body, shoulders, "cloth", tint=tint, texels_per_m=SIDE / 1.2, ellipse=True)
    skin = dimmed((250, 230, 220), rng.uniform(0.45, 1))
    place(scene, body, upright(0, hip + height, 0.22, 0.28, z - 0.06), "head", tint=skin, ellipse=True)
