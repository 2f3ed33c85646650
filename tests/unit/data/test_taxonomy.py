"""Label images of every data set in common ids, against tables written a second time, the other way round."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from semraft.data.files.pictures import write_ids, write_image, write_palette
from semraft.data.taxonomy import (
    CITYSCAPES_CLASSES,
    CLASSES,
    LABEL_TABLES,
    PALETTE,
    SKY,
    VIPER_CLASSES,
    VIPER_PALETTE,
    VIRTUAL_KITTI_CLASSES,
    kitti_instances,
    read_labels,
    read_source_ids,
    viper_instances,
    virtual_kitti_instances,
)
from semraft.sample import DamagedFile

viper_labels = partial(read_labels, table="viper-ids")
virtual_kitti_labels = partial(read_labels, table="virtual-kitti-colours")
cityscapes_labels = partial(read_labels, table="label-ids")
COMMON = {
    "road": ({3, 5}, {"Road"}, {7, 6, 9, 10}),
    "sidewalk": ({4}, set(), {8}),
    "terrain": ({6}, {"Terrain"}, {22}),
    "building": ({9}, {"Building", "Misc"}, {11, 12, 15, 16}),
    "barrier": ({11, 15}, {"GuardRail"}, {13, 14}),
    "street_object": (
        {10, 12, 13, 14, 16, 17, 18, 19},
        {"TrafficSign", "TrafficLight", "Pole"},
        {17, 18, 19, 20},
    ),
    "vegetation": ({7, 8}, {"Tree", "Vegetation"}, {21}),
    "sky": ({2}, {"Sky"}, {23}),
    "person": ({20, 21}, set(), {24, 25}),
    "two_wheeler": ({22, 23}, set(), {32, 33}),
    "car": ({24, 25}, {"Car", "Van"}, {26}),
    "large_vehicle": ({26, 27, 28, 29}, {"Truck"}, {27, 28, 31, 29, 30}),
}
"""Common class -> VIPER ids, Virtual KITTI names, Cityscapes labelIds, from the specification."""

VIPER_COMMON = np.full(32, 255, np.uint8)
CITYSCAPES_COMMON = np.full(34, 255, np.uint8)
for common_id, (viper_ids, _, cityscapes_ids) in enumerate(COMMON.values()):
    VIPER_COMMON[list(viper_ids)] = common_id
    CITYSCAPES_COMMON[list(cityscapes_ids)] = common_id


@pytest.fixture
def viper_ids(rng: np.random.Generator) -> np.ndarray:
    """Every VIPER id, in no order, on a grid that is not square."""
    return rng.permutation(np.arange(96) % 32).reshape(8, 12).astype(np.uint8)


def without_train(ids: np.ndarray) -> np.ndarray:
    return np.where(ids == 29, 24, ids).astype(np.uint8)


def test_the_common_classes_are_the_specifications() -> None:
    assert [entry.name for entry in CLASSES] == list(COMMON)
    assert [entry.id for entry in CLASSES] == list(range(12))
    assert CLASSES[SKY].name == "sky"


def test_pictures_tell_the_classes_apart() -> None:
    assert len(np.unique(PALETTE[[*range(12), 255]], axis=0)) == 13
    np.testing.assert_array_equal(PALETTE[10], CLASSES[10].color)
    with pytest.raises(ValueError, match="read-only"):
        PALETTE[0] = 1


@pytest.mark.parametrize("kind", ["palette", "grey"])
def test_viper_ids_become_common(tmp_path: Path, viper_ids: np.ndarray, kind: str) -> None:
    """Red when: a palette is expanded to colours; trainids are taken for ids; tree is not vegetation."""
    path = tmp_path / "001_00010.png"
    if kind == "palette":
        write_palette(path, viper_ids, VIPER_PALETTE[:32])
    else:
        write_ids(path, viper_ids)
    labels = viper_labels(path)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, VIPER_COMMON[viper_ids])


def test_viper_colours_become_common(tmp_path: Path, viper_ids: np.ndarray) -> None:
    """Red when: blue and red change places; colours are compared by their luma."""
    viper_ids = without_train(viper_ids)
    colors = np.array([entry.color for entry in VIPER_CLASSES], np.uint8)[viper_ids]
    write_image(tmp_path / "a.png", colors)
    np.testing.assert_array_equal(viper_labels(tmp_path / "a.png"), VIPER_COMMON[viper_ids])


def test_the_colour_of_van_and_train_is_van(tmp_path: Path) -> None:
    """Red when: a dictionary in the table's order turns every van into a train; RVC's van is unknown."""
    assert VIPER_CLASSES[25].color == VIPER_CLASSES[29].color == (0, 80, 100)
    colors = np.zeros((2, 3, 3), np.uint8)
    colors[0], colors[1, :2] = (0, 80, 100), (0, 80, 60)
    write_image(tmp_path / "a.png", colors)
    np.testing.assert_array_equal(viper_labels(tmp_path / "a.png"), [[10, 10, 10], [10, 10, 255]])


def test_virtual_kitti_colours_become_common(tmp_path: Path) -> None:
    """Red when: Misc, large walls for the most part, is dropped."""
    names = {name: label for label, (_, names, _) in enumerate(COMMON.values()) for name in names}
    names |= {"Undefined": 255}
    colors = np.array([[entry.color for entry in VIRTUAL_KITTI_CLASSES]] * 2, np.uint8)
    write_image(tmp_path / "a.png", colors)
    labels = virtual_kitti_labels(tmp_path / "a.png")
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, [[names[entry.name] for entry in VIRTUAL_KITTI_CLASSES]] * 2)


def test_virtual_kitti_colours_are_the_published_ones() -> None:
    text = """Terrain 210 0 200|Sky 90 200 255|Tree 0 199 0|Vegetation 90 240 0|Building 140 140 140
        |Road 100 60 100|GuardRail 250 100 255|TrafficSign 255 255 0|TrafficLight 200 200 0|Pole 255 130 0
        |Misc 80 80 80|Truck 160 60 60|Car 255 127 80|Van 0 139 139|Undefined 0 0 0"""
    ours = ["{} {} {} {}".format(entry.name, *entry.color) for entry in VIRTUAL_KITTI_CLASSES]
    assert ours == [row.strip() for row in text.split("|")]


def test_cityscapes_label_ids_become_common(tmp_path: Path) -> None:
    """Red when: trainIds are taken for labelIds; a licence plate (-1, stored as 255) is unknown."""
    ids = np.array([[*range(34), 255]] * 2, np.uint8)
    write_ids(tmp_path / "a.png", ids)
    expected = [*CITYSCAPES_COMMON, 255]
    np.testing.assert_array_equal(cityscapes_labels(tmp_path / "a.png"), [expected] * 2)


def test_cityscapes_colours_are_the_published_ones_in_train_id_order() -> None:
    text = """(128,64,128) (244,35,232) (70,70,70) (102,102,156) (190,153,153) (153,153,153) (250,170,30)
        (220,220,0) (107,142,35) (152,251,152) (70,130,180) (220,20,60) (255,0,0) (0,0,142) (0,0,70)
        (0,60,100) (0,80,100) (0,0,230) (119,11,32)"""
    trained = LABEL_TABLES["train-ids"]
    assert ["({},{},{})".format(*entry.color) for entry in trained[:19]] == text.split()
    assert [entry.id for entry in trained] == [*range(19), 255]
    by_name = {entry.name: entry for entry in CITYSCAPES_CLASSES}
    assert all(entry.common == by_name[entry.name].common for entry in trained[:19])


def test_train_ids_become_common(tmp_path: Path) -> None:
    """Red when: labelTrainIds are looked up by labelId: sky (10) becomes rail track, car (13) a fence."""
    write_ids(tmp_path / "a.png", np.array([[0, 2, 8, 10], [11, 13, 17, 255]], np.uint8))
    labels = read_labels(tmp_path / "a.png", "train-ids")
    np.testing.assert_array_equal(labels, [[0, 3, 6, 7], [8, 10, 9, 255]])
    write_ids(tmp_path / "b.png", np.full((2, 3), 23, np.uint8))
    with pytest.raises(DamagedFile, match="unknown ids: 23"):
        read_labels(tmp_path / "b.png", "train-ids")


def test_source_ids_are_those_of_the_files(tmp_path: Path) -> None:
    """Red when: a colour's common id is given for the data set's own, or van becomes train."""
    ids = np.array([[2, 3, 24], [20, 25, 7]], np.uint8)
    write_ids(tmp_path / "ids.png", ids)
    write_image(tmp_path / "colours.png", VIPER_PALETTE[ids])
    for name in ("ids", "colours"):
        np.testing.assert_array_equal(read_source_ids(tmp_path / f"{name}.png", "viper-ids"), ids)


@pytest.mark.parametrize("classes", [VIPER_CLASSES, VIRTUAL_KITTI_CLASSES])
def test_ids_are_row_numbers(classes: tuple) -> None:
    assert [entry.id for entry in classes] == list(range(len(classes)))


@pytest.mark.parametrize(
    ("read", "known", "wrong", "named"),
    [
        (viper_labels, 3, 32, "32"),
        (viper_labels, 3, 254, "254"),
        (viper_labels, (128, 64, 128), (128, 64, 127), r"\(128, 64, 127\)"),
        (virtual_kitti_labels, (100, 60, 100), (100, 61, 100), r"\(100, 61, 100\)"),
        (cityscapes_labels, 7, 34, "34"),
    ],
)
def test_what_is_unknown_is_named_and_counted(
    tmp_path: Path, read: Callable, known: int | tuple, wrong: int | tuple, named: str
) -> None:
    """Red when: an unknown colour becomes the nearest class, or silently 255."""
    picture = np.empty((4, 5, 3), np.uint8)
    picture[:] = known
    picture[1, 1:4] = wrong
    path = tmp_path / "a.png"
    if isinstance(known, int):
        write_ids(path, picture[..., 0])
    else:
        write_image(path, picture)
    with pytest.raises(DamagedFile, match=rf"unknown (ids|colours): {named} \(3 pixels\)$"):
        read(path)


def test_of_many_unknown_colours_the_most_frequent_are_named(tmp_path: Path) -> None:
    picture = np.zeros((3, 9, 3), np.uint8)
    picture[..., 1] = np.repeat(np.arange(1, 10), 3).reshape(3, 9)
    picture[2, :8, 1] = 77
    write_image(tmp_path / "a.png", picture)
    with pytest.raises(DamagedFile, match=r"\(0, 77, 0\) \(8 pixels\), .* and 3 more"):
        virtual_kitti_labels(tmp_path / "a.png")


def test_labels_through_grey_are_refused(tmp_path: Path, viper_ids: np.ndarray) -> None:
    """Red when: luma values are taken for ids; ambiguous and animal (76) could then not be told apart."""
    colors = VIPER_PALETTE[viper_ids]
    write_ids(tmp_path / "a.png", cv2.cvtColor(colors, cv2.COLOR_RGB2GRAY))
    with pytest.raises(DamagedFile, match="unknown ids: "):
        viper_labels(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("read", "classes"), [(viper_labels, VIPER_CLASSES), (virtual_kitti_labels, VIRTUAL_KITTI_CLASSES)]
)
def test_colours_in_the_wrong_channel_order_are_refused(
    tmp_path: Path, read: Callable, classes: tuple
) -> None:
    """Red when: the table is blue first, as OpenCV's arrays are."""
    colors = np.array([[entry.color for entry in classes]] * 2, np.uint8)
    write_image(tmp_path / "a.png", colors[..., ::-1])
    with pytest.raises(DamagedFile, match="unknown colours"):
        read(tmp_path / "a.png")


def test_labels_of_16_bits_are_refused(tmp_path: Path) -> None:
    """Red when: an instance file (labelId * 256 + n) is read as labels."""
    write_ids(tmp_path / "a.png", np.full((3, 4), 26 * 256 + 1))
    for read in (viper_labels, cityscapes_labels):
        with pytest.raises(DamagedFile, match="16-bit"):
            read(tmp_path / "a.png")


def test_a_colour_picture_is_no_cityscapes_label(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.full((3, 4, 3), 7, np.uint8))
    with pytest.raises(DamagedFile, match="holds colours"):
        cityscapes_labels(tmp_path / "a.png")


def test_viper_instances_are_green_and_blue(tmp_path: Path) -> None:
    """Red when: the class is part of the number; G and B change places; 256 * G overflows 8 bits."""
    colors = np.array(
        [[(24, 1, 2), (24, 0, 9), (3, 0, 0)], [(20, 255, 255), (25, 200, 0), (2, 0, 0)]], np.uint8
    )
    write_image(tmp_path / "a.png", colors)
    instances = viper_instances(tmp_path / "a.png")
    assert instances.dtype == np.int32
    np.testing.assert_array_equal(instances, [[258, 9, 0], [65535, 51200, 0]])
    write_image(tmp_path / "b.png", colors[..., ::-1])
    with pytest.raises(DamagedFile, match=r"class 255 in the red channel, VIPER has 0\.\.31"):
        viper_instances(tmp_path / "b.png")


def test_virtual_kitti_instances_are_the_stored_numbers(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 200], [7, 0, 3]], np.uint8)
    write_palette(tmp_path / "a.png", ids, np.full((256, 3), 9, np.uint8))
    instances = virtual_kitti_instances(tmp_path / "a.png")
    assert instances.dtype == np.int32
    np.testing.assert_array_equal(instances, ids)


def test_kitti_instances_are_unique_over_classes_and_0_without_number(tmp_path: Path) -> None:
    """Red when: road without number (7 * 256) becomes an instance; car 1 and truck 1 become one."""
    stored = np.array([[7 * 256, 26 * 256 + 1, 27 * 256 + 1], [26 * 256 + 2, 0, 255 * 256 + 255]])
    write_ids(tmp_path / "a.png", stored)
    instances = kitti_instances(tmp_path / "a.png")
    assert instances.dtype == np.int32
    np.testing.assert_array_equal(instances, [[0, 6657, 6913], [6658, 0, 65535]])
