"""Copies of tensors from an accelerator to the CPU: each copy waits for the device's earlier work."""

from collections.abc import Sequence

import torch
from torch import Tensor


def fetched(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors on the CPU, without gradient; those of an accelerator come by one copy for all of them."""
    there = [tensor.detach() for tensor in tensors if tensor.device.type != "cpu"]
    if not there:
        return [tensor.detach() for tensor in tensors]
    flat = torch.cat([tensor.flatten() for tensor in there]).cpu()
    parts = iter(torch.split(flat, [tensor.numel() for tensor in there]))
    return [
        tensor.detach() if tensor.device.type == "cpu" else next(parts).view(tensor.shape).to(tensor.dtype)
        for tensor in tensors
    ]
