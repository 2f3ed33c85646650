"""`semraft data ...`: make data, describe it, check it, pack it."""

from json import dumps
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from semraft.cli.options import Json, require_writable, require_writable_folder
from semraft.config import WorldConfig
from semraft.config.data import IdTable
from semraft.writing import write_text


def synthesize(
    root: Positional[Path],
    /,
    layout: Literal["viper", "virtual-kitti", "kitti"],
    train: int = 100,
    val: int = 20,
    size: tuple[int, int] = (288, 960),
    seed: int = 0,
) -> None:
    """Make driving data with exact ground truth, in the layout of a public data set.

    Args:
        root: A new or empty folder.
        layout: Whose files, names and encodings.
        train: Training pairs.
        val: Validation pairs.
        size: Height and width in pixels.
        seed: The world's seed.
    """
    from semraft.data.world.export import synthesize as write

    write(root, layout, train=train, val=val, size=size, seed=seed)
    print(f"data: {root}")


def check(
    root: Positional[str] = "",
    /,
    *,
    dataset: str,
    split: Literal["train", "val"] = "train",
    pairs: int = 50,
    read: int | None = None,
    label_table: IdTable | None = None,
    json: Json = False,
    list_bad: Annotated[str, tyro.conf.arg(metavar="FILE")] = "",
) -> int:
    """Check data: missing and damaged files, statistics, and whether flow and labels fit the images.

    Args:
        root: The data set's folder.
        dataset: A name that `semraft datasets` lists.
        split: Which part of it.
        pairs: How many pairs the alignment test takes.
        label_table: The table of the ids in label files, if not the data set's own.
        read: Read so many pairs, spread evenly; all without it, which finds every damaged file.
        json: Print JSON instead of text.
        list_bad: Write the ids of unusable pairs to this file, one a line.
    """
    from tqdm import tqdm

    from semraft.data import index_dataset
    from semraft.data.check import as_text, check_dataset

    found = index_dataset(
        dataset, Path(root) if root else None, split, WorldConfig(), label_table=label_table
    )
    if list_bad:
        require_writable(Path(list_bad))
    report = check_dataset(
        found,
        alignment_pairs=pairs,
        read_pairs=read,
        progress=lambda results, total: tqdm(results, total=total, unit="pair"),
    )
    print(dumps(report.to_json(), indent=2) if json else as_text(report))
    if list_bad:
        write_text(list_bad, "".join(f"{name}\n" for name in report.bad_ids))
    return 0 if report.sound else 1


def describe(folder: Positional[Path], /, out: Path | None = None) -> None:
    """Describe a folder of your own frames: writes pairs.csv and classes.csv, as far as they can be guessed.

    Looks at names and contents, prints each guess, how sure it is and why, and overwrites nothing. Correct
    both files where they are wrong: data set `files` reads them.

    Args:
        folder: A folder with frames, and flow and labels if there are any, in any layout.
        out: The folder for both files; the folder itself without it.
    """
    from semraft.describe import folder as described

    where = out or folder
    if out is not None and folder.is_dir():
        out.mkdir(parents=True, exist_ok=True)
    require_writable_folder(where)
    described.refuse_tables(where)
    found = described.describe(folder)
    written = described.write(found, where)
    print(described.as_text(found, where))
    print(f"tables: {' '.join(map(str, written))}")


def pack(
    root: Positional[Path],
    /,
    *,
    dataset: str,
    out: Path,
    split: tuple[Literal["train", "val"], ...] = ("train", "val"),
    images: Literal["pixels", "files"] = "pixels",
    workers: int = 2,
    damaged: Literal["refuse", "skip"] = "refuse",
    label_table: IdTable | None = None,
) -> None:
    """Copy data into a pack, which training reads several times as fast.

    The pack takes the place of the data set's folder wherever one is asked for. Samples out of it are those
    out of the files, bit for bit. An interrupted pack is finished by the same command.

    Args:
        root: The data set's folder.
        dataset: A name that `semraft datasets` lists.
        out: A new or empty folder.
        split: Which parts of it; all that are read out of one pack must be in it.
        images: Keep images as pixels, or as the bytes of their files: a fifth of the space, half as fast.
        workers: Threads that read and pack.
        damaged: A damaged pair stops the work, or is left out, named and counted.
        label_table: The table of the ids in label files, if not the data set's own.
    """
    from tqdm import tqdm

    from semraft.data import index_dataset
    from semraft.data.files.packed import pack as write
    from semraft.data.requirements import refuse_doubtful_table
    from semraft.sample import FlowDataset

    def source(name: str) -> FlowDataset:
        found = index_dataset(dataset, root, name, WorldConfig(), label_table=label_table)
        if label_table is None:
            refuse_doubtful_table(found)
        return found

    counts = write(
        source,
        root,
        out,
        split,
        images=images,
        workers=workers,
        damaged=damaged,
        progress=lambda results, total: tqdm(results, total=total, unit="pair"),
    )
    print(f"pack: {out} ({', '.join(f'{count} {name} pairs' for name, count in counts.items())})")
