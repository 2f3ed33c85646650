"""The procedural driving world: image pairs of a street with exact ground truth, as a pure function.

Everything that depends on chance is drawn from (seed, split, index). The image is one sample a pixel with
band-limited textures and a slight lens blur; there is no sensor noise, because warping frame 2 by the flow
has to reproduce frame 1. Exposure differs between the frames by up to 1.5 per cent, fog and distance shade
each frame on its own. Pixels of the sky are invalid, as in the real sets; they do have occlusion and labels.
"""

import random
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Shaped

from semraft.data.world import geometry, layout
from semraft.data.world.bodies import SKY, Vector
from semraft.data.world.geometry import Camera, View
from semraft.data.world.layout import Ego
from semraft.data.world.render import shade
from semraft.data.world.textures import Split, texture_bank
from semraft.ops.warp import in_frame, match_positions
from semraft.sample import FlowSample

CONDITIONS = ("clear", "overcast", "dusk", "night", "fog")
_CONDITION_SHARES = (0.4, 0.2, 0.15, 0.1, 0.15)
_LIGHT: dict[str, tuple[float, Vector, float, float, Vector]] = {
    # Brightness, colour of light, ambient share, fog per metre, fog colour (1 is white).
    "clear": (1.25, (1.03, 1.0, 0.95), 0.5, 1 / 1200, (0.80, 0.86, 0.93)),
    "overcast": (1.1, (0.97, 1.0, 1.02), 0.8, 1 / 700, (0.75, 0.77, 0.80)),
    "dusk": (0.8, (1.15, 0.95, 0.75), 0.55, 1 / 500, (0.55, 0.42, 0.36)),
    "night": (0.6, (0.9, 0.95, 1.15), 0.7, 1 / 120, (0.06, 0.07, 0.11)),
    "fog": (1.1, (1.0, 1.0, 1.0), 0.85, 1 / 80, (0.74, 0.75, 0.77)),
}
_CAMERA_PASSED_M = 0.1
"""A point that ends nearer than this to the second camera's plane has no usable flow."""


class Stage(NamedTuple):
    """A scene before it is seen: what stands where and moves how, and in what light."""

    name: str
    """`SPLIT/CONDITION-INDEX`, for example `val/clear-00012`."""
    patches: Shaped[np.ndarray, " Q"]
    ego: Ego
    tints: Float64[np.ndarray, "Q 3"]
    fog_color: Float64[np.ndarray, "3"]
    fog_per_m: float
    exposures: tuple[float, float]


def scene_name(seed: int, index: int, split: Split) -> str:
    """The id of a scene, without building it."""
    return _name(split, _condition(_generator(seed, index, split)), index)


def stage(seed: int, index: int, split: Split) -> Stage:
    """Draws everything about a scene that does not depend on the size of the images."""
    rng = _generator(seed, index, split)
    condition = _condition(rng)
    brightness, light, ambient, fog_per_m, fog_color = _LIGHT[condition]
    brightness *= rng.uniform(0.85, 1.1)
    toward_sun = np.array([rng.gauss(0, 1), -1.2, rng.gauss(0, 1)])
    exposures = (1.0, rng.uniform(0.985, 1.015))
    patches, ego = layout.build(rng, texture_bank(split))
    lit = layout.sunlight(patches, toward_sun / np.linalg.norm(toward_sun), ambient)
    lit[patches["label"] == SKY] = min(1 / brightness, 1.0)
    return Stage(
        name=_name(split, condition, index),
        patches=patches,
        ego=ego,
        tints=brightness * lit[:, None] * patches["tint"] / 255 * light,
        fog_color=255 * np.array(fog_color),
        fog_per_m=fog_per_m,
        exposures=exposures,
    )


def cameras(ego: Ego, size: tuple[int, int]) -> tuple[Camera, Camera]:
    """The camera in both frames: about 80 degrees wide, or 53 high where that is more."""
    focal_px = max(0.58 * size[1], 1.0 * size[0])
    first, second = (
        Camera(
            size=size,
            focal_px=focal_px,
            position=np.array(position),
            rotation=geometry.camera_rotation(*angles),
        )
        for position, angles in ((ego.position1, ego.angles1), (ego.position2, ego.angles2))
    )
    return first, second


def scene(seed: int, index: int, size: tuple[int, int], split: Split = "train") -> FlowSample:
    """One image pair of the world with everything that can be known about it.

    `size` is height and width, from 64 up. The scene depends on the size only through sampling: the same
    (seed, index, split) at another size of like proportions is the same street.

    Raises:
        ValueError: A size below 64 px, or a negative seed or index.
    """
    height, width = size
    if min(size) < 64:
        raise ValueError(f"size: expected height and width of at least 64 px, got {height} x {width}")
    name, patches, ego, tints, fog_color, fog_per_m, exposures = stage(seed, index, split)
    views = [
        geometry.view(patches, frame, camera) for frame, camera in enumerate(cameras(ego, size), start=1)
    ]
    images = [
        shade(
            view,
            patches,
            texture_bank(split),
            (exposure * tints).astype(np.float32),
            (exposure * fog_color).astype(np.float32),
            fog_per_m,
        )
        for view, exposure in zip(views, exposures, strict=True)
    ]
    flow, valid, occluded1 = _truth(views[0], views[1], patches)
    backward_flow, backward_valid, occluded2 = _truth(views[1], views[0], patches)
    return FlowSample(
        id=name,
        scene=f"world/{name}",
        dataset="world",
        image1=images[0],
        image2=images[1],
        flow=flow,
        valid=valid,
        valid_noc=valid & in_frame(*match_positions(flow.astype(np.float64))),
        backward_flow=backward_flow,
        backward_valid=backward_valid,
        labels1=patches["label"].copy()[views[0].patch],
        labels2=patches["label"].copy()[views[1].patch],
        instances1=patches["instance"].copy()[views[0].patch],
        instances2=patches["instance"].copy()[views[1].patch],
        occluded1=occluded1,
        occluded2=occluded2,
        moving1=patches["moving"].copy()[views[0].patch],
    )


def _truth(
    first: View, second: View, patches: Shaped[np.ndarray, " Q"]
) -> tuple[Float32[np.ndarray, "H W 2"], Bool[np.ndarray, "H W"], Bool[np.ndarray, "H W"]]:
    """Flow (0 where invalid), validity and occlusion from one view to the other."""
    flow, stretch, occluded = geometry.flow_and_occlusion(first, second, patches["ellipse"])
    valid = patches["label"][first.patch] != SKY
    valid &= stretch > first.inverse_depth * _CAMERA_PASSED_M
    flow[~valid] = 0
    return flow, valid, occluded


def _generator(seed: int, index: int, split: Split) -> random.Random:
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index: expected numbers from 0 up, got {seed} and {index}")
    return random.Random(f"{split}/{seed}/{index}")


def _condition(rng: random.Random) -> str:
    """The scene's weather and light: always the first thing that is drawn."""
    return rng.choices(CONDITIONS, _CONDITION_SHARES)[0]


def _name(split: Split, condition: str, index: int) -> str:
    return f"{split}/{condition}-{index:05d}"
