"""One gradient for all reads of the same tensors.

Each refinement of a pair reads the correlation volume. Handed back by each on its own, a gradient as large as
the volume would cost more than the lookups; here all reads add to one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Tensors = tuple[Tensor, ...]


@dataclass
class Read:
    """A function of tensors and of points, with its gradient in the tensors."""

    tensors: Tensors
    forward: Callable[[Tensors, Tensor], Tensor]
    """From the tensors and the points of one read."""
    backward: Callable[[Tensor, Tensors, Tensor, Tensors], None]
    """Adds the gradient in the tensors to its last argument, from that of the result, tensors and points."""
    sums: Tensors = field(default=())
    """Gradients of the reads so far, in the backward pass."""

    def take_sums(self) -> Tensors:
        sums, self.sums = self.sums, ()
        return sums


def shared_reader(read: Read) -> Callable[[Tensor], Tensor]:
    """`read.forward` as a function of points; all calls share one gradient in the tensors.

    A dummy scalar output makes autograd run the shared backward once, after those of all reads.
    """
    token: Tensor = _share(read, *read.tensors)

    def reader(points: Tensor) -> Tensor:
        result: Tensor = _read_once(token, read, points)
        return result

    return reader


class _Share(torch.autograd.Function):
    """The dummy scalar in place of the tensors: its backward returns the sums of all reads' gradients."""

    @staticmethod
    def forward(ctx: Any, read: Read, *tensors: Tensor) -> Tensor:
        read.tensors = tuple(tensor.detach() for tensor in tensors)
        ctx.read = read
        return tensors[0].new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.read.take_sums()


class _ReadOnce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, token: Tensor, read: Read, points: Tensor) -> Tensor:
        ctx.save_for_backward(points)
        ctx.read = read
        return read.forward(read.tensors, points)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (points,) = ctx.saved_tensors
        read: Read = ctx.read
        if not read.sums:
            read.sums = tuple(torch.zeros_like(tensor) for tensor in read.tensors)
        read.backward(gradient.contiguous(), read.tensors, points, read.sums)
        return gradient.new_zeros(()), None, None


_share: Any = _Share.apply
_read_once: Any = _ReadOnce.apply
