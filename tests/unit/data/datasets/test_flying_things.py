"""FlyingThings3D: two renderings, two directions of time, outermost frames without a partner."""

from pathlib import Path

import numpy as np
import pytest

from semraft.data.datasets import flying_things
from semraft.data.datasets.pairs import WrongSize
from semraft.data.files.formats import write_pfm
from semraft.sample import DamagedFile
from tests.unit.data.fake_trees import color_image, cut_off, flow_field, valid_mask, write_flying_things


def test_pairs(tmp_path: Path) -> None:
    """Red when: past flow is paired with the frame after, or the last frame's flow counts as a problem."""
    write_flying_things(tmp_path, "TRAIN", "A/0000", [6, 7, 8])
    write_flying_things(tmp_path, "TRAIN", "C/0042", [6, 7])
    write_flying_things(tmp_path, "TEST", "A/0000", [6, 7])
    dataset = flying_things.index(tmp_path, "train", renderings=("clean",))
    assert {pair.id: pair.files["image2"].name for pair in dataset.pairs} == {
        "clean/A/0000/left/future/0006": "0007.png",
        "clean/A/0000/left/future/0007": "0008.png",
        "clean/A/0000/left/past/0007": "0006.png",
        "clean/A/0000/left/past/0008": "0007.png",
        "clean/C/0042/left/future/0006": "0007.png",
        "clean/C/0042/left/past/0007": "0006.png",
    }
    assert dataset.problems == ()
    assert dataset.pairs[0].files["flow"].name == "OpticalFlowIntoFuture_0006_L.pfm"
    assert dataset.pairs[3].files["flow"].name == "OpticalFlowIntoPast_0008_L.pfm"
    assert len(flying_things.index(tmp_path, "train")) == 12
    test = flying_things.index(tmp_path, "val")
    assert {pair.scene for pair in test.pairs} == {"flying-things/TEST/A/0000"}


def test_right_camera(tmp_path: Path) -> None:
    write_flying_things(tmp_path, "TRAIN", "B/0001", [6, 7])
    write_flying_things(tmp_path, "TRAIN", "B/0001", [6, 7], camera="right")
    dataset = flying_things.index(
        tmp_path, "train", renderings=("final",), cameras=("left", "right"), directions=("future",)
    )
    assert [pair.files["flow"].name for pair in dataset.pairs] == [
        "OpticalFlowIntoFuture_0006_L.pfm",
        "OpticalFlowIntoFuture_0006_R.pfm",
    ]


def test_values(tmp_path: Path) -> None:
    """Red when: pfm rows are not turned over, or NaN is valid."""
    write_flying_things(tmp_path, "TRAIN", "A/0000", [6, 7])
    dataset = flying_things.index(tmp_path, "train", renderings=("clean",))
    future, past = dataset[0], dataset[1]
    for sample, shift_px, numbers in ((future, 0.0, (6, 7)), (past, 0.5, (7, 6))):
        truth = np.where(valid_mask()[..., None], flow_field(shift_px), 0)
        np.testing.assert_array_equal(sample.flow, truth)
        np.testing.assert_array_equal(sample.valid, valid_mask())
        np.testing.assert_array_equal(sample.image1, color_image(numbers[0]))
        np.testing.assert_array_equal(sample.image2, color_image(numbers[1]))


def test_missing_empty_damaged_and_wrong_size_files_are_named(tmp_path: Path) -> None:
    """Red when: a missing last image makes the frame before it the last, and its pair is forgotten."""
    write_flying_things(tmp_path, "TRAIN", "A/0000", [6, 7, 8, 9, 10])
    images, flows = tmp_path / "frames_cleanpass/TRAIN/A/0000/left", tmp_path / "optical_flow/TRAIN/A/0000"
    (images / "0010.png").unlink()
    (flows / "into_future/left/OpticalFlowIntoFuture_0008_L.pfm").write_bytes(b"")
    dataset = flying_things.index(tmp_path, "train", renderings=("clean",), directions=("future",))
    assert [pair.id[-4:] for pair in dataset.pairs] == ["0006", "0007"]
    assert [(bad.pair_id[-4:], bad.kind, bad.path.name) for bad in dataset.problems] == [
        ("0008", "empty", "OpticalFlowIntoFuture_0008_L.pfm"),
        ("0009", "missing", "0010.png"),
    ]
    cut_off(flows / "into_future/left/OpticalFlowIntoFuture_0006_L.pfm")
    with pytest.raises(DamagedFile, match=r"OpticalFlowIntoFuture_0006_L\.pfm"):
        dataset[0]
    write_pfm(flows / "into_future/left/OpticalFlowIntoFuture_0007_L.pfm", np.zeros((6, 8, 3), np.float32))
    with pytest.raises(WrongSize, match=r"OpticalFlowIntoFuture_0007_L\.pfm: is 8x6"):
        dataset[1]


def test_wrong_root(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no folder .*optical_flow/TEST"):
        flying_things.index(tmp_path, "val")
    (tmp_path / "optical_flow/TEST").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no folder .*frames_cleanpass/TEST or .*frames_finalpass/TEST"):
        flying_things.index(tmp_path, "val")
