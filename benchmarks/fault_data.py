"""Data sets for `benchmarks.faults --wide`: the procedural world as people's data looks.

KITTI's layout with truth at 1 to 25 % of the pixels, VIPER's, and FlyingChairs' with a standing camera.
"""

import fcntl
import shutil
from pathlib import Path
from typing import Literal

import numpy as np

from semraft.config import WorldConfig
from semraft.data import open_dataset
from semraft.data.files.formats import read_flow, write_flow
from semraft.data.files.pictures import write_image
from semraft.data.world.export import synthesize
from semraft.sample import FlowSample

Layout = Literal["kitti", "viper", "standing", "world"]
TRAINING_PAIRS, VALIDATION_PAIRS, KITTI_PAIRS = 40, 4, 20
NOISE_GREY = (0.0, 8.0)
"""Standard deviation of the noise of a standing camera's frames, and its exposure's largest change."""
EXPOSURE_FRAC = 0.2


def data_root(out: Path, layout: Layout, crop: tuple[int, int], truth_frac: float) -> Path:
    """The folder of a data set for a crop, made if it is not there.

    Args:
        truth_frac: The part of the pixels that have truth, in KITTI's layout.
    """
    sparse = f"-{truth_frac:.3f}" if layout == "kitti" else ""
    root = out / "data" / f"{layout}-{crop[0]}x{crop[1]}{sparse}"
    size = crop[0] + 24, crop[1] + 48
    root.parent.mkdir(parents=True, exist_ok=True)
    with (root.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Of several jobs one makes it.
        if root.exists():
            return root
        partial = root.with_name("partial")
        shutil.rmtree(partial, ignore_errors=True)
        if layout == "standing":
            _write_standing(partial, size)
        elif layout == "viper":
            synthesize(partial, "viper", train=TRAINING_PAIRS, val=VALIDATION_PAIRS, size=size, seed=crop[0])
        elif layout == "kitti":
            synthesize(partial, "kitti", train=KITTI_PAIRS, val=0, size=size, seed=crop[0])
            _thin(partial, truth_frac)
        partial.rename(root)
    return root


def _thin(root: Path, truth_frac: float) -> None:
    """Leaves truth at `truth_frac` of all pixels, or at those that the layout has."""
    for path in sorted(root.glob("training/flow_occ/*.png")):
        flow, valid = read_flow(path, "kitti")
        rng = np.random.default_rng([int(path.stem[:6]), 2])  # (number, 0) is that of the layout itself.
        kept = valid & (rng.random(valid.shape) < truth_frac / valid.mean())
        write_flow(path, flow, kept, "kitti")
        noc = path.parents[1] / "flow_noc" / path.name
        flow, valid = read_flow(noc, "kitti")
        write_flow(noc, flow, valid & kept, "kitti")


def _write_standing(root: Path, size: tuple[int, int]) -> None:
    """Scenes of the world whose background stands still, exposed twice, each time with noise."""
    scenes = TRAINING_PAIRS + VALIDATION_PAIRS
    world = open_dataset("world", None, "train", WorldConfig(size=size, scenes=scenes, seed=size[0]))
    (root / "data").mkdir(parents=True)
    for number in range(1, scenes + 1):
        image1, image2, flow = _standing(world[number - 1], np.random.default_rng([number, size[0]]))
        write_image(root / "data" / f"{number:05d}_img1.ppm", image1)
        write_image(root / "data" / f"{number:05d}_img2.ppm", image2)
        write_flow(root / "data" / f"{number:05d}_flow.flo", flow)
    marks = ["1"] * TRAINING_PAIRS + ["2"] * VALIDATION_PAIRS
    (root / "chairs_split.txt").write_text("\n".join(marks) + "\n")


def _standing(sample: FlowSample, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both frames and the flow of a scene with its moving objects pasted before frame 1's background."""
    assert sample.moving1 is not None
    assert sample.instances1 is not None
    assert sample.instances2 is not None
    movers = np.unique(sample.instances1[sample.moving1])
    pasted = np.isin(sample.instances2, movers[movers > 0])
    noise, exposure = rng.uniform(*NOISE_GREY), 1 + rng.uniform(-EXPOSURE_FRAC, EXPOSURE_FRAC)

    def shot(image: np.ndarray, gain: float) -> np.ndarray:
        noisy = gain * image + rng.normal(0, noise, image.shape)
        return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)

    frame2 = np.where(pasted[..., None], sample.image2, sample.image1)
    flow = np.where(sample.moving1[..., None], sample.flow, np.float32(0))
    return shot(sample.image1, 1.0), shot(frame2, exposure), flow
