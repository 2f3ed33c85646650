"""Normalisation and rectifier by the fastest kernel of the device; equivalent to the modules."""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from semraft.kernels.choice import has_cpu_kernel
from semraft.kernels.cpu.normalization import normalize


def normalized(
    y: Float[Tensor, "B C H W"], norm: nn.Module, rectify: bool = True
) -> Float[Tensor, "B C H W"]:
    """norm(y), rectified unless told otherwise. y is overwritten where no gradient is needed."""
    if not isinstance(norm, nn.Identity) and has_cpu_kernel(y, (torch.float32, torch.bfloat16)):
        return _by_loops(y, norm, rectify)
    if y.device.type == "cpu" and isinstance(norm, nn.InstanceNorm2d):
        # One channel a group is the same norm, and the faster one in channels_last memory.
        y = F.group_norm(y, y.shape[1])
    else:
        y = norm(y)
    return F.relu(y, inplace=True) if rectify else y


def _by_loops(y: Tensor, norm: nn.Module, rectify: bool) -> Tensor:
    inplace = not torch.is_grad_enabled()
    if isinstance(norm, nn.BatchNorm2d):
        y, mean, variance = normalize(y, norm.weight, norm.bias, norm.eps, False, rectify, inplace)
        count = y.numel() // y.shape[1]
        with torch.no_grad():
            cast(Tensor, norm.num_batches_tracked).add_(1)
            cast(Tensor, norm.running_mean).lerp_(mean[0], cast(float, norm.momentum))
            cast(Tensor, norm.running_var).lerp_(
                variance[0] * (count / (count - 1)), cast(float, norm.momentum)
            )
        return y
    ones, zeros = torch.ones(y.shape[1]), torch.zeros(y.shape[1])
    return normalize(y, ones, zeros, cast(nn.InstanceNorm2d, norm).eps, True, rectify, inplace)[0]
