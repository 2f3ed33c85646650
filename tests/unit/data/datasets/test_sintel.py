"""MPI-Sintel: scenes with one flow file fewer than images, masks for invalid and occluded."""

from pathlib import Path

import numpy as np
import pytest

from semraft.data.datasets import sintel
from semraft.data.datasets.pairs import WrongSize
from semraft.data.files.pictures import write_image
from semraft.sample import DamagedFile
from tests.unit.data.fake_trees import color_image, cut_off, flow_field, valid_mask, write_sintel


@pytest.fixture
def training(tmp_path: Path) -> Path:
    write_sintel(tmp_path / "training", "alley_1", frames=3)
    write_sintel(tmp_path / "training", "temple_3", frames=4)
    return tmp_path / "training"


def test_pairs(training: Path) -> None:
    """Red when: the last pair of a scene is dropped, or pairs reach over the end of a scene."""
    expected = [
        "alley_1/frame_0001",
        "alley_1/frame_0002",
        "temple_3/frame_0001",
        "temple_3/frame_0002",
        "temple_3/frame_0003",
    ]
    for root, split in ((training.parent, "train"), (training, "val")):
        dataset = sintel.index(root, split)
        assert [pair.id for pair in dataset.pairs] == expected
        assert dataset.problems == ()
    assert dataset.provides == {"occluded1"}
    assert {pair.scene for pair in dataset.pairs} == {"sintel/alley_1", "sintel/temple_3"}
    assert [pair.files["image2"].name for pair in dataset.pairs][-1] == "frame_0004.png"


def test_values(training: Path) -> None:
    """Red when: invalid pixels keep their flow, or what leaves the frame is not occluded."""
    sample = sintel.index(training, "val")[1]
    assert (sample.id, sample.dataset) == ("alley_1/frame_0002", "sintel")
    np.testing.assert_array_equal(sample.valid, valid_mask())
    np.testing.assert_array_equal(sample.flow, np.where(valid_mask()[..., None], flow_field(), 0))
    np.testing.assert_array_equal(sample.image1, color_image(2))
    # v is row / 2 - 3 / 4 and 5 the last row: rows 4 and 5 leave at the bottom, row 1 stays inside.
    assert sample.occluded1[3].tolist() == [False] * 5 + [True] + [False] * 3
    assert sample.occluded1[4].all()
    assert sample.occluded1[1, :4].tolist() == [False] * 4


def test_final_rendering(training: Path) -> None:
    dataset = sintel.index_final(training, "val")
    assert dataset.name == dataset[0].dataset == "sintel-final"
    np.testing.assert_array_equal(dataset[0].image2, color_image(52))


def test_without_masks(training: Path) -> None:
    for kind in ("occlusions", "invalid"):
        (training / kind).rename(training.parent / kind)
    dataset = sintel.index(training, "val")
    assert dataset.provides == frozenset()
    assert dataset[0].valid.all()
    assert dataset[0].occluded1 is None


def test_missing_empty_damaged_and_wrong_size_files_are_named(training: Path) -> None:
    (training / "flow/alley_1/frame_0001.flo").unlink()
    (training / "invalid/alley_1/frame_0002.png").write_bytes(b"")
    (training / "clean/temple_3/frame_0004.png").unlink()
    dataset = sintel.index(training, "val")
    assert [pair.id for pair in dataset.pairs] == ["temple_3/frame_0001", "temple_3/frame_0002"]
    assert [(bad.pair_id, bad.kind, bad.path.name) for bad in dataset.problems] == [
        ("alley_1/frame_0001", "missing", "frame_0001.flo"),
        ("alley_1/frame_0002", "empty", "frame_0002.png"),
        ("temple_3/frame_0003", "missing", "frame_0004.png"),
    ]
    cut_off(training / "occlusions/temple_3/frame_0001.png")
    with pytest.raises(DamagedFile, match=r"occlusions/temple_3/frame_0001\.png"):
        dataset[0]
    write_image(training / "invalid/temple_3/frame_0002.png", color_image(1, height=4))
    with pytest.raises(WrongSize, match=r"invalid/temple_3/frame_0002\.png: is 9x4"):
        dataset[1]


def test_wrong_root(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sintel-final: no folder .*training/final or "):
        sintel.index_final(tmp_path, "val")
