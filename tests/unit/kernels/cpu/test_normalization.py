"""Compiled norms against torch's in float64, in values, statistics and gradients."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semraft.kernels.cpu.normalization import normalize
from semraft.models.convolution import Convolution
from semraft.models.encoder import convolved

BATCH, CHANNELS, HEIGHT, WIDTH = 3, 13, 19, 22


def make(dtype: torch.dtype, offset: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = 2 * torch.randn(BATCH, CHANNELS, HEIGHT, WIDTH, generator=generator) + offset
    weight, bias = torch.randn(2, CHANNELS, generator=generator)
    return tuple(value.to(dtype).requires_grad_() for value in (x, weight, bias))


@pytest.mark.parametrize("per_image", [True, False])
@pytest.mark.parametrize("rectify", [True, False])
@pytest.mark.parametrize("threads", [1, 4])
def test_values_statistics_and_gradients(per_image: bool, rectify: bool, threads: int) -> None:
    """Red when: the rectifier does not stop gradients; a mean of the gradient is left out; the statistics of
    images and batch change places.
    """
    x, weight, bias = make(torch.float64)
    norm = F.instance_norm if per_image else F.batch_norm
    arguments = {"use_input_stats": True} if per_image else {"training": True}
    expected = norm(x, None, None, weight, bias, eps=1e-3, **arguments)
    expected = F.relu(expected) if rectify else expected
    gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients_expected = torch.autograd.grad(expected, (x, weight, bias), gradient)

    leaves = make(torch.float32)
    used = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        y, mean, variance = normalize(*leaves, 1e-3, per_image, rectify)
        gradients = torch.autograd.grad(y, leaves, gradient.float())
    finally:
        torch.set_num_threads(used)
    torch.testing.assert_close(y, expected.float(), rtol=0, atol=1e-5)
    over = (2, 3) if per_image else (0, 2, 3)
    torch.testing.assert_close(mean, x.mean(over).view(-1, CHANNELS).float())
    torch.testing.assert_close(variance, x.var(over, correction=0).view(-1, CHANNELS).float())
    for found, value in zip(gradients, gradients_expected, strict=True):
        assert float((found - value).abs().max() / value.abs().max()) < 1e-5


def test_a_large_mean_costs_few_digits() -> None:
    """Mean 30 times the deviation: torch's group norm in channels_last is off by 2e-2 there.

    Red when: squares are summed without taking the first pixel off.
    """
    x, one, zero = make(torch.float32, 60.0)[0].detach(), torch.ones(CHANNELS), torch.zeros(CHANNELS)
    y = normalize(x, one, zero, 1e-5, True, False)[0]
    torch.testing.assert_close(y, F.instance_norm(x.double()).float(), rtol=0, atol=5e-5)


@pytest.mark.parametrize("per_image", [True, False])
@pytest.mark.parametrize("rectify", [True, False])
def test_bfloat16_is_rounded_once(per_image: bool, rectify: bool) -> None:
    """Of the same numbers in float32: exactly what that gives, rounded. Red when: a sum is made in bfloat16,
    a row is another one's, a gradient or a value is rounded before the end."""
    x, weight, bias = make(torch.float32, 3.0)
    half = x.detach().bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_()
    whole = half.detach().float().requires_grad_()
    slope = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = normalize(half, weight, bias, 1e-3, per_image, rectify)
    expected = normalize(whole, weight, bias, 1e-3, per_image, rectify)
    assert torch.equal(found[0], expected[0].bfloat16())
    assert torch.equal(found[1], expected[1])
    assert torch.equal(found[2], expected[2])
    of_half = torch.autograd.grad(found[0], (half, weight, bias), slope)
    of_whole = torch.autograd.grad(expected[0], (whole, weight, bias), slope.float())
    assert torch.equal(of_half[0], of_whole[0].bfloat16())
    assert torch.equal(of_half[1], of_whole[1])
    assert torch.equal(of_half[2], of_whole[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inplace_writes_over_what_it_reads(dtype: torch.dtype) -> None:
    """Red when: pixels are read after they were written; a view forgets that its memory is channels_last."""
    x, weight, bias = (value.detach() for value in make(torch.float32))
    x = x[:1].to(dtype).contiguous(memory_format=torch.channels_last)
    expected = normalize(x, weight, bias, 1e-3, True, True)
    found = normalize(x, weight, bias, 1e-3, True, True, inplace=True)
    assert found[0] is x
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_not_a_number_comes_through() -> None:
    """A broken value must reach the loss, where it is refused. Red when: the rectifier makes it zero."""
    x, weight, bias = (value.detach() for value in make(torch.float32))
    x[1, 4, 5, 6] = torch.nan
    y = normalize(x, weight, bias, 1e-5, True, True)[0]
    assert y[1, 4].isnan().all()
    assert not y[0].isnan().any()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_batch_norm_behind_a_convolution(training: bool, stride: int) -> None:
    """As the two modules one after the other, running statistics too; fixed ones go into the weights."""
    torch.manual_seed(2)
    convolution, norm = Convolution(5, 8, 3, stride).double(), nn.BatchNorm2d(8).double()
    for value in (norm.running_mean, norm.running_var, norm.weight.data, norm.bias.data):
        nn.init.uniform_(value, 0.5, 1.5)
    norm.train(training)
    x = torch.randn(2, 5, 18, 22, dtype=torch.float64)
    single = nn.BatchNorm2d(8)
    single.load_state_dict(norm.state_dict())
    single.train(training)
    convolution32 = Convolution(5, 8, 3, stride)
    convolution32.load_state_dict(convolution.state_dict())

    expected = F.relu(norm(convolution(x)))
    parameters = (convolution.weight, norm.weight, norm.bias)
    gradients_expected = torch.autograd.grad(expected.square().sum(), parameters)
    y = convolved(x.float(), convolution32, single)
    gradients = torch.autograd.grad(y.square().sum(), (convolution32.weight, single.weight, single.bias))
    torch.testing.assert_close(y, expected.float(), rtol=0, atol=1e-5)
    for found, value in zip(gradients, gradients_expected, strict=True):
        torch.testing.assert_close(found, value.float(), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(single.running_mean, norm.running_mean.float())
    torch.testing.assert_close(single.running_var, norm.running_var.float())
    assert single.num_batches_tracked == int(training)
