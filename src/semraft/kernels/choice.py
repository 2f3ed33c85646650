"""Choice between a compiled kernel and tensor operations: one line of every operation that has both."""

import torch
from torch import Tensor


def has_cpu_kernel(x: Tensor, dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bool)) -> bool:
    """Whether the loops compiled for the CPU take this tensor; else an operation runs as tensor operations.

    Float64 always takes the tensor operations, which makes them the reference of the compiled loops in tests.
    """
    return x.device.type == "cpu" and x.dtype in dtypes
