"""The correlation lookup's kernels: right, and how close to what the device can move and compute.

A call's bound is the longest of three times that no kernel of this design can beat: its compulsory DRAM bytes
at the rate of a copy measured here, its L1 bytes at 128 bytes a clock and multiprocessor, its operations at
128 fused multiply-adds. For the backward of `correlate` it leaves out the rate of atomics.
"""

import importlib.util
import statistics
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from unittest.mock import patch

import torch
from benchmarks.gpu_check.setting import Row, Setting, full_float32, guarded, in_turn, peak_mb, that_run
from torch import Tensor
from torch.nn import functional as F

from semraft.config import CorrelationKind
from semraft.kernels import choice
from semraft.models import correlation
from semraft.models.lookup import make_lookup

SECTOR_BYTES = 32
REFINEMENTS = 12
Call = Callable[[], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A lookup of RAFT large (256 channels, radius 4) or small (128, 3), four levels."""

    name: str
    batch: int
    height: int
    width: int
    channels: int
    radius: int
    levels: int = 4


SHAPES = (
    Shape(name="large, 6 x 288x960", batch=6, height=36, width=120, channels=256, radius=4),
    Shape(name="small, 6 x 288x960", batch=6, height=36, width=120, channels=128, radius=3),
    Shape(name="large, 1080p", batch=1, height=135, width=240, channels=256, radius=4),
)
BLOCKS = ((2, 2, 16), (2, 4, 32), (4, 4, 16), (4, 4, 32), (4, 8, 32), (8, 8, 16), (16, 8, 16))
"""Cells and warps a program, and channels at a time, beside those that are used."""
SMALL_SHAPE = Shape(name="tiny", batch=1, height=4, width=6, channels=20, radius=3, levels=2)
"""For the interpreter, which takes a second for a dozen cells."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Bytes and operations of one call; as rates, those of a device in a second."""

    dram_bytes: float
    l1_bytes: float
    operations: float

    def seconds_at(self, rates: "Cost") -> float:
        return max(
            self.dram_bytes / rates.dram_bytes,
            self.l1_bytes / rates.l1_bytes,
            self.operations / rates.operations,
        )


def costs(shape: Shape) -> dict[str, Cost]:
    """Of each function, in float32."""
    side, cells = 2 * shape.radius + 2, shape.batch * shape.height * shape.width
    maps = [(shape.height >> level, shape.width >> level) for level in range(shape.levels)]
    samples = cells * shape.levels * (2 * shape.radius + 1) ** 2 * 4
    # A row of a window begins anywhere in a sector of 32 bytes, so it touches 28 bytes more on average.
    rows = [min(side, h) * (min(side, w) * 4 + SECTOR_BYTES - 4) for h, w in maps]
    places = cells * sum(min(side, h) * min(side, w) for h, w in maps)
    features = (cells + shape.batch * sum(h * w for h, w in maps)) * shape.channels * 4
    lookup = cells * sum(rows)
    on_demand = places * shape.channels
    return {
        "look_up": Cost(dram_bytes=lookup + samples, l1_bytes=places * 4 + samples, operations=6 * places),
        "look_up_backward": Cost(
            dram_bytes=2 * lookup + samples, l1_bytes=2 * places * 4 + samples, operations=6 * places
        ),
        "correlate": Cost(
            dram_bytes=features + samples, l1_bytes=on_demand * 4 + samples, operations=2 * on_demand
        ),
        "correlate_backward": Cost(
            dram_bytes=3 * features + samples, l1_bytes=2 * on_demand * 4 + samples, operations=4 * on_demand
        ),
    }


def measure(setting: Setting) -> Iterator[Row]:
    if importlib.util.find_spec("triton") is None:
        yield {"shape": "all", "skipped": "triton is not installed"}
        return
    full_float32()
    if not setting.is_cuda:  # In Triton's interpreter: the kernels run, if slowly.
        from semraft.kernels.gpu import correlation_triton

        setting = replace(setting, device=torch.device("cpu"))
        choice.correlation_kernels = lambda features: correlation_triton
    rates = measure_rates(setting) if setting.is_cuda else None
    if rates is not None:
        yield {"shape": "device", "call": "DRAM by a copy", "GB/s": rates.dram_bytes / 1e9}
        yield {"shape": "device", "call": "L1 by its clock", "GB/s": rates.l1_bytes / 1e9}
    for shape in [SMALL_SHAPE] if setting.small else SHAPES:
        if setting.seconds_left < 3:
            yield {"shape": shape.name, "skipped": "time is up"}
            continue
        yield from guarded({"shape": shape.name}, lambda shape=shape: of_shape(shape, setting, rates))


def measure_rates(setting: Setting) -> Cost:
    """DRAM by a copy of 2 GiB; the rest by the device's multiprocessors and highest clock."""
    source = torch.empty(2**31, dtype=torch.uint8, device=setting.device)
    target = torch.empty_like(source)
    copy_s = median_s({"copy": lambda: target.copy_(source)}, setting)["copy"]
    lanes = torch.cuda.get_device_properties(setting.device).multi_processor_count * 128 * clock_hz()
    return Cost(dram_bytes=2 * source.numel() / copy_s, l1_bytes=lanes, operations=2 * lanes)


def clock_hz() -> float:
    """The highest clock of the first GPU's multiprocessors; a Hopper's where its driver does not say."""
    query = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
    try:
        return float(subprocess.check_output(query, text=True).split()[0]) * 1e6
    except (OSError, subprocess.CalledProcessError, ValueError, IndexError):
        return 1.98e9


def median_s(calls: dict[str, Call], setting: Setting, turns: int = 20) -> dict[str, float]:
    """Median seconds of each call, in turn, each from a cold L2 cache, by the device's own clock."""
    if not setting.is_cuda:
        return in_turn(calls, setting, turns)
    flush = torch.empty(2**28, dtype=torch.uint8, device=setting.device)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns + 2):  # The first two compile and warm.
        for name, call in calls.items():
            flush.zero_()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            times[name].append(start.elapsed_time(end) / 1000)
    return {name: statistics.median(found[2:]) for name, found in times.items()}


def of_shape(shape: Shape, setting: Setting, rates: Cost | None) -> Iterator[Row]:
    generator = torch.Generator().manual_seed(0)
    size = (2, shape.batch, shape.channels, shape.height, shape.width)
    features1, features2 = torch.randn(size, generator=generator).to(setting.device).unbind()
    points = smooth_points(shape, generator).to(setting.device)
    if shape.height * shape.width < 10_000:  # The definition stores volumes in float64.
        yield from correctness(shape, features1[:1], features2[:1], points[:1])
    yield from whole(shape, features1, features2, points, setting)
    yield from kernels_alone(shape, features1, features2, points, setting, rates)
    if shape in (SHAPES[0], SMALL_SHAPE):
        yield from other_blocks(shape, features1, features2, points, setting)


def smooth_points(shape: Shape, generator: torch.Generator) -> Tensor:
    """Cells displaced by a smooth flow of some 10 cells, as a trained network's: B 2 h w."""
    coarse = 10 * torch.randn(shape.batch, 2, 5, 9, generator=generator)
    y, x = torch.meshgrid(torch.arange(shape.height), torch.arange(shape.width), indexing="ij")
    flow = F.interpolate(coarse, (shape.height, shape.width), mode="bilinear")
    return torch.stack([x, y])[None] + flow


Windows = Callable[[Tensor], Tensor]
Make = Callable[[Tensor, Tensor], Windows]
"""From the features of both frames to what looks up windows around points."""


def contestants(shape: Shape) -> dict[str, Make]:
    """Ways to the same windows, ours first."""

    def ours(kind: CorrelationKind) -> Make:
        return lambda one, two: make_lookup(one, two, shape.levels, shape.radius, REFINEMENTS, kind)

    def defined(one: Tensor, two: Tensor) -> Windows:
        volumes = correlation.pyramid(one, two, shape.levels)
        return lambda points: correlation.lookup(volumes, points, shape.radius)

    found = {"all-pairs": ours("all-pairs"), "on-demand": ours("on-demand"), "grid_sample": defined}
    if importlib.util.find_spec("localcorr") is not None:
        from localcorr import get_cuda_pyramid_library, get_localcorr_block

        for mode in ("triton", "cuda") if get_cuda_pyramid_library() else ("triton",):
            found[f"localcorr {mode}"] = lambda one, two, mode=mode: get_localcorr_block(
                one, two, num_levels=shape.levels, radius=shape.radius, corr_mode=f"localcorr_{mode}"
            )
    return found


def correctness(shape: Shape, features1: Tensor, features2: Tensor, points: Tensor) -> Iterator[Row]:
    """Windows and the features' gradients against the definition in float64, of one pair.

    Raises:
        RuntimeError: Our kernels are wrong.
    """
    weight = torch.randn(1, shape.levels * (2 * shape.radius + 1) ** 2, shape.height, shape.width)
    weight = weight.to(points)

    def results(make: Make, dtype: torch.dtype) -> list[Tensor]:
        features = [values.to(dtype, copy=True).requires_grad_() for values in (features1, features2)]
        lookup = make(*features)(points.to(dtype))
        return [lookup.detach(), *torch.autograd.grad((lookup * weight.to(dtype)).sum(), features)]

    ways = contestants(shape)
    wanted = results(ways.pop("grid_sample"), torch.float64)
    for name, make in ways.items():
        what: Row = {"shape": shape.name, "call": f"{name}, against float64"}

        def compared(make: Make = make, name: str = name, what: Row = what) -> Iterator[Row]:
            found = zip(results(make, torch.float32), wanted, strict=True)
            values, *gradients = [float((one.double() - two).norm() / two.norm()) for one, two in found]
            yield what | {"relative error": values, "of gradients": max(gradients)}
            if not name.startswith("localcorr") and not max(values, *gradients) < 1e-4:
                raise RuntimeError(f"{name} is wrong: {values:.1e}, gradients {max(gradients):.1e}")

        yield from guarded(what, compared)


def whole(
    shape: Shape, features1: Tensor, features2: Tensor, points: Tensor, setting: Setting
) -> Iterator[Row]:
    """The cost for a network: from features to the windows of all refinements, and back. It decides."""
    count = 1 if setting.small else REFINEMENTS
    for trains in (False, True):
        what = f"{count} refinements, {'forward and backward' if trains else 'forward'}"

        def run(make: Make, trains: bool = trains) -> None:
            features = [values.detach().requires_grad_(trains) for values in (features1, features2)]
            with torch.set_grad_enabled(trains):
                lookup = make(*features)
                total = sum(lookup(points).sum() for _ in range(count))
            if trains:
                torch.autograd.grad(total, features)

        def timed(run: Callable[[Make], None] = run, what: str = what) -> Iterator[Row]:
            calls: dict[str, Call] = {}
            for name, make in contestants(shape).items():
                if name == "grid_sample" and shape.height * shape.width > 10_000:
                    continue  # A gradient as large as the volumes for every refinement.
                calls[name] = lambda make=make: run(make)
            calls, broken = that_run(calls, lambda name: {"shape": shape.name, "call": f"{what}: {name}"})
            yield from broken
            seconds = median_s(calls, setting, turns=5)
            ours = min(found for name, found in seconds.items() if name in ("all-pairs", "on-demand"))
            for name, found in seconds.items():
                row: Row = {"shape": shape.name, "call": f"{what}: {name}", "ms": 1e3 * found}
                yield row | {"over our faster": found / ours, "peak MB": peak_mb(calls[name], setting)}

        yield from guarded({"shape": shape.name, "call": what}, timed)


def kernels_alone(
    shape: Shape,
    features1: Tensor,
    features2: Tensor,
    points: Tensor,
    setting: Setting,
    rates: Cost | None,
) -> Iterator[Row]:
    """Our four kernels against their bounds; the features in bfloat16 too, where half the bytes are read."""
    calls = kernel_calls(shape, features1, features2, points)
    cost_of = costs(shape)
    for name, found in median_s(calls, setting).items():
        row: Row = {"shape": shape.name, "call": f"kernel {name}", "ms": 1e3 * found}
        if rates is not None and name in cost_of:
            bound_s = cost_of[name].seconds_at(rates)
            row |= {
                "GB/s": cost_of[name].dram_bytes / found / 1e9,
                "bound, ms": 1e3 * bound_s,
                "% of bound": 100 * bound_s / found,
            }
        yield row


def other_blocks(
    shape: Shape, features1: Tensor, features2: Tensor, points: Tensor, setting: Setting
) -> Iterator[Row]:
    """The kernels with other numbers of cells and warps a program, and channels at a time."""
    from semraft.kernels.gpu import correlation_triton as kernels

    calls = kernel_calls(shape, features1, features2, points)
    for cells, warps, channels in BLOCKS[:1] if setting.small else BLOCKS:
        blocks = {
            "CELLS_AND_WARPS_LOOK_UP": (cells, warps),
            "CELLS_AND_WARPS_CORRELATE": (cells, warps),
            "CHANNELS_CORRELATE": channels,
        }
        with patch.multiple(kernels, **blocks):
            if setting.seconds_left < 5 and not setting.small:
                return
            for name, found in median_s(calls, setting, turns=10).items():
                what = f"{name}: {cells} cells, {warps} warps, {channels} channels"
                yield {"shape": shape.name, "call": what, "ms": 1e3 * found}


def kernel_calls(shape: Shape, features1: Tensor, features2: Tensor, points: Tensor) -> dict[str, Call]:
    from semraft.kernels.gpu import correlation_triton as kernels

    cells, radius = shape.height * shape.width, shape.radius
    flat = points.permute(0, 2, 3, 1).reshape(shape.batch, cells, 2).contiguous()
    rows1, levels2 = features1.flatten(2).transpose(1, 2).contiguous(), [features2]
    while len(levels2) < shape.levels:
        levels2.append(F.avg_pool2d(levels2[-1], 2))
    maps2 = [level.permute(0, 2, 3, 1).contiguous() for level in levels2]
    half1, half2 = rows1.bfloat16(), [level.bfloat16() for level in maps2]
    samples = kernels.correlate(rows1, maps2, flat, radius)
    sums1, sums2 = torch.zeros_like(rows1), [torch.zeros_like(level) for level in maps2]
    calls: dict[str, Call] = {
        "correlate": lambda: kernels.correlate(rows1, maps2, flat, radius),
        "correlate, bfloat16": lambda: kernels.correlate(half1, half2, flat, radius),
        "correlate_backward": lambda: kernels.correlate_backward(
            samples, rows1, maps2, flat, radius, sums1, sums2
        ),
    }
    if shape.batch * cells**2 * 4 * 4 / 3 < 8e9:
        volumes = [(rows1 @ level.flatten(2)).view(-1, *level.shape[2:]) for level in levels2]
        sums = [torch.zeros_like(volume) for volume in volumes]
        one, gradient = flat.view(-1, 2), samples.flatten(0, 1)
        calls["look_up"] = lambda: kernels.look_up(volumes, one, radius)
        calls["look_up_backward"] = lambda: kernels.look_up_backward(gradient, one, radius, sums)
    return calls
