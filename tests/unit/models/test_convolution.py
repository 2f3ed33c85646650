"""Convolutions against conv2d in float64, in values and every gradient, whichever way they are computed."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float64
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from semraft.kernels.cpu import winograd
from semraft.kernels.cpu import winograd_transforms as kernels
from semraft.models.convolution import Convolution, convolve, in_parts, prepare, prepare_all

SIZES = pytest.mark.parametrize("kernel", [(3, 3), (1, 5), (5, 1), (1, 1), (7, 7)])
# Tiles that do not divide the size; two images; channels that are neither equal nor a power of two.
BATCH, IN, OUT, HEIGHT, WIDTH = 2, 33, 42, 37, 30


def make(kernel: tuple[int, int], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(11)
    x = torch.randn(BATCH, IN, HEIGHT, WIDTH, generator=generator)
    weight = torch.randn(OUT, IN, *kernel, generator=generator) / (IN * kernel[0] * kernel[1]) ** 0.5
    return tuple(
        value.to(dtype).requires_grad_() for value in (x, weight, torch.randn(OUT, generator=generator))
    )


def in_float64(kernel: tuple[int, int]) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """Values and gradients of conv2d in double precision, and the values' own gradient."""
    x, weight, bias = make(kernel, torch.float64)
    y = F.conv2d(x, weight, bias, padding=(kernel[0] // 2, kernel[1] // 2))
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return y.detach(), torch.autograd.grad(y, (x, weight, bias), gradient), gradient


@SIZES
@pytest.mark.parametrize("threads", [1, 3])
def test_values_and_gradients(kernel: tuple[int, int], threads: int) -> None:
    """Relative to the largest. Most rounding is in the weights' gradient: sums of 2220 products, one after
    the other u sqrt(n / 6) of their size (u = 2^-24, see below), magnified 4.8 times by 3x3 transforms: 6e-6.

    Red when: a tile is shifted, a border repeated, a transform's constant wrong, the kernel not mirrored for
    the gradient, a part of the tiles left out by the threads.
    """
    expected, gradients_expected, gradient = in_float64(kernel)
    x, weight, bias = make(kernel)
    used = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        prepared = prepare(weight, bias, x)
        y = convolve(x, prepared)
        gradients = torch.autograd.grad(y, (x, weight, bias), gradient.float())
    finally:
        torch.set_num_threads(used)
    assert (prepared.spectrum is not None) == (kernel in winograd.KERNELS)
    for found, value in zip((y, *gradients), (expected, *gradients_expected), strict=True):
        assert float((found.detach() - value).abs().max() / value.abs().max()) < 1e-5


def matrix(transform: Callable[..., Sequence[float]], size: int) -> Float64[np.ndarray, "results size"]:
    """A transform of a tile, as the matrix it is."""
    columns = [transform.py_func(*unit) for unit in np.eye(size, dtype=np.float32)]
    return np.array(columns, np.float64).T


def magnification(taps: int) -> float:
    """Root mean square over a tile's results of what they make of rounding in the products, conv2d's being 1.

    Of random numbers: a product's error is in proportion to its size, which row p of B^T and G gives, and
    enters result j by A_jp. In two dimensions it is the square.
    """
    inputs, outputs = {3: (kernels._input_6, kernels._output_6), 5: (kernels._input_8, kernels._output_8)}[
        taps
    ]
    points = winograd.TILE + taps - 1
    to_points, from_points = matrix(inputs, points), matrix(outputs, points)
    products = np.square(to_points).sum(1) * np.square(winograd.evaluation(taps).numpy()).sum(1)
    return float(np.sqrt((np.square(from_points) * products).sum(1).mean() / taps))


def test_points_magnify_rounding_little() -> None:
    """Of the matrices themselves: 2.19 and 4.37. Red when: the points for 3 taps are 0, +-1, +-2, as in the
    paper (3.28)."""
    assert magnification(3) < 2.2
    assert magnification(5) < 4.4


@pytest.mark.parametrize("channels", [32, 512])
@pytest.mark.parametrize("kernel", winograd.KERNELS)
def test_rounding_is_that_of_sums_of_64_channels(kernel: tuple[int, int], channels: int) -> None:
    """Whatever the order a processor sums in. Of a sum of n random numbers, one added after the other, the
    error is u sqrt(n / 6) of its size, u = 2^-24; a sum of sums adds theirs. The transforms, sums of up to
    eight numbers on either side, round about 2 u more; all is magnified.

    Red when: products are summed over all channels in one go (as they are told to the product's own kernel,
    which may cut them as it likes), or are rounded to bfloat16 (2^-8 instead of 2^-24).
    """
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(1, channels, 33, 34, generator=generator)
    weight = (
        torch.randn(48, channels, *kernel, generator=generator) / (channels * kernel[0] * kernel[1]) ** 0.5
    )
    with Summed() as summed:
        found = winograd.convolve([x], kernel, winograd.spectrum(weight), None, None)
    assert max(summed.lengths) == min(channels, winograd.SUMMED)
    expected = F.conv2d(x.double(), weight.double(), padding=(kernel[0] // 2, kernel[1] // 2))
    error = float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())
    sums = (min(channels, winograd.SUMMED) / 6 + channels / winograd.SUMMED / 6) ** 0.5
    magnified = magnification(max(kernel)) ** (2 if min(kernel) > 1 else 1)
    assert error < 2**-24 * magnified * (sums + 2)


class Summed(TorchDispatchMode):
    """Inside, notes over how many numbers batched matrix products sum."""

    def __init__(self) -> None:
        super().__init__()
        self.lengths: list[int] = []

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        if function.overloadpacket in (torch.ops.aten.bmm, torch.ops.aten.baddbmm, torch.ops.aten.baddbmm_):
            self.lengths.append(arguments[-1].shape[1])
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("kernel", winograd.KERNELS)
def test_the_middle_tap_alone_gives_the_input_back(kernel: tuple[int, int]) -> None:
    """Interpolation undoes evaluation."""
    weight = torch.zeros(1, 1, *kernel)
    weight[..., kernel[0] // 2, kernel[1] // 2] = 1
    x = torch.randn(2, 1, 9, 14)
    y = winograd.convolve([x], kernel, winograd.spectrum(weight), None, None)
    torch.testing.assert_close(y, x, rtol=0, atol=1e-5)


def test_small_inputs_and_half_precision_go_the_direct_way() -> None:
    """Winograd's transforms would cost more than they save, and half precision would lose digits in them."""
    _, weight, bias = make((3, 3))
    assert prepare(weight, bias, torch.zeros(1, IN, 16, 16)).spectrum is None
    large = torch.zeros(1, IN, 64, 64)
    assert prepare(weight, bias, large).spectrum is not None
    assert prepare(weight[:16], None, large).spectrum is None
    assert prepare(weight.double(), bias, large.double()).spectrum is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prepared = prepare(weight, bias, large)
        assert prepared.spectrum is None
        assert convolve(large, prepared).dtype == torch.bfloat16


def test_inference_prepares_no_gradient() -> None:
    _, weight, bias = make((3, 3))
    with torch.no_grad():
        prepared = prepare(weight, bias, torch.zeros(1, IN, 64, 64))
    assert prepared.spectrum is not None
    assert prepared.mirrored_spectrum is None
    with torch.inference_mode():
        assert convolve(torch.zeros(1, IN, 64, 64), prepared).shape == (1, OUT, 64, 64)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_module_is_a_conv2d(stride: int) -> None:
    layer = Convolution(4, 6, 3, stride)
    x = torch.randn(2, 4, 9, 12)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, layer.bias, stride, padding=1))
    assert prepare_all(torch.nn.Sequential(layer, torch.nn.ReLU()), x).keys() == {layer}


def test_gradients_accumulate_over_uses_of_one_kernel() -> None:
    """All refinements use one kernel: its gradient is the sum. Red when: the spectrum is detached."""
    x, weight, bias = make((3, 3))
    prepared = prepare(weight, bias, x)
    (twice,) = torch.autograd.grad((convolve(x, prepared) + convolve(x, prepared)).sum(), weight)
    (once,) = torch.autograd.grad(convolve(x, prepare(weight, bias, x)).sum(), weight)
    torch.testing.assert_close(twice, 2 * once)


@pytest.mark.parametrize("kernel", [(3, 3), (1, 5), (1, 1)])
def test_parts_are_their_channels_one_after_the_other(kernel: tuple[int, int]) -> None:
    """In values and gradients. Red when: a part's offset among the channels is that of another."""
    x, weight, bias = make(kernel)
    parts = [part.detach().requires_grad_() for part in x.split([20, 13], dim=1)]
    prepared = prepare(weight, bias, x)
    y, whole = convolve(parts, prepared), convolve(x, prepared)
    torch.testing.assert_close(y, whole, rtol=0, atol=1e-6)
    gradients = torch.autograd.grad(y.square().sum(), [*parts, weight], retain_graph=True)
    of_x, of_weight = torch.autograd.grad(whole.square().sum(), [x, weight])
    torch.testing.assert_close(torch.cat(gradients[:2], dim=1), of_x)
    torch.testing.assert_close(gradients[2], of_weight)


def test_parts_are_read_more_finely_than_half_precision() -> None:
    """Numbers around 30, of which bfloat16 knows eight between two integers, under weights that cancel them,
    against float32; gradients of the weights too. Red when: what is left of the numbers or of the weights is
    dropped, or learnt from twice.
    """
    torch.manual_seed(0)
    x = 30 + torch.rand(1, 2, 9, 11)
    layer = Convolution(2, 5, 3, reads_parts=True)
    with torch.no_grad():
        layer.weight.sub_(layer.weight.mean((2, 3), keepdim=True))
    outputs, gradients = [], []
    for half in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            found = layer(in_parts(x))[..., 1:-1, 1:-1].float()
        outputs.append(found)
        gradients.extend(torch.autograd.grad(found.square().sum(), layer.weight))
    assert torch.equal(in_parts(x), x)
    for exact, found in (outputs, gradients):
        assert (found - exact).norm() < 0.02 * exact.norm()
