"""How time and memory of semraft grow: with resolution, batch, refinements, and processes training together.

    python benchmarks/scaling.py [--only TEXT] [--arch large] [--markdown FILE]

Every point is a process of its own on one core that warms up on a small pair and then does the work once: CPU
seconds, and peak resident memory above what it held before. The last table trains the tiny network on the
procedural world with one and two processes at the same global batch: wall-clock seconds a step, without the
first, each process on one core. Loader workers are in data_loading.py.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from memory import memory_mb

import semraft
from semraft.losses import sequence_loss
from semraft.runtime import keep_freed_memory


@dataclass(frozen=True)
class Point:
    """One piece of work."""

    trains: bool
    height: int = 288
    width: int = 960
    batch: int = 1
    num_updates: int = 12
    correlation: str = "auto"
    recompute: str = "ends"


SIZES = ((256, 456), (360, 640), (480, 856), (720, 1280), (1080, 1920))
CURVES = {
    "resolution, inference": [Point(False, *size) for size in SIZES],
    "resolution, inference, all-pairs": [Point(False, *size, correlation="all-pairs") for size in SIZES[:4]],
    "resolution, training step": [Point(True, *size) for size in SIZES],
    "batch, training step at 288x480": [Point(True, 288, 480, batch) for batch in (1, 2, 4, 8)],
    "refinements, inference": [Point(False, num_updates=count) for count in (1, 4, 8, 12, 24, 32)],
    "refinements, training step": [Point(True, num_updates=count) for count in (4, 8, 12, 16)],
    "recomputation, training step": [
        Point(True, recompute=recompute) for recompute in ("nothing", "ends", "everything")
    ],
    "correlation, training step": [Point(True, correlation=kind) for kind in ("all-pairs", "on-demand")],
}


def measure(point: Point, arch: str) -> tuple[float, float]:
    """CPU seconds and peak MB of the work, done once in this process."""
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    model = getattr(semraft, f"raft_{arch}")(correlation=point.correlation).train(point.trains)
    model.recompute = point.recompute
    _work(model, replace(point, height=128, width=128, batch=1, num_updates=1))
    before_mb, start = memory_mb("VmRSS"), time.process_time()
    _work(model, point)
    return time.process_time() - start, memory_mb("VmHWM") - before_mb


def _work(model: torch.nn.Module, point: Point) -> None:
    size = (point.height, point.width)
    image1, image2 = 255 * torch.rand(2, point.batch, 3, *size)
    if point.trains:
        truth, valid = torch.randn(point.batch, 2, *size), torch.ones(point.batch, *size, dtype=torch.bool)
        flows = model(image1, image2, num_updates=point.num_updates).flows
        sequence_loss(flows, truth, valid).backward()
        model.zero_grad()
        return
    with torch.inference_mode():
        model(image1, image2, num_updates=point.num_updates, keep="last")


def rows(name: str, points: list[Point], arch: str) -> list[str]:
    table = ["", f"**{name}** (raft_{arch})", "", "| work | CPU s | peak MB |", "| --- | --- | --- |"]
    for point in points:
        command = [sys.executable, __file__, "--arch", arch, "--point", json.dumps(asdict(point))]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        changed = {key: value for key, value in asdict(point).items() if value != getattr(Point(True), key)}
        changed.pop("trains", None)
        label = ", ".join(f"{key} {value}" for key, value in changed.items()) or "288x960, 12 refinements"
        table.append(f"| {label} | {float(found[0]):.2f} | {float(found[1]):.0f} |")
    return table


def processes() -> list[str]:
    """Seconds a step of one and of two processes with the same global batch."""
    table = ["", "**processes** (raft_tiny, world, batch 4)", "", "| processes | s a step |", "| --- | --- |"]
    for count in (1, 2):
        # Two lengths, so that the start and the validation at the end cancel.
        took_s = [training_s(count, steps) for steps in (20, 60)]
        table.append(f"| {count} | {(took_s[1] - took_s[0]) / 40:.2f} |")
    return table


def training_s(count: int, steps: int) -> float:
    """Wall-clock seconds of a short training by `count` processes."""
    alone = [sys.executable, "-m"]
    together = [*alone, "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m"]
    options = ["--optim.steps", str(steps), "--validate-every", str(steps), "--data.validation-pairs", "1"]
    with tempfile.TemporaryDirectory() as folder:
        command = [*(alone if count == 1 else together), "semraft.cli.main", "train", "world-base", *options]
        start = time.perf_counter()
        subprocess.run([*command, "--output", str(Path(folder) / "run")], check=True, capture_output=True)
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--arch", default="large", choices=["large", "small", "tiny"])
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--point", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        print(*measure(Point(**json.loads(options.point)), options.arch))
        return
    table: list[str] = []
    for name, points in CURVES.items():
        if options.only in name:
            table += rows(name, points, options.arch)
            print("\n".join(table[-len(points) - 5 :]), flush=True)
    if options.only in "processes":
        table += processes()
        print("\n".join(table[-6:]), flush=True)
    if options.markdown:
        options.markdown.write_text("\n".join(table).strip() + "\n")


if __name__ == "__main__":
    main()
