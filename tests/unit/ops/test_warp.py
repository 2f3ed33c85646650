from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from semraft.ops.warp import in_frame, match_positions, target, warp


def random_image(generator: torch.Generator) -> Tensor:
    return torch.rand(2, 3, 5, 7, generator=generator)


def test_zero_flow_is_identity_even_for_one_pixel(generator: torch.Generator) -> None:
    """Red when: coordinates are divided by W - 1."""
    for height, width in ((5, 7), (1, 1), (1, 7)):
        image = torch.rand(2, 3, height, width, generator=generator)
        warped, seen = warp(image, torch.zeros(2, 2, height, width))
        assert torch.equal(warped, image)
        assert seen.all()


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_whole_flow_is_an_exact_shift_and_zero_outside(
    mode: Literal["bilinear", "nearest"], generator: torch.Generator
) -> None:
    """Red when: u and v change places, the sign is turned, or the border is repeated."""
    image = random_image(generator)
    flow = torch.zeros(2, 2, 5, 7)
    flow[:, 0], flow[:, 1] = 2, -1
    warped, seen = warp(image, flow, mode)
    expected = torch.zeros_like(image)
    expected[:, :, 1:, :5] = image[:, :, :4, 2:]
    assert torch.equal(warped, expected)
    assert torch.equal(seen, (expected != 0).any(1))


def test_bilinear_equals_a_loop(generator: torch.Generator) -> None:
    """Red when: the shares of the four neighbours are mixed up."""
    image = random_image(generator)
    flow = torch.randn(2, 2, 5, 7, generator=generator) * 2
    warped, seen = warp(image, flow)
    for b in range(2):
        for row in range(5):
            for column in range(7):
                x, y = column + flow[b, 0, row, column].item(), row + flow[b, 1, row, column].item()
                inside = 0 <= x <= 6 and 0 <= y <= 4
                assert bool(seen[b, row, column]) == inside
                expected = torch.zeros(3)
                for i in range(5):
                    for j in range(7):
                        expected += max(0, 1 - abs(x - j)) * max(0, 1 - abs(y - i)) * image[b, :, i, j]
                torch.testing.assert_close(warped[b, :, row, column], expected * inside, atol=1e-6, rtol=0)


def test_nearest_takes_labels_and_invents_none(generator: torch.Generator) -> None:
    """Red when: labels are blended or become floats, or positions are rounded down or up."""
    labels = torch.tensor([0, 2, 24, 255])[torch.randint(4, (2, 1, 5, 7), generator=generator)]
    for shift in (0.4, -0.4):
        warped, seen = warp(labels, torch.full((2, 2, 5, 7), shift), "nearest")
        assert warped.dtype == torch.int64
        assert seen.sum() == 2 * 4 * 6
        assert torch.equal(warped[:, 0][seen], labels[:, 0][seen])


def test_flow_that_is_not_finite_is_out_of_frame_and_poisons_nothing(generator: torch.Generator) -> None:
    """Red when: NaN reaches the blend, whose gradient in the image is then NaN."""
    image = random_image(generator).requires_grad_()
    flow = torch.zeros(2, 2, 5, 7)
    flow[0, 0, 1, 2], flow[1, 1, 3, 4], flow[0, 1, 0, 0] = torch.nan, torch.inf, 1e30
    flow.requires_grad_()
    warped, seen = warp(image, flow)
    assert seen.sum() == 2 * 5 * 7 - 3
    assert not in_frame(*target(flow))[0, 1, 2]
    assert (warped[0, :, 1, 2] == 0).all()
    warped.sum().backward()
    assert image.grad is not None
    assert flow.grad is not None
    assert image.grad.isfinite().all()
    assert flow.grad.isfinite().all()


def test_gradients(generator: torch.Generator) -> None:
    """Red when: the shares are detached as well as the corner they belong to."""
    image = torch.rand(2, 3, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    flow = torch.rand(2, 2, 4, 5, generator=generator, dtype=torch.float64) * 0.8 + 0.1
    flow.requires_grad_()
    assert torch.autograd.gradcheck(lambda image, flow: warp(image, flow)[0], (image, flow))


def test_the_last_pixels_have_no_neighbours() -> None:
    """Red when: what comes next in memory, the first column or another channel's first row, is read."""
    image = torch.ones(1, 2, 5, 7)
    image[:, :, 0], image[..., 0] = torch.nan, torch.nan
    warped, _ = warp(image, torch.zeros(1, 2, 5, 7))
    assert (warped[:, :, 1:, 1:] == 1).all()


def test_compiled_is_the_same(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 on the CPU, by one thread and by two. Red when: a neighbour's share or slope is another's,
    one beyond the edge is read, or samples share a plane."""
    image = torch.rand(2, 3, 9, 11, generator=generator)
    flow = torch.randn(2, 2, 9, 11, generator=generator) * 3
    wanted = torch.rand(2, 3, 9, 11, generator=generator)

    def found(dtype: torch.dtype, threads: int) -> list[Tensor]:
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        inputs = [tensor.to(dtype).requires_grad_() for tensor in (image, flow)]
        warped = warp(*inputs)[0]
        return [warped, *torch.autograd.grad(warped, inputs, wanted.to(dtype))]

    plain, one, two = found(torch.float64, 1), found(torch.float32, 1), found(torch.float32, 2)
    for reference, compiled, in_parts in zip(plain, one, two, strict=True):
        torch.testing.assert_close(compiled.double(), reference, atol=1e-6, rtol=1e-5)
        assert torch.equal(compiled, in_parts)


def test_arrays_and_tensors_have_one_rule(rng: np.random.Generator) -> None:
    """Red when: rows and columns change places, the last pixel centre is outside, or NaN is inside."""
    flow = rng.integers(-6, 7, (5, 9, 2)).astype(np.float32)
    flow[0] = 0
    flow[0, [0, 1, 2, 3, 7], 0] = np.nan, np.inf, -2, -3.001, 1.001
    tensor = torch.from_numpy(flow).permute(2, 0, 1)[None]
    for ours, theirs in zip(match_positions(flow), target(tensor), strict=True):
        np.testing.assert_array_equal(ours, theirs[0].numpy())
    inside = in_frame(*match_positions(flow))
    np.testing.assert_array_equal(inside, in_frame(*target(tensor))[0].numpy())
    assert np.flatnonzero(~inside[0]).tolist() == [0, 1, 3, 7]
    assert 0.2 < inside.mean() < 0.8


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_positions_have_the_precision_of_the_flow(dtype: type) -> None:
    """Red when: float32 flow is widened in a hot path, or a small step of float64 flow is lost."""
    flow = np.full((3, 160, 2), 1e-7, dtype)
    x, y = match_positions(flow)
    assert x.dtype == y.dtype == dtype
    assert bool(in_frame(x, y)[0, 159]) == (dtype is np.float32)
