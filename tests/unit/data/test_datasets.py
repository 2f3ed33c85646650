"""Opening a data set by name: what goes wrong is said in the data set's own terms."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from semraft.config import WorldConfig
from semraft.data import DATASETS, open_dataset
from semraft.data.files.pictures import write_image
from semraft.sample import FlowSample, Window, WrongSize
from tests.unit.data.fake_trees import (
    HEIGHT,
    WIDTH,
    color_image,
    write_flying_chairs,
    write_flying_things,
    write_kitti,
    write_sintel,
    write_viper,
    write_virtual_kitti,
)


def test_names() -> None:
    assert set(DATASETS) == {
        "viper",
        "virtual-kitti",
        "kitti",
        "kitti-2012",
        "flying-chairs",
        "flying-things",
        "sintel",
        "sintel-final",
        "files",
        "world",
        "shapes",
    }
    for index in DATASETS.values():
        assert len((index.__doc__ or "").splitlines()[0]) > 20


def test_open(tmp_path: Path) -> None:
    write_viper(tmp_path, "val", "001", [10])
    dataset = open_dataset("viper", tmp_path, "val", WorldConfig())
    assert (dataset.name, dataset.split, len(dataset)) == ("viper", "val", 1)


def test_the_world_needs_no_root() -> None:
    dataset = open_dataset("world", None, "train", WorldConfig(size=(64, 96), scenes=3))
    assert len(dataset) == 3
    assert dataset[0].flow.shape == (64, 96, 2)


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("vipers", "train", "no data set is called 'vipers'; there are viper, virtual-kitti, "),
        ("viper", "test", "expected 'train' or 'val', got 'test'"),
        ("viper", "val", r"viper: no folder .*/val/flow or .*/flow"),
        ("kitti", "val", r"kitti: no folder .*/training/flow_occ or "),
    ],
)
def test_wrong_calls_say_what_was_expected(tmp_path: Path, name: str, split: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_dataset(name, tmp_path, split, WorldConfig())


def test_root_that_is_not_given_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="viper: no root given"):
        open_dataset("viper", None, "val", WorldConfig())
    with pytest.raises(ValueError, match="nowhere is no folder"):
        open_dataset("viper", tmp_path / "nowhere", "val", WorldConfig())


def test_nothing_usable_names_the_files(tmp_path: Path) -> None:
    write_kitti(tmp_path / "training", [3])
    (tmp_path / "training/image_2/000003_11.png").unlink()
    with pytest.raises(ValueError, match=r"no usable val pair; 1 files .*000003_11\.png \(missing\)"):
        open_dataset("kitti", tmp_path, "val", WorldConfig())
    for kind in ("image_2", "flow_occ"):
        (tmp_path / "training" / kind / "000003_10.png").unlink()
    with pytest.raises(ValueError, match="hold no file with the name"):
        open_dataset("kitti", tmp_path, "val", WorldConfig())


def write_tree(name: str, root: Path) -> None:
    match name:
        case "viper":
            write_viper(root, "train", "001", [10])
        case "virtual-kitti":
            archives = ("rgb", "forwardFlow", "backwardFlow", "classSegmentation", "instanceSegmentation")
            write_virtual_kitti(dict.fromkeys((*archives, "textgt"), root), "Scene01", "clone", 0, 2)
        case "kitti":
            write_kitti(root / "training", [3])
        case "flying-chairs":
            write_flying_chairs(root, "1")
        case "flying-things":
            write_flying_things(root, "TRAIN", "A/0000", [6, 7])
        case "sintel":
            write_sintel(root / "training", "alley_1", frames=2)


FILES = ("viper", "virtual-kitti", "kitti", "flying-chairs", "flying-things", "sintel")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "window", [Window(0, 0, HEIGHT, WIDTH), Window(1, 2, 3, 5), Window(HEIGHT - 2, 0, 2, 3)]
)
def test_a_part_is_the_same_part_of_the_whole(name: str, window: Window, tmp_path: Path) -> None:
    """Red when: one field of a window is a row off, or is judged by the window and not by the frame (the
    extent of Virtual KITTI's encoding, what leaves Sintel's frame)."""
    write_tree(name, tmp_path)
    dataset = open_dataset(name, tmp_path, "train", WorldConfig())
    asked: list[tuple[int, int]] = []

    def choose(frame: tuple[int, int]) -> Window:
        asked.append(frame)
        return window

    part, frame = dataset.read_part(dataset.pairs[0], choose)
    assert frame == (HEIGHT, WIDTH)
    assert asked == [frame]
    whole = dataset[0].part(window)
    for field in dataclasses.fields(FlowSample):
        ours, theirs = getattr(part, field.name), getattr(whole, field.name)
        if isinstance(theirs, np.ndarray):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs, field.name)
        else:
            assert ours == theirs


@pytest.mark.parametrize("name", FILES)
def test_a_part_of_files_of_two_sizes_is_refused(name: str, tmp_path: Path) -> None:
    """Red when: a window that fits both frames hides that they are not of one size."""
    write_tree(name, tmp_path)
    dataset = open_dataset(name, tmp_path, "train", WorldConfig())
    second = dataset.pairs[0].files["image2"]
    write_image(second, color_image(1, HEIGHT + 1))
    with pytest.raises(WrongSize, match=rf"{second.name}: is {WIDTH}x{HEIGHT + 1} .* is {WIDTH}x{HEIGHT}"):
        dataset.read_part(dataset.pairs[0], lambda frame: Window(0, 0, 3, 4))
