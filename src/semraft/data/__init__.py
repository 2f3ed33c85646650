"""Everything that can be trained and scored on, by name."""

from collections.abc import Callable
from pathlib import Path

from semraft.config import ShapesConfig, WorldConfig
from semraft.config.data import IdTable
from semraft.data.datasets import (
    flying_chairs,
    flying_things,
    kitti,
    own_files,
    sintel,
    viper,
    virtual_kitti,
)
from semraft.data.files import packed
from semraft.data.shapes import shapes_dataset as shapes_scenes
from semraft.data.world import world_dataset
from semraft.sample import FlowDataset

DATASETS: dict[str, Callable[..., FlowDataset]] = {
    "viper": viper.index,
    "virtual-kitti": virtual_kitti.index,
    "kitti": kitti.index,
    "kitti-2012": kitti.index_2012,
    "flying-chairs": flying_chairs.index,
    "flying-things": flying_things.index,
    "sintel": sintel.index,
    "sintel-final": sintel.index_final,
    "files": own_files.index,
    "world": world_dataset.index,
    "shapes": shapes_scenes.index,
}
"""Name -> its index function, of root and split (those in MADE: of their configuration and split).

The first line of the function's docstring describes the data set."""


WITH_IDS = ("viper", "kitti", "kitti-2012", "files")
"""Data sets whose label files hold ids, which can be of several tables."""
MADE = ("world", "shapes")
"""Data sets without files: their scenes are made when they are read."""


def open_dataset(
    name: str,
    root: Path | None,
    split: str,
    world: WorldConfig,
    shapes: ShapesConfig | None = None,
    label_table: IdTable | None = None,
) -> FlowDataset:
    """The pairs of a data set's split (`train` or `val`): their files exist and are not empty.

    `root` is the data set's folder; `world` and `shapes` need none and are made by their configurations, or
    by default ones. `label_table` is the table of the ids in label files, if not the data set's own.

    Raises:
        ValueError: No such data set or split; nothing usable at the root, with what was looked for.
    """
    dataset = index_dataset(name, root, split, world, shapes, label_table)
    if not dataset.pairs:
        raise ValueError(f"{name}: {root} has no usable {split} pair; {_describe(dataset)}")
    return dataset


def index_dataset(
    name: str,
    root: Path | None,
    split: str,
    world: WorldConfig,
    shapes: ShapesConfig | None = None,
    label_table: IdTable | None = None,
) -> FlowDataset:
    """As `open_dataset`, but perhaps without a usable pair; `problems` has the reasons.

    Raises:
        ValueError: No such data set or split; no root, or none of the data set's folders there.
    """
    if name not in DATASETS:
        raise ValueError(f"no data set is called {name!r}; there are {', '.join(DATASETS)}")
    if split not in ("train", "val"):
        raise ValueError(f"split: expected 'train' or 'val', got {split!r}")
    if name == "world":
        return DATASETS[name](world, split)
    if name == "shapes":
        return DATASETS[name](shapes or ShapesConfig(), split)
    if root is None:
        raise ValueError(f"{name}: no root given, the folder that the data set was unpacked into")
    if not root.is_dir():
        raise ValueError(f"{name}: the root {root} is no folder")
    if packed.is_pack(root):
        if label_table:
            raise ValueError(f"{root} is a pack, which holds common classes: choose the table when packing")
        return packed.index(name, root, split)
    if label_table and name in WITH_IDS:
        return DATASETS[name](root, split, label_table)
    return DATASETS[name](root, split)


def _describe(dataset: FlowDataset) -> str:
    if not dataset.problems:
        return "its folders are there, but hold no file with the name of a first frame or flow"
    examples = ", ".join(f"{bad.path} ({bad.kind})" for bad in dataset.problems[:3])
    return f"{len(dataset.problems)} files are missing or empty, for example {examples}"
