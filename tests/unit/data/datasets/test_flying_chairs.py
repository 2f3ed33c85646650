"""FlyingChairs: pairs by number, split by the split file."""

from pathlib import Path

import numpy as np
import pytest

from semraft.data.datasets import flying_chairs
from semraft.data.datasets.pairs import WrongSize
from semraft.data.files.formats import write_flow
from semraft.sample import DamagedFile
from tests.helpers import REAL_DATA, needs_real_data
from tests.unit.data.fake_trees import color_image, cut_off, flow_field, write_flying_chairs


@pytest.mark.parametrize("depth", ["", "FlyingChairs_release"])
def test_pairs_by_split_file(tmp_path: Path, depth: str) -> None:
    """Red when: line n is taken for pair n - 1 (files are numbered from 00001)."""
    write_flying_chairs(tmp_path / depth, "12112")
    train, val = (flying_chairs.index(tmp_path, split) for split in ("train", "val"))
    assert [pair.id for pair in train.pairs] == ["00001", "00003", "00004"]
    assert [pair.id for pair in val.pairs] == ["00002", "00005"]
    assert train.problems == val.problems == ()
    assert train.provides == frozenset()
    assert train.pairs[1].scene == "flying-chairs/00003"


def test_values(tmp_path: Path) -> None:
    write_flying_chairs(tmp_path, "12")
    sample = flying_chairs.index(tmp_path, "val")[0]
    np.testing.assert_array_equal(sample.image1, color_image(2))
    np.testing.assert_array_equal(sample.image2, color_image(52))
    np.testing.assert_array_equal(sample.flow, flow_field())
    assert sample.valid.all()
    assert not sample.sparse


def test_missing_empty_damaged_and_wrong_size_files_are_named(tmp_path: Path) -> None:
    write_flying_chairs(tmp_path, "11111")
    (tmp_path / "data/00001_flow.flo").unlink()
    (tmp_path / "data/00002_img2.ppm").write_bytes(b"")
    for name in ("img1.ppm", "img2.ppm", "flow.flo"):  # Not downloaded at all: no pair and no problem.
        (tmp_path / f"data/00003_{name}").unlink()
    dataset = flying_chairs.index(tmp_path, "train")
    assert [pair.id for pair in dataset.pairs] == ["00004", "00005"]
    assert [(bad.pair_id, bad.kind, bad.path.name) for bad in dataset.problems] == [
        ("00001", "missing", "00001_flow.flo"),
        ("00002", "empty", "00002_img2.ppm"),
    ]
    cut_off(tmp_path / "data/00004_img1.ppm")
    with pytest.raises(DamagedFile, match=r"00004_img1\.ppm"):
        dataset[0]
    write_flow(tmp_path / "data/00005_flow.flo", flow_field()[:, :7])
    with pytest.raises(WrongSize, match=r"00005_flow\.flo: is 7x6"):
        dataset[1]


def test_split_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no folder .*FlyingChairs_release/data or "):
        flying_chairs.index(tmp_path, "train")
    write_flying_chairs(tmp_path, "112")
    path = tmp_path / "FlyingChairs_train_val.txt"
    path.write_text("1\n1\n")
    with pytest.raises(ValueError, match="has pair 00003, but the split file has 2 lines"):
        flying_chairs.index(tmp_path, "train")
    path.write_text("1\n1\n0\n")
    with pytest.raises(DamagedFile, match="'0'"):
        flying_chairs.index(tmp_path, "train")
    path.unlink()
    with pytest.raises(ValueError, match=r"no FlyingChairs_train_val\.txt .*put it there"):
        flying_chairs.index(tmp_path, "train")


@needs_real_data
def test_the_real_pair(tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(REAL_DATA / "flyingchairs" / "data")
    (tmp_path / "FlyingChairs_train_val.txt").write_text("1\n")
    sample = flying_chairs.index(tmp_path, "train")[0]
    assert sample.image1.shape == (384, 512, 3)
    np.testing.assert_allclose(sample.flow.mean((0, 1)), [-0.87433, 0.0579], atol=1e-5)
