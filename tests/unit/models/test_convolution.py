"""Convolutions against conv2d in float64, in values and every gradient, whichever way they are computed."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from semraft.models import winograd
from semraft.models.convolution import Convolution, convolve, prepare, prepare_all

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
    """The bound is ten times what was seen, 1e-6 relative to the largest.

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


@pytest.mark.parametrize("kernel", winograd.KERNELS)
def test_rounding_is_near_that_of_the_direct_convolution(kernel: tuple[int, int]) -> None:
    """Root mean square error against float64: with AVX-512, 2.8 to 3.3 times conv2d's.

    Red when: the points for 3 taps are 0, +-1, +-2, as in the paper.
    """
    expected, _, _ = in_float64(kernel)
    x, weight, bias = make(kernel)
    direct = F.conv2d(x, weight, bias, padding=(kernel[0] // 2, kernel[1] // 2))
    error, error_direct = (
        float((y.detach() - expected).square().mean().sqrt())
        for y in (convolve(x, prepare(weight, bias, x)), direct)
    )
    assert error < 4 * error_direct


@pytest.mark.parametrize("kernel", winograd.KERNELS)
def test_rounding_does_not_grow_with_the_channels(kernel: tuple[int, int]) -> None:
    """Root mean square error of 512 channels over that of 32, both of results of size 1: seen 1.4. Red when:
    products are summed over all channels in one go."""
    errors = []
    for channels in (32, 512):
        generator = torch.Generator().manual_seed(5)
        x = torch.randn(1, channels, 33, 34, generator=generator)
        weight = torch.randn(48, channels, *kernel, generator=generator)
        weight /= (channels * kernel[0] * kernel[1]) ** 0.5
        padding = (kernel[0] // 2, kernel[1] // 2)
        expected = F.conv2d(x.double(), weight.double(), padding=padding)
        found = winograd.convolve([x], kernel, winograd.spectrum(weight), None, None)
        errors.append(float((found - expected).square().mean().sqrt()))
    assert errors[1] < 2 * errors[0]


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
