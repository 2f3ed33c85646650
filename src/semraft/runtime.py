"""The machine a run sees: device, precision, processes, and the record of what it ran on."""

import contextlib
import ctypes
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed

from semraft.config import Precision
from semraft.data_config import CORES

DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""Precision name -> the dtype of autocast."""


MOST_WORKERS, MOST_WORKERS_ON_CPU = 16, 2
"""Loader processes that `auto` starts at most beside a GPU, and for a training on the CPU."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Names of mallopt(3)'s parameters in malloc.h."""
_LARGEST_THRESHOLD = 32 << 20
"""Bytes: glibc takes no larger one, and above it a block is better given back than left as a hole."""


@dataclass(frozen=True, slots=True)
class Processes:
    """Where this process stands among those that train together."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0


def join_processes(device: torch.device | None = None) -> Processes:
    """Joins the process group that torchrun or SLURM announces in the environment; alone without one."""
    environment = os.environ
    if "RANK" not in environment and int(environment.get("SLURM_NTASKS", "1")) > 1:
        environment["RANK"] = environment["SLURM_PROCID"]
        environment["WORLD_SIZE"] = environment["SLURM_NTASKS"]
        environment["LOCAL_RANK"] = environment["SLURM_LOCALID"]
        environment.setdefault("MASTER_ADDR", environment.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1"))
        # The steps of one job, runs of a study among them, need a port each.
        number = int(environment.get("SLURM_JOB_ID", "0")) + 101 * int(environment.get("SLURM_STEP_ID", "0"))
        environment.setdefault("MASTER_PORT", str(20000 + number % 20000))
    if "RANK" not in environment:
        return Processes()
    processes = Processes(int(environment["RANK"]), int(environment["WORLD_SIZE"]))
    if not torch.distributed.is_initialized():
        on_gpu = device is not None and device.type == "cuda"
        # The first process validates alone while the others wait: an hour, not the default ten minutes.
        torch.distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=timedelta(hours=1))
    return processes


def leave_processes() -> None:
    """Leaves the process group, if there is one, when all do.

    A process that ends while a thread of gloo's still holds a tensor of the last exchange is aborted (pytorch
    pull request 179291); the others' arrival, with no tensor in it, comes after that.
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
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


def choose_device(name: str) -> torch.device:
    """The device called `name`; `auto` is this process's GPU where there is one, else the CPU.

    Raises:
        ValueError: A GPU is asked for that is not there.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))
    if name == "auto":
        return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"no device is called {name!r}: use auto, cpu, cuda or cuda:N") from error
    if name == "cuda":
        device = torch.device("cuda", local_rank)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"no GPU {device}: torch sees {torch.cuda.device_count()} here; use --device cpu")
    return device


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
    """The context a network's forward pass runs in."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what it was told; the CPU always has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def environment_record(device: torch.device, precision: str, processes: Processes) -> dict[str, Any]:
    """What a run ran on: versions, commit, hardware. JSON-ready."""
    return {
        "semraft": _version("semraft"),
        "torch": torch.__version__,
        "numpy": _version("numpy"),
        "opencv": _version("opencv-python-headless"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
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
