"""The machine a run sees: device, precision, processes, and the record of what it ran on."""

import contextlib
import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed
from torch import Tensor

from semraft.config import ModelConfig, Precision
from semraft.config.data import CORES
from semraft.models.weights import build_model

DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""Precision name -> the dtype of autocast."""


MOST_WORKERS, MOST_WORKERS_ON_CPU = 16, 2
"""Loader processes that `auto` starts at most beside a GPU, and for a training on the CPU."""
TRIAL_TOLERANCE = 0.05
"""Relative distance of flow and gradient from the CPU's; rounding to TF32 stays well below it."""

KEPT_KERNELS = 128
"""Kernels that oneDNN keeps: those of one size of frames are 15 to 30."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Names of mallopt(3)'s parameters in malloc.h."""
_LARGEST_THRESHOLD = 32 << 20
"""Bytes: glibc takes no larger one, and above it a block is better given back than left as a hole."""


STEP_WAIT = timedelta(minutes=10)
"""How much later than the others a process may come to an exchange of a step before it is taken for lost."""
PATIENCE = timedelta(hours=1)
"""The same where processes validate, or wait while the first one writes. One that has ended is noticed at
once."""
LAUNCH = "srun --ntasks-per-node=1 torchrun ..., as docs/slurm.md has it"


@dataclass(frozen=True, slots=True)
class Processes:
    """Where this process stands among those that train together."""

    rank: int = 0
    count: int = 1
    patient: torch.distributed.ProcessGroup | None = None
    """All of them, exchanging tensors of the CPU, with PATIENCE. None: alone."""

    @property
    def leads(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0


def join_processes(device: torch.device) -> Processes:
    """Joins the processes that torchrun has started, each on its own `device`; alone without torchrun.

    Raises:
        ValueError: SLURM has started this command several times, or torchrun too often; or processes can't
            share devices of this type.
    """
    tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    if "RANK" not in os.environ:
        if tasks > 1:
            raise ValueError(
                f"this is a job of {tasks} SLURM tasks, and torchrun is to start the processes of a run: "
                f"{LAUNCH}; or train on one device with srun --nodes=1 --ntasks=1"
            )
        return Processes()
    launchers, nodes = (
        int(os.environ.get(name, "1")) for name in ("SLURM_STEP_NUM_TASKS", "GROUP_WORLD_SIZE")
    )
    if launchers > nodes:
        raise ValueError(
            f"srun has started torchrun {launchers} times, which is to train on {nodes} nodes: {LAUNCH}"
        )
    backend = torch.distributed.get_default_backend_for_device(device.type)
    if device.type != "cpu" and backend == "gloo":
        raise ValueError(f"several processes can't train on {device.type}: start one, or take --device cpu")
    torch.distributed.init_process_group(
        backend, timeout=STEP_WAIT, device_id=None if device.type == "cpu" else device
    )
    patient = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
    return Processes(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), patient)


def leave_processes(processes: Processes) -> None:
    """Leaves the process group, if there still is one, when all do.

    A process that ends while a thread of gloo's still holds a tensor of the last exchange is aborted (pytorch
    pull request 179291); the others' arrival, with no tensor in it, comes after that.
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier(processes.patient)
        torch.distributed.destroy_process_group()


def keep_freed_memory() -> None:
    """Has the C library keep blocks of up to 32 MiB that were freed, for the next tensor of their size.

    By default every large tensor is asked from the system and given back: the pages of each are cleared and
    mapped anew, a tenth of a training step on the CPU (docs/performance.md). Does nothing where the library
    is not glibc.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
        library.mallopt(_M_TRIM_THRESHOLD, -1)


def bound_kernel_caches() -> None:
    """Has oneDNN keep KEPT_KERNELS kernels on the CPU instead of 1024, if no convolution ran yet.

    It keeps a kernel for each layer and size of frames: frames of ever new sizes took 25 to 55 MB more memory
    for every 100 (docs/reliability.md). A size needs some 30, a training step fewer than all.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(KEPT_KERNELS))


def choose_device(name: str) -> torch.device:
    """The device called `name`, made torch's current one.

    `auto` is this process's accelerator (cuda, xpu, mps) if torch has one and it computes what the CPU does;
    else the CPU. Without a number it is that of the process on its machine.

    Raises:
        ValueError: A device that torch does not have here, or can't compute on; or a process among several
            whose accelerator computes something else.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    kind, count = (accelerator.type, torch.accelerator.device_count()) if accelerator else ("", 0)
    try:
        device = torch.device((kind or "cpu") if name == "auto" else name)
    except RuntimeError as error:
        raise ValueError(f"no device is called {name!r}: {_devices(kind)}") from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != kind and device.type != "cuda":
        raise ValueError(f"torch can't train or score on {name!r} here: {_devices(kind)}")
    if device.type != kind or (device.index or 0) >= count:
        raise ValueError(f"no GPU {device}: torch sees {count} here; use --device cpu")
    if ":" not in name:
        # Modulo: a launcher may show each process one device, that of its own.
        device = torch.device(kind, int(os.environ.get("LOCAL_RANK", "0")) % count)
    torch.accelerator.set_device_index(device.index)
    # float32 is float32: cuDNN would round what it convolves to the 10 bits of TF32.
    torch.backends.cudnn.allow_tf32 = False
    return _proven(device) if name == "auto" else device


def _devices(kind: str) -> str:
    return f"use auto, cpu, {kind} or {kind}:N" if kind else "use auto or cpu, torch has no other"


def _proven(device: torch.device) -> torch.device:
    """The device if it computes what the CPU does, else the CPU; says which, and why.

    Raises:
        ValueError: It does not, and this is one of several processes, which all compute on one type.
    """
    why, first = misfit(device), int(os.environ.get("LOCAL_RANK", "0")) == 0
    if not why:
        if first:
            print(f"device: {device} ({device_name(device)})", file=sys.stderr)
        return device
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(f"{device} can't be used, {why}: take --device cpu for all processes")
    print(f"! device: cpu, because {device} can't be used: {why}", file=sys.stderr)
    return torch.device("cpu")


def misfit(device: torch.device) -> str:
    """Why networks can't be trained on a device as on the CPU; empty if they can.

    The smallest RAFT sees a pair of random images on both, and learns from it; sums are in float64.
    """
    generator = torch.Generator().manual_seed(0)
    images = [255 * torch.rand(1, 3, 64, 72, generator=generator) for _ in range(2)]
    try:
        expected, found = (_trial(place, images) for place in (torch.device("cpu"), device))
    except (RuntimeError, TypeError, NotImplementedError) as error:  # An operation that it does not have.
        return str(error).splitlines()[0]
    for name, values in expected.items():
        apart = float((found[name] - values).norm() / values.norm())
        if not apart <= TRIAL_TOLERANCE:
            return f"its {name} of a small network is {100 * apart:.2g} % from the CPU's"
    return ""


def _trial(device: torch.device, images: Sequence[Tensor]) -> dict[str, Tensor]:
    """A small network's flow and gradient, on the CPU."""
    # In float64 on the CPU: as exact as it gets, and by plain operations, without the CPU's compiled loops.
    dtype = torch.float64 if device.type == "cpu" else torch.float32
    model = build_model(ModelConfig(arch="tiny"), seed=0).to(device, dtype)
    image1, image2 = (image.to(device, dtype) for image in images)
    flow = model(image1, image2, 2).flow
    flow.abs().mean().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    gradient = torch.cat([gradient.double().flatten() for gradient in gradients])
    return {"flow": flow.detach().double().cpu(), "gradient": gradient.cpu()}


def device_name(device: torch.device) -> str:
    """The hardware's own name, where torch knows it."""
    if device.type == "cpu":
        return platform.machine()
    ask = getattr(torch.get_device_module(device), "get_device_name", None)
    return str(ask(device)) if ask else device.type


def own_cores() -> int:
    """Cores that this process may use: those it is bound to, shared with its peers on the machine.

    torchrun's processes share the machine's. A task of SLURM has cores of its own, also where it is not bound
    to them; so has a run of a study (`CORES`).
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = [int(os.environ[name]) for name in ("SLURM_CPUS_PER_TASK", CORES) if name in os.environ]
    return max(1, min([bound, *given]) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def loader_workers(asked: int | Literal["auto"], device: torch.device) -> int:
    """Loader processes of a training on `device`.

    A step on a CPU takes all its cores, and many times longer than loading. Beside a GPU one core is the
    training's own, and all others load: the GPU waits for them.
    """
    if asked != "auto":
        return asked
    if device.type == "cpu":
        return min(MOST_WORKERS_ON_CPU, own_cores() // 4)
    return min(MOST_WORKERS, max(2, own_cores() - 1))


def choose_precision(name: str, device: torch.device) -> Precision:
    """The precision called `name`; `auto` is bfloat16 where the hardware multiplies it natively.

    Raises:
        ValueError: float16 on a CPU, where it has no advantage and no gradient scaler was tested.
    """
    if name == "auto":
        if device.type == "cuda":
            native = torch.cuda.get_device_capability(device) >= (8, 0)
            return "bfloat16" if native else "float16"
        capabilities = torch.cpu.get_capabilities()
        native = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
        return "bfloat16" if native else "float32"
    if name == "float16" and device.type == "cpu":
        raise ValueError("precision float16 needs a GPU: use bfloat16 or float32 on a CPU")
    for precision in DTYPES:
        if precision == name:
            return precision
    raise ValueError(f"no precision is called {name!r}: use auto, {', '.join(DTYPES)}")


def native_precision(name: str, device: torch.device) -> Precision:
    """The precision called `name` where this device computes in it at speed, else float32."""
    is_native = device.type != "cpu" if name == "float16" else choose_precision("auto", device) == name
    return choose_precision(name if is_native else "float32", device)


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """The context a network's forward pass runs in. float32 is float32 in it, on a GPU too, not TF32."""
    if precision == "float32":
        return _cudnn(allow_tf32=False)
    return torch.autocast(device.type, dtype=DTYPES[precision])


@contextlib.contextmanager
def one_size() -> Iterator[None]:
    """Inside, cuDNN times its algorithms once for each size of images and then takes the fastest: for
    training, whose crops are of one size. Not where torch is asked to be deterministic: another process may
    find another algorithm the fastest."""
    with _cudnn(benchmark=not torch.are_deterministic_algorithms_enabled()):
        yield


@contextlib.contextmanager
def _cudnn(**settings: bool) -> Iterator[None]:
    """Inside, these attributes of `torch.backends.cudnn` are so."""
    before = {name: getattr(torch.backends.cudnn, name) for name in settings}
    try:
        for name, value in settings.items():
            setattr(torch.backends.cudnn, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(torch.backends.cudnn, name, value)


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what it was told; the CPU always has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def environment_record(device: torch.device, precision: str, processes: Processes) -> dict[str, Any]:
    """The environment of a run: versions, commit, hardware. JSON-ready."""
    return {
        "semraft": _version("semraft"),
        "torch": torch.__version__,
        "numpy": _version("numpy"),
        "opencv": _version("opencv-python-headless"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device_name(device),
        "precision": precision,
        "processes": processes.count,
        "threads": torch.get_num_threads(),
        "commit": _commit(),
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout semraft runs from; None where it is installed as a package."""
    here = Path(__file__).resolve().parent
    git = ["git", "-C", str(here)]
    try:
        tracked = subprocess.run(
            [*git, "ls-files", "--error-unmatch", __file__], capture_output=True, text=True
        )
        if tracked.returncode != 0:
            return None
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True)
    except OSError:  # No git on this machine.
        return None
    return commit + ("+changes" if changed.stdout.strip() else "")
