"""Views of a frame: where their pixels come from, and what becomes of flow."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from semraft.ops.crops import draw_view, view_flow, view_image, view_labels, view_mask
from semraft.sample import View
from tests.unit.losses.tiny import bilinear

PLAIN = View(size=(5, 7), top_px=2.25, left_px=1.5, scale=1.25)
VIEWS = [
    replace(PLAIN, upside_down=down, left_to_right=right) for down in (False, True) for right in (False, True)
]


def source(view: View, i: int, j: int) -> tuple[float, float]:
    """Column and row of the frame that pixel (i, j) of the view is, from the definition."""
    height, width = view.size
    row = view.top_px + (height - 1 - i if view.upside_down else i) / view.scale
    return view.left_px + (width - 1 - j if view.left_to_right else j) / view.scale, row


@pytest.mark.parametrize("view", VIEWS)
def test_equals_the_loop(view: View, rng: np.random.Generator) -> None:
    """Red when: rows and columns change places, a mirror moves the window, or the scale is upside down."""
    frame = rng.normal(0, 1, (2, 3, 11, 13))
    labels = rng.integers(0, 12, (2, 11, 13))
    image = view_image(torch.from_numpy(frame), view)
    classes = view_labels(torch.from_numpy(labels), view)
    assert image.shape == (2, 3, *view.size)
    for i in range(view.size[0]):
        for j in range(view.size[1]):
            x, y = source(view, i, j)
            for b in range(2):
                expected = [bilinear(channel, x, y) for channel in frame[b]]
                assert image[b, :, i, j].tolist() == pytest.approx(expected, abs=1e-12)
                assert classes[b, i, j] == labels[b, round(y), round(x)]


@pytest.mark.parametrize("view", VIEWS)
def test_flow_leads_where_the_frame_s_flow_leads(view: View, rng: np.random.Generator) -> None:
    """The frame's point under p + flow of the view is the frame's flow further. Red when: a component is not
    scaled, is scaled the wrong way, or the wrong one turns around in a mirror."""
    flow = torch.from_numpy(rng.normal(0, 3, (2, 2, 11, 13)))
    seen, plain = view_flow(flow, view), view_image(flow, view)
    for i, j in ((0, 0), (4, 2), (3, 6)):
        x, y = source(view, i, j)
        # Where a point of the view lies in the frame is affine: steps of one pixel tell its slope.
        right, down = source(view, i, j + 1)[0] - x, source(view, i + 1, j)[1] - y
        assert (seen[:, 0, i, j] * right).tolist() == pytest.approx(plain[:, 0, i, j].tolist())
        assert (seen[:, 1, i, j] * down).tolist() == pytest.approx(plain[:, 1, i, j].tolist())


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("axis", [-1, -2])
def test_a_view_of_a_mirrored_frame_is_a_mirrored_view(
    view: View, axis: int, rng: np.random.Generator
) -> None:
    """Red when: a mirrored view starts elsewhere, or two mirrors do not cancel in the flow."""
    frame = torch.from_numpy(rng.normal(0, 3, (2, 2, 11, 13)))
    turn = torch.tensor([-1.0, 1.0] if axis == -1 else [1.0, -1.0]).view(1, 2, 1, 1)
    start, own, side, flag = (
        ("left_px", view.size[1], 13, "left_to_right")
        if axis == -1
        else ("top_px", view.size[0], 11, "upside_down")
    )
    other_start = side - 1 - getattr(view, start) - (own - 1) / view.scale
    other = replace(view, **{start: other_start, flag: not getattr(view, flag)})
    torch.testing.assert_close(view_flow(frame.flip(axis) * turn, view), view_flow(frame, other))
    torch.testing.assert_close(view_image(frame.flip(axis), view), view_image(frame, other))


def test_a_mask_holds_where_nothing_else_is_blended_in() -> None:
    """Red when: half a pixel is enough."""
    mask = torch.ones(1, 6, 8, dtype=torch.bool)
    mask[0, 3, 4] = False
    half = View(size=(4, 5), top_px=1.5, left_px=1.0, scale=1.0)
    hidden = ~view_mask(mask, half)
    assert hidden.nonzero().tolist() == [[0, 1, 3], [0, 2, 3]]
    assert view_mask(mask, replace(half, top_px=0.0, size=(3, 5))).all()


@pytest.mark.parametrize("frame", [(64, 64), (64, 200), (96, 192), (288, 960), (73, 130)])
def test_drawn_views_lie_in_the_frame(frame: tuple[int, int]) -> None:
    """Red when: a view reaches out of a frame as small as itself, or one kind is never drawn."""
    views = [draw_view(frame, np.random.default_rng([5, step])) for step in range(200)]
    for view in views:
        for own, side in zip(view.size, frame, strict=True):
            assert own % 8 == 0
            assert 64 <= own <= max(64, side / 3 + 4)
        corners = [source(view, i, j) for i in (0, view.size[0] - 1) for j in (0, view.size[1] - 1)]
        for x, y in corners:
            assert -1e-9 <= x <= frame[1] - 1 + 1e-9
            assert -1e-9 <= y <= frame[0] - 1 + 1e-9
    assert 0 < sum(view.upside_down for view in views) < 50 < sum(view.left_to_right for view in views) < 150
    assert max(view.scale for view in views) > 1.25
    assert (min(view.scale for view in views) < 0.85) == (min(frame) > 80)
    assert draw_view(frame, np.random.default_rng([5, 7])) == views[7]
