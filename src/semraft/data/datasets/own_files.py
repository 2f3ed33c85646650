"""Own files: pairs of frames that a table of the user's names, with whatever is known about each.

The table is `pairs.csv` or `pairs.jsonl` in the data set's folder; paths in it are relative to that folder.
Beside it `classes.csv` has the classes of label files. `semraft data describe` writes the first version of
both. What a row lacks is not known: without flow a pair has no truth, without labels all are ignored.
"""

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Int32

from semraft.data.class_table import read_classes, stuff_of
from semraft.data.datasets.pairs import (
    make_dataset,
    make_sample,
    new_listing,
    read_frames,
    require_one_size,
)
from semraft.data.files.formats import ENCODINGS, Encoding
from semraft.data.files.pictures import holds_ids, read_ids, read_mask
from semraft.data.files.table_rows import Row, read_rows
from semraft.data.taxonomy import classes_of, common_ids, packed_colors, read_source_ids
from semraft.sample import (
    IGNORE_LABEL,
    AnyTable,
    Choose,
    FlowDataset,
    FlowSample,
    FramePart,
    LabelTable,
    Pair,
    require_size,
)

TABLES = ("pairs.csv", "pairs.jsonl")
CLASSES_FILE = "classes.csv"
FILES = {
    "image1": "image1",
    "image2": "image2",
    "flow": "flow",
    "valid": "valid",
    "labels1": "labels1",
    "labels2": "labels2",
    "instances1": "instances1",
    "instances2": "instances2",
    "occlusion": "occluded1",
}
"""Column with a path -> the file's role."""
COLUMNS = (*FILES, "encoding", "sparse", "scene", "split")
UNKNOWN = {"labels1": IGNORE_LABEL, "labels2": IGNORE_LABEL, "instances1": 0, "instances2": 0}
"""Field -> its value all over a pair that has no file of it, where other pairs have."""


class FlowFile(NamedTuple):
    """How the flow file of a pair is read."""

    encoding: Encoding | None = None
    sparse: bool = False


def index(root: Path, split: str, label_table: LabelTable | None = None) -> FlowDataset:
    """Files of your own, named by a table (`semraft data describe` begins one).

    Rows without a split are training pairs. Ids are the paths of first frames without their endings; the
    scene of a row that names none is the folder of its first frame. `label_table` takes the place of
    classes.csv.

    Raises:
        ValueError: No table; a line of it or of classes.csv that can't be right; no row of the split.
    """
    path = next((root / name for name in TABLES if (root / name).is_file()), None)
    if path is None:
        raise ValueError(
            f"files: no {' and no '.join(TABLES)} in {root}: `semraft data describe {root}` writes one"
        )
    rows = read_rows(path, COLUMNS, ("image1", "image2"))
    named = dict(zip(_ids(rows), rows, strict=True))
    parts = {name: _choice(row, "split", ("train", "val", "test"), "train") for name, row in named.items()}
    flow_files = {name: _flow_file(row) for name, row in named.items()}
    if split not in parts.values():
        raise ValueError(
            f"files: no row of {path} has the split {split}; --data.split 0.2 in training and --held-out 0.2 "
            "in evaluate hold a part of the training pairs out"
        )
    fields = _fields(rows)
    table = (label_table or _own_table(root)) if "labels1" in fields else None
    made = make_dataset(
        "files",
        split,
        (_pair(root, name, row) for name, row in named.items() if parts[name] == split),
        new_listing(),
        functools.partial(read, table=table, fields=fields, flow_files=flow_files),
        sparse=any(file.sparse for file in flow_files.values()),
    )
    return replace(made, provides=fields, label_table=table)


def _own_table(root: Path) -> AnyTable:
    if not (root / CLASSES_FILE).is_file():
        raise ValueError(
            f"files: the table in {root} names labels, but there is no {CLASSES_FILE} with their classes: "
            "`semraft data describe` writes one, --label-table (--data.label-table) takes a public table"
        )
    return read_classes(root / CLASSES_FILE)


def _fields(rows: list[Row]) -> frozenset[str]:
    """The optional fields that samples have: labels and instances of any row, other fields of all rows."""
    counts = Counter(column for row in rows for column in row.values)
    found = {name for name in UNKNOWN if counts[name]}
    return frozenset(found | {"occluded1"} if counts["occlusion"] == len(rows) else found)


def _ids(rows: list[Row]) -> list[str]:
    """An id for each row.

    Raises:
        ValueError: Two rows are the same pair.
    """
    seen: dict[tuple[str, str], Row] = {}
    for row in rows:
        pair = row.values["image1"], row.values["image2"]
        if pair in seen:
            raise row.fault(f"the pair {' '.join(pair)} is there before, in {seen[pair].place}")
        if pair[0] == pair[1]:
            raise row.fault(f"image1 and image2 are the same file, {pair[0]}")
        seen[pair] = row
    stems = Counter(_stem(first) for first, _ in seen)
    return [_stem(first) if stems[_stem(first)] == 1 else f"{first}+{second}" for first, second in seen]


def _stem(path: str) -> str:
    return Path(path).with_suffix("").as_posix()


def _choice(row: Row, column: str, allowed: tuple[str, ...], default: str) -> str:
    text = row.values.get(column, default)
    if text not in allowed:
        raise row.fault(f"{column} is {text!r}: expected {', '.join(allowed)} or nothing")
    return text


def _flow_file(row: Row) -> FlowFile:
    encoding, flow = row.values.get("encoding"), row.values.get("flow", "")
    if encoding is not None:
        _choice(row, "encoding", ENCODINGS, "")
    if flow.lower().endswith(".png") and encoding is None:
        raise row.fault(f"the flow {flow} is a png: its encoding must be {' or '.join(ENCODINGS)}")
    return FlowFile(cast(Encoding | None, encoding), _choice(row, "sparse", ("yes", "no"), "no") == "yes")


def _pair(root: Path, name: str, row: Row) -> Pair:
    scene = row.values.get("scene") or Path(row.values["image1"]).parent.as_posix()
    files = {role: root / row.values[column] for column, role in FILES.items() if column in row.values}
    return Pair(id=name, scene=f"files/{scene}", files=files)


def read(
    pair: Pair,
    choose: Choose | None = None,
    *,
    table: AnyTable | None,
    fields: frozenset[str],
    flow_files: Mapping[str, FlowFile],
) -> FlowSample:
    """Reads one pair, or the window of it that `choose` takes.

    Raises:
        DamagedFile: A file that does not hold what it should.
    """
    files, flow_file = pair.files, flow_files[pair.id]
    arrays, part = read_frames(pair, flow_file.encoding, choose)
    if "valid" in files:
        mask = read_mask(files["valid"], part)
        require_size(files["valid"], mask.shape, arrays["valid"].shape, files["image1"].name)
        arrays["valid"] &= mask
        arrays["flow"][~arrays["valid"]] = 0
    if "occluded1" in files:
        arrays["occluded1"] = read_mask(files["occluded1"], part)
    for number in ("1", "2"):
        labels, instances = f"labels{number}", f"instances{number}"
        ids = read_source_ids(files[labels], table, part) if table and labels in files else None
        if instances in files:
            arrays[instances] = _read_instances(files[instances], part)
        if ids is not None and table:
            arrays[labels] = common_ids(classes_of(table))[ids]
            if instances in files:
                require_size(files[instances], arrays[instances].shape, ids.shape, files[labels].name)
                arrays[instances][np.isin(ids, stuff_of(table))] = 0
    require_one_size(pair, arrays)
    for field in fields & UNKNOWN.keys() - files.keys():
        kind = np.uint8 if field.startswith("labels") else np.int32
        arrays[field] = np.full(arrays["valid"].shape, UNKNOWN[field], kind)
    return make_sample(pair, "files", arrays, sparse=flow_file.sparse)


def _read_instances(path: Path, part: FramePart | None) -> Int32[np.ndarray, "H W"]:
    """Instances of a png: its numbers, or its colours as numbers; 0 and black are none."""
    return read_ids(path, part).astype(np.int32) if holds_ids(path) else packed_colors(path, part)
