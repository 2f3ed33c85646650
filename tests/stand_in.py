"""A device that is not the CPU, for machines without one: `python -m tests.stand_in '[["train", ...], ...]'`.

The commands, a JSON list of lists, are semraft's own, with `--device standin`. Its tensors say that they are
on that device, compute on the CPU and refuse to meet the CPU's, as a GPU's do; autocast lowers what it lowers
on a GPU. Lookups are the CPU's loops, or, with STAND_IN_TRITON=1, Triton's kernels in its interpreter, which
takes far longer. `tallied` counts the operations a device would be given, and how often the processor would
wait for it. What it can't show is speed, CUDA's own kernels, and memory.

In a process of its own: torch keeps one such device, for good.
"""

import json
import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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

from semraft.cli import main
from semraft.kernels import choice
from semraft.kernels.cpu import correlation_numba
from semraft.kernels.gpu import correlation_triton

NAME = "standin"
BY_TRITON = "STAND_IN_TRITON"
"""The variable that has a command's lookups computed by Triton's kernels."""
MATRICES = ("conv2d", "linear", "matmul", "mm", "bmm", "addmm", "baddbmm")
"""Operations that autocast lowers. Those that it raises on a GPU are not raised here."""
PROMOTED = ("grid_sampler",)
"""Operations that autocast computes in the widest type of their tensors; torchvision's RAFT relies on it."""
KERNELS = ("look_up", "look_up_backward", "correlate", "correlate_backward")
"""The functions of the lookup kernels."""
COPIES = ("copy_", "_to_copy")
"""The operations that bring numbers from one device to the other."""
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
"""CUDA takes indices that lie on the CPU, and copies them."""
NO_KERNEL = (
    *("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "_unsafe_view", "lift_fresh"),
)
"""Operations beside views that give a device nothing to do."""
READS = (
    *("_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "_unique2", "unique_dim"),
    *("bincount", "_linalg_check_errors"),
)
"""Operations whose results the processor waits for: a number, or how many elements a result has."""


@dataclass
class Tally:
    """The operations that a device was given while it was counted, and the waits of the processor for it."""

    operations: Counter[str] = field(default_factory=Counter)
    """Without views and allocations; each of semraft's own kernels is one."""
    reads: list[str] = field(default_factory=list)
    """Numbers that were waited for: operation and line of code of each."""
    uploads: list[str] = field(default_factory=list)
    """Copies of the CPU's ordinary memory to the device, which wait for it too."""

    def count(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Counts an operation that has to do with the device."""
        name = operation._schema.name.removeprefix("aten::")
        returned = operation._schema.returns
        alias = returned[0].alias_info if returned else None
        if (alias is None or alias.is_write) and name not in NO_KERNEL:
            self.operations[name] += 1
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if name in COPIES:
            source, target = leaves[-1], kwargs.get("device") if name == "_to_copy" else leaves[0].device
            goes_there = torch.device(target or source.device).type == NAME
            if isinstance(source, There) and not goes_there:
                self.reads.append(f"{name} {_line()}")
            elif not isinstance(source, There) and goes_there and not _is_non_blocking(name, args, kwargs):
                self.uploads.append(f"{name} {_line()}")
        elif name in READS or (name in INDEXING and any(index.dtype == torch.bool for index in leaves[1:])):
            self.reads.append(f"{name} {_line()}")
        elif name == "where" or name in INDEXING:
            self.uploads += [f"{name} {_line()}" for leaf in leaves if not isinstance(leaf, There)]


TALLIES: list[Tally] = []


@contextmanager
def tallied() -> Iterator[Tally]:
    """Inside, what the stand-in is given is counted."""
    TALLIES.append(Tally())
    try:
        yield TALLIES[-1]
    finally:
        TALLIES.pop()


def _is_non_blocking(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return bool(kwargs.get("non_blocking", name == "copy_" and len(args) > 2 and args[2]))


def _line() -> str:
    """The innermost line of semraft's own that is being run."""
    own = [frame for frame in traceback.extract_stack() if "/semraft/" in frame.filename]
    return f"{own[-1].filename.split('/semraft/')[-1]}:{own[-1].lineno}" if own else "outside"


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
        return self.cpu().tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.here.__reduce_ex__(protocol)  # A checkpoint holds plain tensors.


def perform(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the CPU, its results where its tensors were or `device` says.

    Raises:
        RuntimeError: Tensors of both devices meet, as on a GPU.
    """
    leaves = tree_leaves((args, kwargs))
    is_there = any(isinstance(leaf, There) for leaf in leaves)
    asked = kwargs.get("device")
    goes_there = asked is not None and torch.device(asked).type == NAME
    if is_there:
        refuse_strangers(operation, leaves)
    if is_there or goes_there:
        for tally in TALLIES:
            tally.count(operation, args, kwargs)
    if asked is not None:
        is_there = goes_there
        kwargs = {**kwargs, "device": torch.device("cpu")}
    found = operation(*of_here(args), **of_here(kwargs))
    returned = operation._schema.returns
    if len(returned) == 1 and returned[0].alias_info is not None and returned[0].alias_info.is_write:
        return kwargs["out"] if "out" in kwargs else args[0]
    return tree_map_only(Tensor, There, found) if is_there else found


def refuse_strangers(operation: Any, leaves: list[Any]) -> None:
    """Raises for tensors of the CPU among the stand-in's, where CUDA does.

    It takes one CPU tensor without dimensions as an operand of elementwise arithmetic, but not as what is
    written; any number of them in `where`; and indices.
    """
    name = operation._schema.name.removeprefix("aten::")
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    strangers = [tensor for tensor in tensors if not isinstance(tensor, There)]
    if not strangers or name in COPIES:
        return
    if name in INDEXING and isinstance(tensors[0], There):
        strangers = [tensor for tensor in strangers if tensor.dtype.is_floating_point and tensor.ndim]
    elif torch.Tag.pointwise in operation.tags and not name.startswith("_foreach"):
        scalars = [tensor for tensor in strangers if tensor.ndim == 0]
        is_written = name.endswith("_") and tensors[0] is strangers[0]
        if not is_written and (len(scalars) <= 1 or name == "where"):
            strangers = [tensor for tensor in strangers if tensor.ndim]
    if strangers:
        shape = tuple(strangers[0].shape)
        raise RuntimeError(f"{operation}: a tensor of the CPU, {shape}, among the stand-in's")


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
    """`choice.correlation_kernels` for the stand-in: these kernels, which take plain tensors."""

    def on_there(kernel: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            for tally in TALLIES:
                tally.operations[kernel.__name__] += 1
            return tree_map_only(Tensor, There, kernel(*of_here(args)))

        return run

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
    own, of_there = choice.correlation_kernels, over_here(kernels)
    choice.correlation_kernels = lambda x: (of_there if x.device.type == NAME else own)(x)
    with MadeThere():
        yield
    del libraries  # Kept up to here: what they declare dies with them.


if __name__ == "__main__":
    with pretended(correlation_triton if os.environ.get(BY_TRITON) else correlation_numba):
        sys.exit(max(main.run(command) for command in json.loads(sys.argv[1])))
