"""Choice between compiled kernels and tensor operations: one line of every operation that has both."""

from types import ModuleType

import torch
from torch import Tensor


def has_cpu_kernel(x: Tensor, dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bool)) -> bool:
    """Whether the loops compiled for the CPU take this tensor; else an operation runs as tensor operations.

    Float64 always takes the tensor operations, which makes them the reference of the compiled loops in tests.
    So does export, whose graph has no compiled loops.
    """
    return x.device.type == "cpu" and x.dtype in dtypes and not torch.compiler.is_exporting()


def correlation_kernels(features: Tensor) -> ModuleType | None:
    """The module that looks up correlations of such features: Numba's, Triton's, or none."""
    if has_cpu_kernel(features):
        from semraft.kernels.cpu import correlation_numba

        return correlation_numba
    if features.device.type == "cuda" and features.dtype == torch.float32:
        try:
            from semraft.kernels.gpu import correlation_triton
        except ImportError:  # Triton exists for Linux alone.
            return None
        return correlation_triton
    return None
