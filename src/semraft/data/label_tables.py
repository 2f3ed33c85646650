"""Recognition of label tables: Cityscapes labelIds, labelTrainIds and VIPER ids, by what label files hold.

The three tables use the same small numbers for different classes, and no file names its table.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Integer

from semraft.config.data import ID_TABLES, IdTable
from semraft.data.files.pictures import holds_ids, read_ids
from semraft.data.taxonomy import LABEL_TABLES, TABLE_NAMES
from semraft.sample import AnyTable, DamagedFile, FlowDataset

ROAD_AND_SKY: dict[IdTable, tuple[int, int]] = {
    "label-ids": (7, 23),
    "train-ids": (0, 10),
    "viper-ids": (3, 2),
}
"""Table -> its ids of road and of sky."""
LOOKED_AT = 12
"""Label files that are read at the start of a run, spread evenly over a data set."""
MAX_FOREIGN_FRAC = 0.001
"""A table that lacks the ids of more pixels than this share is not that of the files."""
MAX_255_FRAC = 0.01
"""In labelIds 255 is the licence plate, which is small; in labelTrainIds all that is ignored."""
MIN_ROAD_FRAC = 0.1
"""Less road in the lower third of the frames is no evidence for a table."""
CLEAR_RATIO = 4.0
"""A table is recognised if it explains road and sky so many times as well as each other."""
_ROAD_FLOOR, _SKY_FLOOR = 0.005, 0.05  # Added to the shares: a street may lack sky, hardly ever road.


@dataclass(kw_only=True, slots=True)
class IdCounts:
    """Numbers of pixels by stored id: in the whole frame, in its upper and in its lower third."""

    whole: Int64[np.ndarray, " 256"] = field(default_factory=lambda: np.zeros(256, np.int64))
    upper: Int64[np.ndarray, " 256"] = field(default_factory=lambda: np.zeros(256, np.int64))
    lower: Int64[np.ndarray, " 256"] = field(default_factory=lambda: np.zeros(256, np.int64))

    def add(self, ids: Integer[np.ndarray, "H W"]) -> None:
        """Adds the ids of one frame."""
        third = max(1, len(ids) // 3)
        self.whole += np.bincount(ids.ravel(), minlength=256)
        self.upper += np.bincount(ids[:third].ravel(), minlength=256)
        self.lower += np.bincount(ids[-third:].ravel(), minlength=256)


def recognised(counts: IdCounts) -> IdTable | None:
    """The table that fits the ids clearly better than the others; None where none does.

    A table fits if it has all ids that occur, and the better the more road there is in the lower third and
    sky in the upper third of the frames.
    """
    fits = {table: _fit(counts, table) for table in ROAD_AND_SKY}
    best = max(fits, key=fits.__getitem__)
    road = counts.lower[ROAD_AND_SKY[best][0]] / max(1, counts.lower.sum())
    others = max(fit for table, fit in fits.items() if table != best)
    return best if road >= MIN_ROAD_FRAC and fits[best] > CLEAR_RATIO * others else None


def _fit(counts: IdCounts, table: IdTable) -> float:
    total = max(1, counts.whole.sum())
    known = [entry.id for entry in LABEL_TABLES[table]]
    if 1 - counts.whole[known].sum() / total > MAX_FOREIGN_FRAC:
        return 0.0
    if table == "label-ids" and counts.whole[255] / total > MAX_255_FRAC:
        return 0.0
    road, sky = ROAD_AND_SKY[table]
    road_frac = counts.lower[road] / max(1, counts.lower.sum())
    sky_frac = counts.upper[sky] / max(1, counts.upper.sum())
    return float((road_frac + _ROAD_FLOOR) * (sky_frac + _SKY_FLOOR))


def count_ids(paths: Iterable[Path]) -> IdCounts:
    """The ids of label files; files of colours and unreadable files are passed over."""
    counts = IdCounts()
    for path in paths:
        try:
            ids = read_ids(path) if holds_ids(path) else None
        except (DamagedFile, OSError):
            continue
        if ids is not None and ids.dtype == np.uint8:
            counts.add(ids)
    return counts


def contradiction(counts: IdCounts, table: AnyTable | None) -> str:
    """A line about files that hold the ids of another table than `table`.

    Empty where none is recognised, and for a table of colours or of the user's own.
    """
    found = recognised(counts)
    read_by = next((name for name in ID_TABLES if name == table), None)
    if read_by is None or found is None or found == read_by:
        return ""
    example = int(counts.whole.argmax())
    names = {
        name: next((entry.name for entry in LABEL_TABLES[name] if entry.id == example), "no class")
        for name in (found, read_by)
    }
    return (
        f"label files hold {TABLE_NAMES[found]}, but are read as {TABLE_NAMES[read_by]}: id {example} "
        f"({counts.whole[example] / counts.whole.sum():.0%} of the pixels) is {names[found]}, not "
        f"{names[read_by]}; --label-table {found} (--data.label-table in training) reads them so"
    )


def label_files(dataset: FlowDataset, most: int = LOOKED_AT) -> list[Path]:
    """Label files of frame 1, evenly spread; none of a pack, which holds common ids."""
    if dataset.label_table is None or dataset.origin is not None:
        return []
    paths = [pair.files["labels1"] for pair in dataset.pairs if "labels1" in pair.files]
    count = min(most, len(paths))
    return [paths[index * len(paths) // count] for index in range(count)]
