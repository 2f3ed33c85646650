"""The Triton kernels against `correlation.lookup`, in Triton's interpreter; on a GPU too, where there is one.

They run in a process of their own: Triton chooses between interpreter and compiler when it is imported.
"""

import importlib
import importlib.util
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from semraft.models import correlation

# Not importorskip: what imports triton here, in the parent, has chosen interpreter or compiler for good.
NO_TRITON = importlib.util.find_spec("triton") is None
pytestmark = pytest.mark.skipif(NO_TRITON, reason="triton is not installed: it exists for Linux alone")

Run = Callable[..., tuple[Any, Any]]
CASES = [  # Height, width, levels, radius.
    (5, 7, 2, 3),  # A window of 8 x 8 fills its block.
    (4, 5, 3, 4),  # A last level of one cell.
    (6, 3, 1, 1),
]
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
"""Of float32 sums of up to 80 terms near 1, against float64."""
DEVICES = ["cpu", *([pytest.param("cuda", marks=pytest.mark.gpu)] if torch.cuda.is_available() else [])]


def set_up(device: str) -> None:
    """Before anything imports triton: the interpreter for the CPU, and the shape checks of every test run."""
    os.environ["TRITON_INTERPRET"] = "1" if device == "cpu" else "0"
    jaxtyping.install_import_hook("semraft", "beartype.beartype")


def moved(value: Any, device: str) -> Any:
    if isinstance(value, list | tuple):
        return [moved(entry, device) for entry in value]
    return value.to(device) if isinstance(value, Tensor) else value


def call(device: str, function: str, arguments: tuple[Any, ...]) -> tuple[Any, Any]:
    kernels = importlib.import_module("semraft.kernels.gpu.correlation_triton")
    there = moved(arguments, device)
    result = getattr(kernels, function)(*there)
    return moved(result, "cpu"), moved(there, "cpu")


@pytest.fixture(scope="module", params=DEVICES)
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """`run(function, *arguments)` gives what the function returned, and its arguments after the call."""
    device = request.param
    with ProcessPoolExecutor(1, get_context("spawn"), set_up, (device,)) as process:
        yield lambda function, *arguments: process.submit(call, device, function, arguments).result()


def make_points(generator: torch.Generator, height: int, width: int) -> Tensor:
    """Points of two images, 2 h w 2: in the frame and around it, on integers, at the borders, far outside."""
    points = torch.rand(2, height, width, 2, generator=generator) * 2 - 0.5
    points = points * torch.tensor([width, height])
    corners = [(0, 0), (width - 1, height - 1), (-1, 2), (width, 1.5), (2.5, -0.5), (1, height - 0.25)]
    far = [(1e4, 1), (2, -1e4), (1e12, 1e12), (-math.inf, 0), (0, math.inf), (-9.5, 2.0)]
    for index, point in enumerate(corners + far):
        points[index % 2, index // 2 % height, index // 2 // height] = torch.tensor(point)
    return points


def reference_points(points: Tensor) -> Tensor:
    """Points out of reach of every window stay there, as long as the integers of grid_sample hold them."""
    return points.double().clamp(-1000, 1000).permute(0, 3, 1, 2)


def rows(samples: Tensor) -> Tensor:
    """B D h w to B n D."""
    return samples.flatten(2).transpose(1, 2)


def guarded(values: Tensor) -> Tensor:
    """A copy amid NaN: a read beyond its ends is seen in the result, a write in `assert_guards`."""
    margin = 512
    room = torch.full((values.numel() + 2 * margin,), math.nan, dtype=values.dtype)
    room[margin:-margin] = values.flatten()
    return room[margin:-margin].view(values.shape)


def assert_guards(values: Tensor) -> None:
    """Red when: something was written before or behind the tensor."""
    room = torch.empty(0, dtype=values.dtype).set_(values.untyped_storage())
    assert int(room.isnan().sum()) == 1024


def make_volumes(generator: torch.Generator, height: int, width: int, levels: int) -> list[Tensor]:
    """Random volumes of two images, float64 leaves; no level is the average of another."""
    sizes = [(height >> level, width >> level) for level in range(levels)]
    count = 2 * height * width
    return [
        torch.randn(count, 1, *size, generator=generator, dtype=torch.float64).requires_grad_()
        for size in sizes
    ]


@pytest.mark.parametrize(("height", "width", "levels", "radius"), CASES)
def test_look_up(
    height: int, width: int, levels: int, radius: int, run: Run, generator: torch.Generator
) -> None:
    """Red when: x and y change places, a border is one off, a far point wraps, a level is not halved."""
    volumes = make_volumes(generator, height, width, levels)
    points = make_points(generator, height, width)
    expected = rows(correlation.lookup(volumes, reference_points(points), radius)).flatten(0, 1)

    maps = [guarded(volume.detach()[:, 0].float()) for volume in volumes]
    found, _ = run("look_up", maps, points.view(-1, 2), radius)
    torch.testing.assert_close(found.double(), expected, **TOLERANCE)


@pytest.mark.parametrize(("height", "width", "levels", "radius"), CASES)
def test_look_up_backward_adds_in_place(
    height: int, width: int, levels: int, radius: int, run: Run, generator: torch.Generator
) -> None:
    """Red when: the gradient is stored rather than added, or a sample's share goes to the wrong side."""
    volumes = make_volumes(generator, height, width, levels)
    points = make_points(generator, height, width)
    samples = rows(correlation.lookup(volumes, reference_points(points), radius)).flatten(0, 1)
    gradient = torch.randn(samples.shape, generator=generator)
    samples.backward(gradient.double())

    before = [torch.randn(volume[:, 0].shape, generator=generator) for volume in volumes]
    gradients = [guarded(values) for values in before]
    _, arguments = run("look_up_backward", gradient, points.view(-1, 2), radius, gradients)
    for found, start, volume in zip(arguments[3], before, volumes, strict=True):
        torch.testing.assert_close(found.double(), start + volume.grad[:, 0], **TOLERANCE)
        assert_guards(found)


def test_no_window_around_nan(run: Run, generator: torch.Generator) -> None:
    """Zeros, and no gradient. Red when: NaN is cast to an integer, or its fraction weighs the zeros."""
    volumes = [guarded(volume.detach()[:, 0].float()) for volume in make_volumes(generator, 4, 5, 2)]
    points = make_points(generator, 4, 5).view(-1, 2)
    points[3, 0], points[11, 1] = math.nan, math.nan
    found, _ = run("look_up", volumes, points, 1)
    assert found.isfinite().all()
    assert found[[3, 11]].abs().max() == 0

    zeros = [torch.zeros_like(volume) for volume in volumes]
    _, arguments = run("look_up_backward", torch.ones_like(found), points, 1, zeros)
    assert all(
        gradients.isfinite().all() and gradients[[3, 11]].abs().max() == 0 for gradients in arguments[3]
    )


def make_features(
    generator: torch.Generator, height: int, width: int, levels: int, channels: int
) -> tuple[Tensor, list[Tensor]]:
    """Features of frame 1, B C h w, and the averaged levels of frame 2, all float64; both are to learn."""
    features = torch.randn(2, 2, channels, height, width, generator=generator, dtype=torch.float64)
    features1, features2 = features.requires_grad_().unbind()
    averaged = [features2]
    while len(averaged) < levels:
        averaged.append(F.avg_pool2d(averaged[-1], 2))
    return features1, averaged


def as_arguments(features1: Tensor, averaged: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """As the kernels take them: float32, channels last, in rooms of NaN."""
    levels = [level.detach().float().permute(0, 2, 3, 1) for level in averaged]
    return guarded(rows(features1.detach()).float()), [guarded(level) for level in levels]


ON_DEMAND = [(*CASES[0], 3), (*CASES[1], 20), (*CASES[2], 17)]
"""With channels below one block, and not a multiple of it."""


@pytest.mark.parametrize(("height", "width", "levels", "radius", "channels"), ON_DEMAND)
def test_correlate(
    height: int, width: int, levels: int, radius: int, channels: int, run: Run, generator: torch.Generator
) -> None:
    """Red when: the second image reads the first's features, or channels are left out or read beyond."""
    features1, averaged = make_features(generator, height, width, levels, channels)
    points = make_points(generator, height, width)
    volumes = correlation.pyramid(features1, averaged[0], levels)
    expected = rows(correlation.lookup(volumes, reference_points(points), radius))

    found, _ = run("correlate", *as_arguments(features1, averaged), points.view(2, -1, 2), radius)
    torch.testing.assert_close(found.double(), expected, **TOLERANCE)


@pytest.mark.parametrize(("height", "width", "levels", "radius", "channels"), ON_DEMAND)
def test_correlate_backward_adds_in_place(
    height: int, width: int, levels: int, radius: int, channels: int, run: Run, generator: torch.Generator
) -> None:
    """The gradient of the features as they came from the encoder, through the averaging of frame 2.

    Red when: neighbours' shares overwrite each other, a level's share of frame 1 is lost, or 1 / sqrt(C) is.
    """
    features1, averaged = make_features(generator, height, width, levels, channels)
    points = make_points(generator, height, width)
    volumes = correlation.pyramid(features1, averaged[0], levels)
    samples = rows(correlation.lookup(volumes, reference_points(points), radius))
    gradient = torch.randn(samples.shape, generator=generator)
    to_learn = (features1, averaged[0])
    expected1, expected2 = torch.autograd.grad(samples, to_learn, gradient.double(), retain_graph=True)

    one, many = as_arguments(features1, averaged)
    before = [torch.randn(values.shape, generator=generator) for values in (one, *many)]
    sums = [guarded(values) for values in before]
    _, arguments = run(
        "correlate_backward", gradient, one, many, points.view(2, -1, 2), radius, sums[0], sums[1:]
    )
    for values in (arguments[5], *arguments[6]):
        assert_guards(values)
    torch.testing.assert_close(arguments[5].double(), before[0] + rows(expected1), **TOLERANCE)
    added = [after.double() - start for after, start in zip(arguments[6], before[1:], strict=True)]
    shares = [share.permute(0, 3, 1, 2) for share in added]
    (found2,) = torch.autograd.grad(averaged, averaged[0], shares)
    torch.testing.assert_close(found2, expected2, **TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_summed_in_float32(
    dtype: torch.dtype, run: Run, generator: torch.Generator
) -> None:
    """1200 x 1200 over 64 channels is beyond float16. Red when: the products or their sum are in half."""
    features1, features2 = torch.full((1, 6, 64), 1200.0, dtype=dtype), torch.full((1, 2, 3, 64), 1200.0)
    points = torch.tensor([[x, y] for y in range(2) for x in range(3)], dtype=torch.float32)[None]
    found, _ = run("correlate", features1, [features2.to(dtype)], points, 1)
    assert found.dtype == torch.float32
    expected = torch.full((1, 6), 8 * float(features1[0, 0, 0]) ** 2)
    torch.testing.assert_close(found[..., 4], expected, rtol=1e-6, atol=0)  # 4: the window's centre.

    volumes = torch.randn(6, 2, 3, generator=generator).to(dtype)
    found, _ = run("look_up", [volumes], points[0], 1)
    assert torch.equal(found[:, 4], volumes.float().flatten(1).diagonal())


def test_errors(run: Run) -> None:
    """Red when: a transposed tensor is read as if it were not, or a level of another size is."""
    points = torch.zeros(6, 2)
    with pytest.raises(ValueError, match="not contiguous"):
        run("look_up", [torch.zeros(6, 3, 2).transpose(1, 2)], points, 1)
    with pytest.raises(ValueError, match=r"expected \[\(2, 3\), \(1, 1\)\]"):
        run("look_up", [torch.zeros(6, 2, 3), torch.zeros(6, 1, 2)], points, 1)


COMPILE = """
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import KernelInterface
from semraft.kernels.gpu import correlation_triton as kernels

class NoGPU:
    def get_current_device(self): return 0
    def get_current_stream(self, device): return 0
    def get_current_target(self): return GPUTarget("cuda", 80, 32)

def compile_alone(kernel, grid):
    return lambda *args, **options: compiled.append(kernel.run(*args, grid=grid, warmup=True, **options))

compiled = []
triton.runtime.driver.set_active(NoGPU())
KernelInterface.__getitem__ = compile_alone
for height, width in ((9, 21), (16, 32)):
    cells = height * width
    points, features1 = torch.zeros(1, cells, 2), torch.zeros(1, cells, 32)
    maps = [torch.zeros(1, height >> level, width >> level, 32) for level in range(4)]
    volumes = [torch.zeros(cells, height >> level, width >> level) for level in range(4)]
    samples = kernels.look_up(volumes, points[0], 4)
    kernels.look_up_backward(samples, points[0], 4, volumes)
    samples = kernels.correlate(features1, maps, points, 4)
    kernels.correlate_backward(samples, features1, maps, points, 4, features1, maps)
print(len({id(kernel) for kernel in compiled}), all(len(kernel.asm["cubin"]) > 0 for kernel in compiled))
"""


def test_the_kernels_compile_once_for_all_sizes(tmp_path: Path) -> None:
    """To machine code for Ampere, as launched but for the launch: that takes no GPU.

    Red when: a kernel uses what the interpreter, which is Python, takes and the compiler does not (a global
    variable, an annotation's name, a type that changes in a branch), or its variants depend on the image.
    """
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "4 True\n"), done.stderr
