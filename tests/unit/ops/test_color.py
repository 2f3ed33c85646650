"""The colour code of flow at known directions and speeds; label pictures."""

import numpy as np
import pytest

from semraft.ops.color import color_wheel_legend, flow_to_color, labels_to_color

CORNERS = {
    0: (255, 0, 0),
    15: (255, 255, 0),
    21: (0, 255, 0),
    25: (0, 255, 255),
    36: (0, 0, 255),
    49: (255, 0, 255),
}
"""Steps of 55 around the circle, clockwise on screen from the right (Baker et al. 2007) -> pure colours."""


def one_pixel(u: float, v: float, max_px: float | None = None) -> tuple[int, ...]:
    scale = None if max_px is None else float(max_px)
    return tuple(flow_to_color(np.float32([[(u, v)]]), max_px=scale)[0, 0].tolist())


@pytest.mark.parametrize(("steps", "color"), CORNERS.items())
def test_pure_colours_lie_at_the_wheels_corners(steps: int, color: tuple[int, ...]) -> None:
    """Red when: u and v change places; the circle runs the other way (v up)."""
    angle = 2 * np.pi * steps / 55
    assert one_pixel(3 * np.cos(angle), 3 * np.sin(angle), max_px=3.0001) == pytest.approx(color, abs=1)


def test_down_is_yellow_and_left_is_bluish() -> None:
    assert one_pixel(0, 1) == pytest.approx((255, 234, 0), abs=1)
    red, green, blue = one_pixel(-1, 0)
    assert blue == 255 > green > red == 0


def test_speed_is_saturation_and_beyond_the_largest_it_is_darker() -> None:
    assert one_pixel(0, 0, max_px=4) == (255, 255, 255)
    assert one_pixel(2, 0, max_px=4) == pytest.approx((255, 127.5, 127.5), abs=1)
    assert one_pixel(4, 0, max_px=4) == (255, 0, 0)
    assert one_pixel(5, 0, max_px=4) == pytest.approx((0.75 * 255, 0, 0), abs=1)


def test_the_fastest_valid_pixel_sets_the_scale() -> None:
    """Red when: the scale is taken from invalid pixels, or a pixel that is NaN spoils it."""
    flow = np.zeros((2, 3, 2), np.float32)
    flow[0, 0], flow[0, 1], flow[1, 2], flow[1, 0] = (2, 0), (1, 0), (500, 500), (np.nan, np.inf)
    valid = np.array([[True, True, True], [True, True, False]])
    picture = flow_to_color(flow, valid)
    assert picture[0, 0].tolist() == [255, 0, 0]
    assert picture[0, 1].tolist() == [255, 128, 128]
    assert picture[0, 2].tolist() == [255, 255, 255]
    assert picture[1, 2].tolist() == picture[1, 0].tolist() == [0, 0, 0]


def test_pictures_without_motion_or_without_valid_pixels() -> None:
    """Red when: dividing by a largest speed of 0."""
    flow = np.zeros((2, 3, 2), np.float32)
    assert (flow_to_color(flow) == 255).all()
    assert (flow_to_color(flow, np.zeros((2, 3), bool)) == 0).all()
    assert flow_to_color(np.zeros((0, 3, 2), np.float32)).shape == (0, 3, 3)


@pytest.mark.parametrize("max_px", [0, -1.0, float("nan")])
def test_the_largest_speed_must_be_positive(max_px: float) -> None:
    with pytest.raises(ValueError, match="max_px"):
        one_pixel(1, 2, max_px)


def test_hue_has_no_seam() -> None:
    """Red when: the last shade does not lead back to the first, as in the published table."""
    angle = np.linspace(-np.pi, np.pi, 2001)  # Across the right, where the circle begins and ends.
    circle = flow_to_color(np.dstack([np.cos(angle), np.sin(angle)]).astype(np.float32), max_px=1.001)
    assert np.abs(np.diff(circle.astype(int), axis=1)).max() <= 2


def test_the_legend_shows_what_a_flow_is_painted_with() -> None:
    """Red when: the disc is mirrored or transposed."""
    legend = color_wheel_legend(101)
    assert legend.shape == (101, 101, 3)
    assert legend[50, 50].tolist() == [255, 255, 255]
    assert legend[0, 0].tolist() == [255, 255, 255]
    assert tuple(legend[50, 100].tolist()) == one_pixel(1, 0, max_px=1)
    assert tuple(legend[100, 50].tolist()) == one_pixel(0, 1, max_px=1)
    assert tuple(legend[50, 25].tolist()) == one_pixel(-1, 0, max_px=2)


def test_labels_are_painted_by_row() -> None:
    palette = np.array([(1, 2, 3), (9, 8, 7)], np.uint8)
    picture = labels_to_color(np.array([[0, 1, 1], [1, 0, 0]], np.uint8), palette)
    assert picture[0].tolist() == [[1, 2, 3], [9, 8, 7], [9, 8, 7]]
    assert picture.shape == (2, 3, 3)
    with pytest.raises(ValueError, match="labels: 2 found, the palette has 2 colours"):
        labels_to_color(np.array([[0, 2]], np.uint8), palette)
