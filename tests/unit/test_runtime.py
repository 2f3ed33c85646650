"""Device, precision and processes: what is chosen, and what is refused."""

import os
import socket
import subprocess
import sys

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


def test_devices_that_are_there_and_not() -> None:
    assert runtime.choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="no GPU cuda:99"):
        runtime.choose_device("cuda:99")


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


def test_alone_without_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    assert runtime.join_processes() == runtime.Processes(rank=0, count=1)
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert runtime.join_processes().count == 1


def test_two_slurm_tasks_find_each_other() -> None:
    """What srun announces, by hand: rank, count, node. Red when a variable is misread or the port differs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = (
        "import torch, torch.distributed as d; from semraft import runtime; p = runtime.join_processes(); "
        "x = torch.tensor([p.rank + 1.0]); d.all_reduce(x); "
        "print(p.rank, p.count, float(x)); runtime.leave_processes()"
    )
    announced = {
        "SLURM_NTASKS": "2",
        "SLURM_JOB_ID": str(port - 20000 if port >= 20000 else port),
        "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    tasks = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, **announced, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    assert [task.communicate(timeout=120)[0].split() for task in tasks] == [
        ["0", "2", "3.0"],
        ["1", "2", "3.0"],
    ]


def test_job_steps_of_one_job_get_ports_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs of a study as steps on one node. Red when: both wait for each other's processes."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    ports = []
    for step in ("0", "1"):
        task = {"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "77"}
        monkeypatch.setattr(os, "environ", task | {"SLURM_STEP_ID": step})
        assert runtime.join_processes().count == 2
        ports.append(int(os.environ["MASTER_PORT"]))
    assert ports[0] != ports[1]
    assert all(20000 <= port < 40000 for port in ports)


def test_the_record_says_what_it_ran_on() -> None:
    record = runtime.environment_record(CPU, "float32", runtime.Processes())
    assert record["torch"] == torch.__version__
    assert record["precision"] == "float32"
    assert record["processes"] == 1
    assert {"semraft", "numpy", "opencv", "python", "commit", "command", "started"} <= record.keys()


def test_freed_memory_is_kept() -> None:
    """Tensors freed and asked for again take no pages anew. Red when: mallopt is not called."""
    code = (
        "import torch; from semraft import runtime; {call}\n"
        "for _ in range(20):\n"
        "    blocks = [torch.zeros(6_000_000) for _ in range(3)]; del blocks\n"
        "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)"
    )
    faults = [
        int(subprocess.run([sys.executable, "-c", code.format(call=call)], capture_output=True).stdout)
        for call in ("pass", "runtime.keep_freed_memory()")
    ]
    pages = 4 * 6_000_000 // 4096
    assert faults[0] - faults[1] > pages  # Seen: 3 to 20 times as many.
