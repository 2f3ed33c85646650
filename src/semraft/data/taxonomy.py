"""Label tables: classes of the data sets and the common class of each.

There are twelve common classes and 255 (ignored). Not for reading files as such (`pictures`). Ids are looked
up in a table of 256 entries, colours, as 24 bits, in one of 2^24.
"""

from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int32, Integer, UInt8

from semraft.data.files.pictures import holds_ids, read_colors, read_ids
from semraft.ops.classes import CLASSES as CLASSES
from semraft.ops.classes import SKY as SKY
from semraft.ops.classes import Color, CommonClass
from semraft.sample import AnyTable, DamagedFile, FramePart, OwnTable
from semraft.sample import LabelTable as LabelTable
from semraft.sample import SourceClass as SourceClass

VIPER_CLASSES = (
    SourceClass(0, "unlabeled", (0, 0, 0), 255),
    SourceClass(1, "ambiguous", (111, 74, 0), 255),
    SourceClass(2, "sky", (70, 130, 180), 7),
    SourceClass(3, "road", (128, 64, 128), 0),
    SourceClass(4, "sidewalk", (244, 35, 232), 1),
    SourceClass(5, "railtrack", (230, 150, 140), 0),
    SourceClass(6, "terrain", (152, 251, 152), 2),
    SourceClass(7, "tree", (87, 182, 35), 6),
    SourceClass(8, "vegetation", (35, 142, 35), 6),
    SourceClass(9, "building", (70, 70, 70), 3),
    SourceClass(10, "infrastructure", (153, 153, 153), 5),
    SourceClass(11, "fence", (190, 153, 153), 4),
    SourceClass(12, "billboard", (150, 20, 20), 5),
    SourceClass(13, "trafficlight", (250, 170, 30), 5),
    SourceClass(14, "trafficsign", (220, 220, 0), 5),
    SourceClass(15, "mobilebarrier", (180, 180, 100), 4),
    SourceClass(16, "firehydrant", (173, 153, 153), 5),
    SourceClass(17, "chair", (168, 153, 153), 5),
    SourceClass(18, "trash", (81, 0, 21), 5),
    SourceClass(19, "trashcan", (81, 0, 81), 5),
    SourceClass(20, "person", (220, 20, 60), 8),
    SourceClass(21, "animal", (255, 0, 0), 8),
    SourceClass(22, "bicycle", (119, 11, 32), 9),
    SourceClass(23, "motorcycle", (0, 0, 230), 9),
    SourceClass(24, "car", (0, 0, 142), 10),
    SourceClass(25, "van", (0, 80, 100), 10),
    SourceClass(26, "bus", (0, 60, 100), 11),
    SourceClass(27, "truck", (0, 0, 70), 11),
    SourceClass(28, "trailer", (0, 0, 90), 11),
    SourceClass(29, "train", (0, 80, 100), 11),
    SourceClass(30, "plane", (0, 100, 100), 255),
    SourceClass(31, "boat", (50, 0, 90), 255),
)
"""srrichter/viper, classes.csv. Van and train share a colour there."""

VIPER_VAN = 25
VIPER_TRAIN = 29
VIPER_VAN_COLOR_RVC = (0, 80, 60)
"""Van in the Robust Vision Challenge's copy of the table, where van and train have different colours."""

VIRTUAL_KITTI_CLASSES = (
    SourceClass(0, "Terrain", (210, 0, 200), 2),
    SourceClass(1, "Sky", (90, 200, 255), 7),
    SourceClass(2, "Tree", (0, 199, 0), 6),
    SourceClass(3, "Vegetation", (90, 240, 0), 6),
    SourceClass(4, "Building", (140, 140, 140), 3),
    SourceClass(5, "Road", (100, 60, 100), 0),
    SourceClass(6, "GuardRail", (250, 100, 255), 4),
    SourceClass(7, "TrafficSign", (255, 255, 0), 5),
    SourceClass(8, "TrafficLight", (200, 200, 0), 5),
    SourceClass(9, "Pole", (255, 130, 0), 5),
    SourceClass(10, "Misc", (80, 80, 80), 3),
    SourceClass(11, "Truck", (160, 60, 60), 11),
    SourceClass(12, "Car", (255, 127, 80), 10),
    SourceClass(13, "Van", (0, 139, 139), 10),
    SourceClass(14, "Undefined", (0, 0, 0), 255),
)
"""Virtual KITTI 2, colors.txt; the files hold colours, so the ids are row numbers and ours alone."""

CITYSCAPES_CLASSES = (
    SourceClass(0, "unlabeled", (0, 0, 0), 255),
    SourceClass(1, "ego vehicle", (0, 0, 0), 255),
    SourceClass(2, "rectification border", (0, 0, 0), 255),
    SourceClass(3, "out of roi", (0, 0, 0), 255),
    SourceClass(4, "static", (0, 0, 0), 255),
    SourceClass(5, "dynamic", (111, 74, 0), 255),
    SourceClass(6, "ground", (81, 0, 81), 0),
    SourceClass(7, "road", (128, 64, 128), 0),
    SourceClass(8, "sidewalk", (244, 35, 232), 1),
    SourceClass(9, "parking", (250, 170, 160), 0),
    SourceClass(10, "rail track", (230, 150, 140), 0),
    SourceClass(11, "building", (70, 70, 70), 3),
    SourceClass(12, "wall", (102, 102, 156), 3),
    SourceClass(13, "fence", (190, 153, 153), 4),
    SourceClass(14, "guard rail", (180, 165, 180), 4),
    SourceClass(15, "bridge", (150, 100, 100), 3),
    SourceClass(16, "tunnel", (150, 120, 90), 3),
    SourceClass(17, "pole", (153, 153, 153), 5),
    SourceClass(18, "polegroup", (153, 153, 153), 5),
    SourceClass(19, "traffic light", (250, 170, 30), 5),
    SourceClass(20, "traffic sign", (220, 220, 0), 5),
    SourceClass(21, "vegetation", (107, 142, 35), 6),
    SourceClass(22, "terrain", (152, 251, 152), 2),
    SourceClass(23, "sky", (70, 130, 180), 7),
    SourceClass(24, "person", (220, 20, 60), 8),
    SourceClass(25, "rider", (255, 0, 0), 8),
    SourceClass(26, "car", (0, 0, 142), 10),
    SourceClass(27, "truck", (0, 0, 70), 11),
    SourceClass(28, "bus", (0, 60, 100), 11),
    SourceClass(29, "caravan", (0, 0, 90), 11),
    SourceClass(30, "trailer", (0, 0, 110), 11),
    SourceClass(31, "train", (0, 80, 100), 11),
    SourceClass(32, "motorcycle", (0, 0, 230), 9),
    SourceClass(33, "bicycle", (119, 11, 32), 9),
    SourceClass(255, "license plate", (0, 0, 142), 255),
)
"""Cityscapes and KITTI semantics by labelId (not trainId); the licence plate's -1 is 255 in uint8."""

_TRAINED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_BY_LABEL_ID = {entry.id: entry for entry in CITYSCAPES_CLASSES}
CITYSCAPES_TRAIN_CLASSES = (
    *(_BY_LABEL_ID[label]._replace(id=train_id) for train_id, label in enumerate(_TRAINED)),
    SourceClass(255, "ignored", (0, 0, 0), 255),
)
"""Cityscapes by labelTrainId: the 19 evaluated classes; all others are 255."""

LABEL_TABLES: dict[LabelTable, tuple[SourceClass, ...]] = {
    "label-ids": CITYSCAPES_CLASSES,
    "train-ids": CITYSCAPES_TRAIN_CLASSES,
    "viper-ids": VIPER_CLASSES,
    "virtual-kitti-colours": VIRTUAL_KITTI_CLASSES,
}
"""Name of a label table -> its classes."""
TABLE_NAMES: dict[LabelTable, str] = {
    "label-ids": "Cityscapes labelIds",
    "train-ids": "Cityscapes labelTrainIds",
    "viper-ids": "VIPER ids",
    "virtual-kitti-colours": "Virtual KITTI's colours",
}
"""Table -> its name for people."""

_UNKNOWN = 254  # An id of no class in any table.


def _palette(classes: tuple[CommonClass, ...] | tuple[SourceClass, ...]) -> UInt8[np.ndarray, "256 3"]:
    palette = np.zeros((256, 3), np.uint8)
    for entry in classes:
        palette[entry.id] = entry.color
    palette.flags.writeable = False
    return palette


PALETTE = _palette(CLASSES)
"""Picture colours (RGB) of the common ids; 255 is black."""
VIPER_PALETTE = _palette(VIPER_CLASSES)
"""Colours (RGB) of VIPER's ids, as its palette png files have them."""


def classes_of(table: AnyTable) -> tuple[SourceClass, ...]:
    """The classes of a label table."""
    return table.classes if isinstance(table, OwnTable) else LABEL_TABLES[table]


def table_name(table: AnyTable) -> str:
    """The name of a label table for people."""
    return f"the classes of {table.path}" if isinstance(table, OwnTable) else TABLE_NAMES[table]


@cache
def common_ids(classes: tuple[SourceClass, ...]) -> UInt8[np.ndarray, " 256"]:
    """The common id of each id of a data set; 254 for an id that the data set lacks."""
    table = np.full(256, _UNKNOWN, np.uint8)
    for entry in classes:
        table[entry.id] = entry.common
    table.flags.writeable = False
    return table


def read_labels(path: Path | str, table: AnyTable, part: FramePart | None = None) -> UInt8[np.ndarray, "H W"]:
    """Labels of a png, whole or a part, as common ids.

    Files of VIPER hold ids (palette or grey) or colours. Van and train share a colour there, which is read as
    van: train is not evaluated, and a dictionary in the table's order would turn every van into a train.
    Pavement of Virtual KITTI is terrain, as it is painted so.

    Raises:
        DamagedFile: An id or colour that the table lacks; ids where colours belong, or the reverse; 16 bits.
    """
    return _read(Path(path), table, part, is_common=True)


def read_source_ids(
    path: Path | str, table: AnyTable, part: FramePart | None = None
) -> UInt8[np.ndarray, "H W"]:
    """Labels of a png as ids of the data set's own table, for counts by its names; as `read_labels`."""
    return _read(Path(path), table, part, is_common=False)


def _read(path: Path, table: AnyTable, part: FramePart | None, is_common: bool) -> UInt8[np.ndarray, "H W"]:
    if _holds_colors(path, table):
        return _look_up(path, table, packed_colors(path, part), _color_table(table, is_common))
    ids = read_ids(path, part)
    if ids.dtype != np.uint8:
        raise DamagedFile(path, "holds 16-bit numbers, labels have 8 bits")
    return _look_up(path, table, ids, common_ids(classes_of(table)) if is_common else _kept(table))


def _holds_colors(path: Path, table: AnyTable) -> bool:
    if isinstance(table, OwnTable):
        return table.by_color
    return table == "virtual-kitti-colours" or (table == "viper-ids" and not holds_ids(path))


@cache
def _kept(table: AnyTable) -> UInt8[np.ndarray, " 256"]:
    """The ids of a table, each at its own place."""
    ids = np.arange(256, dtype=np.uint8)
    return np.where(common_ids(classes_of(table)) == _UNKNOWN, np.uint8(_UNKNOWN), ids)


def viper_instances(path: Path | str, part: FramePart | None = None) -> Int32[np.ndarray, "H W"]:
    """Instances of a VIPER `inst` png: 256 G + B, 0 where there is none; R is the class.

    Raises:
        DamagedFile: Not a png of colours, or R is above 31 and so no class (channels in the wrong order).
    """
    path = Path(path)
    colors = read_colors(path, part)
    if colors[..., 0].max() >= len(VIPER_CLASSES):
        raise DamagedFile(path, f"class {colors[..., 0].max()} in the red channel, VIPER has 0..31")
    return _pack(colors) & 0xFFFF


def virtual_kitti_instances(path: Path | str, part: FramePart | None = None) -> Int32[np.ndarray, "H W"]:
    """Instances of a Virtual KITTI 2 `instancegt` png: trackID + 1, 0 where there is none."""
    return read_ids(path, part).astype(np.int32)


def kitti_instances(path: Path | str, part: FramePart | None = None) -> Int32[np.ndarray, "H W"]:
    """Instances of a KITTI `instance` png: labelId * 256 + n, unique over classes; 0 where n is 0."""
    values = read_ids(path, part).astype(np.int32)
    return np.where(values & 0xFF, values, 0)


def _code(color: Color) -> int:
    red, green, blue = color
    return red << 16 | green << 8 | blue


def packed_colors(path: Path, part: FramePart | None = None) -> Int32[np.ndarray, "H W"]:
    """Colours of a png as numbers of 24 bits, R first.

    Raises:
        DamagedFile: As `read_colors`.
    """
    return _pack(read_colors(path, part))


def _pack(colors: UInt8[np.ndarray, "H W 3"]) -> Int32[np.ndarray, "H W"]:
    wide = colors.astype(np.int32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


@cache
def _color_table(table: AnyTable, is_common: bool) -> UInt8[np.ndarray, " 16777216"]:
    """Colour -> common id, or id of the data set."""
    found = np.full(1 << 24, _UNKNOWN, np.uint8)
    for entry in classes_of(table):
        if (table, entry.id) != ("viper-ids", VIPER_TRAIN):
            found[_code(entry.color)] = entry.common if is_common else entry.id
    if table == "viper-ids":
        found[_code(VIPER_VAN_COLOR_RVC)] = VIPER_CLASSES[VIPER_VAN].common if is_common else VIPER_VAN
    return found


def _look_up(
    path: Path,
    table: AnyTable,
    codes: Integer[np.ndarray, "H W"],
    known: UInt8[np.ndarray, " N"],
) -> UInt8[np.ndarray, "H W"]:
    """`known` at the ids, of which there are 256, or at the colours.

    Raises:
        DamagedFile: An id or colour that is not known.
    """
    labels = known.take(codes)
    missing = labels == _UNKNOWN
    if missing.any():
        kind: Literal["ids", "colours"] = "ids" if len(known) == 256 else "colours"
        where = f", which {table.path} lacks: add them there" if isinstance(table, OwnTable) else ""
        raise DamagedFile(path, f"unknown {kind}: {_name_codes(kind, codes[missing])}{where}")
    return labels


def _name_codes(kind: Literal["ids", "colours"], codes: Integer[np.ndarray, " N"]) -> str:
    values, counts = np.unique(codes, return_counts=True)
    most = np.argsort(-counts, kind="stable")[:5]
    names = [
        f"{code if kind == 'ids' else (code >> 16, code >> 8 & 255, code & 255)} ({count} pixels)"
        for code, count in zip(values[most].tolist(), counts[most].tolist(), strict=True)
    ]
    return ", ".join(names) + (f" and {len(values) - 5} more" if len(values) > 5 else "")
