"""Opening a data set by name: what goes wrong is said in the data set's own terms."""

from pathlib import Path

import pytest

from semraft.config import WorldConfig
from semraft.data import DATASETS, open_dataset
from tests.unit.data.fake_trees import write_kitti, write_viper


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
        "world",
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
