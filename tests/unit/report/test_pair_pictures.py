"""semraft.report.pair_pictures: what is painted, at what size, and on which scale."""

import base64
import dataclasses
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from jaxtyping import UInt8

from semraft.analysis.runs import SavedPair, load_run
from semraft.analysis.summary import compare
from semraft.report.pair_pictures import (
    MAX_PICTURE_WIDTH_PX,
    NO_TRUTH_GREY,
    data_uri,
    error_colors,
    error_picture,
    error_scale_px,
    flow_picture,
    flow_scale_px,
    pair_pictures,
    shrink,
)
from semraft.report.report import write_report
from tests.unit.analysis.fake_runs import IDS, SPLIT, make_environment, make_pair, make_run


def saved(error_px: float = 0.5, size: tuple[int, int] = (37, 53)) -> SavedPair:
    arrays = make_pair(IDS[0], error_px, size)
    return SavedPair(**arrays | {"id": str(arrays["id"])})


def decode(uri: str) -> UInt8[np.ndarray, "H W 3"]:
    data = np.frombuffer(base64.b64decode(uri.partition("base64,")[2]), np.uint8)
    picture: UInt8[np.ndarray, "H W 3"] = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]
    return picture


def test_pictures_keep_their_colours_through_the_data_uri() -> None:
    """Red when: RGB is given to OpenCV as it is."""
    image = np.zeros((5, 7, 3), np.uint8)
    image[:] = (200, 30, 90)
    assert data_uri(image, "flat").startswith("data:image/png;base64,")
    np.testing.assert_array_equal(decode(data_uri(image, "flat")), image)
    photo = data_uri(image, "photo")
    assert photo.startswith("data:image/webp;base64,")
    assert np.abs(decode(photo).astype(int) - image).max() < 12  # Lossy, but the same colour.


@pytest.mark.parametrize(("size", "expected"), [((37, 53), (37, 53)), ((300, 1280), (150, 640))])
def test_wide_frames_are_scaled_down(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert MAX_PICTURE_WIDTH_PX == 640
    assert shrink(np.zeros((*size, 3), np.uint8)).shape == (*expected, 3)
    pair = saved(size=size)
    assert error_picture(pair, 1.0).shape == (*expected, 3)
    assert flow_picture(pair.flow_gt, pair.valid, 9.0).shape == (*expected, 3)


def test_labels_are_scaled_by_nearest() -> None:
    image = np.zeros((4, 1280, 3), np.uint8)
    image[:, 1::2] = 255
    assert set(np.unique(shrink(image, nearest=True))) <= {0, 255}
    assert set(np.unique(shrink(image))) == {128}


def test_the_error_map_is_black_at_zero_and_grey_without_truth() -> None:
    pair = saved(error_px=0.0)
    picture = error_picture(pair, 1.0)
    assert (picture[~pair.valid] == NO_TRUTH_GREY).all()
    assert picture[pair.valid].max() < 5
    assert (
        error_picture(saved(error_px=2.0), 2.0)[pair.valid] == error_colors(np.float32([[1]]))[0, 0]
    ).all()


def test_sparse_truth_does_not_fade_when_scaled_down() -> None:
    """Red when: colours or errors are averaged with pixels that have no truth (a quarter is left)."""
    pair = saved(error_px=2.0, size=(8, 1280))
    sparse = np.zeros((8, 1280), bool)
    sparse[4::2, ::2] = True
    picture = error_picture(dataclasses.replace(pair, valid=sparse), 1.0)[2:]
    assert (picture == error_colors(np.float32([[1]]))[0, 0]).all()


def test_nothing_is_read_where_the_truth_is_invalid() -> None:
    """Red when: what is at invalid pixels, NaN or not, is resized into the valid ones beside them."""
    pair = saved(size=(75, 1280))
    flow_gt = np.where(pair.valid[..., None], pair.flow_gt, np.float16(np.nan))
    broken = dataclasses.replace(pair, flow_gt=flow_gt)
    for shown in (pair, broken):
        picture = error_picture(shown, 1.0)
        assert (picture[9:] == error_colors(np.float32([[0.5]]))[0, 0]).all()
        assert (picture[:9] == NO_TRUTH_GREY).all()  # Page row 9 holds rows 18 (invalid) and 19.
    assert error_scale_px([broken]) == error_scale_px([pair])
    assert flow_scale_px(broken) == flow_scale_px(pair)


def test_scales_are_round_and_shared_by_all_runs() -> None:
    assert error_scale_px([saved(0.5), saved(2.5)]) == 3.0
    assert error_scale_px([saved(0.5)]) == 0.5
    assert flow_scale_px(saved()) == 5.0  # The longest is just below 5 px.
    empty = dataclasses.replace(saved(), valid=np.zeros((37, 53), bool))
    assert error_scale_px([empty]) == flow_scale_px(empty) == 1.0


def test_every_run_of_a_pair_stands_side_by_side(tmp_path: Path) -> None:
    runs = [
        load_run(make_run(tmp_path / f"{recipe}", recipe, epe=epe))
        for recipe, epe in (("world-base", 2.0), ("world-semantic-v1", 1.0))
    ]
    first, second = pair_pictures(runs, compare(runs, {}, "world-base"))
    assert (first.id, second.id) == IDS
    assert (first.split, first.columns) == (SPLIT, 2)
    captions = ["Frame 1", "Frame 2", "Ground truth", "Labels of frame 1", "Not visible in frame 2"]
    assert [shown.caption for shown in first.given] == captions
    assert first.classes == [("road", "#804080"), ("car", "#00008e")]
    assert [(run.color, run.label, run.error.detail) for run in first.runs] == [
        (0, "world-base seed 0", "EPE 2.125 px"),
        (1, "world-semantic-v1 seed 0", "EPE 1.125 px"),
    ]


def test_what_heads_say_stands_below_the_flow_of_their_run(tmp_path: Path) -> None:
    """Red when: a head's picture is the truth's, is shown for a run without it, or its class has no name."""
    paths = [make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1)]
    labels, occluded = np.full((37, 53), 10, np.uint8), np.zeros((37, 53), bool)
    labels[:9], occluded[:, :5] = 255, True
    arrays = make_pair(IDS[0]) | {"found_labels1": labels, "found_occluded1": occluded}
    np.savez_compressed(paths[1] / "pairs" / SPLIT / "scene_000003.npz", **arrays)
    runs = [load_run(path) for path in paths]
    pair = next(pair for pair in pair_pictures(runs, compare(runs, {}, "world-base")) if pair.id == IDS[0])
    plain, headed = pair.runs
    assert plain.heads == []
    classes, occlusion = headed.heads
    assert (classes.caption, occlusion.caption) == ("Classes", "Occlusion")
    assert decode(classes.uri)[20, 30].tolist() == [0, 0, 142]
    assert decode(classes.uri)[3, 30].tolist() == [24, 24, 24]
    assert (decode(occlusion.uri)[..., 0] == np.where(occluded, 235, 45)).all()
    assert [name for name, _ in pair.classes] == ["road", "car", "ignored"]
    write_report(paths, tmp_path / "report.html")
    layers = re.findall(r'data-layer="([^"]*)"', (tmp_path / "report.html").read_text())
    assert [layer for layer in layers if layer.startswith("world-base seed 1")][:4] == [
        f"world-base seed 1: {name}" for name in ("flow", "error", "classes", "occlusion")
    ]


def test_labels_without_recorded_classes_are_still_told_apart(tmp_path: Path) -> None:
    environment = make_environment()
    del environment["classes"]
    runs = [load_run(make_run(tmp_path / "a", environment=environment))]
    (first, _) = pair_pictures(runs, compare(runs, {}, "world-base"))
    assert [name for name, _ in first.classes] == ["class 0", "class 10"]
    assert first.classes[0][1] != first.classes[1][1]


def test_another_pair_of_the_same_file_name_is_not_put_beside(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1)]
    arrays = make_pair("other/000003")
    np.savez_compressed(paths[1] / "pairs" / SPLIT / "scene_000003.npz", **arrays)
    runs = [load_run(path) for path in paths]
    first, second = pair_pictures(runs, compare(runs, {}, "world-base"))
    assert (len(first.runs), len(second.runs)) == (1, 2)
