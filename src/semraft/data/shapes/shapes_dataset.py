"""Data set `shapes`: layered scenes as pairs, made when they are read."""

import random
from functools import partial
from pathlib import Path

import numpy as np

from semraft.config import ShapesConfig
from semraft.data.shapes.layer_render import render
from semraft.data.shapes.layer_textures import texture_bank
from semraft.data.shapes.layer_truth import flow_and_occlusion
from semraft.data.shapes.layered_scene import draw_scene
from semraft.data.shapes.outlines import outline_bank
from semraft.data.shapes.photo import develop
from semraft.data.shapes.shadows import cast
from semraft.sample import OPTIONAL_FIELDS, FlowDataset, FlowSample, Pair

VALIDATION_SCENES = 1000
"""Number of held-out scenes to draw from."""
_SPLITS = ("train", "val")


def index(shapes: ShapesConfig, split: str) -> FlowDataset:
    """Layered scenes for pre-training: objects of any outline over a background, everything known exactly.

    There are `shapes.scenes` for training and VALIDATION_SCENES for validation, whose outlines and textures
    are others. Nothing is rendered before it is read; a scene is the same every time.

    Raises:
        ValueError: A folder of textures without pictures.
    """
    count = shapes.scenes if split == "train" else VALIDATION_SCENES
    if shapes.textures:
        texture_bank((shapes.seed, _SPLITS.index(split)), shapes.textures)
    nothing: dict[str, Path] = {}
    names = (f"{split}/{number:06d}" for number in range(count))
    return FlowDataset(
        name="shapes",
        split=split,
        pairs=tuple(Pair(id=name, scene=f"shapes/{name}", files=nothing) for name in names),
        read=partial(_read, shapes, split),
        provides=frozenset(OPTIONAL_FIELDS) - {"labels1", "labels2"},
    )


def scene(shapes: ShapesConfig, index: int, split: str = "train") -> FlowSample:
    """One image pair of a size of at least 64 px, with all that can be known about it.

    Instances are numbered from 1, the nearest first; 0 is the background. Every pixel has flow.

    Raises:
        ValueError: A negative index.
        DamagedFile: A picture that can't be read, where textures are pictures.
    """
    if index < 0:
        raise ValueError(f"index: expected a number from 0 up, got {index}")
    rng = random.Random(f"shapes/{split}/{shapes.seed}/{index}")
    bank_seed = (shapes.seed, _SPLITS.index(split))
    outlines, textures = outline_bank(bank_seed), texture_bank(bank_seed, shapes.textures)
    layers, light, shadows = draw_scene(
        rng, shapes.size, shapes.motion_px, shapes.effects, outlines, textures
    )
    first, second = (render(layers, frame, shapes.size, outlines, textures) for frame in (0, 1))
    flow, occluded1, stays = flow_and_occlusion(layers, 0, first, second, outlines)
    backward_flow, occluded2, _ = flow_and_occlusion(layers, 1, second, first, outlines)
    pictures = []
    for frame, seen in enumerate((first, second)):
        cast(shadows, frame, outlines, seen.color)
        pictures.append(develop(seen.color, light, frame))
    # No instance behind the last object: the background is none.
    instance = np.arange(1, len(layers.outline) + 1, dtype=np.int32)
    instance[-1] = 0
    valid = np.ones(shapes.size, bool)
    name = f"{split}/{index:06d}"
    return FlowSample(
        id=name,
        scene=f"shapes/{name}",
        dataset="shapes",
        image1=pictures[0],
        image2=pictures[1],
        flow=flow,
        valid=valid,
        valid_noc=stays,
        backward_flow=backward_flow,
        backward_valid=valid.copy(),
        instances1=instance[first.layer],
        instances2=instance[second.layer],
        occluded1=occluded1,
        occluded2=occluded2,
        moving1=layers.own_motion[first.layer],
    )


def _read(shapes: ShapesConfig, split: str, pair: Pair) -> FlowSample:
    return scene(shapes, int(pair.id.rsplit("/", 1)[1]), split)
