"""The layered scenes against themselves: pictures, flow both ways, occlusion."""

import dataclasses
from functools import cache

import cv2
import numpy as np
import pytest

from semraft.config import ShapesConfig, WorldConfig
from semraft.data import open_dataset
from semraft.data.shapes.dataset import VALIDATION_SCENES, scene
from semraft.sample import OPTIONAL_FIELDS, FlowSample

SMALL = ShapesConfig(size=(96, 136), motion_px=8.0)
CLEAN = dataclasses.replace(SMALL, effects=False)


@cache
def rendered(index: int, shapes: ShapesConfig = CLEAN) -> FlowSample:
    """A scene that several tests look at, rendered once."""
    return scene(shapes, index)


def arrays(sample: FlowSample) -> dict[str, np.ndarray]:
    values = ((field.name, getattr(sample, field.name)) for field in dataclasses.fields(sample))
    return {name: value for name, value in values if isinstance(value, np.ndarray)}


def warped(image: np.ndarray, flow: np.ndarray, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
    """Frame 2 read at the matches of frame 1's pixels."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(
        image, x + flow[..., 0], y + flow[..., 1], interpolation, borderMode=cv2.BORDER_REPLICATE
    )


def test_a_scene_is_a_function_of_its_arguments_alone() -> None:
    """Red when: a scene is drawn from a generator that lives on between calls, or by what was made before."""
    first = scene(SMALL, 5)
    others = [scene(SMALL, 6), scene(dataclasses.replace(SMALL, seed=1), 5), scene(SMALL, 5, "val")]
    again = scene(SMALL, 5)
    for name, value in arrays(first).items():
        np.testing.assert_array_equal(value, getattr(again, name), err_msg=name)
    for other in others:
        assert (first.image1 != other.image1).mean() > 0.5
        assert np.abs(first.flow - other.flow).mean() > 0.01


@pytest.mark.parametrize("size", [(64, 64), (67, 257), (131, 65)])
def test_any_size(size: tuple[int, int]) -> None:
    for index in range(4):
        sample = scene(dataclasses.replace(SMALL, size=size), index)
        assert set(arrays(sample)) == {*OPTIONAL_FIELDS, "image1", "image2", "flow", "valid"} - {
            "labels1",
            "labels2",
        }
        for name, value in arrays(sample).items():
            assert value.shape[:2] == size, name
        assert np.isfinite(sample.flow).all()
        assert np.isfinite(sample.backward_flow).all()


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_warping_reproduces_the_frame_outside_occlusions(direction: str) -> None:
    """Bilinear warping of clean pictures, every visible pixel, edges included.

    Red when: a texture slides over its object; u is written over v; a shear is not undone.
    """
    psnrs = []
    for index in range(40):
        sample = rendered(index)
        if direction == "forward":
            image, target, flow, visible = sample.image2, sample.image1, sample.flow, ~sample.occluded1
        else:
            image, target, flow = sample.image1, sample.image2, sample.backward_flow
            visible = ~sample.occluded2
        error = warped(image.astype(np.float32), flow) - target
        psnrs.append(10 * np.log10(255**2 / np.mean(error[visible] ** 2)))
    assert np.median(psnrs) > 32


def test_forward_and_backward_flow_agree_on_visible_pixels() -> None:
    """Where the four pixels around the match see the same object, flow there and back is zero.

    Red when: the backward flow leaves out the shears, or undoes them in the order in which they act.
    """
    for index in range(40):
        sample = rendered(index)
        number = sample.instances2.astype(np.float32)
        alone = cv2.dilate(number, np.ones((3, 3))) == cv2.erode(number, np.ones((3, 3)))
        inside = ~sample.occluded1 & (warped(alone.astype(np.float32), sample.flow) == 1)
        there_and_back = sample.flow + warped(sample.backward_flow, sample.flow)
        error_px = np.hypot(there_and_back[..., 0], there_and_back[..., 1])[inside]
        assert np.mean(error_px < 0.05) > 0.97
        assert np.percentile(error_px, 50) < 0.01


def test_scenes_are_slow_and_fast_and_have_many_and_few_objects() -> None:
    """Red when: all scenes have one speed; objects lie outside the frame."""
    means, counts = [], []
    for index in range(60):
        sample = rendered(index)
        means.append(np.hypot(sample.flow[..., 0], sample.flow[..., 1]).mean())
        counts.append(len(np.unique(sample.instances1)) - 1)
    assert np.percentile(means, 20) < 1.5
    assert np.percentile(means, 90) > 12
    assert min(counts) <= 3
    assert max(counts) >= 12


def test_the_data_set_has_training_and_validation_scenes() -> None:
    dataset = open_dataset("shapes", None, "train", WorldConfig(), dataclasses.replace(SMALL, scenes=5))
    assert [pair.id for pair in dataset.pairs] == [f"train/{number:06d}" for number in range(5)]
    np.testing.assert_array_equal(dataset[3].image1, scene(SMALL, 3).image1)
    assert dataset.provides == {name for name in OPTIONAL_FIELDS if getattr(dataset[0], name) is not None}
    assert len(open_dataset("shapes", None, "val", WorldConfig(), SMALL)) == VALIDATION_SCENES
