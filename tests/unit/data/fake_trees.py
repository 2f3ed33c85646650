"""Writers of small files and data sets, with the real folder and file names, and what must come back.

Frames are 9 x 6 (width x height). The top row is sky: invalid wherever a format can say so.
"""

from pathlib import Path

import cv2
import numpy as np

from semraft.data.files.formats import write_flow
from semraft.data.files.pictures import write_ids, write_image, write_mask, write_palette
from semraft.data.taxonomy import VIPER_PALETTE

HEIGHT, WIDTH = 6, 9


def flow_field(shift_px: float = 0.0) -> np.ndarray:
    """Flow with no symmetry, its values exact in float16 and in 64ths of a pixel; 0 in the top row."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    flow = np.stack([1.25 - columns / 4 + shift_px, rows / 2 - 0.75], axis=-1)
    flow[0] = 0
    return flow


def valid_mask() -> np.ndarray:
    valid = np.ones((HEIGHT, WIDTH), dtype=bool)
    valid[0] = False
    return valid


def color_image(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """One colour, red 200, blue 30, green telling the frame number: survives jpg within a few levels."""
    return np.full((height, width, 3), (200, 2 * number % 200, 30), dtype=np.uint8)


def two_classes(sky: object, left: object, right: object) -> np.ndarray:
    """A map with one value in the top row and two others left and right of column 4 below it."""
    values = np.zeros((HEIGHT, WIDTH, np.size(sky)), dtype=np.uint8)
    values[:, :4], values[:, 4:], values[0] = left, right, sky
    return values


def write_viper(root: Path, split: str, sequence: str, flow_frames: list[int], suffix: str = ".jpg") -> None:
    """Flow, images, classes and instances of these frames and their partners."""
    folders = {kind: root / split / kind / sequence for kind in ("img", "cls", "inst", "flow")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    for frame in flow_frames:
        write_flow(folders["flow"] / f"{sequence}_{frame:05d}.npz", flow_field(), valid_mask())
        for number in (frame, frame + 1):
            stem = f"{sequence}_{number:05d}"
            write_image(folders["img"] / f"{stem}{suffix}", color_image(number))
            thing = 25 if number == frame else 20  # A van in the first frame, a person in the second.
            write_palette(folders["cls"] / f"{stem}.png", two_classes(2, 3, thing)[..., 0], VIPER_PALETTE)
            write_image(
                folders["inst"] / f"{stem}.png", two_classes((2, 0, 0), (3, 0, 0), (thing, 3, number))
            )


def write_virtual_kitti(homes: dict[str, Path], scene: str, variant: str, camera: int, frames: int) -> None:
    """All modalities of one drive; `homes` says where each (and textgt) was unpacked."""

    def folder(modality: str) -> Path:
        path = homes[modality] / scene / variant / "frames" / modality / f"Camera_{camera}"
        path.mkdir(parents=True)
        return path

    places = {modality: folder(modality) for modality in VIRTUAL_KITTI_MODALITIES}
    for frame in range(frames):
        write_image(places["rgb"] / f"rgb_{frame:05d}.jpg", color_image(frame))
        colors = two_classes((90, 200, 255), (100, 60, 100), (0, 139, 139) if frame % 2 else (255, 127, 80))
        write_image(places["classSegmentation"] / f"classgt_{frame:05d}.png", colors)
        instances = two_classes(0, 3, 8 + frame)[..., 0]
        write_ids(places["instanceSegmentation"] / f"instancegt_{frame:05d}.png", instances)
        if frame + 1 < frames:
            path = places["forwardFlow"] / f"flow_{frame:05d}.png"
            write_flow(path, flow_field(), valid_mask(), "virtual-kitti")
        if frame > 0:
            path = places["backwardFlow"] / f"backwardFlow_{frame:05d}.png"
            write_flow(path, -flow_field(shift_px=frame / 4), valid_mask(), "virtual-kitti")
    header = "frame cameraID trackID left right top bottom number_pixels truncation_ratio occupancy_ratio"
    rows = ["0 0 2 0 3 1 5 20 0.0 1.0 False", "0 0 7 4 8 1 5 25 0.0 1.0 True"]
    rows += ["1 0 2 0 3 1 5 20 0.0 1.0 True", "0 1 2 0 3 1 5 20 0.0 1.0 True"]
    (homes["textgt"] / scene / variant).mkdir(parents=True, exist_ok=True)
    (homes["textgt"] / scene / variant / "bbox.txt").write_text(
        "\n".join([f"{header} isMoving", *rows]) + "\n"
    )


VIRTUAL_KITTI_MODALITIES = ("rgb", "forwardFlow", "backwardFlow", "classSegmentation", "instanceSegmentation")


def write_kitti(training: Path, numbers: list[int], image_folder: str = "image_2") -> None:
    """Images, flow_occ, flow_noc; for 2015 (image_2) obj_map and semantics as well."""
    kinds = [image_folder, "flow_occ", "flow_noc"]
    kinds += ["obj_map", "semantic", "instance"] if image_folder == "image_2" else []
    for kind in kinds:
        (training / kind).mkdir(parents=True, exist_ok=True)
    noc = valid_mask()
    noc[:, 0] = False
    for number in numbers:
        first = f"{number:06d}_10.png"
        write_image(training / image_folder / first, color_image(number))
        write_image(training / image_folder / f"{number:06d}_11.png", color_image(number + 50))
        write_flow(training / "flow_occ" / first, flow_field(), valid_mask(), "kitti")
        write_flow(training / "flow_noc" / first, flow_field(), noc, "kitti")
        if "obj_map" in kinds:
            write_ids(training / "obj_map" / first, two_classes(0, 0, 4)[..., 0])
            write_ids(training / "semantic" / first, two_classes(23, 7, 26)[..., 0])
            instances = two_classes(0, 0, 1)[..., 0].astype(np.uint16) * (26 * 256 + 5)
            instances[0] = 23 * 256  # Sky: a class, no instance.
            write_ids(training / "instance" / first, instances)


def write_flying_chairs(release: Path, parts: str) -> None:
    """One pair for each character of `parts`, which is the split file's content."""
    data = release / "data"
    data.mkdir(parents=True)
    for number in range(1, len(parts) + 1):
        write_image(data / f"{number:05d}_img1.ppm", color_image(number))
        write_image(data / f"{number:05d}_img2.ppm", color_image(number + 50))
        write_flow(data / f"{number:05d}_flow.flo", flow_field())
    (release / "FlyingChairs_train_val.txt").write_text("\n".join(parts) + "\n")


def write_flying_things(root: Path, part: str, place: str, frames: list[int], camera: str = "left") -> None:
    """One sequence, clean and final, with flow into future and past of every frame, the outermost too."""
    for rendering in ("clean", "final"):
        images = root / f"frames_{rendering}pass" / part / place / camera
        images.mkdir(parents=True)
        for frame in frames:
            write_image(images / f"{frame:04d}.png", color_image(frame))
    for direction, shift_px in (("Future", 0.0), ("Past", 0.5)):
        flows = root / "optical_flow" / part / place / f"into_{direction.lower()}" / camera
        flows.mkdir(parents=True)
        for frame in frames:
            name = f"OpticalFlowInto{direction}_{frame:04d}_{camera[0].upper()}.pfm"
            write_flow(flows / name, flow_field(shift_px), valid_mask())


def write_sintel(training: Path, scene: str, frames: int) -> None:
    """Clean and final images, flow, occlusions (column 5) and invalid (top row)."""
    for kind in ("clean", "final", "flow", "occlusions", "invalid"):
        (training / kind / scene).mkdir(parents=True)
    occluded = np.zeros((HEIGHT, WIDTH), dtype=bool)
    occluded[:, 5] = True
    for frame in range(1, frames + 1):
        stem = f"frame_{frame:04d}"
        write_image(training / "clean" / scene / f"{stem}.png", color_image(frame))
        write_image(training / "final" / scene / f"{stem}.png", color_image(frame + 50))
        write_mask(training / "invalid" / scene / f"{stem}.png", ~valid_mask())
        if frame < frames:
            flow = flow_field()
            flow[0] = 7  # Invalid, but a number as any other: only the mask says so.
            write_flow(training / "flow" / scene / f"{stem}.flo", flow)
            write_mask(training / "occlusions" / scene / f"{stem}.png", occluded)


def png16(path: Path, red: int, green: int, blue: int, height: int = 5, width: int = 8) -> Path:
    """A 16-bit RGB png of one colour, by OpenCV alone."""
    cv2.imwrite(str(path), np.full((height, width, 3), (blue, green, red), np.uint16))
    return path


def cut_off(path: Path) -> None:
    """Leaves the first 60 % of a file, as a broken download does."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
