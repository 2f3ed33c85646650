"""RAFT's windowed lookup on a GPU, in Triton: from stored volumes, and on demand from features alone.

The samples around a point are whole steps apart and share its fraction (dx, dy): one integer window of
(2r + 2)^2 values blended once makes all (2r + 1)^2 samples of a level. `correlation.lookup` is the reference,
in values and gradients. Importing this module needs triton, so the package imports it only to use it.
Bytes, operations and what was not tried: docs/decisions/0008-triton-kernels.md.

N: cells of frame 1 in the batch, n: in one image; K = 2r + 1; D = levels K^2 samples, by level, then x, then
y. Level l is level 0 averaged over 2^l cells: height and width halve, rounded down. Volumes and features may
be in half precision; sums, windows and samples are float32. The points get no gradient: RAFT detaches them.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Float32
from torch import Tensor

CELLS_AND_WARPS_LOOK_UP = (8, 4)
"""A program that reads volumes: each thread has eight independent loads in flight."""
CELLS_AND_WARPS_CORRELATE = (4, 8)
"""A program that reads features: cells are neighbours, whose windows overlap and meet in the L1 cache."""
CHANNELS_CORRELATE = 16
"""Channels at a time: two 32-byte sectors of every float32 feature vector in the windows."""


def look_up(
    volumes: list[Float[Tensor, "N _ _"]], points: Float32[Tensor, "N 2"], radius: int
) -> Float32[Tensor, "N D"]:
    """Bilinear samples of each level in the window around each point; zero outside, and around a NaN.

    `points` are (x, y) in cells of level 0, integers at cell centres.

    Raises:
        ValueError: A tensor is not contiguous, or a level is not half the size of the one before.
    """
    size = check([volume.shape[1:] for volume in volumes], [*volumes, points])
    samples = points.new_empty(len(points), len(volumes) * (2 * radius + 1) ** 2)
    launch(look_up_kernel, CELLS_AND_WARPS_LOOK_UP, points, samples, size, radius, tuple(volumes))
    return samples


def look_up_backward(
    gradient: Float32[Tensor, "N D"],
    points: Float32[Tensor, "N 2"],
    radius: int,
    gradients: list[Float[Tensor, "N _ _"]],
) -> None:
    """Adds the volumes' share of the samples' gradient to `gradients`, in place.

    A program owns the rows it adds to: no atomics, no temporary, the same bits every time.

    Raises:
        ValueError: As `look_up`.
    """
    size = check([volume.shape[1:] for volume in gradients], [gradient, points, *gradients])
    own = (tuple(gradients),)
    launch(look_up_backward_kernel, CELLS_AND_WARPS_LOOK_UP, points, gradient, size, radius, *own)


def correlate(
    features1: Float[Tensor, "B n C"],
    features2: list[Float[Tensor, "B _ _ C"]],
    points: Float32[Tensor, "B n 2"],
    radius: int,
) -> Float32[Tensor, "B n D"]:
    """`look_up` in the volumes f1(p) . f2_l(q) / sqrt(C), which are never stored.

    Raises:
        ValueError: As `look_up`.
    """
    size = check([features.shape[1:3] for features in features2], [features1, *features2, points])
    batch, cells, channels = features1.shape
    samples = points.new_empty(batch, cells, len(features2) * (2 * radius + 1) ** 2)
    own = (features1, tuple(features2), cells, channels, channels**-0.5, CHANNELS_CORRELATE)
    launch(correlate_kernel, CELLS_AND_WARPS_CORRELATE, points, samples, size, radius, *own)
    return samples


def correlate_backward(
    gradient: Float32[Tensor, "B n D"],
    features1: Float[Tensor, "B n C"],
    features2: list[Float[Tensor, "B _ _ C"]],
    points: Float32[Tensor, "B n 2"],
    radius: int,
    gradient1: Float32[Tensor, "B n C"],
    gradients2: list[Float32[Tensor, "B _ _ C"]],
) -> None:
    """Adds the features' shares of the samples' gradient to `gradient1` and `gradients2`, in place.

    Windows of neighbours overlap, so it adds by atomics: the last bits depend on the order of arrival.

    Raises:
        ValueError: As `look_up`.
    """
    tensors = [gradient, features1, *features2, points, gradient1, *gradients2]
    size = check([features.shape[1:3] for features in features2], tensors)
    _, cells, channels = features1.shape
    features = (features1, tuple(features2), gradient1, tuple(gradients2))
    own = (*features, cells, channels, channels**-0.5, CHANNELS_CORRELATE)
    launch(correlate_backward_kernel, CELLS_AND_WARPS_CORRELATE, points, gradient, size, radius, *own)


def check(sizes: Sequence[Sequence[int]], tensors: list[Tensor]) -> tuple[int, int]:
    """The size of level 0, from which the kernels know the others'."""
    height, width = sizes[0]
    found = [tuple(size) for size in sizes]
    expected = [(height >> level, width >> level) for level in range(len(sizes))]
    if found != expected:
        raise ValueError(f"levels of {found} cells, expected {expected}: average 2 x 2 cells for the next")
    if not all(tensor.is_contiguous() for tensor in tensors):
        raise ValueError("a tensor is not contiguous, and kernels go by address: call .contiguous() first")
    return height, width


def launch(
    kernel: Any,
    cells_and_warps: tuple[int, int],
    points: Float32[Tensor, "*N 2"],
    samples: Float32[Tensor, "*N D"],
    size: tuple[int, int],
    radius: int,
    *own: Any,
) -> None:
    """One launch for all levels, with what every kernel takes and what is its own."""
    cells, count = points.numel() // 2, (2 * radius + 1) ** 2
    block, warps = cells_and_warps
    grid = (triton.cdiv(cells, block), samples.shape[-1] // count)
    powers = [triton.next_power_of_2(size) for size in ((2 * radius + 2) ** 2, count)]
    with torch.cuda.device(points.get_device()):  # Or Triton launches on the current device.
        kernel[grid](points, samples, cells, *size, radius, *powers, block, *own, num_warps=warps)


def compiled(function: Callable[..., Any]) -> Any:
    """Compiled at the first call for each type and radius, not for each size.

    Triton reads the function's source, so it gets the function itself and not the test run's shape checks.
    """
    sizes = ["cells", "height", "width", "image_cells"]
    return triton.jit(inspect.unwrap(function), do_not_specialize=sizes)


@compiled
def look_up_kernel(
    points: tl.tensor,
    samples: tl.tensor,
    cells: int,
    height: int,
    width: int,
    RADIUS: tl.constexpr,
    WINDOW: tl.constexpr,
    SAMPLES: tl.constexpr,
    CELLS: tl.constexpr,
    volumes: tl.tuple,
) -> None:
    level = tl.program_id(1)
    cell = tl.program_id(0).to(tl.int64) * CELLS + tl.arange(0, CELLS)
    height, width = height >> level, width >> level
    place, within, dx, dy = windows(points, cell, cells, level, height, width, RADIUS, WINDOW)

    rows = of_level(volumes, level) + cell[:, None] * height * width
    window = tl.load(rows + place, mask=within, other=0.0).to(tl.float32)
    store_samples(samples, blend(window, dx, dy, RADIUS, SAMPLES), cell, cells, level, RADIUS)


@compiled
def look_up_backward_kernel(
    points: tl.tensor,
    gradient: tl.tensor,
    cells: int,
    height: int,
    width: int,
    RADIUS: tl.constexpr,
    WINDOW: tl.constexpr,
    SAMPLES: tl.constexpr,
    CELLS: tl.constexpr,
    gradients: tl.tuple,
) -> None:
    level = tl.program_id(1)
    cell = tl.program_id(0).to(tl.int64) * CELLS + tl.arange(0, CELLS)
    height, width = height >> level, width >> level
    place, within, dx, dy = windows(points, cell, cells, level, height, width, RADIUS, WINDOW)

    shares = load_samples(gradient, cell, cells, level, RADIUS, SAMPLES)
    shares = spread(shares, dx, dy, RADIUS, WINDOW)
    rows = of_level(gradients, level) + cell[:, None] * height * width
    before = tl.load(rows + place, mask=within, other=0.0).to(tl.float32)
    tl.store(rows + place, before + shares, mask=within)


@compiled
def correlate_kernel(
    points: tl.tensor,
    samples: tl.tensor,
    cells: int,
    height: int,
    width: int,
    RADIUS: tl.constexpr,
    WINDOW: tl.constexpr,
    SAMPLES: tl.constexpr,
    CELLS: tl.constexpr,
    features1: tl.tensor,
    features2: tl.tuple,
    image_cells: int,
    channels: int,
    scale: float,
    CHANNELS: tl.constexpr,
) -> None:
    level = tl.program_id(1)
    cell = tl.program_id(0).to(tl.int64) * CELLS + tl.arange(0, CELLS)
    height, width = height >> level, width >> level
    place, within, dx, dy = windows(points, cell, cells, level, height, width, RADIUS, WINDOW)

    vectors1 = features1 + cell[:, None] * channels
    place += (cell // image_cells)[:, None] * height * width
    vectors2 = of_level(features2, level) + place[:, :, None] * channels
    # No tl.dot: it wants many cells against the same places, and neighbours' windows overlap but differ. The
    # sum over channels comes once, at the end: that takes exchanges among threads, adding up takes none.
    products = tl.zeros((CELLS, WINDOW, CHANNELS), tl.float32)
    for start in range(0, channels, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        exists1 = (cell < cells)[:, None] & (channel < channels)
        exists2 = within[:, :, None] & (channel < channels)
        one = tl.load(vectors1 + channel, mask=exists1, other=0.0).to(tl.float32)
        many = tl.load(vectors2 + channel, mask=exists2, other=0.0).to(tl.float32)
        products += one[:, None, :] * many
    window = tl.sum(products, axis=2) * scale
    store_samples(samples, blend(window, dx, dy, RADIUS, SAMPLES), cell, cells, level, RADIUS)


@compiled
def correlate_backward_kernel(
    points: tl.tensor,
    gradient: tl.tensor,
    cells: int,
    height: int,
    width: int,
    RADIUS: tl.constexpr,
    WINDOW: tl.constexpr,
    SAMPLES: tl.constexpr,
    CELLS: tl.constexpr,
    features1: tl.tensor,
    features2: tl.tuple,
    gradient1: tl.tensor,
    gradients2: tl.tuple,
    image_cells: int,
    channels: int,
    scale: float,
    CHANNELS: tl.constexpr,
) -> None:
    level = tl.program_id(1)
    cell = tl.program_id(0).to(tl.int64) * CELLS + tl.arange(0, CELLS)
    height, width = height >> level, width >> level
    place, within, dx, dy = windows(points, cell, cells, level, height, width, RADIUS, WINDOW)

    shares = load_samples(gradient, cell, cells, level, RADIUS, SAMPLES)
    shares = (spread(shares, dx, dy, RADIUS, WINDOW) * scale)[:, :, None]
    row1 = cell[:, None] * channels
    row2 = ((cell // image_cells)[:, None] * height * width + place)[:, :, None] * channels
    for start in range(0, channels, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        exists1 = (cell < cells)[:, None] & (channel < channels)
        exists2 = within[:, :, None] & (channel < channels)
        one = tl.load(features1 + row1 + channel, mask=exists1, other=0.0).to(tl.float32)
        many = tl.load(of_level(features2, level) + row2 + channel, mask=exists2, other=0.0).to(tl.float32)
        # Levels share gradient1, neighbours gradients2. Nobody reads them here: order may be relaxed.
        sums = gradient1 + row1 + channel
        tl.atomic_add(sums, tl.sum(shares * many, axis=1), mask=exists1, sem="relaxed")
        sums2 = of_level(gradients2, level) + row2 + channel
        tl.atomic_add(sums2, shares * one[:, None, :], mask=exists2, sem="relaxed")


@compiled
def of_level(tensors: tl.tuple, level: tl.tensor) -> tl.tensor:
    """A tuple's entries are arguments of the kernel, which an index known at run time cannot choose from."""
    chosen = tensors[0]
    for index in tl.static_range(1, len(tensors)):
        if level == index:
            chosen = tensors[index]
    return chosen


@compiled
def windows(
    points: tl.tensor,
    cell: tl.tensor,
    cells: int,
    level: tl.tensor,
    height: int,
    width: int,
    RADIUS: tl.constexpr,
    WINDOW: tl.constexpr,
) -> tl.tuple:
    """Index of each value of each window in the map, whether it is inside, and the fraction of its samples.

    The values run with x fastest, as in memory.
    """
    scale = ((127 - level) << 23).to(tl.float32, bitcast=True)  # 2^-level, exactly: division is not.
    x = tl.load(points + 2 * cell, mask=cell < cells, other=float("nan")) * scale
    y = tl.load(points + 2 * cell + 1, mask=cell < cells, other=float("nan")) * scale
    # Out of reach or NaN goes to where nothing is: it fits no integer, and NaN of a fraction would spread.
    reached = (x > -2 - RADIUS) & (x < width + RADIUS) & (y > -2 - RADIUS) & (y < height + RADIUS)
    x, y = tl.where(reached, x, -2.0 - RADIUS), tl.where(reached, y, -2.0 - RADIUS)
    left, top = tl.floor(x), tl.floor(y)

    SIDE: tl.constexpr = 2 * RADIUS + 2
    index = tl.arange(0, WINDOW)
    column = left.to(tl.int32)[:, None] - RADIUS + index % SIDE
    row = top.to(tl.int32)[:, None] - RADIUS + index // SIDE
    within = (index < SIDE * SIDE) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return row * width + column, within, x - left, y - top


@compiled
def blend(
    window: tl.tensor, dx: tl.tensor, dy: tl.tensor, RADIUS: tl.constexpr, SAMPLES: tl.constexpr
) -> tl.tensor:
    """The samples, y fastest, from their window, x fastest: along x, then along y."""
    SIDE: tl.constexpr = 2 * RADIUS + 2
    place, sample = tl.arange(0, window.shape[1]), tl.arange(0, SAMPLES)
    further = at(window, place % SIDE + 1, place // SIDE, 1, SIDE, SIDE)
    rows = window + (further - window) * dx[:, None]
    x, y = sample // (SIDE - 1), sample % (SIDE - 1)
    near, far = at(rows, x, y, 1, SIDE, SIDE), at(rows, x, y + 1, 1, SIDE, SIDE)
    return near + (far - near) * dy[:, None]


@compiled
def spread(
    samples: tl.tensor, dx: tl.tensor, dy: tl.tensor, RADIUS: tl.constexpr, WINDOW: tl.constexpr
) -> tl.tensor:
    """The transpose of `blend`: each place's share of the samples it went into, which lie before it."""
    SIDE: tl.constexpr = 2 * RADIUS + 2
    place = tl.arange(0, WINDOW)
    x, y = place % SIDE, place // SIDE
    near, far = at(samples, x, y, SIDE - 1, 1, SIDE - 1), at(samples, x - 1, y, SIDE - 1, 1, SIDE - 1)
    rows = near + (far - near) * dx[:, None]
    before = at(rows, x, y - 1, 1, SIDE, SIDE)
    return rows + (before - rows) * dy[:, None]


@compiled
def at(
    values: tl.tensor,
    x: tl.tensor,
    y: tl.tensor,
    X_STRIDE: tl.constexpr,
    Y_STRIDE: tl.constexpr,
    SIDE: tl.constexpr,
) -> tl.tensor:
    """Each cell's values at (x, y) of a square, zero outside it: exchanged among threads, not read again."""
    exists = (x >= 0) & (x < SIDE) & (y >= 0) & (y < SIDE)
    index = tl.where(exists, x * X_STRIDE + y * Y_STRIDE, 0)
    index = tl.broadcast_to(index[None, :], (values.shape[0], index.shape[0]))
    return tl.where(exists[None, :], tl.gather(values, index, axis=1), 0.0)


@compiled
def load_samples(
    samples: tl.tensor,
    cell: tl.tensor,
    cells: int,
    level: tl.tensor,
    RADIUS: tl.constexpr,
    SAMPLES: tl.constexpr,
) -> tl.tensor:
    COUNT: tl.constexpr = (2 * RADIUS + 1) * (2 * RADIUS + 1)
    index = tl.arange(0, SAMPLES)[None, :]
    row = (cell * tl.num_programs(1) + level)[:, None] * COUNT
    return tl.load(samples + row + index, mask=(cell < cells)[:, None] & (index < COUNT), other=0.0)


@compiled
def store_samples(
    samples: tl.tensor, values: tl.tensor, cell: tl.tensor, cells: int, level: tl.tensor, RADIUS: tl.constexpr
) -> None:
    COUNT: tl.constexpr = (2 * RADIUS + 1) * (2 * RADIUS + 1)
    index = tl.arange(0, values.shape[1])[None, :]
    row = (cell * tl.num_programs(1) + level)[:, None] * COUNT
    tl.store(samples + row + index, values, mask=(cell < cells)[:, None] & (index < COUNT))
