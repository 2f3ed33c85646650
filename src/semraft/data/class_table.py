"""The file classes.csv: classes of label files of one's own, each with its common class.

Columns: `name`; `id` or `color`, the number or the colour in label files (#804080, or `128 64 128`);
`common`, one of the common classes, or `ignored`; `thing` and `moves`, yes or no, or empty: as the common
class has it. Pixels of a class that is no thing belong to no instance.
"""

import csv
from collections.abc import Iterable
from pathlib import Path

from semraft.config.data import ID_TABLES
from semraft.data.files.table_rows import Row, read_rows
from semraft.data.taxonomy import CLASSES, classes_of
from semraft.ops.classes import THINGS
from semraft.sample import IGNORE_LABEL, AnyTable, OwnTable, SourceClass

COLUMNS = ("id", "color", "name", "common", "thing", "moves")
COMMON = {entry.name: entry.id for entry in CLASSES} | {"ignored": IGNORE_LABEL}
"""Name of a common class -> its id."""
_NAMES = {number: name for name, number in COMMON.items()}
IDS = (*range(254), 255)
"""Numbers that a class can have in label files of 8 bits; 254 means none here."""


def read_classes(path: Path) -> AnyTable:
    """The label table that a classes.csv describes; that of a public data set if it is the same.

    Raises:
        ValueError: A line of the file that can't be right, with what to write there.
    """
    rows = read_rows(path, COLUMNS, ("name",))
    by_color = not any("id" in row.values for row in rows)
    classes, stuff, seen = [], [], dict[object, str]()
    for number, row in enumerate(rows):
        common, thing = _common(row), _thing(row)
        color = _color(row) if by_color or "color" in row.values else (0, 0, 0)
        entry = SourceClass(number if by_color else _id(row), row.values["name"], color, common)
        for key in (entry.name, color if by_color else entry.id):
            if key in seen:
                raise row.fault(f"{key} is there before, in {seen[key]}: each class has one row")
            seen[key] = row.place
        classes.append(entry)
        if not thing:
            stuff.append(entry.id)
    table = OwnTable(str(path), tuple(classes), by_color, tuple(stuff))
    return next((name for name in ID_TABLES if not by_color and _is_same(table, name)), table)


def _is_same(table: OwnTable, name: AnyTable) -> bool:
    """True where both read all label files alike."""
    mine, public = ({entry.id: entry.common for entry in classes_of(one)} for one in (table, name))
    return mine == public and set(table.stuff) == set(stuff_of(name))


def stuff_of(table: AnyTable) -> tuple[int, ...]:
    """The ids of classes whose pixels belong to no instance."""
    if isinstance(table, OwnTable):
        return table.stuff
    return tuple(entry.id for entry in classes_of(table) if entry.common not in THINGS)


def _common(row: Row) -> int:
    name = row.values.get("common", "")
    if name not in COMMON:
        what = f"has the common class {name!r}" if name else "has no common class"
        raise row.fault(f"{row.values['name']!r} {what}: write one of {', '.join(COMMON)}")
    common = COMMON[name]
    moves = _yes(row, "moves", common in THINGS)
    if common != IGNORE_LABEL and moves != (common in THINGS):
        right = ", ".join(_NAMES[entry] for entry in THINGS)
        raise row.fault(
            f"{row.values['name']!r} can{'' if moves else 'not'} move, but is {name}: losses take "
            f"{right} for what moves and all others for what stands: change common, or moves"
        )
    return common


def _thing(row: Row) -> bool:
    return _yes(row, "thing", COMMON[row.values["common"]] in THINGS)


def _yes(row: Row, column: str, default: bool) -> bool:
    text = row.values.get(column, "yes" if default else "no").lower()
    if text not in ("yes", "no"):
        raise row.fault(f"{column} is {text!r}: expected yes, no or nothing")
    return text == "yes"


def _id(row: Row) -> int:
    text = row.values.get("id", "")
    if not text.isdecimal() or int(text) not in IDS:
        raise row.fault(f"id is {text!r}: expected a number from 0 to 253, or 255")
    return int(text)


def _color(row: Row) -> tuple[int, int, int]:
    text = row.values.get("color", "")
    try:
        values = (
            list(bytes.fromhex(text[1:])) if text.startswith("#") else [int(part) for part in text.split()]
        )
    except ValueError:
        values = []
    if len(values) != 3 or not all(0 <= value <= 255 for value in values):
        raise row.fault(f"color is {text!r}: expected red, green and blue such as #804080 or 128 64 128")
    return values[0], values[1], values[2]


def write_classes(
    path: Path, classes: Iterable[SourceClass], by_color: bool, unsure: Iterable[int] = ()
) -> None:
    """Writes a classes.csv; the common class of the ids `unsure` stays empty, for the user to write."""
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["color" if by_color else "id", *COLUMNS[2:]])
        for entry in classes:
            key = "#" + bytes(entry.color).hex() if by_color else entry.id
            common = "" if entry.id in unsure else _NAMES[entry.common]
            thing = "" if entry.id in unsure else "yes" if entry.common in THINGS else "no"
            out.writerow([key, entry.name, common, thing, thing])
