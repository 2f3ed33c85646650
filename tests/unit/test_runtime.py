"""Device, precision and processes: what is chosen, and what is refused."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch

from semraft import runtime

CPU = torch.device("cpu")


def test_automatic_precision_on_a_cpu_is_what_it_multiplies_natively() -> None:
    capabilities = torch.cpu.get_capabilities()
    native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    assert runtime.choose_precision("auto", CPU) == ("bfloat16" if native else "float32")


def test_impossible_choices_are_refused() -> None:
    with pytest.raises(ValueError, match="needs a GPU"):
        runtime.choose_precision("float16", CPU)
    with pytest.raises(ValueError, match="no precision"):
        runtime.choose_precision("int4", CPU)
    with pytest.raises(ValueError, match="no device"):
        runtime.choose_device("abacus")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No launcher's variables, whatever started the tests."""
    for name in os.environ:
        if name.startswith("SLURM_") or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_WORLD_SIZE"):
            monkeypatch.delenv(name)


Have = Callable[[str, int], list[int]]


@pytest.fixture
def have(monkeypatch: pytest.MonkeyPatch) -> Have:
    """Has torch see so many accelerators of a kind; returns those that are made current."""

    def pretend(kind: str, count: int) -> list[int]:
        current: list[int] = []
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
        monkeypatch.setattr(torch.accelerator, "set_device_index", current.append)
        monkeypatch.setattr(runtime, "misfit", lambda device: "")
        monkeypatch.setattr(runtime, "device_name", lambda device: "H999")
        return current

    return pretend


def test_devices_without_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert runtime.choose_device("auto") == runtime.choose_device("cpu") == CPU
    for name in ("cuda", "cuda:99"):
        with pytest.raises(ValueError, match=f"no GPU {name}: torch sees 0 here; use --device cpu"):
            runtime.choose_device(name)


@pytest.mark.parametrize("name", ["auto", "cuda"])
@pytest.mark.parametrize(("visible", "own"), [(4, 3), (1, 0), (2, 1)])
def test_each_process_of_a_machine_has_a_device_of_its_own(
    have: Have, monkeypatch: pytest.MonkeyPatch, name: str, visible: int, own: int
) -> None:
    """The fourth, which sees all devices or its own alone. Red when: it takes cuda:3 of one, or leaves
    cuda:0 torch's current device, where NCCL then exchanges objects of all processes for ever."""
    current = have("cuda", visible)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert runtime.choose_device(name) == torch.device("cuda", own)
    assert current == [own]


@pytest.mark.parametrize("kind", ["cuda", "xpu", "mps"])
def test_any_accelerator_is_taken_and_named(
    have: Have, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    current = have(kind, 2)
    assert runtime.choose_device("auto") == runtime.choose_device(kind) == torch.device(kind, 0)
    assert capsys.readouterr().err == f"device: {kind}:0 (H999)\n"
    assert runtime.choose_device(f"{kind}:1") == torch.device(kind, 1)
    assert current == [0, 0, 1]
    with pytest.raises(ValueError, match=f"no GPU {kind}:2: torch sees 2 here"):
        runtime.choose_device(f"{kind}:2")


def test_devices_that_compute_nothing_are_refused(have: Have) -> None:
    """Red when: `meta`, which every torch has and which holds no numbers, gets as far as a traceback."""
    for name in ("meta", "xla", "vulkan"):
        with pytest.raises(ValueError, match=f"can't train or score on '{name}' here: use auto or cpu"):
            runtime.choose_device(name)
    have("cuda", 1)
    for name in ("meta", "xpu"):
        with pytest.raises(ValueError, match=f"on '{name}' here: use auto, cpu, cuda or cuda:N"):
            runtime.choose_device(name)


def test_a_device_that_computes_something_else_is_left(
    have: Have, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Red when: it is used, left without a word, or left by one process of several."""
    have("mps", 1)
    monkeypatch.setattr(runtime, "misfit", lambda device: "it has no float64")
    assert runtime.choose_device("auto") == CPU
    assert capsys.readouterr().err == "! device: cpu, because mps:0 can't be used: it has no float64\n"
    assert runtime.choose_device("mps") == torch.device("mps", 0)  # Who asks for it knows.
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="take --device cpu for all processes"):
        runtime.choose_device("auto")


def test_what_a_device_computes_is_compared_with_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when: a device passes that lacks an operation, or whose flow or gradient is another one."""
    assert runtime.misfit(CPU) == ""
    assert runtime.misfit(torch.device("meta"))
    trial = runtime._trial

    def wrong(name: str, changed: float) -> str:
        trials = iter((1.0, changed))

        def changed_trial(*arguments: Any) -> dict[str, torch.Tensor]:
            factor, found = next(trials), trial(*arguments)
            return found | {name: factor * found[name]}

        monkeypatch.setattr(runtime, "_trial", changed_trial)
        return runtime.misfit(CPU)

    assert wrong("gradient", 1.001) == ""
    assert wrong("gradient", 1.1) == "its gradient of a small network is 10 % from the CPU's"
    assert wrong("flow", 1.1).startswith("its flow")
    assert wrong("flow", math.nan).startswith("its flow")


def test_autocast_is_off_in_full_precision() -> None:
    a = torch.ones(3, 3)
    with runtime.autocast(CPU, "float32"):
        assert (a @ a).dtype == torch.float32
    with runtime.autocast(CPU, "bfloat16"):
        assert (a @ a).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("cores", "variables", "beside_gpu", "on_cpu"),
    [
        (2, {}, 2, 0),
        (4, {}, 3, 1),
        (16, {}, 15, 2),
        (192, {}, 16, 2),
        (16, {"LOCAL_WORLD_SIZE": "4"}, 3, 1),
        (64, {"SLURM_CPUS_PER_TASK": "8"}, 7, 2),
        (64, {"SLURM_CPUS_PER_TASK": "32", "LOCAL_WORLD_SIZE": "4"}, 7, 2),
        (64, {"SEMRAFT_CORES": "6"}, 5, 1),
        (1, {"LOCAL_WORLD_SIZE": "2"}, 2, 0),
    ],
)
def test_loader_workers_go_by_the_cores_of_this_process(
    cores: int, variables: dict[str, str], beside_gpu: int, on_cpu: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when: the machine's cores are counted instead of those this process may use, processes or runs that
    share a machine each take all of it, or a number that was asked for is not what one gets."""
    for name in ("SLURM_CPUS_PER_TASK", "LOCAL_WORLD_SIZE", "SEMRAFT_CORES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert runtime.loader_workers("auto", torch.device("cuda")) == beside_gpu
    assert runtime.loader_workers("auto", CPU) == on_cpu
    assert runtime.loader_workers(5, CPU) == 5


# ---- processes ---------------------------------------------------------------------------------------------


def test_alone_without_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runtime.join_processes(CPU) == runtime.Processes(rank=0, count=1)
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert runtime.join_processes(CPU).count == 1


@pytest.mark.parametrize(
    "started_by",
    [{}, {"SLURM_PROCID": "0"}, {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "4"}],
    ids=["salloc", "sbatch", "srun"],
)
def test_several_tasks_of_slurm_without_torchrun_are_told_what_to_type(
    monkeypatch: pytest.MonkeyPatch, started_by: dict[str, str]
) -> None:
    """Red when: it is a KeyError, waits for tasks that nobody started, or trains once for every task."""
    for name, value in ({"SLURM_NTASKS": "4"} | started_by).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"4 SLURM tasks.*srun --ntasks-per-node=1 torchrun"):
        runtime.join_processes(CPU)


TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "GROUP_WORLD_SIZE": "2"}
"""The environment of a process that torchrun starts on the second of two nodes."""


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """The groups that are made, by backend and device; none is."""
    made: list[tuple[Any, Any]] = []

    def init(backend: str, timeout: timedelta, device_id: torch.device | None) -> None:
        made.append((backend, device_id))

    def new(backend: str, timeout: timedelta) -> None:
        made.append((backend, None))

    monkeypatch.setattr(torch.distributed, "init_process_group", init)
    monkeypatch.setattr(torch.distributed, "new_group", new)
    return made


def test_processes_join_on_their_own_devices(
    monkeypatch: pytest.MonkeyPatch, groups: list[tuple[Any, Any]]
) -> None:
    """Red when: NCCL has to guess the device, or what the CPU exchanges has no group."""
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    device = torch.device("cuda", 1)
    assert runtime.join_processes(device) == runtime.Processes(rank=5, count=8)
    assert groups == [("nccl", device), ("gloo", None)]
    groups.clear()
    runtime.join_processes(torch.device("xpu", 1))
    assert groups[0][0] == "xccl"
    groups.clear()
    runtime.join_processes(CPU)
    assert groups == [("gloo", None), ("gloo", None)]
    with pytest.raises(ValueError, match="several processes can't train on mps"):
        runtime.join_processes(torch.device("mps", 0))


def test_torchrun_inside_an_allocation_of_many_tasks(
    monkeypatch: pytest.MonkeyPatch, groups: list[tuple[Any, Any]]
) -> None:
    """Once a node by srun, or by hand in a batch script, is right; once a task is not.

    Red when: srun starts torchrun eight times, and eight trainings write into one folder.
    """
    for name, value in (TORCHRUN | {"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}).items():
        monkeypatch.setenv(name, value)
    assert runtime.join_processes(CPU).count == 8
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert runtime.join_processes(CPU).count == 8
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    with pytest.raises(ValueError, match=r"started torchrun 8 times, .* 2 nodes: srun --ntasks-per-node=1"):
        runtime.join_processes(CPU)


def test_the_record_says_what_it_ran_on() -> None:
    record = runtime.environment_record(CPU, "float32", runtime.Processes())
    assert record["torch"] == torch.__version__
    assert record["precision"] == "float32"
    assert record["processes"] == 1
    assert {"semraft", "numpy", "opencv", "python", "commit", "command", "started"} <= record.keys()


def test_freed_memory_is_kept() -> None:
    """Tensors freed and asked for again take no pages anew. Red when: mallopt is not called."""
    code = (
        "import resource, torch; from semraft import runtime\n"
        "def pages(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "def take(): blocks = [torch.zeros(6_000_000) for _ in range(3)]\n"
        "def taken():\n"
        "    take(); take(); take(); before = pages()\n"
        "    for _ in range(20): take()\n"
        "    return pages() - before\n"
        "print(taken()); runtime.keep_freed_memory(); print(taken())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    given_back, kept = map(int, done.stdout.split())
    assert kept < 0.05 * given_back + 50  # Pages of 4 kB or of 2 MB: 350 000 of one or 720 of the other.


def test_float32_is_float32_on_a_gpu(have: Have, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when: cuDNN may round to TF32 in a command, or in a prediction of a program of one's own."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with runtime.autocast(torch.device("cuda", 0), "float32"):
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32
    have("cuda", 1)
    runtime.choose_device("cuda")
    assert not torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"


def test_algorithms_are_chosen_for_one_size_inside_only() -> None:
    """Red when: a validation, whose images are of many sizes, times algorithms for each of them."""
    before, inside = torch.backends.cudnn.benchmark, []

    def stopped() -> None:
        with runtime.one_size():
            inside.append(torch.backends.cudnn.benchmark)
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        stopped()
    assert inside == [True]
    assert torch.backends.cudnn.benchmark == before
