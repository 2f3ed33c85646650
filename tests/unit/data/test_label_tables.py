"""Label tables told apart by what label files hold."""

from pathlib import Path

import numpy as np
import pytest

from semraft.config import WorldConfig
from semraft.data import index_dataset
from semraft.data.check import as_text, check_dataset
from semraft.data.files.pictures import write_ids
from semraft.data.label_tables import IdCounts, contradiction, count_ids, recognised
from semraft.data.requirements import doubtful_table, refuse_doubtful_table
from tests.unit.data.fake_trees import write_kitti, write_viper

STREETS = {
    "label-ids": {"sky": 23, "building": 11, "tree": 21, "road": 7, "car": 26, "void": 0},
    "train-ids": {"sky": 10, "building": 2, "tree": 8, "road": 0, "car": 13, "void": 255},
    "viper-ids": {"sky": 2, "building": 9, "tree": 7, "road": 3, "car": 24, "void": 0},
}
"""Table -> its ids of what a street shows, from the public tables."""


def street(table: str, *, sky: bool = True, void_rows: int = 0) -> np.ndarray:
    """Ids of a street of 60 x 90: sky and houses above trees, a road with a car; void at the lower border."""
    ids = STREETS[table]
    labels = np.full((60, 90), ids["tree"], np.uint8)
    labels[:20] = ids["building"]
    labels[:12, 30:] = ids["sky"] if sky else ids["building"]
    labels[36:, 10:] = ids["road"]
    labels[40:52, 50:70] = ids["car"]
    labels[len(labels) - void_rows :] = ids["void"]
    return labels


def counts_of(*frames: np.ndarray) -> IdCounts:
    counts = IdCounts()
    for frame in frames:
        counts.add(frame)
    return counts


@pytest.mark.parametrize("table", STREETS)
@pytest.mark.parametrize("sky", [True, False])
@pytest.mark.parametrize("void_rows", [0, 6])
def test_each_table_is_recognised(table: str, sky: bool, void_rows: int) -> None:
    """Red when: a table is judged by its road alone, or needs sky: houses hide it in many frames."""
    counts = counts_of(street(table, sky=sky, void_rows=void_rows))
    assert recognised(counts) == table
    for other in STREETS:
        assert (contradiction(counts, other) == "") == (other == table)


def test_without_evidence_nobody_is_accused() -> None:
    """Red when: the best of three bad fits is called the table of the files."""
    indoors = np.full((60, 90), 11, np.uint8)
    assert recognised(counts_of(indoors)) is None
    assert recognised(IdCounts()) is None
    assert contradiction(counts_of(indoors), "train-ids") == ""
    assert contradiction(counts_of(street("train-ids")), "virtual-kitti-colours") == ""


def test_a_mixture_of_tables_is_none() -> None:
    """Red when: files that fit no table as a whole are called one."""
    assert recognised(counts_of(street("train-ids", void_rows=6), street("viper-ids"))) is None


def write_streets(root: Path, table: str) -> None:
    write_kitti(root / "training", [1, 2])
    for path in (root / "training/semantic").iterdir():
        write_ids(path, street(table)[::10, ::10])


def test_a_run_refuses_files_of_another_table_until_one_is_chosen(tmp_path: Path) -> None:
    """Red when: labelTrainIds are read as labelIds without a word (sky becomes rail track)."""
    write_streets(tmp_path, "train-ids")
    dataset = index_dataset("kitti", tmp_path, "val", WorldConfig())
    with pytest.raises(
        ValueError, match=r"kitti val: .* labelTrainIds, but are read as .*--label-table train"
    ):
        refuse_doubtful_table(dataset)
    chosen = index_dataset("kitti", tmp_path, "val", WorldConfig(), label_table="train-ids")
    refuse_doubtful_table(chosen)
    assert set(np.unique(chosen[0].labels1)) <= {0, 3, 6, 7, 10}


def test_the_check_says_it_and_prints_the_names_of_the_table(tmp_path: Path) -> None:
    """Red when: shares are printed by common names alone, which hide the misreading."""
    write_streets(tmp_path, "train-ids")
    wrong = check_dataset(index_dataset("kitti", tmp_path, "val", WorldConfig()))
    assert not wrong.sound
    assert "NOT SOUND: label files hold Cityscapes labelTrainIds" in as_text(wrong)
    assert wrong.source_class_frac["rail track"] == pytest.approx(12 / 54)
    right = check_dataset(index_dataset("kitti", tmp_path, "val", WorldConfig(), label_table="train-ids"))
    assert right.doubtful_table == ""
    assert right.source_class_frac["sky"] == pytest.approx(12 / 54)
    assert any(line.split() == ["sky", "22.22%", "sky"] for line in as_text(right).splitlines())


def test_sound_trees_are_not_doubted(tmp_path: Path) -> None:
    write_kitti(tmp_path / "kitti/training", [1])
    write_viper(tmp_path / "viper", "val", "001", [10])
    for name in ("kitti", "viper"):
        dataset = index_dataset(name, tmp_path / name, "val", WorldConfig())
        assert doubtful_table(dataset) == ""
        assert recognised(count_ids(dataset.pairs[0].files["labels1"] for _ in range(1))) is not None


def test_files_that_no_table_fits_are_passed_over(tmp_path: Path) -> None:
    """Red when: one unreadable label file ends the recognition of all others."""
    write_ids(tmp_path / "a.png", street("label-ids"))
    (tmp_path / "b.png").write_bytes(b"no png")
    paths = [tmp_path / "b.png", tmp_path / "gone.png", tmp_path / "a.png"]
    assert recognised(count_ids(paths)) == "label-ids"
