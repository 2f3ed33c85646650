"""Small sound data sets in six public layouts, of sequences whose motion is known exactly.

A camera drives, turns and zooms over a textured plane with sky, houses, trees and a road; a car crosses it.
The camera's motion changes from frame to frame, so that no frame's flow is that of the next. Everything is
exact: flow both ways, occlusion, classes.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from semraft.data.files.formats import write_flow
from semraft.data.files.pictures import write_ids, write_image, write_mask, write_palette
from semraft.data.taxonomy import VIPER_PALETTE, VIRTUAL_KITTI_CLASSES

HEIGHT, WIDTH = 96, 160
SKY, BUILDING, TREE, ROAD, CAR = range(5)
LABEL_IDS = np.array([23, 11, 21, 7, 26], np.uint8)
TRAIN_IDS = np.array([10, 2, 8, 0, 13], np.uint8)
VIPER_IDS = np.array([2, 9, 7, 3, 24], np.uint8)
VIRTUAL_KITTI_IDS = np.array([1, 4, 2, 5, 12], np.uint8)
VIRTUAL_KITTI_COLORS = np.array([entry.color for entry in VIRTUAL_KITTI_CLASSES], np.uint8)


@dataclass
class Sequence:
    """The frames of a sequence and, for each but the last, the truth from it to the next."""

    images: list[np.ndarray]
    classes: list[np.ndarray]
    """SKY to CAR."""
    flows: list[np.ndarray]
    backward: list[np.ndarray]
    """From frame i + 1 back to frame i."""
    occluded: list[np.ndarray]


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Colours with detail at several scales, smooth enough to be interpolated."""
    picture = np.zeros((height, width, 3), np.float32)
    for sigma in (1.5, 4.0, 12.0):
        noise = rng.normal(0, 1, (height, width, 3)).astype(np.float32)
        layer = cv2.GaussianBlur(noise, (0, 0), sigma)
        picture += layer / layer.std() * (20 if sigma < 2 else 26)
    return np.clip(picture + 128, 0, 255).astype(np.uint8)


def _poses(rng: np.random.Generator, frames: int) -> list[np.ndarray]:
    """Frame coordinates (x, y, 1) -> coordinates on the plane, frame by frame."""
    phase = rng.uniform(0, 6, 4)
    position, poses = np.array([140.0, 60.0]), []
    for frame in range(frames):
        zoom = 1 + 0.03 * np.sin(1.9 * frame + phase[0])
        angle = 0.02 * np.sin(2.3 * frame + phase[1])
        turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        centre = np.array([WIDTH / 2, HEIGHT / 2])
        poses.append(np.column_stack([turn, position + centre - turn @ centre]))
        step = 6 + 3 * np.sin(2.1 * frame + phase[2]), 2.5 * np.sin(1.7 * frame + phase[3])
        position += step
    return poses


def make_sequence(seed: int, frames: int = 4) -> Sequence:
    """A sequence; another seed is another plane and another drive."""
    rng = np.random.default_rng(seed)
    plane, paint = _texture(rng, 260, 420), _texture(rng, 60, 60)
    streets = np.full(plane.shape[:2], ROAD, np.uint8)
    streets[:125] = np.where(np.arange(420) // 23 % 3 == 0, TREE, BUILDING)
    streets[:92] = np.where(np.arange(420) // 31 % 2 == 0, SKY, streets[0])
    poses = _poses(rng, frames)
    cars = [np.array([60.0 + 7 * t + 3 * np.sin(2.5 * t), 58.0 + 3 * np.cos(1.9 * t)]) for t in range(frames)]
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    grid = np.stack([columns, rows], axis=-1)

    def covered(frame: int, points: np.ndarray) -> np.ndarray:
        offset = points - cars[frame]
        return np.hypot(offset[..., 0] / 1.6, offset[..., 1]) < 13

    def shown(frame: int) -> tuple[np.ndarray, np.ndarray]:
        at = (grid @ poses[frame][:, :2].T + poses[frame][:, 2]).astype(np.float32)
        image = cv2.remap(plane, at[..., 0], at[..., 1], cv2.INTER_LINEAR)
        classes = cv2.remap(streets, at[..., 0], at[..., 1], cv2.INTER_NEAREST)
        car = covered(frame, grid)
        on_car = (grid - cars[frame] + 30).astype(np.float32)
        painted = cv2.remap(paint, on_car[..., 0], on_car[..., 1], cv2.INTER_LINEAR)
        return np.where(car[..., None], painted, image), np.where(car, np.uint8(CAR), classes)

    def truth(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
        at = grid @ poses[source][:, :2].T + poses[source][:, 2]
        there = (at - poses[target][:, 2]) @ np.linalg.inv(poses[target][:, :2]).T
        car = covered(source, grid)
        flow = np.where(car[..., None], cars[target] - cars[source], there - grid).astype(np.float32)
        ends = grid + flow
        outside = ((ends < 0) | (ends > [WIDTH - 1, HEIGHT - 1])).any(-1)
        return flow, outside | (~car & covered(target, ends))

    images, classes = zip(*(shown(frame) for frame in range(frames)), strict=True)
    forward = [truth(frame, frame + 1) for frame in range(frames - 1)]
    return Sequence(
        images=list(images),
        classes=list(classes),
        flows=[flow for flow, _ in forward],
        backward=[truth(frame + 1, frame)[0] for frame in range(frames - 1)],
        occluded=[occluded for _, occluded in forward],
    )


def _folder(*parts: str | Path) -> Path:
    path = Path(*parts)
    path.mkdir(parents=True, exist_ok=True)
    return path


def _sparse(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((HEIGHT, WIDTH)) < 0.3


def write_viper(root: Path, drives: list[Sequence]) -> None:
    """Every pair of frames is the start of a tenth frame and the one after it, as in the usual download."""
    for number, drive in enumerate(drives, 1):
        name = f"{number:03d}"
        for t, flow in enumerate(drive.flows):
            for step in (0, 1):
                stem = f"{name}_{10 * (t + 1) + step:05d}"
                write_image(_folder(root, "train/img", name) / f"{stem}.png", drive.images[t + step])
                ids = VIPER_IDS[drive.classes[t + step]]
                write_palette(_folder(root, "train/cls", name) / f"{stem}.png", ids, VIPER_PALETTE)
                things = (ids == VIPER_IDS[CAR]).astype(np.uint8)
                colors = np.dstack([ids, things, 90 * things])
                write_image(_folder(root, "train/inst", name) / f"{stem}.png", colors)
            stem = f"{name}_{10 * (t + 1):05d}"
            valid = drive.classes[t] != SKY
            write_flow(_folder(root, "train/flow", name) / f"{stem}.npz", flow, valid)


def write_virtual_kitti(root: Path, drives: list[Sequence]) -> None:
    for number, drive in zip((1, 6, 18, 20), drives, strict=False):
        frames = root / f"Scene{number:02d}/clone/frames"

        def modality(name: str, frames: Path = frames) -> Path:
            return _folder(frames, name, "Camera_0")

        for t, (image, classes) in enumerate(zip(drive.images, drive.classes, strict=True)):
            write_image(modality("rgb") / f"rgb_{t:05d}.jpg", image)
            colors = VIRTUAL_KITTI_COLORS[VIRTUAL_KITTI_IDS[classes]]
            write_image(modality("classSegmentation") / f"classgt_{t:05d}.png", colors)
        for t, (flow, back) in enumerate(zip(drive.flows, drive.backward, strict=True)):
            valid, back_valid = (drive.classes[at] != SKY for at in (t, t + 1))
            write_flow(modality("forwardFlow") / f"flow_{t:05d}.png", flow, valid, "virtual-kitti")
            path = modality("backwardFlow") / f"backwardFlow_{t + 1:05d}.png"
            write_flow(path, back, back_valid, "virtual-kitti")


def write_kitti(root: Path, drives: list[Sequence]) -> None:
    """Each pair is a scene; sparse flow, labels of the first frame."""
    training, number = root / "training", 0
    for drive in drives:
        for t, flow in enumerate(drive.flows):
            first = f"{number:06d}_10.png"
            valid = (drive.classes[t] != SKY) & _sparse(number)
            write_image(_folder(training, "image_2") / first, drive.images[t])
            write_image(training / f"image_2/{number:06d}_11.png", drive.images[t + 1])
            write_flow(_folder(training, "flow_occ") / first, flow, valid, "kitti")
            write_flow(_folder(training, "flow_noc") / first, flow, valid & ~drive.occluded[t], "kitti")
            write_ids(_folder(training, "semantic") / first, LABEL_IDS[drive.classes[t]])
            number += 1


def write_flying_chairs(root: Path, drives: list[Sequence]) -> None:
    number, data = 0, _folder(root, "FlyingChairs_release/data")
    for drive in drives:
        for t, flow in enumerate(drive.flows):
            number += 1
            write_image(data / f"{number:05d}_img1.ppm", drive.images[t])
            write_image(data / f"{number:05d}_img2.ppm", drive.images[t + 1])
            write_flow(data / f"{number:05d}_flow.flo", flow)
    (data.parent / "FlyingChairs_train_val.txt").write_text("1\n" * number)


def write_flying_things(root: Path, drives: list[Sequence]) -> None:
    """As published: the last frame has flow into the future too, the first one into the past."""
    for number, drive in enumerate(drives):
        place = f"A/{number:04d}"
        for t, image in enumerate(drive.images):
            write_image(_folder(root, "frames_cleanpass/TRAIN", place, "left") / f"{t + 6:04d}.png", image)
            for name, flow in (
                ("Future", drive.flows[min(t, len(drive.flows) - 1)]),
                ("Past", drive.backward[max(t - 1, 0)]),
            ):
                folder = _folder(root, "optical_flow/TRAIN", place, f"into_{name.lower()}", "left")
                write_flow(folder / f"OpticalFlowInto{name}_{t + 6:04d}_L.pfm", flow)


def write_sintel(root: Path, drives: list[Sequence]) -> None:
    for number, drive in enumerate(drives):
        for t, image in enumerate(drive.images):
            stem, scene = f"frame_{t + 1:04d}", f"alley_{number}"
            write_image(_folder(root, "training/clean", scene) / f"{stem}.png", image)
            if t < len(drive.flows):
                write_flow(_folder(root, "training/flow", scene) / f"{stem}.flo", drive.flows[t])
                mask = _folder(root, "training/occlusions", scene) / f"{stem}.png"
                write_mask(mask, drive.occluded[t])


WRITERS = {
    "viper": write_viper,
    "virtual-kitti": write_virtual_kitti,
    "kitti": write_kitti,
    "flying-chairs": write_flying_chairs,
    "flying-things": write_flying_things,
    "sintel": write_sintel,
}
"""Data set -> writer of its layout."""
