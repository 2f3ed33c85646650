"""Laws of augmentation, for any window, flip and motion."""

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from semraft.config import AugmentConfig
from semraft.data.augment import Window, augment, cut, flip
from semraft.sample import FlowSample
from tests.helpers import make_sample

HEIGHT, WIDTH = 41, 57
seeds = st.integers(0, 2**32 - 1)
crops = st.tuples(st.integers(9, 30), st.integers(9, 40))


@st.composite
def windows(draw: st.DrawFn) -> Window:
    height, width = draw(st.integers(8, HEIGHT)), draw(st.integers(8, WIDTH))
    return Window(draw(st.integers(0, HEIGHT - height)), draw(st.integers(0, WIDTH - width)), height, width)


def moved_pair(u: int, v: int) -> FlowSample:
    """A pair in which every pixel is its own instance, and all of them move by (u, v)."""
    ids = np.arange(1, HEIGHT * WIDTH + 1, dtype=np.int32).reshape(HEIGHT, WIDTH)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    instances2 = np.zeros_like(ids)
    stays = (rows + v >= 0) & (rows + v < HEIGHT) & (columns + u >= 0) & (columns + u < WIDTH)
    came = (rows - v >= 0) & (rows - v < HEIGHT) & (columns - u >= 0) & (columns - u < WIDTH)
    instances2[(rows + v)[stays], (columns + u)[stays]] = ids[stays]
    flow = np.full((HEIGHT, WIDTH, 2), (u, v), np.float32)
    everywhere = np.ones((HEIGHT, WIDTH), bool)
    return dataclasses.replace(
        make_sample(np.random.default_rng(0), HEIGHT, WIDTH),
        flow=flow,
        backward_flow=-flow,
        valid=everywhere,
        valid_noc=stays,
        backward_valid=everywhere,
        instances1=ids,
        instances2=instances2,
        occluded1=~stays,
        occluded2=~came,
    )


def place(ids: np.ndarray) -> np.ndarray:
    """Row and column in the frame that an instance of `moved_pair` had."""
    return np.stack(np.divmod(ids - 1, WIDTH), -1)


@given(seed=seeds, crop=crops, u=st.integers(-9, 9), v=st.integers(-9, 9), sparse=st.booleans())
@settings(max_examples=60, deadline=None)
def test_flow_still_leads_to_the_same_point(
    seed: int, crop: tuple[int, int], u: int, v: int, sparse: bool
) -> None:
    """After any augmentation, the flow of a visible pixel ends on the pixel that shows the same point.

    Both pixels are nearest neighbours, half a pixel off at most, and so is the rounded match: in pixels of
    the frame, 1/2 + 1/2 + 1/(2 f), and for sparse ground truth another 1/(2 f). Red when: flow is not scaled
    or not negated, frames are cut apart, axes change places, erased or cut-off pixels stay visible.
    """
    rng = np.random.default_rng(seed)
    config = AugmentConfig(eraser_size_px=(5, 12), vertical_flip_probability=0.5)
    sample = dataclasses.replace(moved_pair(u, v), sparse=sparse)
    result = augment(sample, config, crop, rng)
    assert result.occluded1 is not None
    assert result.instances1 is not None
    assert result.instances2 is not None
    rows, columns = np.nonzero(result.valid & ~result.occluded1)
    match = np.rint(np.stack([rows, columns], 1) + result.flow[rows, columns][:, ::-1]).astype(int)
    assert (match >= 0).all()
    assert (match < crop).all()
    seen = result.instances2[match[:, 0], match[:, 1]]
    # The nearest pixel of a match may just be occluded, or came into frame 2: no instance of frame 1.
    known = seen > 0
    if not sparse:
        assert known.size < 30 or known.mean() > 0.7
    gap = np.abs(place(seen[known]) - place(result.instances1[rows, columns][known]))
    smallest = 0.9 * max(crop[0] / HEIGHT, crop[1] / WIDTH, 2**-0.7)  # Windows are rounded.
    assert gap.max(initial=0) <= 1 + 0.5 / smallest + (0.5 / smallest if sparse else 0)


@given(
    window=windows(),
    crop=crops,
    coefficients=st.lists(st.floats(-0.3, 0.3), min_size=6, max_size=6),
    mirrored=st.sampled_from([(), (0,), (1,), (0, 1)]),
)
@settings(max_examples=60, deadline=None)
def test_an_affine_flow_is_transformed_as_algebra_says(
    window: Window, crop: tuple[int, int], coefficients: list[float], mirrored: tuple[int, ...]
) -> None:
    """Red when: positions are half a pixel off, factors are not the realised ones, a sign is wrong."""
    a, b, c, d, e, f = coefficients

    def flow_at(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return np.stack([a * x + b * y + 9 * c, d * x + e * y + 9 * f], -1)

    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    sample = dataclasses.replace(moved_pair(0, 0), flow=flow_at(rows, columns).astype(np.float32))
    result = cut(sample, window, crop)
    y, x = np.mgrid[: crop[0], : crop[1]].astype(float)
    signs = [1, 1]
    for axis in mirrored:
        result = flip(result, axis)
        signs[1 - axis] = -1
        if axis == 0:
            y = crop[0] - 1 - y
        else:
            x = crop[1] - 1 - x
    factors = np.array([crop[1] / window.width, crop[0] / window.height])
    inside_y = ((y + 0.5) / factors[1] - 0.5).clip(0, window.height - 1)
    inside_x = ((x + 0.5) / factors[0] - 0.5).clip(0, window.width - 1)
    expected = flow_at(inside_y + window.top, inside_x + window.left) * factors * signs
    assert np.abs(result.flow - expected).max() < 2e-3


@given(seed=seeds, axis=st.sampled_from([0, 1]))
@settings(max_examples=20, deadline=None)
def test_a_flip_undoes_itself(seed: int, axis: int) -> None:
    """Red when: a component is negated once too often."""
    sample = make_sample(np.random.default_rng(seed), 13, 17)
    twice = flip(flip(sample, axis), axis)
    for field in dataclasses.fields(sample):
        if isinstance(getattr(sample, field.name), np.ndarray):
            np.testing.assert_array_equal(getattr(twice, field.name), getattr(sample, field.name))


@given(seed=seeds, crop=crops, window=windows())
@settings(max_examples=40, deadline=None)
def test_values_at_invalid_pixels_change_nothing(seed: int, crop: tuple[int, int], window: Window) -> None:
    """Red when: flow is blended or moved without asking whether it is valid."""
    sample = make_sample(np.random.default_rng(seed), HEIGHT, WIDTH)
    poison = np.where(sample.valid[..., None], sample.flow, np.float32(1e6))
    for sparse in (False, True):
        clean = cut(dataclasses.replace(sample, sparse=sparse), window, crop)
        poisoned = cut(dataclasses.replace(sample, flow=poison, sparse=sparse), window, crop)
        np.testing.assert_array_equal(clean.flow, poisoned.flow)
        np.testing.assert_array_equal(clean.valid, poisoned.valid)


@given(seed=seeds, crop=crops)
@settings(max_examples=40, deadline=None)
def test_ids_are_a_subset_and_masks_stay_consistent(seed: int, crop: tuple[int, int]) -> None:
    """Red when: an id is invented, `valid_noc` outgrows `valid`, or invalid flow is not 0."""
    sample = make_sample(np.random.default_rng(seed), HEIGHT, WIDTH)
    for sparse in (False, True):
        result = augment(
            dataclasses.replace(sample, sparse=sparse), AugmentConfig(), crop, np.random.default_rng(seed)
        )
        for name in ("labels1", "labels2", "instances1", "instances2"):
            allowed = set(np.unique(getattr(sample, name))) | ({255} if name == "labels2" else {0})
            assert set(np.unique(getattr(result, name))) <= allowed
        assert result.valid_noc is not None
        assert not (result.valid_noc & ~result.valid).any()
        assert (result.flow[~result.valid] == 0).all()
        assert result.backward_flow is not None
        assert result.backward_valid is not None
        assert (result.backward_flow[~result.backward_valid] == 0).all()
