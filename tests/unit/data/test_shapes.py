"""The layered scenes against themselves: pictures, flow both ways, occlusion."""

import dataclasses
import random
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from semraft.config import ShapesConfig, WorldConfig
from semraft.data import open_dataset
from semraft.data.files.pictures import write_image
from semraft.data.shapes.layer_render import render
from semraft.data.shapes.layer_textures import TextureBank, texture_bank
from semraft.data.shapes.layered_scene import Layers, draw_scene
from semraft.data.shapes.outlines import BARS, EVERYWHERE, SIDE, OutlineBank, outline_bank
from semraft.data.shapes.shapes_dataset import VALIDATION_SCENES, scene
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
    for index in range(20):
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
    for index in range(20):
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
    for index in range(30):
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


def layers_of(shapes: ShapesConfig, index: int) -> tuple[Layers, OutlineBank, TextureBank]:
    """The parts of a training scene."""
    rng = random.Random(f"shapes/train/{shapes.seed}/{index}")
    outlines, textures = outline_bank((shapes.seed, 0)), texture_bank((shapes.seed, 0))
    scene = draw_scene(rng, shapes.size, shapes.motion_px, shapes.effects, outlines, textures)
    return scene.layers, outlines, textures


class SlowRenderer:
    """Layers point by point in plain Python, from their definition: no tiles, boxes, bounds or lists."""

    def __init__(self, shapes: ShapesConfig, index: int) -> None:
        self.layers, self.outlines, self.textures = layers_of(shapes, index)
        self.middle = np.array([(shapes.size[1] - 1) / 2, (shapes.size[0] - 1) / 2])

    def on_plane(self, frame: int, k: int, pixel: np.ndarray) -> np.ndarray:
        x, y, depth = self.layers.to_plane[frame, k] @ [*(pixel - self.middle), 1.0]
        return np.array([x, y]) / depth

    def bent(self, k: int, number: int, sign: float, place: np.ndarray) -> np.ndarray:
        k_x, k_y, phase, u_x, u_y = self.layers.shears[k, number]
        t = (np.dot([k_x, k_y], place) + phase + 0.5) % 1 - 0.5
        return place + sign * np.array([u_x, u_y]) * (t - 40 / 7 * t**3 + 48 / 7 * t**5)

    def surface(self, frame: int, k: int, pixel: np.ndarray) -> np.ndarray:
        place = self.on_plane(frame, k, pixel)
        of_motion, of_form = self.layers.shear_count[k]
        for number in reversed(range(of_motion)) if frame == 1 else ():
            place = self.bent(k, number, -1, place)
        for number in range(of_form):
            place = self.bent(k, 2 + number, 1, place)
        return place

    def covers(self, frame: int, k: int, pixel: np.ndarray) -> bool:
        """Whether layer k is at a point of a frame, whatever is in front of it."""
        number, form = self.layers.outline[k], self.layers.form[k]
        if number == EVERYWHERE:
            return True
        a, b = self.surface(frame, k, pixel)
        if number == BARS:
            half_length, half_width, period, beyond = form
            bars = period * np.arange(-beyond, beyond + 1)
            return bool(abs(a) < half_length and (np.abs(b - bars) < half_width).any())
        field, middle = self.outlines.fields[number], (SIDE - 1) / 2
        column, row = a + middle, b + middle
        if not (0 <= column <= SIDE - 1.001 and 0 <= row <= SIDE - 1.001):
            return False
        left, top = int(column), int(row)
        corners = field[top : top + 2, left : left + 2].astype(float)
        right, down = column - left, row - top
        value = np.array([1 - down, down]) @ corners @ np.array([1 - right, right])
        return bool(abs(value - form[0]) < form[1] if form[1] > 0 else value < 0)

    def seen(self, frame: int, pixel: np.ndarray) -> int:
        return next(k for k in range(len(self.layers.outline)) if self.covers(frame, k, pixel))

    def follow(self, frame: int, k: int, pixel: np.ndarray) -> np.ndarray:
        """Where layer k's point at a pixel of a frame is in the other."""
        place = self.on_plane(frame, k, pixel)
        count = self.layers.shear_count[k, 0]
        for number in range(count) if frame == 0 else reversed(range(count)):
            place = self.bent(k, number, 1 - 2 * frame, place)
        x, y, depth = np.linalg.inv(self.layers.to_plane[1 - frame, k]) @ [*place, 1.0]
        return np.array([x, y]) / depth + self.middle

    def light(self, frame: int, pixel: np.ndarray) -> np.ndarray:
        """The colour at a point: texels of full resolution, blended, through the layer's palette."""
        k = self.seen(frame, pixel)
        s, t = self.layers.to_texel[k] @ [*self.surface(frame, k, pixel), 1.0]
        texels = self.textures.texels[self.layers.texture[k], : 512 * 512, 0].reshape(512, 512)
        left, top = int(np.floor(s)), int(np.floor(t))
        rows, columns = np.ix_([top % 512, (top + 1) % 512], [left % 512, (left + 1) % 512])
        grey = (
            np.array([top + 1 - t, t - top])
            @ texels[rows, columns].astype(float)
            @ np.array([left + 1 - s, s - left])
        )
        return np.asarray(self.layers.palette[k, int(grey + 0.5)], float)


@pytest.mark.parametrize(
    ("index", "direction"), [(1, "forward"), (6, "backward"), (9, "forward"), (9, "backward")]
)
def test_truth_equals_a_slow_renderer(index: int, direction: str) -> None:
    """Layers, flow and occlusion of random pixels, and of pixels at borders and at occlusions.

    Every layer is asked at every point. Red when: a tile that a thin bar crosses is skipped (reach without
    what shears change); `near` is never set; shears are undone in their own order; a box is too small.
    """
    sample = rendered(index)
    slow = SlowRenderer(CLEAN, index)
    flow, occluded, instances, frame = sample.flow, sample.occluded1, sample.instances1, 0
    if direction == "backward":
        flow, occluded, instances, frame = sample.backward_flow, sample.occluded2, sample.instances2, 1
    height, width = occluded.shape
    edges = np.zeros(occluded.shape, bool)
    for array in (occluded.astype(np.float32), instances.astype(np.float32)):
        edges |= cv2.morphologyEx(array, cv2.MORPH_GRADIENT, np.ones((3, 3))) > 0
    rng = np.random.default_rng(index)
    chosen = [rng.integers(0, height * width, 400), rng.choice(np.flatnonzero(edges), 600)]
    wrong = 0
    for flat in np.concatenate(chosen):
        y, x = divmod(int(flat), width)
        pixel = np.array([x, y], float)
        k = slow.seen(frame, pixel)
        end = slow.follow(frame, k, pixel)
        number = 0 if k == len(slow.layers.outline) - 1 else k + 1
        hidden = not (0 <= end[0] <= width - 1 and 0 <= end[1] <= height - 1)
        hidden = hidden or slow.seen(1 - frame, end) < k
        if number != instances[y, x] or hidden != occluded[y, x]:
            wrong += 1  # Rounding decides at points on a border; anything else is a fault.
            continue
        np.testing.assert_allclose(flow[y, x], end - pixel, atol=2e-4)
    assert wrong <= 2


def test_pictures_equal_a_slow_renderer() -> None:
    """The mean of 6x6 points a pixel, before the lens, inside objects and where two meet.

    In scene 3 all is seen at less than a texel a pixel, and must be the same; elsewhere textures are averaged
    by mip maps. Red when: coverage is 0 or 1, or a pixel wide and half a pixel aside; a texture lies half a
    texel aside, at full resolution or at another.
    """
    inside: dict[int, list[float]] = {}
    at_edges, of_points = [], []
    for index in (1, 3, 6, 9):
        slow = SlowRenderer(CLEAN, index)
        color = render(slow.layers, 0, CLEAN.size, slow.outlines, slow.textures).color
        instances = rendered(index).instances1.astype(np.float32)
        edges = cv2.morphologyEx(instances, cv2.MORPH_GRADIENT, np.ones((3, 3))) > 0
        rng = np.random.default_rng(index)
        for flat in np.concatenate([rng.integers(0, edges.size, 40), rng.choice(np.flatnonzero(edges), 40)]):
            y, x = divmod(int(flat), edges.shape[1])
            offsets = (np.arange(6) + 0.5) / 6 - 0.5
            points = [np.array([x + dx, y + dy]) for dy in offsets for dx in offsets]
            mean = np.mean([slow.light(0, point) for point in points], axis=0)
            error = float(np.abs(color[y, x] - mean).mean())
            if edges[y, x]:
                at_edges.append(error)
                of_points.append(float(np.abs(slow.light(0, np.array([x, y], float)) - mean).mean()))
            else:
                inside.setdefault(index, []).append(error)
    assert np.mean(inside[3]) < 0.1
    assert np.mean([error for errors in inside.values() for error in errors]) < 1.2
    assert np.mean(at_edges) < 0.45 * np.mean(of_points)


def test_pictures_of_a_folder_are_textures_in_their_own_colours(tmp_path: Path) -> None:
    """Red when: red and blue change places; a grey palette is laid over pictures."""
    shapes = dataclasses.replace(CLEAN, textures=str(tmp_path))
    with pytest.raises(ValueError, match="no picture there"):
        open_dataset("shapes", None, "train", WorldConfig(), shapes)
    picture = np.zeros((300, 400, 3), np.uint8) + np.array([200, 60, 20], np.uint8)
    write_image(tmp_path / "red.png", picture)
    texture_bank.cache_clear()
    sample = open_dataset("shapes", None, "train", WorldConfig(), shapes)[0]
    red, green, blue = sample.image1.reshape(-1, 3).mean(0)
    assert red > green + 20
    assert green > blue
