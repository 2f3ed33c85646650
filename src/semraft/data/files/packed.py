"""A data set in a copy made for training: whatever is read is the same bit for bit, only sooner.

A pack is a folder of the pairs of one data set as their own reader gives them, cut into bands of rows, so
that a crop costs the rows it needs and not the frame. A frame that two pairs share is in it once. `pack`
writes it; `index` is for `semraft.data.index_dataset`, which finds a pack by its manifest.

    PACK/manifest.json    written last: the pairs, what is wrong with the others, and what the source was
    PACK/packing.json     as long as the pack is not whole: what it is being made from
    PACK/frames/..., PACK/pairs/...    arrays (`packed_arrays`), named after the source's image and flow files
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypedDict

from semraft.data.datasets.pairs import Listing, new_listing
from semraft.data.files.packed_arrays import PackedFile, Stored, to_bytes
from semraft.records import Count, DamagedFile, read_json
from semraft.sample import (
    OPTIONAL_FIELDS,
    Choose,
    FlowDataset,
    FlowSample,
    Origin,
    Pair,
    Problem,
    Window,
)
from semraft.writing import write_bytes, write_text

MANIFEST = "manifest.json"
UNFINISHED = "packing.json"
_FORMAT = 1
_OF_A_FRAME = ("image", "labels", "instances")
"""Fields of one frame, in one file: `labels` of a frame is `labels1` of one pair and `labels2` of another."""

ROLES: tuple[Literal["flow", "image1", "image2"], ...] = ("flow", "image1", "image2")
"""Files of a pair in a pack."""
Images = Literal["pixels", "files"]


class PackedFiles(TypedDict):
    """Path and bytes of the files of a pair in a pack."""

    flow: tuple[str, Count]
    image1: tuple[str, Count]
    image2: tuple[str, Count]


class PackedPair(TypedDict):
    """A pair in a manifest."""

    id: str
    scene: str
    files: PackedFiles
    sizes: dict[str, Count]
    image1_sha256: str


class PackedSplit(TypedDict):
    """A split in a manifest."""

    dataset: str
    sparse: bool
    provides: list[str]
    problems: list[tuple[str, str, Literal["missing", "empty", "damaged", "size"], str]]
    pairs: list[PackedPair]


class Manifest(TypedDict):
    """The content of manifest.json."""

    format: int
    splits: dict[str, PackedSplit]


def pack(
    source: Callable[[str], FlowDataset],
    root: Path,
    out: Path,
    splits: Iterable[str],
    *,
    images: Images = "pixels",
    workers: int = 2,
    damaged: Literal["refuse", "skip"] = "refuse",
    progress: Callable[..., Iterable[Any]] = lambda results, total: results,
) -> dict[str, int]:
    """Copies splits of a data set into the pack `out`, and returns how many pairs of each are in it.

    Every file is written whole or not at all, and the manifest last: an interrupted pack is no pack, and the
    same call finishes it.

    Args:
        source: Split -> the data set, whose files lie under `root`.
        images: Store images as pixels, or as the bytes of their files: a fifth of the space, but a crop
            decodes the whole frame.
        damaged: A damaged pair stops the packing, or is left out and named in the manifest. A file that is
            missing is named there in any case, as the source's own `problems` name it.
        progress: As in `check_dataset`.

    Raises:
        ValueError: `out` holds anything else; a data set without files.
        DamagedFile: A damaged pair, with "refuse".
    """
    datasets = {split: source(split) for split in splits}
    bad = [bad for dataset in datasets.values() for bad in dataset.problems if bad.kind != "missing"]
    if bad and damaged == "refuse":
        raise DamagedFile(bad[0].path, f"{bad[0].kind} {bad[0].detail} ({len(bad)} such files)")
    sources = {split: _digest(dataset) for split, dataset in datasets.items()}
    _begin(out, {"format": _FORMAT, "images": images, "sources": sources})
    packed: dict[str, Any] = {}
    for split, dataset in datasets.items():
        entries, problems = _pack_split(dataset, root, out, images, workers, damaged, progress)
        packed[split] = {
            "dataset": dataset.name,
            "sparse": dataset.sparse,
            "provides": sorted(dataset.provides),
            "problems": [[bad.pair_id, str(bad.path), bad.kind, bad.detail] for bad in problems],
            "pairs": entries,
        }
    manifest = {"format": _FORMAT, "images": images, "sources": sources, "splits": packed}
    write_text(out / MANIFEST, json.dumps(manifest))
    (out / UNFINISHED).unlink(missing_ok=True)
    return {split: len(entry["pairs"]) for split, entry in packed.items()}


def is_pack(root: Path) -> bool:
    """True where a folder is a pack, finished or not."""
    return (root / MANIFEST).exists() or (root / UNFINISHED).exists()


def index(name: str, root: Path, split: str) -> FlowDataset:
    """The data set `name` out of the pack `root`; a pair with a file unlike what was packed is a Problem.

    Raises:
        ValueError: The pack was never finished, is of another data set, or lacks the split.
    """
    if not (root / MANIFEST).exists():
        raise ValueError(f"{root} is a pack that was interrupted: the same `semraft data pack` finishes it")
    manifest = read_json(root / MANIFEST, Manifest)
    if manifest["format"] != _FORMAT:
        raise ValueError(
            f"{root} has format {manifest['format']}, this semraft reads {_FORMAT}: pack it anew"
        )
    if split not in manifest["splits"]:
        raise ValueError(
            f"{root} holds {', '.join(manifest['splits'])} only: pack {split} too, into a new folder"
        )
    entry = manifest["splits"][split]
    if entry["dataset"] != name:
        raise ValueError(f"{root} is a pack of {entry['dataset']}, not of {name}")
    if unknown := set(entry["provides"]) - set(OPTIONAL_FIELDS):
        raise DamagedFile(root / MANIFEST, f"{unknown} are no fields of a sample")
    listing = new_listing()
    pairs, origins = [], {}
    problems = [Problem(pair, Path(path), kind, detail) for pair, path, kind, detail in entry["problems"]]
    for row in entry["pairs"]:
        stored: dict[str, tuple[str, int]] = {role: row["files"][role] for role in ROLES}
        files = {role: root / path for role, (path, _) in stored.items()}
        wrong = [
            Problem(row["id"], files[role], "damaged", detail)
            for role, (_, size) in stored.items()
            if (detail := _file_problem(files[role], size, listing))
        ]
        problems.extend(wrong)
        if not wrong:
            pairs.append(Pair(id=row["id"], scene=row["scene"], files=files))
            origins[row["id"]] = Origin(row["sizes"], row["image1_sha256"])

    return FlowDataset(
        name=name,
        split=split,
        pairs=tuple(pairs),
        read=partial(_read, name, entry["sparse"]),
        provides=frozenset(entry["provides"]),
        sparse=entry["sparse"],
        problems=tuple(problems),
        read_window=partial(_read_window, name, entry["sparse"]),
        origin=partial(_origin, origins),
    )


def _origin(origins: dict[str, Origin], pair: Pair) -> Origin:
    return origins[pair.id]


def _read(name: str, sparse: bool, pair: Pair) -> FlowSample:
    return _read_window(name, sparse, pair, lambda frame: Window(0, 0, *frame))[0]


def _read_window(name: str, sparse: bool, pair: Pair, choose: Choose) -> tuple[FlowSample, tuple[int, int]]:
    own = PackedFile(pair.files["flow"])
    window = choose(own.frame)
    arrays = own.read(window)
    for number in ("1", "2"):
        frame = PackedFile(pair.files[f"image{number}"])
        if frame.frame != own.frame:
            raise DamagedFile(frame.path, f"is of {frame.frame}, its pair of {own.frame}: pack the data anew")
        arrays |= {kind + number: array for kind, array in frame.read(window).items()}
    return FlowSample(id=pair.id, scene=pair.scene, dataset=name, sparse=sparse, **arrays), own.frame


def _file_problem(path: Path, size: int, listing: Listing) -> str:
    found = listing(path.parent).get(path.name)
    if found == size:
        return ""
    return "is gone from the pack" if found is None else f"has {found} bytes, {size} were packed"


def _begin(out: Path, begun: dict[str, Any]) -> None:
    """Makes the folder of a new pack, or checks that the one there is an unfinished one of the same data."""
    text = json.dumps(begun)
    if (out / MANIFEST).exists():
        raise ValueError(f"{out} is a finished pack: nothing is overwritten, give a new folder")
    if (out / UNFINISHED).exists():
        if (out / UNFINISHED).read_text() != text:
            raise ValueError(
                f"{out} is an unfinished pack of other data or options: delete it or give a new folder"
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not empty: give a new folder, nothing is overwritten")
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / UNFINISHED, text)


def _pack_split(
    dataset: FlowDataset,
    root: Path,
    out: Path,
    images: Images,
    workers: int,
    damaged: str,
    progress: Callable[..., Iterable[Any]],
) -> tuple[list[dict[str, Any]], list[Problem]]:
    def try_pack(pair: Pair) -> dict[str, Any] | Problem:
        try:
            return _pack_pair(dataset, pair, root, out, images)
        except DamagedFile as error:
            if damaged == "refuse":
                raise
            return Problem(pair.id, error.path, "damaged", error.reason)

    entries, problems = [], list(dataset.problems)
    pool = ThreadPoolExecutor(workers)  # Decoding and compressing release the interpreter's lock.
    try:
        for result in progress(pool.map(try_pack, dataset.pairs), total=len(dataset)):
            if isinstance(result, Problem):
                problems.append(result)
            else:
                entries.append(result)
    finally:
        pool.shutdown(cancel_futures=True)
    return entries, problems


def _pack_pair(dataset: FlowDataset, pair: Pair, root: Path, out: Path, images: Images) -> dict[str, Any]:
    """Writes the files of a pair that are not there yet, and returns its entry in the manifest."""
    if not pair.files:
        raise ValueError(f"{dataset.name} has no files to pack: it is made, not read")
    paths = {role: _place(pair, role, root, dataset.provides) for role in ROLES}
    if not all((out / path).exists() for path in paths.values()):
        sample = dataset.read(pair)
        contents: dict[str, dict[str, Stored]] = {role: {} for role in paths}
        for field in ("image1", "image2", "flow", "valid", *OPTIONAL_FIELDS):
            array = getattr(sample, field)
            if array is None:
                continue
            kind, number = field[:-1], field[-1]
            if kind not in _OF_A_FRAME:
                contents["flow"][field] = array
            elif kind == "image" and images == "files":
                contents[f"image{number}"][kind] = pair.files[field].read_bytes()
            else:
                contents[f"image{number}"][kind] = array
        height, width = sample.valid.shape
        for role, path in paths.items():
            if not (out / path).exists():
                (out / path).parent.mkdir(parents=True, exist_ok=True)
                write_bytes(out / path, to_bytes((height, width), contents[role]))
    return {
        "id": pair.id,
        "scene": pair.scene,
        "files": {role: (str(path), (out / path).stat().st_size) for role, path in paths.items()},
        "sizes": pair.sizes(),
        "image1_sha256": hashlib.sha256(pair.files["image1"].read_bytes()).hexdigest(),
    }


def _place(pair: Pair, role: str, root: Path, provides: frozenset[str]) -> Path:
    """Path in the pack of a frame, or of a pair's own fields: the name of the source's file, extended.

    Raises:
        ValueError: The file lies outside of the root.
    """
    source = pair.files.get(role, pair.files["image1"])  # A pair without flow has fields of its own too.
    path = Path(os.path.relpath(source, root))
    if ".." in path.parts:
        raise ValueError(f"{source} lies outside of {root}: only files in the data set's folder are packed")
    if role == "flow":
        return Path("pairs", path.with_name(f"{path.name}.pack"))
    # Frames that are known better in one pair than in another are two files; "u": there, but unknown.
    fields = {f"{kind}{role[-1]}": kind[0] for kind in _OF_A_FRAME}
    known = "".join(
        letter if field in pair.files else f"u{letter}"
        for field, letter in fields.items()
        if field in pair.files or field in provides
    )
    return Path("frames", path.with_name(f"{path.name}.{known}.pack"))


def _digest(dataset: FlowDataset) -> str:
    """Digest of a source: of names and sizes of files only, as it must be quick."""
    digest = hashlib.sha256(dataset.name.encode())
    for pair in dataset.pairs:
        digest.update(repr((pair.id, pair.sizes())).encode())
    return digest.hexdigest()[:16]
