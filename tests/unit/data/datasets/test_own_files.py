"""Own files: a table and a class table that a user writes, with everything that can be wrong in them."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from semraft.config import DataConfig, WorldConfig
from semraft.data import index_dataset, open_dataset
from semraft.data.check import as_text, check_dataset
from semraft.data.class_table import read_classes, write_classes
from semraft.data.files import packed
from semraft.data.files.formats import write_flow
from semraft.data.files.pictures import write_ids, write_image, write_mask
from semraft.data.requirements import refuse_doubtful_table
from semraft.data.taxonomy import CITYSCAPES_TRAIN_CLASSES, read_labels
from semraft.sample import DamagedFile, FlowDataset
from semraft.training.run_data import fingerprint, training_data, validation_data
from tests.unit.data.moving_trees import CAR, LABEL_IDS, TRAIN_IDS, Sequence, make_sequence


@pytest.fixture(scope="module")
def drive() -> Sequence:
    return make_sequence(3)


def write(root: Path, drive: Sequence) -> Path:
    """Four frames with labels and instances in one folder each, flow of the three pairs; and the table."""
    for kind in ("frames", "labels", "instances", "flow", "occ"):
        (root / kind).mkdir(parents=True)
    for number, (image, classes) in enumerate(zip(drive.images, drive.classes, strict=True)):
        write_image(root / "frames" / f"{number}.png", image)
        write_ids(root / "labels" / f"{number}.png", TRAIN_IDS[classes])
        write_ids(root / "instances" / f"{number}.png", np.where(classes == CAR, 300, 7).astype(np.int32))
    for number, flow in enumerate(drive.flows):
        write_flow(root / "flow" / f"{number}.flo", flow)
        write_mask(root / "occ" / f"{number}.png", drive.occluded[number])
    write_classes(root / "classes.csv", CITYSCAPES_TRAIN_CLASSES, by_color=False)
    rewrite(root)
    return root


def rows() -> list[dict[str, str]]:
    return [
        {
            "image1": f"frames/{number}.png",
            "image2": f"frames/{number + 1}.png",
            "flow": f"flow/{number}.flo",
            "labels1": f"labels/{number}.png",
            "labels2": f"labels/{number + 1}.png",
            "instances1": f"instances/{number}.png",
            "occlusion": f"occ/{number}.png",
            "scene": f"drive {number}",
            "split": "val" if number == 2 else "",
        }
        for number in range(3)
    ]


def rewrite(root: Path, number: int = 0, **changed: str) -> None:
    """Writes the table, with the cells of one row changed."""
    made = rows()
    made[number] |= changed
    with (root / "pairs.csv").open("w", newline="") as file:
        out = csv.DictWriter(file, list(made[number]))
        out.writeheader()
        out.writerows(made)


def opened(root: Path, split: str = "train") -> FlowDataset:
    return open_dataset("files", root, split, WorldConfig())


def test_the_table_is_read(tmp_path: Path, drive: Sequence) -> None:
    """Red when: a column goes into another field, or pixels of what is no thing keep an instance."""
    dataset = opened(write(tmp_path, drive))
    assert [pair.id for pair in dataset.pairs] == ["frames/0", "frames/1"]
    assert [pair.scene for pair in dataset.pairs] == ["files/drive 0", "files/drive 1"]
    assert dataset.provides == {"labels1", "labels2", "instances1", "occluded1"}
    assert dataset.label_table == "train-ids"
    sample = dataset[1]
    np.testing.assert_array_equal(sample.image2, drive.images[2])
    np.testing.assert_array_equal(sample.flow, drive.flows[1])
    np.testing.assert_array_equal(sample.labels2, np.array([7, 3, 6, 0, 10])[drive.classes[2]])
    np.testing.assert_array_equal(sample.instances1, np.where(drive.classes[1] == CAR, 300, 0))
    np.testing.assert_array_equal(sample.occluded1, drive.occluded[1])
    assert [pair.id for pair in opened(tmp_path, "val").pairs] == ["frames/2"]
    report = check_dataset(dataset)
    assert report.sound, as_text(report)


def test_semicolons_a_spreadsheets_mark_and_json_lines_are_read(tmp_path: Path, drive: Sequence) -> None:
    """Red when: a table that a spreadsheet has saved is none."""
    whole = write(tmp_path, drive) / "pairs.csv"
    first = opened(tmp_path).pairs
    whole.write_text("\ufeff" + whole.read_text().replace(",", ";"), encoding="utf-8")
    assert opened(tmp_path).pairs == first
    whole.unlink()
    lines = [json.dumps({name: text or None for name, text in row.items()}) for row in rows()]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    assert opened(tmp_path).pairs == first


def test_a_pair_without_a_file_that_others_have_is_unknown_there(tmp_path: Path, drive: Sequence) -> None:
    """Red when: one frame without labels takes the labels of all away, or a pair without flow is an error."""
    rewrite(write(tmp_path, drive), 1, flow="", labels2="", instances1="", occlusion="")
    dataset = opened(tmp_path)
    assert dataset.provides == {"labels1", "labels2", "instances1"}
    known, unknown = dataset[0], dataset[1]
    assert set(np.unique(known.labels2)) == {0, 3, 6, 7, 10}
    assert (unknown.labels2 == 255).all()
    assert not unknown.instances1.any()
    assert not unknown.valid.any()


def test_masks_and_sparse_truth(tmp_path: Path, drive: Sequence) -> None:
    write_mask(write(tmp_path, drive) / "known.png", drive.classes[0] == CAR)
    rewrite(tmp_path, valid="known.png", sparse="yes")
    sample = opened(tmp_path)[0]
    assert sample.sparse
    np.testing.assert_array_equal(sample.valid, drive.classes[0] == CAR)
    assert not sample.flow[~sample.valid].any()


FAULTS = {
    "unknown column": (
        {"lables1": "x"},
        r"pairs.csv line 2: no column is called 'lables1': there are image1",
    ),
    "no second frame": ({"image2": ""}, r"line 2: has no image2, which every row needs"),
    "a pair twice": (
        {"image1": "frames/1.png", "image2": "frames/2.png"},
        r"line 3: the pair frames/1.png frames/2.png is there before, in .*line 2",
    ),
    "one frame": ({"image2": "frames/0.png"}, "image1 and image2 are the same file"),
    "a strange split": (
        {"split": "validation"},
        "split is 'validation': expected train, val, test or nothing",
    ),
    "a strange encoding": ({"encoding": "sintel"}, "encoding is 'sintel': expected kitti, virtual-kitti"),
    "png without one": ({"flow": "flow/0.png"}, "flow/0.png is a png: its encoding must be kitti or virtual"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_line_is_named(fault: str, tmp_path: Path, drive: Sequence) -> None:
    """Red when: a mistake in the table is passed over, or ends in a traceback."""
    changed, message = FAULTS[fault]
    rewrite(write(tmp_path, drive), **changed)
    with pytest.raises(ValueError, match=message):
        opened(tmp_path)


def test_files_that_are_wrong_are_named(tmp_path: Path, drive: Sequence) -> None:
    """Red when: a file that is not there, or of another size, is found in training alone."""
    write_ids(write(tmp_path, drive) / "small.png", np.zeros((8, 8), np.uint8))
    rewrite(tmp_path, labels1="small.png", flow="flow/none.flo")
    report = check_dataset(index_dataset("files", tmp_path, "train", WorldConfig()))
    assert "flow/none.flo" in report.contradictions[0]
    rewrite(tmp_path, labels1="small.png")
    (bad,) = check_dataset(index_dataset("files", tmp_path, "train", WorldConfig())).problems
    assert (bad.pair_id, bad.kind) == ("frames/0", "size")
    rewrite(tmp_path, valid="small.png")
    (bad,) = check_dataset(index_dataset("files", tmp_path, "train", WorldConfig())).problems
    assert (bad.path.name, bad.kind) == ("small.png", "size")


def test_another_label_table_than_the_files_hold_is_named(tmp_path: Path, drive: Sequence) -> None:
    """Red when: classes.csv is believed against the files, or a table that was edited is accused."""
    root = write(tmp_path, drive)
    for number, classes in enumerate(drive.classes):
        write_ids(root / "labels" / f"{number}.png", LABEL_IDS[classes])
    with pytest.raises(ValueError, match=r"hold Cityscapes labelIds, but are read as .*labelTrainIds"):
        refuse_doubtful_table(opened(root))
    refuse_doubtful_table(open_dataset("files", root, "train", WorldConfig(), label_table="label-ids"))
    text = (root / "classes.csv").read_text()
    (root / "classes.csv").write_text(text.replace("0,road,road", "0,lawn,terrain"))
    refuse_doubtful_table(opened(root))


def test_what_is_not_there_has_a_way_out(tmp_path: Path, drive: Sequence) -> None:
    """Red when: the line does not name the command or option that helps."""
    with pytest.raises(ValueError, match="semraft data describe"):
        opened(tmp_path)
    root = write(tmp_path / "own", drive)
    (root / "classes.csv").unlink()
    with pytest.raises(ValueError, match=r"no classes.csv .*semraft data describe"):
        opened(root)
    assert open_dataset("files", root, "train", WorldConfig(), label_table="train-ids").provides
    (root / "pairs.csv").write_text("image1,image2\nframes/0.png,frames/1.png\n")
    with pytest.raises(ValueError, match=r"no row of .* has the split val; --data.split 0.2"):
        opened(root, "val")


CLASSES = """id,color,name,common,thing,moves
3,,lawn,terrain,,
11,,kart,car,yes,yes
12,,cone,street_object,yes,no
255,,rest,ignored,,
"""


def test_classes_of_ones_own(tmp_path: Path) -> None:
    """Red when: an id is read by its row, or colours need numbers."""
    (tmp_path / "classes.csv").write_text(CLASSES)
    table = read_classes(tmp_path / "classes.csv")
    ids = np.array([[3, 11, 12, 255]], np.uint8)
    write_ids(tmp_path / "ids.png", ids)
    np.testing.assert_array_equal(read_labels(tmp_path / "ids.png", table), [[2, 10, 5, 255]])
    assert table.stuff == (3, 255)
    write_ids(tmp_path / "more.png", ids + 1)
    with pytest.raises(DamagedFile, match=r"unknown ids: 0 .*, which .*classes.csv lacks"):
        read_labels(tmp_path / "more.png", table)
    (tmp_path / "colors.csv").write_text("name,color,common\nlawn,#00ff10,terrain\nkart,255 0 0,car\n")
    table = read_classes(tmp_path / "colors.csv")
    write_image(tmp_path / "colors.png", np.array([[[255, 0, 0], [0, 255, 16]]], np.uint8))
    np.testing.assert_array_equal(read_labels(tmp_path / "colors.png", table), [[10, 2]])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("4,,lake,water,,", "line 6: 'lake' has the common class 'water': write one of road, sidewalk"),
        ("4,,lake,,,", "line 6: 'lake' has no common class: write one of"),
        ("4,,dog,vegetation,,yes", "'dog' can move, but is vegetation: losses take person"),
        ("4,,bus,car,,no", "'bus' cannot move, but is car"),
        ("3,,lake,terrain,,", "3 is there before, in .* line 2"),
        ("4,,lawn,terrain,,", "lawn is there before, in .* line 2"),
        ("254,,lake,terrain,,", "id is '254': expected a number from 0 to 253, or 255"),
        ("4,,lake,terrain,perhaps,", "thing is 'perhaps': expected yes, no or nothing"),
        ("4,#12,lake,terrain,,", "color is '#12': expected red, green and blue"),
        ("4,,lake,terrain,,,,", "has 8 cells, the header has 6 columns"),
    ],
)
def test_a_wrong_class_is_named(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "classes.csv").write_text(f"{CLASSES}{line}\n")
    with pytest.raises(ValueError, match=message):
        read_classes(tmp_path / "classes.csv")


def test_another_mapping_is_other_data(tmp_path: Path, drive: Sequence) -> None:
    """Red when: a report compares runs with different classes as if they had seen the same."""
    public = fingerprint(opened(write(tmp_path, drive)))
    text = (tmp_path / "classes.csv").read_text()
    (tmp_path / "classes.csv").write_text(text.replace("building,building", "building,barrier"))
    assert fingerprint(opened(tmp_path)) != public


def test_runs_mix_hold_out_and_pack_them(tmp_path: Path, drive: Sequence) -> None:
    """Red when: mixtures, --data.split or packs treat a table unlike a public data set."""
    root = write(tmp_path / "own", drive)
    config = DataConfig(train="files:0.5,world:0.5", root=str(root), validation=("files",))
    assert training_data(config)[1] == [0.5, 0.5]
    assert len(validation_data(config)[0]["files-val"][0]) == 1
    held = replace(config, train="files", split="0.5")
    (train,), _ = training_data(held)
    validated = validation_data(held)[0]["files-val"][0]
    assert {len(train), len(validated)} == {1}
    rewrite(root, 1, flow="", labels1="", labels2="")
    table = root / "pairs.csv"  # Frame 1 has labels in the first pair and none in the second.
    table.write_text(re.sub(r",instances(1|/\d\.png)", "", table.read_text()))
    packed.pack(lambda split: opened(root, split), root, tmp_path / "pack", ["train"])
    source, copy = opened(root), open_dataset("files", tmp_path / "pack", "train", WorldConfig())
    for number in range(2):
        for field in ("image2", "flow", "valid", "labels1", "labels2"):
            np.testing.assert_array_equal(getattr(copy[number], field), getattr(source[number], field))
