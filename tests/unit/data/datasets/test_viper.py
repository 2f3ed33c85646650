"""VIPER: pairs by flow file and frame + 1, whatever else is on the disk."""

import itertools
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from semraft.data.datasets import viper
from semraft.data.datasets.pairs import WrongSize
from semraft.data.files.pictures import write_image
from semraft.sample import DamagedFile, Pair
from tests.helpers import REAL_DATA, needs_real_data
from tests.unit.data.fake_trees import color_image, cut_off, flow_field, valid_mask, write_viper


def ids(pairs: tuple[Pair, ...]) -> list[str]:
    return [pair.id for pair in pairs]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_viper(tmp_path, "train", "001", [10, 20])
    write_viper(tmp_path, "train", "012", [10])
    write_viper(tmp_path, "val", "001", [10])
    return tmp_path


def test_every_tenth_frame(root: Path) -> None:
    """Red when: the last pair of a sequence is dropped as if it had no partner."""
    dataset = viper.index(root, "train")
    assert ids(dataset.pairs) == ["train/001_00010", "train/001_00020", "train/012_00010"]
    assert [pair.scene for pair in dataset.pairs] == ["viper/train/001"] * 2 + ["viper/train/012"]
    assert [pair.files["image2"].name for pair in dataset.pairs] == [
        "001_00011.jpg",
        "001_00021.jpg",
        "012_00011.jpg",
    ]
    assert dataset.problems == ()
    assert dataset.provides == {"labels1", "labels2", "instances1", "instances2"}
    assert not dataset.sparse


def test_sequence_numbers_repeat_between_splits(root: Path) -> None:
    """Red when: ids or scenes leave the split out."""
    train, val = viper.index(root, "train"), viper.index(root, "val")
    assert ids(val.pairs) == ["val/001_00010"]
    assert not {pair.scene for pair in val.pairs} & {pair.scene for pair in train.pairs}


def test_full_download(tmp_path: Path) -> None:
    """Red when: the partner is the name with its last digit replaced by 1 (00015 -> 00011)."""
    write_viper(tmp_path, "train", "003", [9, 10, 15])
    partners = {pair.id: pair.files["labels2"].name for pair in viper.index(tmp_path, "train").pairs}
    assert partners == {
        "train/003_00009": "003_00010.png",
        "train/003_00010": "003_00011.png",
        "train/003_00015": "003_00016.png",
    }


def test_values(root: Path) -> None:
    """Red when: u, v, R or B change places, or one frame's labels are taken for both."""
    sample = viper.index(root, "train")[1]
    assert (sample.id, sample.scene, sample.dataset) == ("train/001_00020", "viper/train/001", "viper")
    np.testing.assert_array_equal(sample.flow, flow_field())
    np.testing.assert_array_equal(sample.valid, valid_mask())
    for image, number in ((sample.image1, 20), (sample.image2, 21)):
        np.testing.assert_allclose(image.astype(int), color_image(number).astype(int), atol=4)
    assert sample.labels1 is not None
    assert sample.labels2 is not None
    assert sample.instances1 is not None
    assert sample.instances2 is not None
    assert sample.labels1[3, [0, 8]].tolist() == [0, 10]
    assert sample.labels2[3, [0, 8]].tolist() == [0, 8]
    assert sample.labels1[0, 0] == sample.labels2[0, 8] == 7
    assert sample.instances1[3, [0, 8]].tolist() == [0, 256 * 3 + 20]
    assert sample.instances2[3, [0, 8]].tolist() == [0, 256 * 3 + 21]
    assert sample.moving1 is None
    assert sample.backward_flow is None


def test_validity_needs_both_components(root: Path) -> None:
    """Red when: only u is tested, or Inf becomes a number."""
    path = root / "train/flow/001/001_00010.npz"
    u, v = (flow_field()[..., axis].astype(np.float16) for axis in (0, 1))
    v[2, 3], v[4, 5], u[5, 1] = np.nan, np.inf, -np.inf
    np.savez_compressed(path, u=u, v=v)
    sample = viper.index(root, "train")[0]
    assert np.argwhere(~sample.valid).tolist() == [[2, 3], [4, 5], [5, 1]]
    assert not sample.flow[~sample.valid].any()


def test_missing_and_empty_files_are_named(root: Path) -> None:
    """Red when: partners are taken by place in the folder, so that a gap shifts every pair after it."""
    (root / "train/img/001/001_00011.jpg").unlink()
    (root / "train/cls/001/001_00021.png").unlink()
    (root / "train/flow/012/012_00010.npz").write_bytes(b"")
    write_viper(root, "train", "013", [10])
    dataset = viper.index(root, "train")
    assert ids(dataset.pairs) == ["train/013_00010"]
    assert [(bad.pair_id, bad.kind, bad.path.name) for bad in dataset.problems] == [
        ("train/001_00010", "missing", "001_00011.jpg"),
        ("train/001_00020", "missing", "001_00021.png"),
        ("train/012_00010", "empty", "012_00010.npz"),
    ]


def test_damaged_and_wrong_size_files_are_named(root: Path) -> None:
    dataset = viper.index(root, "train")
    cut_off(root / "train/flow/001/001_00010.npz")
    with pytest.raises(DamagedFile, match=r"001_00010\.npz"):
        dataset[0]
    write_image(root / "train/img/001/001_00021.jpg", color_image(21, height=5))
    with pytest.raises(WrongSize, match=r"001_00021\.jpg.* 9x5 .*001_00020\.jpg is 9x6") as caught:
        dataset[1]
    assert type(pickle.loads(pickle.dumps(caught.value))) is WrongSize


def test_jpg_or_png_file_by_file(root: Path) -> None:
    """Red when: the first image's type is taken for all."""
    (root / "train/img/001/001_00021.jpg").unlink()
    write_image(root / "train/img/001/001_00021.png", color_image(21))
    pair = viper.index(root, "train").pairs[1]
    assert (pair.files["image1"].suffix, pair.files["image2"].suffix) == (".jpg", ".png")


def test_without_labels(tmp_path: Path) -> None:
    """Red when: labels that nobody downloaded are reported missing, or promised."""
    write_viper(tmp_path, "train", "001", [10])
    for kind in ("cls", "inst"):
        (tmp_path / "train" / kind).rename(tmp_path / kind)
    dataset = viper.index(tmp_path, "train")
    assert dataset.provides == frozenset()
    assert dataset.problems == ()
    assert dataset[0].labels1 is None
    assert dataset[0].instances2 is None


def test_a_missing_instance_file_costs_its_pair_and_not_the_field(root: Path) -> None:
    """Red when: it costs every pair of the set its instances, and nobody says so."""
    (root / "train/inst/001/001_00021.png").unlink()
    dataset = viper.index(root, "train")
    assert ids(dataset.pairs) == ["train/001_00010", "train/012_00010"]
    assert dataset.provides == {"labels1", "labels2", "instances1", "instances2"}
    assert [bad.path.name for bad in dataset.problems] == ["001_00021.png"]


def test_instances_of_first_frames_alone_are_left_out(root: Path) -> None:
    """Red when: a download of every tenth instance map costs all pairs."""
    for path in (root / "train/inst").rglob("*1.png"):
        path.unlink()
    dataset = viper.index(root, "train")
    assert len(dataset) == 3
    assert dataset.provides == {"labels1", "labels2"}


def test_files_that_are_not_frames_are_ignored(root: Path) -> None:
    """Red when: an id is searched for anywhere in a path instead of read from the whole name."""
    flow = root / "train/flow/001"
    for name in ("._001_00040.npz", "001_00050.npz.part", "002_00010.npz", "001_0030.npz", "Thumbs.db"):
        (flow / name).write_bytes(b"x")
    (root / "train/flow/old_001").mkdir()
    assert ids(viper.index(root, "train").pairs)[:2] == ["train/001_00010", "train/001_00020"]
    assert viper.index(root, "train").problems == ()


def test_root_may_be_the_folder_of_the_split(root: Path) -> None:
    assert viper.index(root / "val", "val").pairs == viper.index(root, "val").pairs
    with pytest.raises(ValueError, match=r"asked for val, but .*train holds train"):
        viper.index(root / "train", "val")
    with pytest.raises(ValueError, match="nowhere/train/flow"):
        viper.index(root / "nowhere", "train")


@needs_real_data
def test_the_real_ids(tmp_path: Path) -> None:
    """One real disk: flow of 13 367 frames, 13 282 of them with a partner. Stub files, real names."""
    lists = REAL_DATA / "viper" / "lists"
    with_flow = [line.split("/")[1] for line in (lists / "train_every10.txt").read_text().split()]
    usable = (lists / "train_pairs_seen.txt").read_text().split()
    partners = {f"{name[:4]}{int(name[4:]) + 1:05d}" for name in usable}
    for kind, suffix, names in (("flow", "npz", with_flow), ("img", "jpg", [*with_flow, *partners])):
        for sequence, group in itertools.groupby(sorted(names), lambda name: name[:3]):
            folder = tmp_path / "train" / kind / sequence
            folder.mkdir(parents=True)
            first, *others = (f"{folder}/{name}.{suffix}" for name in group)
            Path(first).write_bytes(b"x")
            for other in others:
                os.link(first, other)  # Much quicker than to write 40 000 files.
    dataset = viper.index(tmp_path, "train")
    assert ids(dataset.pairs) == [f"train/{name}" for name in sorted(usable)]
    assert len({pair.scene for pair in dataset.pairs}) == 77
    assert {bad.kind for bad in dataset.problems} == {"missing"}
    assert {bad.pair_id[6:] for bad in dataset.problems} == {*with_flow} - {*usable}
    without_partner = {"006_00950", "008_01320", "014_02520", "026_00850", "029_01620", "043_00370"}
    assert without_partner <= {bad.pair_id[6:] for bad in dataset.problems}
