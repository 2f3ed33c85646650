"""Virtual KITTI 2: five folders a frame, two ways to unpack them, a split by scene."""

from pathlib import Path

import numpy as np
import pytest

from semraft.data.datasets import virtual_kitti
from semraft.data.datasets.pairs import WrongSize
from semraft.data.files.formats import read_flow, write_flow
from semraft.data.files.pictures import write_ids
from semraft.sample import DamagedFile, FlowDataset
from tests.unit.data.fake_trees import (
    VIRTUAL_KITTI_MODALITIES,
    color_image,
    cut_off,
    flow_field,
    valid_mask,
    write_virtual_kitti,
)

HALF_STEP_U_PX, HALF_STEP_V_PX = 8 / 65535, 5 / 65535
ALL = {"backward_flow", "backward_valid", "labels1", "labels2", "instances1", "instances2", "moving1"}


def one_root(root: Path) -> dict[str, Path]:
    return dict.fromkeys([*VIRTUAL_KITTI_MODALITIES, "textgt"], root)


def root_for_each(root: Path) -> dict[str, Path]:
    return {modality: root / f"vkitti_2.0.3_{modality}" for modality in one_root(root)}


def write_tree(homes: dict[str, Path]) -> None:
    write_virtual_kitti(homes, "Scene01", "clone", 0, frames=3)
    write_virtual_kitti(homes, "Scene01", "clone", 1, frames=2)
    write_virtual_kitti(homes, "Scene01", "15-deg-left", 0, frames=2)
    write_virtual_kitti(homes, "Scene02", "clone", 0, frames=2)


def ids(dataset: FlowDataset) -> list[str]:
    return [pair.id for pair in dataset.pairs]


@pytest.mark.parametrize("unpack", [one_root, root_for_each])
def test_pairs(tmp_path: Path, unpack: object) -> None:
    """Red when: the last flow of a drive is dropped, as if there were one a frame."""
    write_tree(unpack(tmp_path))
    dataset = virtual_kitti.index(tmp_path, "train")
    assert ids(dataset) == [
        "Scene01/15-deg-left/Camera_0/00000",
        "Scene01/clone/Camera_0/00000",
        "Scene01/clone/Camera_0/00001",
    ]
    assert dataset.problems == ()
    assert dataset.provides == ALL
    assert ids(virtual_kitti.index(tmp_path, "train", cameras=(1,))) == ["Scene01/clone/Camera_1/00000"]


def test_split_is_by_scene(tmp_path: Path) -> None:
    """Red when: a scene is in both splits, or its variants count as independent."""
    write_tree(one_root(tmp_path))
    train, val = (virtual_kitti.index(tmp_path, split) for split in ("train", "val"))
    assert {pair.scene for pair in train.pairs} == {"virtual-kitti/Scene01"}
    assert {pair.scene for pair in val.pairs} == {"virtual-kitti/Scene02"}


def test_values(tmp_path: Path) -> None:
    """Red when: the backward flow is that of frame i (absent for the first), or u and v change places."""
    write_tree(one_root(tmp_path))
    sample = virtual_kitti.index(tmp_path, "train")[2]
    assert (sample.id, sample.dataset) == ("Scene01/clone/Camera_0/00001", "virtual-kitti")
    for flow, valid, truth in (
        (sample.flow, sample.valid, flow_field()),
        (sample.backward_flow, sample.backward_valid, -flow_field(shift_px=2 / 4)),
    ):
        np.testing.assert_array_equal(valid, valid_mask())
        assert not flow[0].any()
        error = np.abs(flow - truth)[1:]
        assert error[..., 0].max() <= HALF_STEP_U_PX * 1.01
        assert error[..., 1].max() <= HALF_STEP_V_PX * 1.01
    for image, number in ((sample.image1, 1), (sample.image2, 2)):
        np.testing.assert_allclose(image.astype(int), color_image(number).astype(int), atol=4)
    assert sample.labels1[[0, 3, 3], [0, 0, 8]].tolist() == [7, 0, 10]
    assert sample.instances1[[0, 3, 3], [0, 0, 8]].tolist() == [0, 3, 9]
    assert sample.instances2[[0, 3, 3], [0, 0, 8]].tolist() == [0, 3, 10]


def test_flow_is_not_read_as_kitti(tmp_path: Path) -> None:
    """Red when: the KITTI encoding, u = (R - 32768) / 64, is used: same container, other numbers."""
    write_tree(one_root(tmp_path))
    dataset = virtual_kitti.index(tmp_path, "train")
    with pytest.raises(DamagedFile, match="KITTI's is 0"):
        read_flow(dataset.pairs[0].files["flow"], encoding="kitti")
    np.testing.assert_allclose(dataset[0].flow, flow_field(), atol=2e-4)


def test_moving_is_by_frame_camera_and_track(tmp_path: Path) -> None:
    """Red when: instance values are compared with trackID, not trackID + 1; or the camera is left out."""
    write_tree(one_root(tmp_path))
    clone = virtual_kitti.index(tmp_path, "train")
    moving = [clone[index].moving1 for index in (1, 2)]
    # Frame 0: track 7 (value 8, right half) moves and track 2 (value 3) does not; frame 1: track 2 moves.
    np.testing.assert_array_equal(moving[0], clone[1].instances1 == 8)
    np.testing.assert_array_equal(moving[1], clone[2].instances1 == 3)
    assert moving[0].any()
    assert moving[1].any()


def test_archives_that_were_not_unpacked_are_not_missed(tmp_path: Path) -> None:
    homes = root_for_each(tmp_path)
    write_tree(homes)
    for modality in ("classSegmentation", "backwardFlow", "textgt"):
        homes[modality].rename(tmp_path / modality)
    dataset = virtual_kitti.index(tmp_path, "train")
    assert len(dataset) == 3
    assert dataset.problems == ()
    assert dataset.provides == {"instances1", "instances2"}
    assert dataset[0].backward_flow is None
    assert dataset[0].labels1 is None
    assert dataset[0].moving1 is None


def test_missing_and_empty_files_are_named(tmp_path: Path) -> None:
    write_virtual_kitti(one_root(tmp_path), "Scene18", "fog", 0, frames=6)
    frames = tmp_path / "Scene18/fog/frames"
    (frames / "rgb/Camera_0/rgb_00001.jpg").unlink()
    (frames / "forwardFlow/Camera_0/flow_00003.png").unlink()
    (frames / "backwardFlow/Camera_0/backwardFlow_00003.png").write_bytes(b"")
    dataset = virtual_kitti.index(tmp_path, "train")
    assert ids(dataset) == ["Scene18/fog/Camera_0/00004"]
    assert [(bad.pair_id[-5:], bad.kind, bad.path.name) for bad in dataset.problems] == [
        ("00000", "missing", "rgb_00001.jpg"),
        ("00001", "missing", "rgb_00001.jpg"),
        ("00002", "empty", "backwardFlow_00003.png"),
        ("00003", "missing", "flow_00003.png"),
    ]


def test_last_frame_missing_is_a_missing_partner(tmp_path: Path) -> None:
    """Red when: the highest image left over is taken for the last of the drive, and its flow is forgotten."""
    write_virtual_kitti(one_root(tmp_path), "Scene18", "fog", 0, frames=3)
    (tmp_path / "Scene18/fog/frames/rgb/Camera_0/rgb_00002.jpg").unlink()
    assert [bad.path.name for bad in virtual_kitti.index(tmp_path, "train").problems] == ["rgb_00002.jpg"]


def test_damaged_and_wrong_size_files_are_named(tmp_path: Path) -> None:
    write_tree(one_root(tmp_path))
    dataset = virtual_kitti.index(tmp_path, "train")
    cut_off(dataset.pairs[0].files["labels2"])
    with pytest.raises(DamagedFile, match=r"classgt_00001\.png"):
        dataset[0]
    write_flow(dataset.pairs[1].files["flow"], flow_field()[:, 1:], encoding="virtual-kitti")
    with pytest.raises(WrongSize, match=r"flow_00000\.png: is 8x6 .* is 9x6"):
        dataset[1]
    write_ids(dataset.pairs[2].files["instances1"], np.zeros((5, 9), dtype=np.uint8))
    with pytest.raises(WrongSize, match=r"instancegt_00001\.png"):
        dataset[2]


@pytest.mark.parametrize(
    "text", ["", "frame cameraID trackID\n0 0 1\n", "frame cameraID trackID isMoving\n0 0 1 2\n"]
)
def test_damaged_box_tables_are_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bbox.txt"
    path.write_text(text)
    with pytest.raises(DamagedFile, match=r"bbox\.txt"):
        virtual_kitti.read_moving_tracks(path)


def test_wrong_root(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"vkitti_2\.0\.3_rgb/SceneXX"):
        virtual_kitti.index(tmp_path, "train")
