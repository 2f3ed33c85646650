"""Folders of no known layout: their pairs, flow, labels and classes are found, and what is unsure is said."""

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from semraft.cli import main
from semraft.data.class_table import read_classes
from semraft.data.files.formats import write_flow
from semraft.data.files.pictures import write_ids, write_image, write_palette
from semraft.data.taxonomy import CITYSCAPES_CLASSES, PALETTE
from semraft.describe.folder import Description, as_text, describe, write
from semraft.describe.names import FrameNames
from tests.unit.data.moving_trees import LABEL_IDS, TRAIN_IDS, VIPER_IDS, Sequence, make_sequence

FRAMES = 6
OWN_IDS = np.array([3, 5, 9, 17, 40], np.uint8)


@pytest.fixture(scope="module")
def drives() -> list[Sequence]:
    return [make_sequence(seed, FRAMES) for seed in (1, 2)]


def put(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, np.moveaxis(array, 2, 0))
    elif array.ndim == 2:
        write_ids(path, array)
    elif array.shape[2] == 2:
        write_flow(path, array, encoding="kitti")
    else:
        write_image(path, array)


def folders_by_kind(root: Path, drives: list[Sequence]) -> None:
    for number, image in enumerate(drives[0].images):
        put(root / "frames" / f"{number:04d}.png", image)
        put(root / "seg" / f"{number:04d}.png", TRAIN_IDS[drives[0].classes[number]])
    for number, flow in enumerate(drives[0].flows):
        put(root / "flow" / f"{number:04d}.flo", flow)


def folders_by_drive(root: Path, drives: list[Sequence]) -> None:
    for name, drive in zip(("seqA", "old town"), drives, strict=True):
        for number, image in enumerate(drive.images):
            put(root / name / f"im_{number:03d}.png", image)
            put(root / name / f"im_{number:03d}_seg.png", LABEL_IDS[drive.classes[number]])
        for number, flow in enumerate(drive.flows):
            put(root / name / f"flow_{number:03d}.pfm", flow)


def two_cameras(root: Path, drives: list[Sequence]) -> None:
    for number, image in enumerate(drives[0].images):
        put(root / f"{number:06d}_left.png", image)
        put(root / f"{number:06d}_right.png", np.roll(image, 7, axis=1))
    for number, flow in enumerate(drives[0].flows):
        put(root / "truth" / f"{number:06d}.png", flow)


def two_folders(root: Path, drives: list[Sequence]) -> None:
    for number, flow in enumerate([*drives[0].flows[::2], *drives[1].flows[::2]]):
        drive, first = drives[number // 3], 2 * (number % 3)
        put(root / "img1" / f"{number}.png", drive.images[first])
        put(root / "img2" / f"{number}.png", drive.images[first + 1])
        put(root / "gt" / f"{number}.flo", flow)


def a_folder_a_pair(root: Path, drives: list[Sequence]) -> None:
    for number, flow in enumerate([*drives[0].flows[::2], *drives[1].flows[::2]]):
        drive, first = drives[number // 3], 2 * (number % 3)
        for frame in (1, 2):
            put(root / f"pair_{number:03d}" / f"frame{frame}.png", drive.images[first + frame - 1])
            classes = VIPER_IDS[drive.classes[first + frame - 1]]
            put(root / f"pair_{number:03d}" / f"seg{frame}.png", classes)
        put(root / f"pair_{number:03d}" / "flow.flo", flow)


def both_ways_and_pictures(root: Path, drives: list[Sequence]) -> None:
    for number, image in enumerate(drives[0].images):
        put(root / "cam0" / f"{number}.png", image)
        put(root / "cam1" / f"{number}.png", np.roll(image, 9, axis=1))
        put(root / "kinds" / f"{number}.png", OWN_IDS[drives[0].classes[number]])
        put(root / "flow_viz" / f"{number}.png", image[::-1])
    for number, flow in enumerate(drives[0].flows):
        put(root / "fwd" / f"{number}.npy", flow)
        put(root / "bwd" / f"{number + 1}.npy", drives[0].backward[number])


class Expected(NamedTuple):
    """Found in a layout: a row of the table, the number of rows and scenes, the label table."""

    row: Mapping[str, str]
    rows: int = 5
    scenes: int = 1
    table: str = ""


LAYOUTS: dict[Callable[[Path, list[Sequence]], None], Expected] = {
    folders_by_kind: Expected(
        {
            "image1": "frames/0002.png",
            "image2": "frames/0003.png",
            "flow": "flow/0002.flo",
            "labels1": "seg/0002.png",
            "labels2": "seg/0003.png",
        },
        table="train-ids",
    ),
    folders_by_drive: Expected(
        {"image1": "old town/im_000.png", "flow": "old town/flow_000.pfm", "split": "train"},
        rows=10,
        scenes=2,
        table="label-ids",
    ),
    two_cameras: Expected(
        {"image1": "000004_left.png", "image2": "000005_left.png", "encoding": "kitti", "split": "val"}
    ),
    two_folders: Expected(
        {"image1": "img1/3.png", "image2": "img2/3.png", "flow": "gt/3.flo"}, rows=6, scenes=6
    ),
    a_folder_a_pair: Expected(
        {"image1": "pair_004/frame1.png", "image2": "pair_004/frame2.png", "labels2": "pair_004/seg2.png"},
        rows=6,
        scenes=6,
        table="viper-ids",
    ),
    both_ways_and_pictures: Expected(
        {"image1": "cam0/2.png", "image2": "cam0/3.png", "flow": "fwd/2.npy", "labels1": "kinds/2.png"}
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_a_layout_is_found(
    layout: Callable[[Path, list[Sequence]], None], tmp_path: Path, drives: list[Sequence]
) -> None:
    """Red when: the cameras are taken for a pair, backward flow for forward, or labels of other frames."""
    layout(tmp_path, drives)
    expected = LAYOUTS[layout]
    found = describe(tmp_path)
    assert [row for row in found.rows if expected.row.items() <= row.items()]
    assert (len(found.rows), len({row["scene"] for row in found.rows})) == (expected.rows, expected.scenes)
    (pairs,) = [guess for guess in found.guesses if guess.about == "pairs"]
    assert pairs.sure == "sure"
    paths = write(found, tmp_path)
    if expected.table:
        assert read_classes(paths[1]) == expected.table
        assert main.run(["data", "check", str(tmp_path), "--dataset", "files"]) == 0


def test_what_is_not_known_is_said(tmp_path: Path, drives: list[Sequence]) -> None:
    """Red when: own ids get classes by chance, or files are passed over without a word."""
    both_ways_and_pictures(tmp_path, drives)
    found = describe(tmp_path)
    text = as_text(found, tmp_path)
    assert "5 ids of no public table" in text
    assert "not used: bwd/#.npy: flow" in text
    assert "not used: flow_viz/#.png: a picture of something measured" in text
    with pytest.raises(ValueError, match="'class 3' has no common class: write one of road"):
        read_classes(write(found, tmp_path)[1])


def pairs_of(found: Description) -> list[tuple[str, str]]:
    return [(row["image1"], row["image2"]) for row in found.rows]


def test_without_flow_eyes_are_no_pair(tmp_path: Path, drives: list[Sequence]) -> None:
    """Red when: left and right are paired as if time had passed."""
    for number, image in enumerate(drives[0].images[:3]):
        put(tmp_path / "left" / f"{number}.png", image)
        put(tmp_path / "right" / f"{number}.png", np.roll(image, 7, axis=1))
    found = describe(tmp_path)
    assert pairs_of(found) == [("left/0.png", "left/1.png"), ("left/1.png", "left/2.png")]
    assert [guess.sure for guess in found.guesses if guess.about == "pairs"] == ["guess"]


def test_nothing_is_overwritten(
    tmp_path: Path, drives: list[Sequence], capsys: pytest.CaptureFixture[str]
) -> None:
    """Red when: a table that a user has corrected is guessed anew."""
    folders_by_kind(tmp_path / "own", drives)
    assert main.run(["data", "describe", str(tmp_path / "own")]) == 0
    table = tmp_path / "own" / "pairs.csv"
    table.write_text("mine\n")
    assert main.run(["data", "describe", str(tmp_path / "own")]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    assert table.read_text() == "mine\n"
    assert main.run(["data", "describe", str(tmp_path / "own"), "--out", str(tmp_path / "tables")]) == 0
    with (tmp_path / "tables" / "pairs.csv").open() as file:
        row = next(csv.DictReader(file))
    assert row["labels1"] == "../own/seg/0000.png"
    assert main.run(["data", "check", str(tmp_path / "tables"), "--dataset", "files"]) == 0


def test_colours_and_predicted_labels(tmp_path: Path, drives: list[Sequence]) -> None:
    """Red when: colours of Cityscapes are no public table, or what semraft predicts has to be named."""
    colors = {entry.id: entry.color for entry in CITYSCAPES_CLASSES}
    palette = np.array([colors[number] for number in LABEL_IDS.tolist()], np.uint8)
    for name, folder in (("colours", tmp_path / "a"), ("predicted", tmp_path / "b")):
        for number, image in enumerate(drives[0].images[:3]):
            put(folder / f"{number}.png", image)
            classes = drives[0].classes[number]
            if name == "colours":
                put(folder / "labels" / f"{number}.png", palette[classes])
            else:
                write_palette(
                    folder / f"{number}_labels.png", np.array([7, 3, 6, 0, 10], np.uint8)[classes], PALETTE
                )
    coloured, predicted = describe(tmp_path / "a").classes, describe(tmp_path / "b").classes
    assert (coloured.by_color, coloured.unsure) == (True, ())
    assert (predicted.found, predicted.unsure) == ("common classes", ())
    assert [entry.name for entry in predicted.classes][:2] == ["road", "sidewalk"]


def test_folders_without_a_pair_are_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(ValueError, match=r"no two frames that could be a pair.*notes.txt \(other\)"):
        describe(tmp_path)


@pytest.mark.parametrize(
    ("path", "frames", "owners"),
    [
        ("flow/0001.flo", ["f/0001.png", "f/0002.png"], ["f/0001.png"]),
        ("flow/1.flo", ["f/0001.png", "f/0011.png"], ["f/0001.png"]),
        ("1_flow.flo", ["1_img1.ppm", "1_img2.ppm", "2_img1.ppm"], ["1_img1.ppm"]),
        (
            "gt/aachen/aachen_0_19_gt.png",
            ["im8bit/aachen/aachen_0_19_im8bit.png"],
            ["im8bit/aachen/aachen_0_19_im8bit.png"],
        ),
        ("flow/b/01.flo", ["x/a/01.png", "x/b/01.png"], ["x/b/01.png"]),
        ("flow/01.flo", ["left/01.png", "right/01.png"], ["left/01.png", "right/01.png"]),
        (
            "flow_occ/000003_10.png",
            ["image_2/000003_10.png", "image_2/000003_11.png"],
            ["image_2/000003_10.png"],
        ),
        ("flow/0002.flo", ["f/0002.png", "f/0002_1.png"], ["f/0002.png"]),
        ("flow/0007.flo", ["f/0001.png"], []),
        ("readme.npy", ["f/0001.png"], []),
    ],
)
def test_the_frames_of_a_file(path: str, frames: list[str], owners: list[str]) -> None:
    """Red when: a number of a folder is taken for that of a frame, or another drive's frame for one's own."""
    assert FrameNames([Path(frame) for frame in frames]).of(Path(path)) == [Path(owner) for owner in owners]
