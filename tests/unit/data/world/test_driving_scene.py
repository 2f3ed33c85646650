"""The procedural world against itself: its images, labels and flows, and a slow second renderer."""

import dataclasses
import pickle
from functools import cache

import cv2
import numpy as np
import pytest

from semraft.config import WorldConfig
from semraft.data.world import bodies, driving_scene, geometry, world_dataset
from semraft.data.world.geometry import Camera
from semraft.data.world.textures import LEVEL_STARTS, SIDE, base_texture, texture_bank
from semraft.sample import OPTIONAL_FIELDS, FlowSample

SIZE = (96, 160)


@cache
def rendered(
    index: int, split: driving_scene.Split = "train", size: tuple[int, int] = (128, 256)
) -> FlowSample:
    """A scene that several tests look at, rendered once."""
    return driving_scene.scene(0, index, size, split)


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


def test_a_scene_has_every_field_and_many_classes() -> None:
    sample = driving_scene.scene(0, 0, SIZE)
    assert set(arrays(sample)) == {*OPTIONAL_FIELDS, "image1", "image2", "flow", "valid"}
    assert sample.id.startswith("train/")
    assert sample.scene == f"world/{sample.id}"
    seen = np.zeros(12, bool)
    for index in range(12):
        seen[np.unique(rendered(index, "val" if index % 2 else "train").labels1)] = True
    assert seen.all(), f"classes never seen: {np.flatnonzero(~seen)}"


@pytest.mark.parametrize(
    ("seed", "index", "size"), [(0, 0, (63, 100)), (0, 0, (100, 63)), (-1, 0, SIZE), (0, -1, SIZE)]
)
def test_an_impossible_scene_is_refused(seed: int, index: int, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        driving_scene.scene(seed, index, size)


def test_a_scene_is_a_function_of_its_arguments_alone() -> None:
    """Red when: a scene is drawn from a generator that lives on between calls."""
    first = driving_scene.scene(3, 5, SIZE, "val")
    others = [
        driving_scene.scene(3, 6, SIZE, "val"),
        driving_scene.scene(4, 5, SIZE, "val"),
        driving_scene.scene(3, 5, SIZE, "train"),
    ]
    again = driving_scene.scene(3, 5, SIZE, "val")
    for name, value in arrays(first).items():
        np.testing.assert_array_equal(value, getattr(again, name), err_msg=name)
    assert first.id == again.id == driving_scene.scene_name(3, 5, "val")
    for other in others:
        assert (first.image1 != other.image1).mean() > 0.5
        assert np.abs(first.flow - other.flow).mean() > 0.1


def test_the_size_does_not_change_the_street() -> None:
    """Flow in pixels grows with the size, classes stay where they are.

    Red when: something is drawn in a number that depends on the size.
    """
    small, large = driving_scene.scene(0, 1, (90, 150)), driving_scene.scene(0, 1, (270, 450))
    assert np.mean(small.labels1 == large.labels1[1::3, 1::3]) > 0.98
    both = small.valid & large.valid[1::3, 1::3] & (small.instances1 == large.instances1[1::3, 1::3])
    both &= small.labels1 == large.labels1[1::3, 1::3]
    assert np.median(np.abs(3 * small.flow - large.flow[1::3, 1::3])[both]) < 0.02


@pytest.mark.parametrize("size", [(64, 64), (67, 257), (131, 65)])
@pytest.mark.parametrize("split", ["train", "val"])
def test_any_size(size: tuple[int, int], split: driving_scene.Split) -> None:
    sample = driving_scene.scene(1, 2, size, split)
    for name, value in arrays(sample).items():
        assert value.shape[:2] == size, name
    assert np.isfinite(sample.flow).all()
    assert np.isfinite(sample.backward_flow).all()
    assert sample.labels1.max() < 12
    assert not sample.valid[sample.labels1 == bodies.SKY].any()
    assert (sample.flow[~sample.valid] == 0).all()
    assert (sample.backward_flow[~sample.backward_valid] == 0).all()
    assert sample.valid[sample.labels1 != bodies.SKY].mean() > 0.99


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_warping_reproduces_the_frame_outside_occlusions(direction: str) -> None:
    """Bilinear warping, every visible valid pixel, edges included.

    Red when: textures slide with the camera; u is written over v. An error of 5 per cent is left to the ray
    caster below.
    """
    psnrs = []
    for index in range(12):
        sample = rendered(index, "val" if index % 2 else "train")
        if direction == "forward":
            image, target, flow, visible = sample.image2, sample.image1, sample.flow, ~sample.occluded1
            visible &= sample.valid
        else:
            image, target, flow = sample.image1, sample.image2, sample.backward_flow
            visible = ~sample.occluded2 & sample.backward_valid
        error = warped(image.astype(np.float32), flow) - target
        psnrs.append(10 * np.log10(255**2 / np.mean(error[visible] ** 2)))
    assert np.median(psnrs) > 31
    assert min(psnrs) > 27


def test_labels_and_instances_agree_at_the_match() -> None:
    """Away from borders they must agree but for objects narrower than a pixel or so.

    Red when: frame 2's maps are frame 1's; instances are numbered anew in frame 2.
    """
    for index in range(8):
        sample = rendered(index, "val" if index % 2 else "train")
        code1 = sample.labels1.astype(np.int32) * 1000 + sample.instances1
        code2 = sample.labels2.astype(np.float32) * 1000 + sample.instances2
        at_match = warped(code2, sample.flow, cv2.INTER_NEAREST)
        visible = sample.valid & ~sample.occluded1
        assert np.mean((at_match == code1)[visible]) > 0.96
        spread = cv2.dilate(code2, np.ones((3, 3))) - cv2.erode(code2, np.ones((3, 3)))
        inside = visible & (warped(spread, sample.flow, cv2.INTER_NEAREST) == 0)
        assert np.mean((at_match == code1)[inside]) > 0.9995


def test_forward_and_backward_flow_agree_on_visible_pixels() -> None:
    """Where the four pixels around the match see the same patch, flow there and back is zero.

    Bilinear reading of the backward flow leaves the second order of perspective, a few hundredths of a pixel.
    Red when: the backward flow uses the forward focal lengths and the forward planes.
    """
    for index in range(6):
        stage = driving_scene.stage(0, index, "train" if index % 2 == 0 else "val")
        second = geometry.view(stage.patches, 2, driving_scene.cameras(stage.ego, (128, 256))[1])
        sample = rendered(index, "train" if index % 2 == 0 else "val")
        there = warped(sample.backward_flow, sample.flow)
        ids = second.patch.astype(np.float32)
        same = warped(cv2.dilate(ids, np.ones((3, 3))) - cv2.erode(ids, np.ones((3, 3))), sample.flow) == 0
        inside = sample.valid & ~sample.occluded1 & same
        assert inside.mean() > 0.3
        residual = np.hypot(*(there + sample.flow)[inside].T)
        assert np.quantile(residual, 0.99) < 0.05


def body_rotations(turns: np.ndarray) -> np.ndarray:
    """Roll about the body's own z, then yaw about the world's y, written out one after the other."""
    rotations = []
    for yaw, roll in turns:
        about_z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
        about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
        rotations.append(about_y @ about_z)
    return np.array(rotations)


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sum(a * b, axis=-1)


class RayCaster:
    """One frame, seen ray by ray in world coordinates."""

    def __init__(self, patches: np.ndarray, frame: int, camera: Camera) -> None:
        self.patches, self.camera = patches, camera
        self.rotations = body_rotations(patches[f"turn{frame}"])
        self.positions = patches[f"position{frame}"]
        self.right = np.array([r @ edge for r, edge in zip(self.rotations, patches["right"], strict=True)])
        self.down = np.array([r @ edge for r, edge in zip(self.rotations, patches["down"], strict=True)])
        self.corner = np.array([r @ edge for r, edge in zip(self.rotations, patches["corner"], strict=True)])
        self.corner += self.positions
        self.centre = np.array([(camera.size[1] - 1) / 2, (camera.size[0] - 1) / 2])

    def cast(self, pixel: np.ndarray) -> tuple[int, float, np.ndarray, bool]:
        """The patch in sight, its depth, the point, and whether rounding could make it another."""
        ray = self.camera.rotation.T @ np.array([*((pixel - self.centre) / self.camera.focal_px), 1.0])
        normal = np.cross(self.right, self.down)
        slope = normal @ ray
        possible = np.where(self.patches["closed"], slope > 0, slope != 0)
        depth = dot(normal, self.corner - self.camera.position) / np.where(possible, slope, 1.0)
        possible &= depth > 0
        offset = self.camera.position + depth[:, None] * ray - self.corner
        s, t = (
            dot(offset, self.right) / dot(self.right, self.right),
            dot(offset, self.down) / dot(self.down, self.down),
        )
        margin = np.min([s, 1 - s, t, 1 - t], axis=0)
        margin = np.where(self.patches["ellipse"], 1 - np.hypot(2 * s - 1, 2 * t - 1), margin)
        hit = np.flatnonzero(possible & (margin >= 0))
        hit = hit[np.argsort(depth[hit])]
        nearest = depth[hit[0]]
        in_front = possible & (depth < nearest * 1.001)
        close = bool((np.abs(margin[in_front]) < 1e-5).any()) or bool(
            (depth[hit[1:]] < nearest * (1 + 1e-5)).any()
        )
        return int(hit[0]), float(nearest), self.camera.position + nearest * ray, bool(close)

    def project(self, point: np.ndarray) -> tuple[np.ndarray, float]:
        """Pixel and depth of a point of the world."""
        x, y, z = self.camera.rotation @ (point - self.camera.position)
        return self.camera.focal_px * np.array([x, y]) / z + self.centre, float(z)


@pytest.mark.parametrize(
    ("index", "split", "direction"),
    [(0, "train", "forward"), (6, "train", "backward"), (2, "val", "forward"), (14, "val", "backward")],
)
def test_truth_equals_slow_ray_casting(index: int, split: driving_scene.Split, direction: str) -> None:
    """Labels, flow and occlusion of random pixels, and of pixels at occlusions, against a second renderer.

    It shares nothing with the first but the list of patches. Pixels so close to an edge that rounding decides
    are left out. Red when: the depth buffer keeps the farther patch; no pixel is uncertain (EDGE_BAND = 0);
    a match is rounded before it is tested; a body stays in its first position.
    """
    height, width = 64, 112
    sample = driving_scene.scene(0, index, (height, width), split)
    stage = driving_scene.stage(0, index, split)
    frames = [
        RayCaster(stage.patches, n, driving_scene.cameras(stage.ego, (height, width))[n - 1]) for n in (1, 2)
    ]
    flow, valid, occluded = sample.flow, sample.valid, sample.occluded1
    labels, instances = sample.labels1, sample.instances1
    if direction == "backward":
        frames.reverse()
        flow, valid, occluded = sample.backward_flow, sample.backward_valid, sample.occluded2
        labels, instances = sample.labels2, sample.instances2
    first, second = frames
    turns = second.rotations @ first.rotations.transpose(0, 2, 1)
    edge = cv2.morphologyEx(occluded.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3))) > 0
    rng = np.random.default_rng(index)
    checked, hidden = 0, 0
    for flat in np.concatenate([rng.integers(0, height * width, 600), rng.choice(np.flatnonzero(edge), 400)]):
        y, x = divmod(int(flat), width)
        own, _, point, close = first.cast(np.array([x, y], float))
        if close:
            continue
        patch = stage.patches[own]
        assert (labels[y, x], instances[y, x]) == (patch["label"], patch["instance"])
        if direction == "forward":
            assert sample.moving1[y, x] == patch["moving"]
        match, depth = second.project(turns[own] @ (point - first.positions[own]) + second.positions[own])
        assert valid[y, x] == (patch["label"] != bodies.SKY and depth > 0.1)
        if valid[y, x]:
            np.testing.assert_allclose(flow[y, x], match - (x, y), atol=2e-4)
        outside = np.max([-match, match - (width - 1, height - 1)])
        if abs(outside) < 2e-3:
            continue
        if depth <= 0 or outside > 0:
            assert occluded[y, x]
            continue
        seen, seen_depth, _, close = second.cast(match)
        if close:
            continue
        visible = abs(seen_depth / depth - 1) < 1e-6
        assert occluded[y, x] != visible, (x, y, own, seen)
        checked, hidden = checked + 1, hidden + (not visible)
    assert checked > 400
    assert hidden > 12


def test_moving_is_what_changes_its_place_in_the_world() -> None:
    """Red when: people who stand still swing their legs; parked cars are marked as moving."""
    moving, parked = 0, 0
    for index in range(40):
        patches = driving_scene.stage(0, index, "train").patches
        stays = (patches["position1"] == patches["position2"]).all(axis=1)
        stays &= (patches["turn1"] == patches["turn2"]).all(axis=1)
        scenery = patches["label"] != bodies.SKY
        np.testing.assert_array_equal(patches["moving"][scenery], ~stays[scenery])
        moving += int(patches["moving"].sum())
        parked += int((stays & (patches["label"] == bodies.CAR)).sum())
        things = patches["label"] >= bodies.PERSON
        assert (patches["instance"][things] > 0).all()
        assert (patches["instance"][~things] == 0).all()
    assert moving > 800
    assert parked > 60


def test_neighbours_of_one_class_move_differently() -> None:
    """Scenes that mislead V1 must occur: two instances of one class touch, and their flows differ."""
    touching = 0
    for index in range(12):
        sample = rendered(index, "val" if index % 2 else "train")
        for axis in (0, 1):
            a, b = (
                np.take(sample.instances1, range(s, sample.instances1.shape[axis] - 1 + s), axis)
                for s in (0, 1)
            )
            u, v = (np.take(sample.flow, range(s, sample.flow.shape[axis] - 1 + s), axis) for s in (0, 1))
            c, d = (
                np.take(sample.labels1, range(s, sample.labels1.shape[axis] - 1 + s), axis) for s in (0, 1)
            )
            touching += int(((a != b) & (a > 0) & (b > 0) & (c == d) & (np.abs(u - v).max(-1) > 0.5)).sum())
    assert touching > 50


def test_motion_is_that_of_driving() -> None:
    """Red when: the ego speed is doubled; the camera stands still."""
    samples = [rendered(index, "val" if index % 2 else "train") for index in range(24)]
    speed = np.mean([np.hypot(*sample.flow[sample.valid].T).mean() for sample in samples])
    assert 4.5 < speed < 7.5
    assert 0.05 < np.mean([sample.occluded1[sample.valid].mean() for sample in samples]) < 0.25
    assert 0.6 < np.mean([sample.valid.mean() for sample in samples]) < 0.95
    assert 0.02 < np.mean([sample.moving1.mean() for sample in samples]) < 0.15


def test_scenes_come_in_every_light() -> None:
    """Red when: the condition is drawn from the first of them only."""
    conditions = {
        driving_scene.scene_name(0, index, "train").split("/")[1].split("-")[0] for index in range(60)
    }
    assert conditions == set(driving_scene.CONDITIONS)


def test_no_texture_is_shared_between_the_splits() -> None:
    """No texture, and no 8 x 8 block of texture that is not one flat grey, occurs in both.

    Red when: both splits have the same seeds and the same family of noise.
    """
    blocks = {}
    for split in ("train", "val"):
        bank = texture_bank(split)
        textures = np.stack([base_texture(bank, number) for number in range(len(bank.origins))])
        cut = textures.reshape(len(textures), SIDE // 8, 8, SIDE // 8, 8, 3).transpose(0, 1, 3, 2, 4, 5)
        cut = cut.reshape(-1, 192)
        blocks[split] = {block.tobytes() for block in cut[cut.std(axis=1) > 2]}
        assert len(blocks[split]) > 50_000
    assert not blocks["train"] & blocks["val"]


def test_every_texture_level_is_the_mean_of_the_finer_one() -> None:
    """Red when: the levels of the two axes change places."""
    bank = texture_bank("train")
    x, y = bank.origins[bank.kinds["facade"][0]].astype(int)
    full = base_texture(bank, bank.kinds["facade"][0]).astype(float)
    down, right = int(LEVEL_STARTS[1]), int(LEVEL_STARTS[2])
    level = bank.atlas[y + down : y + down + 128, x + right : x + right + 64].astype(float)
    expected = full.reshape(128, 2, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(level - expected).max() < 2


def test_the_data_set_reads_scenes_in_any_order() -> None:
    """Red when: the scene is drawn by position in the list of reads instead of by its id."""
    config = WorldConfig(size=(64, 96), seed=7, scenes=5)
    train, val = world_dataset.index(config, "train"), world_dataset.index(config, "val")
    assert (train.name, train.split, len(train)) == ("world", "train", 5)
    assert len(val) >= 200
    assert train.provides == frozenset(OPTIONAL_FIELDS)
    assert len({pair.id for pair in train.pairs + val.pairs}) == len(
        {pair.scene for pair in train.pairs + val.pairs}
    )
    last, first = train[4], train[0]
    np.testing.assert_array_equal(first.image1, driving_scene.scene(7, 0, (64, 96)).image1)
    np.testing.assert_array_equal(last.image1, driving_scene.scene(7, 4, (64, 96)).image1)
    assert [sample.id for sample in (first, last)] == [train.pairs[0].id, train.pairs[4].id]
    copied = pickle.loads(pickle.dumps(val))
    np.testing.assert_array_equal(copied[3].image2, driving_scene.scene(7, 3, (64, 96), "val").image2)
    with pytest.raises(ValueError, match="scenes is 0: expected 1 or more"):
        world_dataset.index(WorldConfig(scenes=0), "train")


@pytest.mark.slow
def test_full_hd() -> None:
    sample = driving_scene.scene(0, 3, (1080, 1920))
    visible = sample.valid & ~sample.occluded1
    error = (warped(sample.image2.astype(np.float32), sample.flow) - sample.image1)[visible]
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 33
    assert np.hypot(*sample.flow[sample.valid].T).max() < 600
