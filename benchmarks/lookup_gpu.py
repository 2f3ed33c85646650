"""Times the Triton kernels of the correlation lookup against grid_sample, on one CUDA device.

    python benchmarks/lookup_gpu.py [--repeats 20]

Kernel and grid_sample run in turn, with the L2 cache overwritten before each, timed by CUDA events; medians.
A row's roofline is the longest of three times that no kernel of this design can beat: its compulsory DRAM
bytes at the rate of a copy measured here, its L1 bytes at 128 bytes a clock and multiprocessor, its
operations at 128 fused multiply-adds. For the backward of `correlate` it leaves out the rate of atomics.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from semraft.models import correlation

LEVELS, RADIUS, CHANNELS = 4, 4, 256
SIZES_PX = {"288x960": (288, 960), "1080p": (1080, 1920)}
SECTOR_BYTES = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What one call must move and compute."""

    dram_bytes: float
    l1_bytes: float
    operations: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """What a device reaches at most, a second."""

    dram_bytes: float
    l1_bytes: float
    operations: float


def costs(height: int, width: int) -> dict[str, Cost]:
    """Of each function, for one pair of `height` x `width` cells in float32."""
    side, cells = 2 * RADIUS + 2, height * width
    maps = [(height >> level, width >> level) for level in range(LEVELS)]
    samples = cells * LEVELS * (2 * RADIUS + 1) ** 2 * 4
    # A row of a window begins anywhere in a sector of 32 bytes, so it touches 28 bytes more on average.
    rows = [min(side, h) * (min(side, w) * 4 + SECTOR_BYTES - 4) for h, w in maps]
    places = cells * sum(min(side, h) * min(side, w) for h, w in maps)
    features1, features2 = cells * CHANNELS * 4, sum(h * w for h, w in maps) * CHANNELS * 4
    windows = cells * sum(rows)
    return {
        "look_up": Cost(dram_bytes=windows + samples, l1_bytes=places * 4 + samples, operations=6 * places),
        "look_up_backward": Cost(
            dram_bytes=2 * windows + samples, l1_bytes=2 * places * 4 + samples, operations=6 * places
        ),
        "correlate": Cost(
            dram_bytes=features1 + features2 + samples,
            l1_bytes=places * CHANNELS * 4 + samples,
            operations=2 * places * CHANNELS,
        ),
        "correlate_backward": Cost(
            dram_bytes=3 * (features1 + features2) + samples,
            l1_bytes=2 * places * CHANNELS * 4 + samples,
            operations=4 * places * CHANNELS,
        ),
    }


def roofline_s(cost: Cost, rates: Rates) -> float:
    return max(
        cost.dram_bytes / rates.dram_bytes,
        cost.l1_bytes / rates.l1_bytes,
        cost.operations / rates.operations,
    )


def measure_rates(device: torch.device) -> Rates:
    """DRAM by a copy of 1 GiB; the rest by the device's multiprocessors and highest clock."""
    source = torch.empty(2**30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_s = median_s([lambda: target.copy_(source)], repeats=10)[0]
    query = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
    clock_hz = float(subprocess.check_output(query, text=True).split()[0]) * 1e6
    lanes = torch.cuda.get_device_properties(device).multi_processor_count * 128 * clock_hz
    return Rates(dram_bytes=2 * 2**30 / copy_s, l1_bytes=lanes, operations=2 * lanes)


def median_s(works: list[Callable[[], object]], repeats: int) -> list[float]:
    """Median seconds of each work, in turn, each from a cold L2; the first two rounds compile and warm."""
    flush = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    times: list[list[float]] = [[] for _ in works]
    for _ in range(repeats + 2):
        for work, found in zip(works, times, strict=True):
            flush.zero_()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            end.synchronize()
            found.append(start.elapsed_time(end) / 1000)
    return [float(torch.tensor(found[2:]).median()) for found in times]


def smooth_points(height: int, width: int, device: torch.device) -> Tensor:
    """Cells displaced by a smooth flow of some 10 cells, as a trained network's: 1 2 h w."""
    generator = torch.Generator(device).manual_seed(0)
    coarse = 10 * torch.randn(1, 2, 5, 9, device=device, generator=generator)
    y, x = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    return torch.stack([x, y])[None] + F.interpolate(coarse, (height, width), mode="bilinear")


def works(height: int, width: int, device: torch.device) -> dict[str, list[Callable[[], object]]]:
    """Name to the kernel's call, and grid_sample's where the volumes fit."""
    from semraft.models import correlation_triton as kernels

    features1, features2 = torch.randn(2, 1, CHANNELS, height, width, device=device).unbind()
    points = smooth_points(height, width, device)
    flat = points.permute(0, 2, 3, 1).reshape(1, -1, 2).contiguous()
    rows1, levels2 = features1.flatten(2).transpose(1, 2).contiguous(), [features2]
    while len(levels2) < LEVELS:
        levels2.append(F.avg_pool2d(levels2[-1], 2))
    maps2 = [level.permute(0, 2, 3, 1).contiguous() for level in levels2]
    samples = kernels.correlate(rows1, maps2, flat, RADIUS)
    gradient = torch.randn_like(samples)
    sums1, sums2 = torch.zeros_like(rows1), [torch.zeros_like(level) for level in maps2]
    on_demand: dict[str, list[Callable[[], object]]] = {
        "correlate": [lambda: kernels.correlate(rows1, maps2, flat, RADIUS)],
        "correlate_backward": [
            lambda: kernels.correlate_backward(gradient, rows1, maps2, flat, RADIUS, sums1, sums2)
        ],
    }
    # grid_sample's backward holds volumes, their gradient, and what it adds to it.
    if 4 * 4 * (height * width) ** 2 * 4 / 3 > torch.cuda.mem_get_info(device)[0]:
        print(f"{height} x {width} cells: the volumes do not fit, on demand only", file=sys.stderr)
        return on_demand

    volumes = [volume.requires_grad_() for volume in correlation.pyramid(features1, features2, LEVELS)]
    plain = [volume.detach()[:, 0] for volume in volumes]
    sums = [torch.zeros_like(volume) for volume in plain]
    for volume, total in zip(volumes, sums, strict=True):
        volume.grad = torch.zeros_like(total)[
            :, None
        ]  # As in training: later refinements add to the first's.
    reference = correlation.lookup(volumes, points, RADIUS)
    difference = (samples - reference.detach().flatten(2).transpose(1, 2)).abs().max()
    print(f"{height} x {width} cells: differs from grid_sample by {difference:.1e} at most", file=sys.stderr)

    def forward() -> object:
        with torch.no_grad():
            return correlation.lookup(volumes, points, RADIUS)

    def backward() -> None:
        up = gradient.transpose(1, 2).unflatten(2, (height, width))
        torch.autograd.backward(reference, up, retain_graph=True, inputs=volumes)

    stored: dict[str, list[Callable[[], object]]] = {
        "look_up": [lambda: kernels.look_up(plain, flat[0], RADIUS), forward],
        "look_up_backward": [
            lambda: kernels.look_up_backward(gradient[0], flat[0], RADIUS, sums),
            backward,
        ],
    }
    return stored | on_demand


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=20)
    repeats = parser.parse_args().repeats
    if not torch.cuda.is_available():
        sys.exit("no CUDA device: nothing to time")
    device = torch.device("cuda")
    rates = measure_rates(device)
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}")
    print(
        f"DRAM {rates.dram_bytes / 1e9:.0f} GB/s by a copy, L1 {rates.l1_bytes / 1e9:.0f} GB/s by its clock"
    )
    print("| size | function | ms | DRAM GB/s | roofline ms | share pct | grid_sample ms | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for size, (height_px, width_px) in SIZES_PX.items():
        height, width = height_px // 8, width_px // 8
        cost_of = costs(height, width)
        for name, calls in works(height, width, device).items():
            found_s, *peers_s = median_s(calls, repeats)
            bound_s = roofline_s(cost_of[name], rates)
            peer = f"{peers_s[0] * 1e3:.3f} | {peers_s[0] / found_s:.1f}" if peers_s else "- | -"
            rate = cost_of[name].dram_bytes / found_s / 1e9
            print(
                f"| {size} | {name} | {found_s * 1e3:.3f} | {rate:.0f} | {bound_s * 1e3:.3f} | "
                f"{100 * bound_s / found_s:.0f} | {peer} |"
            )


if __name__ == "__main__":
    main()
