"""Times loading: VIPER-layout 1080p files, packs of them, the plain pipeline on the same files; the world.

    python benchmarks/data_loading.py [--samples 40] [--markdown FILE] [--data FOLDER]

All ways take turns on one sample after another in one process on one core, in CPU time, so that a busy
machine slows all of them. A ratio is the median over samples of plain / ours, with its quartiles. What no,
one or two workers deliver is wall-clock time; a training's start, to the end of its first step, is both.

The plain pipeline is what public training code does: decode every file whole, jitter the colours of whole
frames (torchvision's ColorJitter, both frames alike four times in five), erase boxes, resize whole frames,
flow and label maps, flip, crop. Its ranges are those of `AugmentConfig`.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import torch
from PIL import Image

from semraft.config import AugmentConfig, DataConfig, OptimConfig, ShapesConfig, WorldConfig
from semraft.data import index_dataset
from semraft.data.files import packed
from semraft.data.files.pictures import read_image, write_image
from semraft.data.loader import training_batches, training_sample
from semraft.data.shapes.shapes_dataset import scene as layered_scene
from semraft.data.world.driving_scene import scene
from semraft.data.world.export import synthesize
from semraft.sample import FlowDataset, Pair

CROP = (288, 960)
PAIRS = 16
LISTED = 2000
"""Pairs of the tree whose training is started: links to one pair, as only their number matters."""
CONFIG = AugmentConfig()


def color_jitter() -> Callable[[Image.Image], Image.Image]:
    """torchvision's ColorJitter."""
    from torchvision_here import torchvision

    changes = (CONFIG.brightness, CONFIG.contrast, CONFIG.saturation, CONFIG.hue_turns)
    return torchvision.transforms.ColorJitter(*changes)


def plain_sample(
    pair: Pair, jitter: Callable[[Image.Image], Image.Image], rng: np.random.Generator
) -> list[np.ndarray]:
    """A sample as public training code makes it."""
    files = {role: str(path) for role, path in pair.files.items()}
    images = [cv2.cvtColor(cv2.imread(files[f"image{k}"]), cv2.COLOR_BGR2RGB) for k in (1, 2)]
    with np.load(files["flow"]) as archive:
        u, v = archive["u"].astype(np.float32), archive["v"].astype(np.float32)
    valid = np.isfinite(u) & np.isfinite(v) & (np.abs(u) < 512) & (np.abs(v) < 512)
    flow = np.where(valid[..., None], np.dstack([u, v]), 0)
    maps = [np.array(Image.open(files[f"labels{k}"])) for k in (1, 2)]
    for k in (1, 2):
        colors = cv2.imread(files[f"instances{k}"])
        maps.append(colors[..., 1].astype(np.int32) * 256 + colors[..., 0])

    if rng.random() < CONFIG.asymmetric_probability:
        images = [np.array(jitter(Image.fromarray(image))) for image in images]
    else:
        images = np.split(np.array(jitter(Image.fromarray(np.concatenate(images)))), 2)
    height, width = valid.shape
    if rng.random() < CONFIG.eraser_probability:
        mean = images[1].reshape(-1, 3).mean(axis=0)
        for _ in range(rng.integers(1, 3)):
            y, x = rng.integers(height), rng.integers(width)
            dy, dx = rng.integers(CONFIG.eraser_size_px[0], CONFIG.eraser_size_px[1], 2)
            images[1][y : y + dy, x : x + dx] = mean

    scale = 2 ** rng.uniform(CONFIG.min_log2_scale, CONFIG.max_log2_scale) * np.ones(2)
    if rng.random() < CONFIG.stretch_probability:
        scale *= 2 ** rng.uniform(-CONFIG.max_log2_stretch, CONFIG.max_log2_stretch, 2)
    fx, fy = np.maximum(scale, [(CROP[1] + 8) / width, (CROP[0] + 8) / height])
    if rng.random() < CONFIG.scale_probability:
        images = [cv2.resize(image, None, fx=fx, fy=fy) for image in images]
        flow = cv2.resize(flow, None, fx=fx, fy=fy) * np.array([fx, fy], np.float32)
        valid = cv2.resize(valid.astype(np.float32), None, fx=fx, fy=fy) > 0.99
        maps = [cv2.resize(m, None, fx=fx, fy=fy, interpolation=cv2.INTER_NEAREST) for m in maps]
    arrays = [*images, flow, valid, *maps]
    if rng.random() < CONFIG.horizontal_flip_probability:
        arrays = [array[:, ::-1] for array in arrays]
        arrays[2] = arrays[2] * np.array([-1, 1], np.float32)
    if rng.random() < CONFIG.vertical_flip_probability:
        arrays = [array[::-1] for array in arrays]
        arrays[2] = arrays[2] * np.array([1, -1], np.float32)
    y = rng.integers(valid.shape[0] - CROP[0] + 1)
    x = rng.integers(valid.shape[1] - CROP[1] + 1)
    return [np.ascontiguousarray(array[y : y + CROP[0], x : x + CROP[1]]) for array in arrays]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the table."""

    name: str
    cpu_ms: float
    quartiles_ms: tuple[float, float]
    ratio: tuple[float, float, float] | None
    """Quartiles, the median in the middle, of plain / this."""
    mb_per_pair: float | None


def compare(ways: dict[str, Callable[[int], object]], count: int, sizes: dict[str, float]) -> list[Row]:
    """CPU times of several ways that take turns on one number after another; ratios to the first."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(-2, count):  # The first two warm up.
        for name, way in ways.items():
            started = time.process_time()
            way(max(number, 0))
            times[name].append(1e3 * (time.process_time() - started))
    first = next(iter(times.values()))[2:]
    rows = []
    for name, found in times.items():
        low, middle, high = statistics.quantiles(found[2:], n=4)
        ratios = [plain / ours for plain, ours in zip(first, found[2:], strict=True)]
        ratio = tuple(statistics.quantiles(ratios, n=4)) if name != next(iter(times)) else None
        rows.append(
            Row(name=name, cpu_ms=middle, quartiles_ms=(low, high), ratio=ratio, mb_per_pair=sizes.get(name))
        )
    return rows


def folder_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def make_data(folder: Path) -> None:
    """VIPER-layout 1080p files with jpg and with png images, and packs of the first."""
    synthesize(folder / "jpg", "viper", train=PAIRS, val=1, size=(1080, 1920), seed=0)
    shutil.copytree(folder / "jpg", folder / "png")
    for path in (folder / "png").rglob("img/*/*.jpg"):
        write_image(path.with_suffix(".png"), read_image(path))
        path.unlink()
    for name, source, images in (("pack", "jpg", "pixels"), ("pack-files", "jpg", "files")):
        packed.pack(
            lambda split, source=source: open_viper(folder / source, split),
            folder / source,
            folder / name,
            ("train",),
            images=images,
        )
    for number in range(LISTED):
        for role, path in open_viper(folder / "jpg").pairs[0].files.items():
            frame = 10 * (number % 100 + 1) + (role[-1] == "2")
            sequence = f"{number // 100 + 1:03d}"
            kind = path.relative_to(folder / "jpg" / "train").parts[0]
            link = folder / "listed" / "train" / kind / sequence / f"{sequence}_{frame:05d}{path.suffix}"
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, link)
    shutil.copytree(folder / "jpg" / "val", folder / "listed" / "val", dirs_exist_ok=True)


def open_viper(root: Path, split: str = "train") -> FlowDataset:
    return index_dataset("viper", root, split, WorldConfig())


def loading(folder: Path, samples: int) -> list[Row]:
    """Plain pipeline, files and packs; then the same with png images."""
    jitter = color_jitter()
    config = DataConfig(crop=CROP, augment=CONFIG)

    def plain(name: str) -> Callable[[int], object]:
        pairs = open_viper(folder / name).pairs
        return lambda number: plain_sample(pairs[number % len(pairs)], jitter, np.random.default_rng(number))

    def ours(name: str) -> Callable[[int], object]:
        dataset = open_viper(folder / name)
        return lambda number: training_sample(number, 0, [dataset], [1.0], config)

    sizes = {
        "files": folder_mb(folder / "jpg" / "train") / PAIRS,
        "pack": folder_mb(folder / "pack") / PAIRS,
        "pack, images as files": folder_mb(folder / "pack-files") / PAIRS,
        "files, png images": folder_mb(folder / "png" / "train") / PAIRS,
    }
    with_jpg = {
        "plain": plain("jpg"),
        "files": ours("jpg"),
        "pack": ours("pack"),
        "pack, images as files": ours("pack-files"),
    }
    with_png = {"plain, png images": plain("png"), "files, png images": ours("png")}
    return [*compare(with_jpg, samples, sizes), *compare(with_png, max(samples // 2, 4), sizes)]


def samples_per_s(folder: Path, workers: int, batches: int = 12, batch: int = 4) -> float:
    """Samples a second that the training's own loader delivers, after its first batch."""
    config = DataConfig(crop=CROP, augment=CONFIG, workers=workers)
    optim = OptimConfig(steps=batches + 1, batch=batch)
    loader = training_batches([open_viper(folder)], [1.0], config, 0, optim)
    next(iter(loader))
    started = time.perf_counter()
    count = sum(len(loaded.batch.ids) for loaded in loader)
    return count / (time.perf_counter() - started)


def start_seconds(arguments: list[str], output: Path) -> tuple[float, float]:
    """Wall and CPU seconds of a training until it has written the losses of its first step."""
    command = [sys.executable, "-m", "semraft", "train", *arguments, "--output", str(output)]
    metrics, began = output / "metrics.jsonl", time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (metrics.exists() and metrics.stat().st_size) and process.poll() is None:
        time.sleep(0.01)
    wall_s = time.perf_counter() - began
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode} before its first step")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process.kill()
    process.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall_s, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def start_times(folder: Path, repeats: int = 3) -> dict[str, tuple[float, float]]:
    """Medians of the seconds to the first step, wall and CPU, warm: after a start that does not count."""
    tiny = ["--log-every", "1", "--model.arch", "tiny", "--optim.batch", "1", "--num-updates", "1"]
    trainings = {
        "world-base": ["world-base", *tiny],
        f"viper-baseline, {LISTED} pairs": [
            *("viper-baseline", "--data.root", str(folder / "listed"), *tiny),
        ],
    }
    found = {}
    for name, arguments in trainings.items():
        times = []
        for _ in range(repeats + 1):
            with tempfile.TemporaryDirectory() as place:
                times.append(start_seconds(arguments, Path(place) / "run"))
        wall_s, cpu_s = zip(*times[1:], strict=True)
        found[name] = statistics.median(wall_s), statistics.median(cpu_s)
    return found


def as_markdown(
    rows: list[Row], rates: dict[tuple[str, int], float], starts: dict[str, tuple[float, float]]
) -> str:
    lines = ["| way | CPU ms a sample (quartiles) | plain / this (quartiles) | MB a pair |"]
    lines.append("| --- | --- | --- | --- |")
    for row in rows:
        low, high = row.quartiles_ms
        ratio = "{1:.1f} ({0:.1f} to {2:.1f})".format(*row.ratio) if row.ratio else ""
        size = f"{row.mb_per_pair:.1f}" if row.mb_per_pair else ""
        lines.append(f"| {row.name} | {row.cpu_ms:.1f} ({low:.1f} to {high:.1f}) | {ratio} | {size} |")
    lines += ["", "| loader | samples a second |", "| --- | --- |"]
    lines += [f"| {name}, {workers} workers | {rate:.1f} |" for (name, workers), rate in rates.items()]
    lines += ["", "| training | seconds to the end of its first step | CPU seconds |", "| --- | --- | --- |"]
    lines += [f"| {name} | {wall_s:.1f} | {cpu_s:.1f} |" for name, (wall_s, cpu_s) in starts.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--markdown", type=Path, help="write the tables to this file too")
    parser.add_argument("--data", type=Path, help="keep the made data here, and use what is there already")
    options = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.data or Path(temporary)
        if not (folder / "listed").exists():
            make_data(folder)
        rows = loading(folder, options.samples)
        made = {
            "world scene, 128x256": lambda number: scene(0, number, (128, 256)),
            "shapes scene, 256x320": lambda number: layered_scene(ShapesConfig(), number),
        }
        for make in made.values():
            for number in range(options.samples):  # Textures are made and loops compiled.
                make(number)
        rows += [*compare(made, options.samples, {})]
        rates = {
            (name, workers): samples_per_s(folder / place, workers)
            for name, place in (("files", "jpg"), ("pack", "pack"), ("pack, images as files", "pack-files"))
            for workers in (0, 1, 2)
        }
        text = as_markdown(rows, rates, start_times(folder))
    print(text)
    if options.markdown:
        options.markdown.write_text(text)


if __name__ == "__main__":
    main()
