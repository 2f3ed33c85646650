"""Classes of label files: the public table that they hold, or their ids or colours for the user to name."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from semraft.config.data import ID_TABLES
from semraft.data.files import png
from semraft.data.label_tables import count_ids, recognised
from semraft.data.taxonomy import (
    CLASSES,
    LABEL_TABLES,
    PALETTE,
    TABLE_NAMES,
    LabelTable,
    SourceClass,
    packed_colors,
)
from semraft.records import read_bytes
from semraft.sample import IGNORE_LABEL

Sure = Literal["sure", "likely", "guess"]
MIN_KNOWN_FRAC = 0.999
"""Share of the pixels whose colours a table must have to be that of the files."""
COMMON_CLASSES = (
    *(SourceClass(entry.id, entry.name, entry.color, entry.id) for entry in CLASSES),
    SourceClass(IGNORE_LABEL, "ignored", (0, 0, 0), IGNORE_LABEL),
)
"""The common classes as a label table: what `semraft predict` writes."""


class ClassGuess(NamedTuple):
    """The classes of label files, and the evidence."""

    classes: tuple[SourceClass, ...]
    by_color: bool
    found: str
    sure: Sure
    why: str
    unsure: tuple[int, ...] = ()
    """Ids of classes whose common class the user has to write."""


def classes_of_ids(paths: Sequence[Path], named: str) -> ClassGuess:
    """The classes of label files of ids; `named` is the name of their series."""
    counts = count_ids(paths)
    if all(_has_our_palette(path) for path in paths):
        return ClassGuess(
            COMMON_CLASSES, False, "common classes", "sure", "in the palette of semraft predict"
        )
    if table := recognised(counts):
        why = "its road is in the lower third of the frames, and no other table fits nearly as well"
        return ClassGuess(LABEL_TABLES[table], False, TABLE_NAMES[table], "sure", why)
    ids = np.flatnonzero(counts.whole).tolist()
    for name in ID_TABLES:
        in_name = name.replace("-", "") in named.lower()
        if in_name and set(ids) <= {entry.id for entry in LABEL_TABLES[name]}:
            why = "by the name of the files, and the table has all of their ids"
            return ClassGuess(LABEL_TABLES[name], False, TABLE_NAMES[name], "likely", why)
    classes = tuple(SourceClass(number, f"class {number}", (0, 0, 0), IGNORE_LABEL) for number in ids)
    unsure = tuple(number for number in ids if number != IGNORE_LABEL)
    return ClassGuess(classes, False, f"{len(ids)} ids of no public table", "guess", NAME_THEM, unsure)


def classes_of_colors(paths: Sequence[Path]) -> ClassGuess:
    """The classes of label files of colours."""
    counts: Counter[int] = Counter()
    for path in paths:
        values, times = np.unique(packed_colors(path), return_counts=True)
        counts.update(dict(zip(values.tolist(), times.tolist(), strict=True)))
    colors = {code: (code >> 16, code >> 8 & 255, code & 255) for code in sorted(counts)}
    tables: tuple[LabelTable, ...] = ("virtual-kitti-colours", "train-ids", "label-ids", "viper-ids")
    for table in tables:
        known = {entry.color: entry for entry in reversed(LABEL_TABLES[table])}
        found_frac = sum(counts[code] for code, color in colors.items() if color in known) / counts.total()
        if found_frac >= MIN_KNOWN_FRAC:
            why = f"it has the colours of {found_frac:.1%} of the pixels"
            name = f"colours of {TABLE_NAMES[table]}"
            return ClassGuess(tuple(reversed(known.values())), True, name, "sure", why)
    classes = tuple(
        SourceClass(number, f"class {number}", color, IGNORE_LABEL)
        for number, color in enumerate(colors.values())
    )
    unsure = tuple(entry.id for entry in classes)
    return ClassGuess(classes, True, f"{len(classes)} colours of no public table", "guess", NAME_THEM, unsure)


NAME_THEM = "write the name and the common class of each into the file"


def _has_our_palette(path: Path) -> bool:
    """True where a palette png has the colours of the common classes."""
    chunks = dict(png.split_png(path, read_bytes(path)))
    return chunks.get(b"PLTE", b"")[: 3 * len(CLASSES)] == PALETTE[: len(CLASSES)].tobytes()
