"""First description of a folder: the table of its pairs and its classes, and what they were guessed from."""

import csv
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from semraft.data.class_table import write_classes
from semraft.data.datasets.own_files import CLASSES_FILE, COLUMNS, FILES, TABLES
from semraft.data.files.formats import read_flow
from semraft.data.files.pictures import read_image
from semraft.describe.kinds import Kind, kind_of
from semraft.describe.label_classes import ClassGuess, Sure, classes_of_colors, classes_of_ids
from semraft.describe.names import files_in, series_of
from semraft.describe.pairing import MAX_ERROR_RATIO, NEXT, Candidate, Family, Pairing, families_of, pair_up

LOOKED_AT = 3
"""Files of a series, spread evenly, that are opened for its kind."""
LABELS_LOOKED_AT = 12
HELD_OUT_FRAC = 0.2
"""Part of the pairs that are for validation where no folder is named after a split."""
MIN_DENSE_FRAC = 0.75
"""Flow is sparse where less than this part of the valid pixels has valid pixels to the right and below."""
MAX_CROP = (288, 960)
SPLITS = {"train": "train", "training": "train", "val": "val", "validation": "val", "valid": "val"}
SPLITS |= {"test": "test", "testing": "test"}
"""Name of a folder -> the split of the pairs in it."""


class Guess(NamedTuple):
    """One guess: about what, what was found, how sure it is, and from what."""

    about: str
    found: str
    sure: Sure
    why: str


@dataclass(kw_only=True)
class Description:
    """First version of the table of pairs and of the class table of a folder."""

    folder: Path
    files: int
    rows: list[dict[str, str]]
    """Column -> text, paths relative to the folder."""
    classes: ClassGuess | None
    guesses: list[Guess]
    unused: list[str]
    """A line for each series or family of files that is not in the table, and why."""
    crop: tuple[int, int]
    """Height and width of a training crop that the frames have room for, in pixels."""


def describe(folder: Path) -> Description:
    """Looks at the files of a folder: their names, and a few of them inside.

    Raises:
        ValueError: No folder, or no two frames that could be a pair; one line with what was found instead.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder")
    series = series_of(files_in(folder))
    kinds = {
        name: kind_of([folder / path for path in _spread(paths, LOOKED_AT)]) for name, paths in series.items()
    }
    frames = [path for name, paths in series.items() if kinds[name].name == "frames" for path in paths]
    truth = {
        path: kinds[name]
        for name, paths in series.items()
        if kinds[name].name not in ("frames", "other")
        for path in paths
    }
    families, alone = families_of(truth, frames)
    flows = [family for family in families if family.kind.name == "flow"]
    paired = pair_up(folder, frames, flows)
    if not paired.pairs:
        found = ", ".join(f"{name} ({kind.name})" for name, kind in list(kinds.items())[:5]) or "no file"
        raise ValueError(
            f"{folder}: no two frames that could be a pair, by numbers in their names; found {found}"
        )
    needed = {frame for pair, _ in paired.pairs for frame in pair[:2]}
    labels, classes = _labels(folder, families, needed)
    chosen = {
        "labels": labels,
        "instances": _named(families, "instances", ""),
        "occlusion": _named(families, "mask", "occ"),
        "valid": _named(families, "mask", r"(?<!in)valid|mask"),
    }
    used = {id(family) for family in chosen.values()} | {id(paired.fit.family if paired.fit else None)}
    sparse = paired.fit is not None and _is_sparse(folder, paired.fit.family)
    of_none = [f"{len(alone)} files that belong to no frame, the first {alone[0]}"] if alone else []
    return Description(
        folder=folder,
        files=sum(map(len, series.values())),
        rows=_rows(paired, chosen, sparse),
        classes=classes,
        guesses=[*_guesses(paired, kinds, series, sparse), *_guesses_of_truth(chosen, classes, needed)],
        unused=[
            *(f"{family.name}: {family.kind.name}" for family in families if id(family) not in used),
            *_unused_frames(series, kinds, needed),
            *(f"{name}: {kind.why}" for name, kind in kinds.items() if kind.name == "other"),
            *of_none,
        ],
        crop=_crop(folder, _spread(sorted(needed), 8)),
    )


def _spread(paths: Sequence[Path], most: int) -> list[Path]:
    count = min(most, len(paths))
    return [paths[index * len(paths) // count] for index in range(count)]


def _named(families: Sequence[Family], kind: str, pattern: str) -> Family | None:
    """The family of this kind with the pattern in its name that has most files."""
    fitting = [one for one in families if one.kind.name == kind and re.search(pattern, one.name.lower())]
    return max(fitting, key=lambda one: len(one.files), default=None)


def _labels(
    folder: Path, families: Sequence[Family], needed: set[Path]
) -> tuple[Family | None, ClassGuess | None]:
    """The label files of most frames whose classes are surest; ids before colours."""
    found: list[tuple[Family, ClassGuess]] = []
    for family in families:
        if family.kind.name in ("labels", "colour labels"):
            paths = [folder / path for path in _spread(sorted(family.files), LABELS_LOOKED_AT)]
            is_ids = family.kind.name == "labels"
            found.append((family, classes_of_ids(paths, family.name) if is_ids else classes_of_colors(paths)))

    def rank(one: tuple[Family, ClassGuess]) -> tuple[int, int, bool]:
        family, classes = one
        return len(needed & family.of_frame().keys()), -len(classes.unsure), not classes.by_color

    return max(found, key=rank) if found else (None, None)


def _rows(paired: Pairing, chosen: dict[str, Family | None], sparse: bool) -> list[dict[str, str]]:
    files = {name: family.of_frame() if family else {} for name, family in chosen.items()}
    splits = _splits([pair for pair, _ in paired.pairs])
    encoding = paired.fit.family.kind.encoding if paired.fit else None
    rows = []
    for (pair, flow), split in zip(paired.pairs, splits, strict=True):
        cells = {
            "image1": pair.image1,
            "image2": pair.image2,
            "flow": flow,
            "encoding": encoding,
            "sparse": "yes" if sparse else None,
            "valid": files["valid"].get(pair.image1),
            "labels1": files["labels"].get(pair.image1),
            "labels2": files["labels"].get(pair.image2),
            "instances1": files["instances"].get(pair.image1),
            "instances2": files["instances"].get(pair.image2),
            "occlusion": files["occlusion"].get(pair.image1),
            "scene": pair.scene,
            "split": split,
        }
        rows.append({name: str(cell) for name, cell in cells.items() if cell is not None})
    return rows


def _splits(pairs: Sequence[Candidate]) -> list[str]:
    """The split of each pair: by the names of its folders, else the last fifth of scenes or of the only one.

    In a single scene the pair before the held-out ones shares a frame with them, and is left out as `test`.
    """
    by_name = [
        next((SPLITS[part] for part in map(str.lower, pair.image1.parts) if part in SPLITS), "")
        for pair in pairs
    ]
    if "val" in by_name:
        return by_name
    if {"train", "test"} <= set(by_name):
        return ["val" if split == "test" else split for split in by_name]
    if len(pairs) == 1:
        return ["train"]
    scenes = list(dict.fromkeys(pair.scene for pair in pairs))
    wanted = max(1, round(HELD_OUT_FRAC * len(pairs)))
    if len(scenes) == 1:
        first = len(pairs) - wanted
        shared = pairs[first - 1].image2 == pairs[first].image1
        return ["train" if k < first - shared else "test" if k < first else "val" for k in range(len(pairs))]
    held_out: set[str] = set()
    while sum(pair.scene in held_out for pair in pairs) < wanted and len(held_out) < len(scenes) - 1:
        held_out.add(scenes.pop())
    return ["val" if pair.scene in held_out else "train" for pair in pairs]


def _is_sparse(folder: Path, family: Family) -> bool:
    dense = []
    for path in _spread(sorted(family.files), LOOKED_AT):
        _, valid = read_flow(folder / path, family.kind.encoding)
        whole = valid[:-1, :-1]
        dense.append((whole & valid[1:, :-1] & valid[:-1, 1:]).sum() / max(1, whole.sum()))
    return float(np.mean(dense)) < MIN_DENSE_FRAC


def _guesses(
    paired: Pairing, kinds: dict[str, Kind], series: dict[str, list[Path]], sparse: bool
) -> Iterator[Guess]:
    count = {name: len(series[name]) for name, kind in kinds.items() if kind.name == "frames"}
    names = ", ".join(list(count)[:3]) + (f" and {len(count) - 3} series more" if len(count) > 3 else "")
    yield Guess("frames", f"{sum(count.values())} in {names}", "sure", kinds[next(iter(count))].why)
    scenes = len({pair.scene for pair, _ in paired.pairs})
    found = f"{len(paired.pairs)} in {scenes} scene{'s' if scenes > 1 else ''}: "
    if paired.fit is None:
        yield Guess(
            "pairs", f"{found}{NEXT}", "guess", "by the numbers in their names; there is no flow to try"
        )
        return
    fit = paired.fit
    camera = f", camera {' '.join(fit.camera)}" if fit.camera and fit.how == NEXT else ""
    sure: Sure = "sure" if fit.error <= MAX_ERROR_RATIO * fit.zero_error else "guess"
    why = (
        f"along the flow the frames differ by {fit.error:.1f} grey levels, without it by {fit.zero_error:.1f}"
    )
    yield Guess("pairs", f"{found}{fit.how}{camera}", sure, why)
    encoding = f" in the encoding of {fit.family.kind.encoding}" if fit.family.kind.encoding else ""
    truth = f", {'sparse' if sparse else 'dense'}, {fit.valid_frac:.0%} valid"
    yield Guess(
        "flow", f"{len(fit.family.files)} in {fit.family.name}{encoding}{truth}", "sure", fit.family.kind.why
    )


def _guesses_of_truth(
    chosen: dict[str, Family | None], classes: ClassGuess | None, needed: set[Path]
) -> Iterator[Guess]:
    for about, family in chosen.items():
        if family is not None:
            of_frames = f"{len(family.files)} in {family.name}"
            if about == "labels" and classes is not None:
                missing = len(needed - family.of_frame().keys())
                of_frames += f": {classes.found}" + (f"; {missing} frames have none" if missing else "")
                yield Guess(about, of_frames, classes.sure, classes.why)
            else:
                yield Guess(about, of_frames, "likely", f"{family.kind.why}, and the name")


def _unused_frames(series: dict[str, list[Path]], kinds: dict[str, Kind], needed: set[Path]) -> Iterator[str]:
    for name, paths in series.items():
        if kinds[name].name == "frames" and (left := [path for path in paths if path not in needed]):
            what = "none is" if len(left) == len(paths) else f"{len(left)} of {len(paths)} are not"
            yield f"{name}: {what} in a pair, such as {left[0]}"


def _crop(folder: Path, frames: Sequence[Path]) -> tuple[int, int]:
    sizes = np.array([read_image(folder / frame).shape[:2] for frame in frames])
    height, width = (sizes.min(axis=0) // 8 * 8).tolist()
    return min(height, MAX_CROP[0]), min(width, MAX_CROP[1])


def refuse_tables(out: Path) -> None:
    """Refuses a folder that has a table already: nothing is overwritten.

    Raises:
        ValueError: It has one, or a class table.
    """
    for name in (*TABLES, CLASSES_FILE):
        if (out / name).exists():
            raise ValueError(
                f"{out / name} is there, nothing is overwritten: delete it, or give --out FOLDER"
            )


def write(description: Description, out: Path) -> list[Path]:
    """Writes the table, and the class table where there are labels; returns their paths."""
    used = [name for name in COLUMNS if any(name in row for row in description.rows)]
    written = [out / TABLES[0]]
    with written[0].open("x", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, used, lineterminator="\n")
        table.writeheader()
        for row in description.rows:
            paths = {
                name: os.path.relpath(description.folder / row[name], out) for name in FILES if name in row
            }
            table.writerow(row | paths)
    if (classes := description.classes) is not None:
        written.append(out / CLASSES_FILE)
        write_classes(written[-1], classes.classes, classes.by_color, classes.unsure)
    return written


def as_text(description: Description, out: Path, max_unused: int = 10) -> str:
    """The description for a person to read: each guess, how sure it is and why, and what to do next."""
    width = max(len(guess.about) for guess in description.guesses)
    lines = [f"{description.folder}: {description.files} files"]
    for guess in description.guesses:
        lines.append(f"{guess.about:{width}}  {guess.found}")
        lines.append(f"{'':{width}}    {guess.sure}: {guess.why}")
    parts = Counter(row.get("split") or "train" for row in description.rows)
    lines.append(f"{'split':{width}}  {', '.join(f'{count} {part}' for part, count in parts.items())}")
    if len({row["scene"] for row in description.rows}) == 1:
        lines.append(f"{'':{width}}    one scene only: its last pairs are easier than those of another")
    lines += [f"not used: {line}" for line in description.unused[:max_unused]]
    if len(description.unused) > max_unused:
        lines.append(f"not used: and {len(description.unused) - max_unused} more")
    root, crop = shlex.quote(str(out)), " ".join(map(str, description.crop))
    return "\n".join(
        [
            *lines,
            f"next: semraft data check {root} --dataset files",
            f"      semraft train files-base --data.root {root} --data.crop {crop} --model.weights FILE",
        ]
    )
