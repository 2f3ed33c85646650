"""The procedural world as a data set: `world.scene` behind the interface that the files have.

Every pair is a scene of its own: a street made for these two frames, independent of all others.
"""

from functools import partial

from semraft.config import WorldConfig
from semraft.data.world.driving_scene import scene, scene_name
from semraft.data.world.textures import Split
from semraft.sample import OPTIONAL_FIELDS, FlowDataset, FlowSample, Pair

VALIDATION_SCENES = 1000
"""Number of held-out scenes: enough for several draws that share none."""


def index(world: WorldConfig, split: Split) -> FlowDataset:
    """The procedural driving world: scenes made when they are read, everything known exactly.

    There are `world.scenes` for training and VALIDATION_SCENES for validation.

    Nothing is rendered before it is read; a scene is rendered anew, and is the same, every time.

    Raises:
        ValueError: A world without scenes.
    """
    if world.scenes < 1:
        raise ValueError(f"data.world.scenes: expected at least 1, got {world.scenes}")
    count = world.scenes if split == "train" else VALIDATION_SCENES
    names = [scene_name(world.seed, number, split) for number in range(count)]
    return FlowDataset(
        name="world",
        split=split,
        pairs=tuple(Pair(id=name, scene=f"world/{name}", files={}) for name in names),
        read=partial(_read, world.seed, world.size, split),
        provides=frozenset(OPTIONAL_FIELDS),
    )


def _read(seed: int, size: tuple[int, int], split: Split, pair: Pair) -> FlowSample:
    return scene(seed, int(pair.id.rsplit("-", 1)[1]), size, split)
