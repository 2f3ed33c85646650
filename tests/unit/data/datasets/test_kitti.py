"""KITTI 2015 and 2012: sparse flow, sizes that vary, labels of frame 1 only."""

from pathlib import Path

import numpy as np
import pytest

from semraft.data.datasets import kitti
from semraft.data.datasets.pairs import WrongSize
from semraft.data.files.formats import write_flow
from semraft.data.files.pictures import write_ids, write_image
from semraft.sample import DamagedFile
from tests.helpers import REAL_DATA, needs_real_data
from tests.unit.data.fake_trees import color_image, cut_off, flow_field, valid_mask, write_kitti


def test_pairs_2015(tmp_path: Path) -> None:
    """Red when: any image of the folder starts a pair (the multi-view extension has 21 a pair)."""
    write_kitti(tmp_path / "training", [3, 10, 199])
    for number in range(21):
        write_image(tmp_path / f"training/image_2/000003_{number:02d}.png", color_image(number))
    write_image(tmp_path / "training/image_2/000007_09.png", color_image(7))
    for root, split in ((tmp_path, "train"), (tmp_path, "val"), (tmp_path / "training", "val")):
        dataset = kitti.index(root, split)
        assert [pair.id for pair in dataset.pairs] == ["000003", "000010", "000199"]
        assert [pair.files["image2"].name for pair in dataset.pairs] == [
            "000003_11.png",
            "000010_11.png",
            "000199_11.png",
        ]
        assert dataset.problems == ()
    assert dataset.sparse
    assert dataset.provides == {"valid_noc", "moving1", "labels1", "instances1"}
    assert len({pair.scene for pair in dataset.pairs}) == 3


def test_values_2015(tmp_path: Path) -> None:
    """Red when: flow is read in Virtual KITTI's encoding, semantic as trainIds, obj_map as 0/1 only."""
    write_kitti(tmp_path / "training", [10])
    sample = kitti.index(tmp_path, "val")[0]
    assert sample.sparse
    np.testing.assert_array_equal(sample.flow, flow_field())
    np.testing.assert_array_equal(sample.valid, valid_mask())
    assert np.argwhere(sample.valid & ~sample.valid_noc).tolist() == [[row, 0] for row in range(1, 6)]
    np.testing.assert_array_equal(sample.image1, color_image(10))
    np.testing.assert_array_equal(sample.image2, color_image(60))
    assert sample.moving1[[0, 3, 3], [8, 3, 4]].tolist() == [False, False, True]
    assert sample.labels1[[0, 3, 3], [8, 3, 4]].tolist() == [7, 0, 10]
    assert sample.instances1[[0, 3, 3], [8, 3, 4]].tolist() == [0, 0, 26 * 256 + 5]
    assert sample.labels2 is None
    assert sample.instances2 is None


def test_2012_has_its_own_folders(tmp_path: Path) -> None:
    write_kitti(tmp_path / "training", [0, 193], image_folder="colored_0")
    dataset = kitti.index_2012(tmp_path, "val")
    assert [pair.scene for pair in dataset.pairs] == ["kitti-2012/000000", "kitti-2012/000193"]
    assert dataset.provides == {"valid_noc"}
    sample = dataset[1]
    assert (sample.dataset, sample.id, sample.moving1) == ("kitti-2012", "000193", None)
    np.testing.assert_array_equal(sample.flow, flow_field())


def test_sizes_vary_between_pairs(tmp_path: Path) -> None:
    write_kitti(tmp_path / "training", [1])
    write_kitti(tmp_path / "other", [2], image_folder="colored_0")
    for name in ("000002_10.png", "000002_11.png"):
        write_image(tmp_path / "training/image_2" / name, color_image(2, height=7, width=11))
    for kind in ("flow_occ", "flow_noc"):
        flow = np.full((7, 11, 2), (1.5, -2), dtype=np.float32)
        write_flow(tmp_path / "training" / kind / "000002_10.png", flow, encoding="kitti")
    for folder in ("obj_map", "semantic", "instance"):
        write_ids(tmp_path / f"training/{folder}/000002_10.png", np.zeros((7, 11), dtype=np.uint8))
    dataset = kitti.index(tmp_path, "val")
    assert [dataset[index].flow.shape for index in range(2)] == [(6, 9, 2), (7, 11, 2)]


def test_a_missing_label_file_is_named_and_costs_its_pair(tmp_path: Path) -> None:
    """Red when: it costs all other pairs their labels, and nobody says so."""
    write_kitti(tmp_path / "training", [1, 2])
    (tmp_path / "training/semantic/000001_10.png").unlink()
    dataset = kitti.index(tmp_path, "val")
    assert dataset.provides == {"valid_noc", "moving1", "labels1", "instances1"}
    assert [pair.id for pair in dataset.pairs] == ["000002"]
    assert [(bad.pair_id, bad.kind, bad.path.parent.name) for bad in dataset.problems] == [
        ("000001", "missing", "semantic")
    ]


def test_missing_empty_damaged_and_wrong_size_files_are_named(tmp_path: Path) -> None:
    """Red when: a pair whose flow is missing is not noticed, because only flow files are listed."""
    training = tmp_path / "training"
    write_kitti(training, [1, 2, 3, 4, 5, 6])
    (training / "flow_occ/000001_10.png").unlink()
    (training / "image_2/000002_11.png").unlink()
    (training / "flow_noc/000003_10.png").write_bytes(b"")
    (training / "obj_map/000004_10.png").unlink()
    dataset = kitti.index(tmp_path, "val")
    assert [pair.id for pair in dataset.pairs] == ["000005", "000006"]
    assert [(bad.pair_id, bad.kind, bad.path.parent.name) for bad in dataset.problems] == [
        ("000001", "missing", "flow_occ"),
        ("000002", "missing", "image_2"),
        ("000003", "empty", "flow_noc"),
        ("000004", "missing", "obj_map"),
    ]
    cut_off(training / "image_2/000005_11.png")
    with pytest.raises(DamagedFile, match=r"000005_11\.png"):
        dataset[0]
    write_flow(training / "flow_occ/000006_10.png", flow_field()[1:], encoding="kitti")
    with pytest.raises(WrongSize, match=r"flow_occ/000006_10\.png: is 9x5 .* is 9x6"):
        dataset[1]


def test_flow_noc_must_be_a_part_of_flow_occ(tmp_path: Path) -> None:
    """Red when: exchanged folders, or flow_noc of another pair, are read without a word."""
    training = tmp_path / "training"
    write_kitti(training, [1])
    occ, noc = training / "flow_occ/000001_10.png", training / "flow_noc/000001_10.png"
    write_flow(noc, flow_field(shift_px=3), valid_mask(), "kitti")
    with pytest.raises(DamagedFile, match=r"flow_noc/.*: differs from flow_occ by up to 3\.0 px"):
        kitti.index(tmp_path, "val")[0]
    fewer = valid_mask()
    fewer[2, 3:5] = False
    write_flow(noc, flow_field(), valid_mask(), "kitti")
    write_flow(occ, flow_field(), fewer, "kitti")
    with pytest.raises(DamagedFile, match=r"flow_noc/.*: 2 pixels are valid here and not in flow_occ"):
        kitti.index(tmp_path, "val")[0]


def test_wrong_root(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"kitti-2012: no folder .*training/flow_occ or "):
        kitti.index_2012(tmp_path, "val")


@needs_real_data
def test_the_real_pair() -> None:
    dataset = kitti.index(REAL_DATA / "kitti2015", "val")
    assert [pair.id for pair in dataset.pairs] == ["000010"]
    sample = dataset[0]
    assert sample.flow.shape == (375, 1242, 2)
    assert (int(sample.valid.sum()), int((sample.valid & sample.valid_noc).sum())) == (111664, 109063)
    assert not (sample.valid_noc & ~sample.valid).any()
    np.testing.assert_allclose(sample.flow[sample.valid].mean(0), [1.34118, 1.62289], atol=1e-5)
