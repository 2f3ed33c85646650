import colorsys
import dataclasses

import cv2
import numpy as np
import pytest

from semraft.config import AugmentConfig
from semraft.data.augment import (
    Colour,
    Window,
    augment,
    cut,
    draw_window,
    erase,
    flip,
    recolour,
)
from semraft.sample import FlowSample
from tests.helpers import global_numpy, make_sample

GEOMETRY_ONLY = AugmentConfig(
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    hue_turns=0.0,
    asymmetric_probability=0.0,
    eraser_probability=0.0,
)
NEAREST_FIELDS = ("valid", "valid_noc", "labels1", "labels2", "instances1", "instances2", "moving1")
ENLARGED, SHRUNK = ((24, 31), Window(3, 5, 19, 25)), ((12, 31), Window(3, 5, 17, 43))
"""Crop and window, each axis with a factor of its own, and no pixel halfway between two of the other grid."""


def arrays(sample: FlowSample) -> dict[str, np.ndarray]:
    named = {field.name: getattr(sample, field.name) for field in dataclasses.fields(sample)}
    return {name: value for name, value in named.items() if isinstance(value, np.ndarray)}


def assert_same(first: FlowSample, second: FlowSample) -> None:
    for name, array in arrays(first).items():
        np.testing.assert_array_equal(array, arrays(second)[name], err_msg=name)


def still_sample(height: int = 37, width: int = 53, flow: tuple[float, float] = (0, 0)) -> FlowSample:
    """Everything valid and visible, one flow everywhere."""
    sample = make_sample(np.random.default_rng(5), height, width)
    everywhere, nowhere = np.ones((height, width), bool), np.zeros((height, width), bool)
    return dataclasses.replace(
        sample,
        flow=np.full((height, width, 2), flow, np.float32),
        backward_flow=np.full((height, width, 2), (-flow[0], -flow[1]), np.float32),
        valid=everywhere,
        valid_noc=everywhere,
        backward_valid=everywhere,
        occluded1=nowhere,
        occluded2=nowhere,
    )


def positions(window: Window, crop: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the frame that the pixel centres of the crop fall on."""
    rows = window.top + (np.arange(crop[0]) + 0.5) * window.height / crop[0] - 0.5
    columns = window.left + (np.arange(crop[1]) + 0.5) * window.width / crop[1] - 0.5
    return rows, columns


# ---- geometry ----------------------------------------------------------------------------------------------


def test_cutting_the_whole_frame_is_identity(rng: np.random.Generator) -> None:
    """Red when: any field is forgotten, moved or changed."""
    sample = make_sample(rng)
    assert_same(sample, cut(sample, Window(0, 0, 37, 53), (37, 53)))


@pytest.mark.parametrize(("crop", "window"), [ENLARGED, SHRUNK])
def test_images_are_the_resized_frame_at_the_same_positions(
    crop: tuple[int, int], window: Window, rng: np.random.Generator
) -> None:
    """Against the whole frame sampled at every position. Red when: positions are off by half a pixel."""
    sample = make_sample(rng)
    rows, columns = positions(window, crop)
    inner = np.s_[1:-1, 1:-1]  # The outermost pixels of an enlarged window can't see beyond it.
    for name in ("image1", "image2"):
        image = getattr(sample, name).astype(np.float64)
        top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
        down, right = (rows - top)[:, None, None], (columns - left)[:, None]
        upper = image[top][:, left] * (1 - right) + image[top][:, left + 1] * right
        lower = image[top + 1][:, left] * (1 - right) + image[top + 1][:, left + 1] * right
        expected = upper * (1 - down) + lower * down
        got = getattr(cut(sample, window, crop), name)
        assert np.abs(got.astype(float) - expected)[inner].max() < 1.01


@pytest.mark.parametrize(("crop", "window"), [ENLARGED, SHRUNK])
def test_labels_and_masks_come_from_the_nearest_pixel(
    crop: tuple[int, int], window: Window, rng: np.random.Generator
) -> None:
    """Trap 2. Red when: labels are resized bilinearly, or one field takes another pixel."""
    sample = make_sample(rng)
    rows, columns = (np.floor(place + 0.5).astype(int) for place in positions(window, crop))
    result = cut(dataclasses.replace(sample, valid_noc=sample.valid), window, crop)
    for name in NEAREST_FIELDS:
        source = getattr(sample, "valid" if name == "valid_noc" else name)
        got = getattr(result, name)
        np.testing.assert_array_equal(got, source[rows[:, None], columns], err_msg=name)
        assert got.dtype == source.dtype


def test_no_label_is_invented(rng: np.random.Generator) -> None:
    """Trap 2: between sky 2 and car 24 lies 13. Red when: labels are resized bilinearly."""
    sample = dataclasses.replace(
        make_sample(rng),
        labels1=rng.choice(np.array([2, 24], np.uint8), (37, 53)),
        instances1=rng.choice(np.array([0, 70_000], np.int32), (37, 53)),
    )
    for number in range(20):
        result = augment(sample, AugmentConfig(), (24, 31), np.random.default_rng(number))
        assert result.labels1 is not None
        assert result.instances1 is not None
        assert set(np.unique(result.labels1)) <= {2, 24}
        assert set(np.unique(result.instances1)) <= {0, 70_000}


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(("crop", "window"), [ENLARGED, SHRUNK])
def test_flow_is_multiplied_by_the_realised_factor_of_its_axis(
    crop: tuple[int, int], window: Window, sparse: bool
) -> None:
    """Trap 4. Red when: flow is not scaled, u gets v's factor, or the requested scale is used."""
    result = cut(dataclasses.replace(still_sample(flow=(3, -2)), sparse=sparse), window, crop)
    factors = np.array([3 * crop[1] / window.width, -2 * crop[0] / window.height], np.float32)
    np.testing.assert_allclose(
        result.flow[result.valid], np.tile(factors, (result.valid.sum(), 1)), rtol=1e-6
    )
    assert result.backward_flow is not None
    np.testing.assert_allclose(result.backward_flow[result.backward_valid][0], -factors, rtol=1e-6)


def test_nothing_is_invented_across_invalid_pixels(rng: np.random.Generator) -> None:
    """Trap 3: flow pulled towards the zeros that stand for sky, in pixels that stay valid.

    Red when: flow and mask are both resized bilinearly, or a blend that touches an invalid pixel is kept.
    """
    sample = still_sample(flow=(0.9, -0.7))  # So small that blending with 0 stays below the tolerance.
    for nothing in (0.0, np.nan):
        valid = rng.random((37, 53)) > 0.4
        flow = np.where(valid[..., None], sample.flow, np.float32(nothing)).astype(np.float32)
        for crop, window in (ENLARGED, SHRUNK):
            result = cut(dataclasses.replace(sample, flow=flow, valid=valid), window, crop)
            exact = np.array([0.9 * crop[1] / window.width, -0.7 * crop[0] / window.height])
            assert np.abs(result.flow[result.valid] - exact).max() < 1e-6
            assert (result.flow[~result.valid] == 0).all()


def test_no_flow_between_two_motions(rng: np.random.Generator) -> None:
    """Trap 3: bilinear flow across a motion edge is a motion that nothing has. Red when: it is kept there."""
    fast = rng.random((37, 53)) > 0.5
    flow = np.where(fast[..., None], np.float32([20, -9]), np.float32([-20, 11]))
    for crop, window in (ENLARGED, SHRUNK):
        result = cut(dataclasses.replace(still_sample(), flow=flow), window, crop)
        factors = np.array([crop[1] / window.width, crop[0] / window.height])
        gaps = [np.abs(result.flow / factors - motion).max(-1) for motion in ([20, -9], [-20, 11])]
        # A neighbour's share below 0.5 / 40 moves the flow by less than the tolerance and may stay.
        assert np.minimum(*gaps).max() < 0.5


def test_smooth_flow_is_interpolated() -> None:
    """Red when: the nearest neighbour is taken everywhere (errors of half a pixel's slope)."""
    rows, columns = np.mgrid[:37, :53].astype(np.float32)
    flow = np.stack([0.3 * columns - 0.1 * rows, 0.2 * rows], -1)
    for crop, window in (ENLARGED, SHRUNK):
        result = cut(dataclasses.replace(still_sample(), flow=flow), window, crop)
        y, x = np.meshgrid(*positions(window, crop), indexing="ij")
        expected = np.stack(
            [(0.3 * x - 0.1 * y) * crop[1] / window.width, 0.2 * y * crop[0] / window.height], -1
        )
        assert np.abs(result.flow - expected)[1:-1, 1:-1].max() < 1e-4


# ---- sparse ground truth -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("crop", "window"), [ENLARGED, SHRUNK])
@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 9), (8, 0), (16, 24), (5, 20), (11, 3)])
def test_one_measured_pixel_moves_to_its_nearest_new_place(
    crop: tuple[int, int], window: Window, row: int, column: int
) -> None:
    """Trap 5, on a grid that is not square. Red when: rows and columns change places, row 0 or column 0 is
    lost, or the measurement is spread over several pixels."""
    sample = still_sample(flow=(3, -2))
    valid = np.zeros((37, 53), bool)
    valid[window.top + row, window.left + column] = True
    labels = np.arange(37 * 53, dtype=np.int32).reshape(37, 53)
    result = cut(dataclasses.replace(sample, valid=valid, sparse=True, instances1=labels), window, crop)
    y = int(np.floor((row + 0.5) * crop[0] / window.height))
    x = int(np.floor((column + 0.5) * crop[1] / window.width))
    assert np.argwhere(result.valid).tolist() == [[y, x]]
    np.testing.assert_allclose(
        result.flow[y, x], [3 * crop[1] / window.width, -2 * crop[0] / window.height], rtol=1e-6
    )
    assert result.instances1 is not None
    assert result.instances1[y, x] == labels[window.top + row, window.left + column]


def test_of_measurements_that_meet_the_nearest_to_the_centre_stays(rng: np.random.Generator) -> None:
    """Trap 5: the original keeps the last in raster order. Red when: it is the first or the last."""
    crop, window = SHRUNK
    valid = rng.random((37, 53)) > 0.3
    flow = rng.normal(0, 5, (37, 53, 2)).astype(np.float32) * valid[..., None]
    result = cut(dataclasses.replace(still_sample(), flow=flow, valid=valid, sparse=True), window, crop)
    factor_y, factor_x = crop[0] / window.height, crop[1] / window.width
    best: dict[tuple[int, int], tuple[float, int, int]] = {}
    for row in range(window.height):
        for column in range(window.width):
            if valid[window.top + row, window.left + column]:
                y, x = (row + 0.5) * factor_y, (column + 0.5) * factor_x
                place = (int(y), int(x))
                distance = round((y - place[0] - 0.5) ** 2 + (x - place[1] - 0.5) ** 2, 12)
                best[place] = min(best.get(place, (9.0, 0, 0)), (distance, row, column))
    assert result.valid.sum() == len(best)
    for (y, x), (_, row, column) in best.items():
        source = flow[window.top + row, window.left + column]
        np.testing.assert_allclose(result.flow[y, x], source * [factor_x, factor_y], rtol=1e-5)


def test_sparse_ground_truth_stays_sparse() -> None:
    """Red when: enlarging multiplies measurements (every one of them counts once in a loss)."""
    rng = np.random.default_rng(3)
    sample = dataclasses.replace(still_sample(), valid=rng.random((37, 53)) < 0.2, sparse=True)
    crop, window = ENLARGED
    assert cut(sample, window, crop).valid.sum() == window.of(sample.valid).sum()


# ---- the window --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(37, 53), (24, 31), (20, 90), (90, 20), (10, 12)])
@pytest.mark.parametrize("enabled", [True, False])
def test_the_window_lies_in_the_frame_and_the_crop_is_full(size: tuple[int, int], enabled: bool) -> None:
    """Red when: a small frame does not raise the scale."""
    config = dataclasses.replace(GEOMETRY_ONLY, enabled=enabled)
    for number in range(50):
        window = draw_window(size, (24, 31), config, np.random.default_rng(number))
        assert 0 <= window.top <= window.top + window.height <= size[0]
        assert 0 <= window.left <= window.left + window.width <= size[1]
    result = augment(make_sample(np.random.default_rng(1), *size), config, (24, 31), np.random.default_rng(2))
    assert result.valid.shape == (24, 31)


def test_the_window_reaches_the_last_row_and_column() -> None:
    """Red when: the position is drawn one short, as in RAFT."""
    config = dataclasses.replace(GEOMETRY_ONLY, enabled=False)
    windows = [draw_window((26, 32), (24, 31), config, np.random.default_rng(number)) for number in range(50)]
    assert {window.top for window in windows} == {0, 1, 2}
    assert {window.left for window in windows} == {0, 1}


def test_scale_and_stretch_are_the_protocols() -> None:
    """Scale 2^[-0.5, 0.2] in 80 % of pairs, each axis stretched by 2^[-0.2, 0.2] in 80 % of those.

    Red when: the probabilities are independent of each other, or factors are drawn linearly.
    """
    windows = [
        draw_window((3000, 4000), (960, 1200), AugmentConfig(), np.random.default_rng(n)) for n in range(1000)
    ]
    factors = np.log2([[960 / window.height, 1200 / window.width] for window in windows])
    scaled = (np.abs(factors) > 1e-9).any(1)
    stretched = np.abs(factors[:, 0] - factors[:, 1]) > 2e-3
    assert scaled.mean() == pytest.approx(0.8, abs=0.03)
    assert stretched[scaled].mean() == pytest.approx(0.8, abs=0.03)
    assert factors.min() == pytest.approx(-0.7, abs=0.03)
    assert factors.max() == pytest.approx(0.4, abs=0.03)
    assert factors[scaled].mean() == pytest.approx(-0.15, abs=0.02)


# ---- flips -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("axis", "signs"), [(1, (-1, 1)), (0, (1, -1))])
def test_a_flip_mirrors_every_array_and_negates_its_own_component(axis: int, signs: tuple[int, int]) -> None:
    """Traps 6 and 7. Red when: a mask or a label is not mirrored, or the wrong component is negated."""
    sample = make_sample(np.random.default_rng(2))
    result = flip(sample, axis)
    for name, array in arrays(sample).items():
        expected = np.flip(array, axis) * (
            np.float32(signs) if name in ("flow", "backward_flow") else array.dtype.type(1)
        )
        np.testing.assert_array_equal(arrays(result)[name], expected, err_msg=name)
        assert arrays(result)[name].flags.c_contiguous


def test_flips_are_drawn_as_often_as_configured() -> None:
    """Red when: the probabilities of the two flips change places, or one is ignored."""
    sample = still_sample(24, 31, flow=(3, 2))
    config = dataclasses.replace(GEOMETRY_ONLY, scale_probability=0.0)
    flows = [augment(sample, config, (24, 31), np.random.default_rng(n)).flow[0, 0] for n in range(150)]
    assert np.mean([flow[0] < 0 for flow in flows]) == pytest.approx(0.5, abs=0.12)
    assert np.mean([flow[1] < 0 for flow in flows]) == pytest.approx(0.1, abs=0.07)


# ---- occlusion by the crop and by the eraser ---------------------------------------------------------------


def test_what_leaves_the_crop_is_occluded() -> None:
    """Red when: the occlusion of the whole frame is kept, or frame 2 is judged by frame 1's flow."""
    sample = still_sample(flow=(4, -3))
    config = dataclasses.replace(GEOMETRY_ONLY, enabled=False)
    result = augment(sample, config, (20, 30), np.random.default_rng(0))
    leaves1, leaves2 = np.ones((20, 30), bool), np.ones((20, 30), bool)
    leaves1[3:, :26] = False
    leaves2[:17, 4:] = False
    np.testing.assert_array_equal(result.occluded1, leaves1)
    np.testing.assert_array_equal(result.occluded2, leaves2)
    np.testing.assert_array_equal(result.valid_noc, ~leaves1)
    assert result.valid.all()


def test_occlusion_is_not_claimed_where_the_flow_is_unknown() -> None:
    """Red when: the flow of invalid pixels, stored as 0 or anything, decides."""
    sample = dataclasses.replace(still_sample(flow=(99, 0)), valid=np.zeros((37, 53), bool))
    result = augment(
        sample, dataclasses.replace(GEOMETRY_ONLY, enabled=False), (20, 30), np.random.default_rng(0)
    )
    assert result.occluded1 is not None
    assert not result.occluded1.any()


def test_the_eraser_leaves_frame_1_alone_and_hides_what_moves_there() -> None:
    """Trap 8. Red when: frame 1's flow or labels change, frame 2 keeps a label, instance or backward flow in
    the box, or what moved there stays visible."""
    sample = still_sample(flow=(4, -3))
    erased = np.zeros((37, 53), bool)
    erased[10:20, 15:40] = True
    result = erase(sample, erased)
    for name in ("image1", "flow", "valid", "valid_noc", "labels1", "instances1", "moving1", "occluded2"):
        np.testing.assert_array_equal(getattr(result, name), getattr(sample, name), err_msg=name)
    assert (arrays(result)["labels2"][erased] == 255).all()
    for name in ("instances2", "backward_flow", "backward_valid"):
        assert (arrays(result)[name][erased] == 0).all()
    for name in ("image2", "labels2", "instances2", "backward_flow", "backward_valid"):
        np.testing.assert_array_equal(
            arrays(result)[name][~erased], arrays(sample)[name][~erased], err_msg=name
        )
    assert (result.image2[erased] == np.rint(sample.image2.mean((0, 1)))).all()
    hidden = np.zeros((37, 53), bool)
    hidden[13:23, 11:36] = True
    np.testing.assert_array_equal(result.occluded1, hidden)


def test_erased_boxes_have_the_protocols_size_and_number() -> None:
    """Half of the pairs, 1 or 2 boxes of 50 to 100 px. Red when: they are sized in pixels of the crop."""
    sample = still_sample(400, 600)
    config = dataclasses.replace(
        GEOMETRY_ONLY,
        eraser_probability=0.5,
        min_log2_scale=-1.0,
        max_log2_scale=-1.0,
        scale_probability=1.0,
        stretch_probability=0.0,
        horizontal_flip_probability=0.0,
        vertical_flip_probability=0.0,
    )
    boxes = []
    for number in range(60):
        result = augment(sample, config, (200, 300), np.random.default_rng(number))
        assert result.occluded1 is not None
        boxed = cv2.connectedComponentsWithStats(result.occluded1.astype(np.uint8))[2]
        boxes.append(boxed[1:])
    assert np.mean([len(box) > 0 for box in boxes]) == pytest.approx(0.5, abs=0.2)
    assert {len(box) for box in boxes} == {0, 1, 2}
    sides = np.concatenate(boxes)[:, 2:4]
    uncut = sides[(np.concatenate(boxes)[:, :2] + sides < [300, 200]).all(1)]
    assert 25 <= uncut.min() < 35
    assert uncut.max() <= 100  # Two boxes may touch.


# ---- colour ------------------------------------------------------------------------------------------------


def test_recolour_is_its_formula(rng: np.random.Generator) -> None:
    """Red when: contrast turns about another grey, or grey has other weights."""
    image = rng.integers(60, 160, (9, 13, 3), dtype=np.uint8)
    b, c, s = 1.1, 0.8, 0.7
    grey = image @ np.array([0.299, 0.587, 0.114])
    expected = b * (c * (s * image + (1 - s) * grey[..., None]) + (1 - c) * grey.mean())
    assert (
        np.abs(recolour(image, Colour(b, c, s, 0)) - expected).max() < 0.75
    )  # OpenCV's weights have 10 bits.
    np.testing.assert_array_equal(recolour(image, Colour(1, 1, 1, 0)), image)


def test_recolour_clips_instead_of_wrapping_around() -> None:
    """Red when: 255 * 1.4 becomes a dark grey level."""
    assert recolour(np.full((2, 3, 3), 250, np.uint8), Colour(1.4, 1, 1, 0)).min() == 255


def test_a_third_of_a_turn_makes_red_green() -> None:
    """Trap 15. Red when: images are taken for BGR, or the hue is scaled to 180 steps."""
    red = np.tile(np.array([200, 40, 40], np.uint8), (4, 5, 1))
    # 8 bits of hue: half a step in the turn and half in the colour, 3.75 levels each, and rounding.
    np.testing.assert_allclose(recolour(red, Colour(1, 1, 1, 1 / 3))[0, 0].astype(int), [40, 200, 40], atol=5)
    np.testing.assert_allclose(
        recolour(red, Colour(1, 1, 1, -1 / 3))[0, 0].astype(int), [40, 40, 200], atol=5
    )


def test_hue_turns_at_equal_saturation_and_value(rng: np.random.Generator) -> None:
    """Against Python's own HSV. Red when: the turn is scaled to 180 steps or to degrees."""
    image = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    for turns in (0.125, -0.0625):
        result = recolour(image, Colour(1.0, 1.0, 1.0, turns))
        for before, after in zip(image.reshape(-1, 3) / 255, result.reshape(-1, 3) / 255, strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*before)
            expected = colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value)
            np.testing.assert_allclose(after, expected, atol=8 / 255)  # 256 steps of hue.


def test_both_frames_get_one_colour_except_when_asymmetric() -> None:
    """Red when: the frames' colours are always, or never, drawn apart."""
    sample = still_sample(24, 31)
    sample = dataclasses.replace(sample, image2=sample.image1)
    config = dataclasses.replace(AugmentConfig(), eraser_probability=0.0)
    results = [augment(sample, config, (24, 31), np.random.default_rng(number)) for number in range(100)]
    assert np.mean([(r.image1 == r.image2).all() for r in results]) == pytest.approx(0.8, abs=0.12)


# ---- as a function -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [False, True])
def test_augment_is_a_function_of_its_arguments(sparse: bool, rng: np.random.Generator) -> None:
    """Trap 18. Red when: a global generator is used, or the sample that a memory keeps is written to."""
    sample = dataclasses.replace(make_sample(rng, 60, 83), sparse=sparse)
    for array in arrays(sample).values():
        array.flags.writeable = False
    for number in range(10):
        first = augment(sample, AugmentConfig(), (24, 31), np.random.default_rng(number))
        global_numpy().seed(number)  # Must not matter.
        assert_same(first, augment(sample, AugmentConfig(), (24, 31), np.random.default_rng(number)))
        for name, array in arrays(first).items():
            assert array.shape[:2] == (24, 31)
            assert array.flags.c_contiguous, name
            assert array.flags.writeable, name


def test_off_is_a_crop_of_the_original_pixels(rng: np.random.Generator) -> None:
    """Red when: anything but a crop happens with augmentation off."""
    sample = make_sample(rng)
    config = dataclasses.replace(AugmentConfig(), enabled=False)
    result = augment(sample, config, (24, 31), np.random.default_rng(7))
    window = draw_window((37, 53), (24, 31), config, np.random.default_rng(7))
    np.testing.assert_array_equal(result.image2, window.of(sample.image2))
    np.testing.assert_array_equal(result.flow, window.of(sample.flow))


def test_what_the_data_does_not_say_stays_none() -> None:
    """Red when: a missing mask is made up."""
    sample = still_sample()
    bare = dataclasses.replace(
        sample,
        **dict.fromkeys(
            set(arrays(sample)) - {"image1", "image2", "flow", "valid"},
        ),
    )
    for sparse in (False, True):
        for number in range(10):
            one = dataclasses.replace(bare, sparse=sparse)
            result = augment(one, AugmentConfig(), (24, 31), np.random.default_rng(number))
            assert set(arrays(result)) == {"image1", "image2", "flow", "valid"}
