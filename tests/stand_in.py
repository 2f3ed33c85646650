"""A device that is not the CPU, for machines without one: `python -m tests.stand_in train RECIPE ...`.

The commands are semraft's own, with `--device standin`. Its tensors say that they are on that device, compute
on the CPU and refuse to meet the CPU's, as a GPU's do; the kernels are Triton's, in its interpreter; autocast
lowers what it lowers on a GPU. What it can't show is speed, CUDA's own kernels, and memory.

In a process of its own: torch keeps one such device, for good.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # Before Triton is imported.

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

from semraft import cli
from semraft.models import correlation_triton, windows

NAME = "standin"
MATRICES = ("conv2d", "linear", "matmul", "mm", "bmm", "addmm", "baddbmm")
"""What autocast lowers. What it raises on a GPU, and semraft leaves to it, it does not on a stand-in."""
PROMOTED = ("grid_sampler",)
"""What autocast computes in the widest type of its tensors; torchvision's RAFT relies on it."""
KERNELS = ("look_up", "look_up_backward", "correlate", "correlate_backward")
"""What windows are cut by."""
MAY_CROSS = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)


class Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class There(Tensor):
    """A tensor of the stand-in; `here` is the one of the CPU that holds its numbers."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> "There":
        made: There = Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=torch.device(NAME, 0),
        )
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return perform(operation, args, kwargs or {})

    def tolist(self) -> Any:
        return self.here.tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.here.__reduce_ex__(protocol)  # A checkpoint holds plain tensors.


def perform(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the CPU, its results where its tensors were or `device` says.

    Raises:
        RuntimeError: Tensors of both devices meet, as on a GPU; only a single number may.
    """
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    is_there = any(isinstance(tensor, There) for tensor in tensors)
    strangers = [tensor.shape for tensor in tensors if not isinstance(tensor, There) and tensor.ndim]
    if is_there and strangers and operation not in MAY_CROSS:
        raise RuntimeError(f"{operation}: a tensor of the CPU, {tuple(strangers[0])}, among the stand-in's")
    if kwargs.get("device") is not None:
        is_there = torch.device(kwargs["device"]).type == NAME
        kwargs = {**kwargs, "device": torch.device("cpu")}
    found = operation(*of_here(args), **of_here(kwargs))
    returned = operation._schema.returns
    if len(returned) == 1 and returned[0].alias_info is not None and returned[0].alias_info.is_write:
        return kwargs["out"] if "out" in kwargs else args[0]
    return tree_map_only(Tensor, There, found) if is_there else found


def of_here(values: Any) -> Any:
    return tree_map_only(There, lambda tensor: tensor.here, values)


class MadeThere(TorchDispatchMode):
    """Sees to tensors that are made from nothing with `device="standin"`."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return perform(operation, args, kwargs or {})


def lowered(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The operation under autocast."""
    own_key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def run(*args: Any, **kwargs: Any) -> Tensor:
        dtype = torch.get_autocast_dtype(NAME)
        with torch._C._ExcludeDispatchKeyGuard(own_key):
            cast = tree_map_only(Tensor, lambda x: x.to(dtype) if x.is_floating_point() else x, args)
            return operation(*cast, **kwargs)

    return run


def promoted(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The operation under autocast, all tensors in the widest of their types."""
    own_key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def run(*args: Any) -> Tensor:
        dtypes = [x.dtype for x in args if isinstance(x, Tensor)]
        with torch._C._ExcludeDispatchKeyGuard(own_key):
            return operation(
                *tree_map_only(Tensor, lambda x: x.to(max(dtypes, key=lambda d: d.itemsize)), args)
            )

    return run


def over_here(kernels: Any) -> Callable[[Tensor], Any]:
    """In place of `windows._kernels`: these kernels, which take plain tensors, on the stand-in's."""

    def on_there(kernel: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: tree_map_only(Tensor, There, kernel(*of_here(args)))

    wrapped = SimpleNamespace(**{name: on_there(getattr(kernels, name)) for name in KERNELS})
    return lambda features: wrapped if features.dtype == torch.float32 else None


def loaded_to(load: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.load`, which can't put a file's bytes on the stand-in itself."""

    def load_here(path: Any, map_location: Any, **kwargs: Any) -> Any:
        return tree_map_only(Tensor, lambda x: x.to(map_location), load(path, map_location="cpu", **kwargs))

    return load_here


def register() -> list[torch.library.Library]:
    """Makes the device known to torch; what it returns must be kept."""
    _setup_privateuseone_for_python_backend(NAME, Backend())
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="standin") is made here, then moved.
    torch.__future__.set_swap_module_params_on_conversion(True)  # A parameter changes its class on the way.
    fallback = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    fallback.fallback(torch.library.fallthrough_kernel)
    lowering = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")
    for name in MATRICES:
        lowering.impl(name, lowered(getattr(torch.ops.aten, name).default))
    for name in PROMOTED:
        lowering.impl(name, promoted(getattr(torch.ops.aten, name).default))
    return [fallback, lowering]


@contextmanager
def pretended(kernels: Any = correlation_triton) -> Iterator[None]:
    """Inside, `standin` is a device, for this process's whole life: semraft's kernels and files know it too.

    Args:
        kernels: Those that windows are cut by: Triton's, or, where only counts matter, the CPU's, which are
            quicker than an interpreter.
    """
    libraries = register()
    torch.load = loaded_to(torch.load)
    torch.accelerator.synchronize = lambda device: None  # Nothing is ever pending, and torch refuses to ask.
    own, of_there = windows._kernels, over_here(kernels)
    windows._kernels = lambda features: (of_there if features.device.type == NAME else own)(features)
    with MadeThere():
        yield
    del libraries  # Kept up to here: what they declare dies with them.


if __name__ == "__main__":
    with pretended():
        sys.exit(cli.run(sys.argv[1:]))
