"""Losses that compare the two pictures along the flow."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from semraft.losses.reduction import at_least_float32, masked_mean, refinement_sum
from semraft.ops.census import census_difference, grey, soft_census, whole_patches
from semraft.ops.warp import warp


def census(
    flows: Sequence[Float[Tensor, "B 2 H W"]],
    image1: Float[Tensor, "B 3 H W"],
    image2: Float[Tensor, "B 3 H W"],
    mask: Bool[Tensor, "B H W"],
    gamma: float = 0.8,
) -> Float[Tensor, ""]:
    """Soft census difference (7 x 7) of frame 1 and frame 2 warped by the flow; 0 to 1.

    A pixel counts where `mask` holds and its whole patch lies in frame 1 and, along the flow, in frame 2.
    Images are RGB, 0..255.
    """
    return refinement_sum(census_values(flows, image1, image2, mask), gamma)


def census_values(
    flows: Sequence[Float[Tensor, "B 2 H W"]],
    image1: Float[Tensor, "B 3 H W"],
    image2: Float[Tensor, "B 3 H W"],
    mask: Bool[Tensor, "B H W"],
) -> Float[Tensor, " T"]:
    """Census at each refinement, before the weights."""
    census1 = soft_census(grey(at_least_float32(image1)))
    grey2 = grey(at_least_float32(image2))[:, None]
    values = []
    for flow in flows:
        warped, seen = warp(grey2, at_least_float32(flow).to(grey2.dtype))
        values.append(_mean_difference(warped[:, 0], census1, mask & whole_patches(seen)))
    return torch.stack(values)


class _MeanDifference(torch.autograd.Function):
    """Mean census difference, whose gradient is taken at once: one image is kept instead of a hundred."""

    @staticmethod
    def forward(
        ctx: Any,
        warped: Float[Tensor, "B H W"],
        census1: Float[Tensor, "O B H W"],
        mask: Bool[Tensor, "B H W"],
    ) -> Float[Tensor, ""]:
        with torch.set_grad_enabled(ctx.needs_input_grad[0]):
            seen = warped.detach().requires_grad_(ctx.needs_input_grad[0])
            value = masked_mean(census_difference(census1, seen), mask)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(*torch.autograd.grad(value, seen))
        return value.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Float[Tensor, ""]) -> tuple[Float[Tensor, "B H W"], None, None]:
        (gradient,) = ctx.saved_tensors
        return slope * gradient, None, None


_mean_difference: Callable[..., Tensor] = _MeanDifference.apply
