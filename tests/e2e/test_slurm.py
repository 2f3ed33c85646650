"""The script of docs/slurm.md that srun starts once a node, with SLURM's variables given by hand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.test_training import semraft
from tests.helpers import PATIENCE_S

DOCUMENT = Path(__file__).parents[2] / "docs" / "slurm.md"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """The script, in a folder with a `scontrol` that lists the hosts of `a[1-2]` and such, or `localhost`."""
    (text,) = re.findall(r"```sh\n(#!/bin/sh\n.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)
    path, scontrol = tmp_path / "torchrun-step.sh", tmp_path / "scontrol"
    path.write_text(text)
    scontrol.write_text(
        '#!/bin/sh\n[ "$1 $2" = "show hostnames" ] || exit 1\n'
        'echo "$3" | sed -E "s/([a-z]+)\\[([0-9])-([0-9])\\]/\\1\\2 \\1\\3/" | tr " " "\\n"\n'
    )
    scontrol.chmod(0o755)
    return path


def step_of(script: Path, number: int, nodes: str) -> dict[str, str]:
    """The environment of a task of a job step on two nodes."""
    return {
        **os.environ,
        "PATH": f"{script.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_ID": str(number),
        "SLURM_STEP_NODELIST": nodes,
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_NTASKS": "2",
        "SLURM_GPUS_ON_NODE": "1",
    }


def test_each_step_of_a_job_meets_at_its_own_first_host_and_port(script: Path) -> None:
    """Two runs of a study on four nodes. Red when: they meet at the job's first node, where the second has no
    process, or at one port, where each finds the other's processes."""
    torchrun = script.parent / "torchrun"
    torchrun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    torchrun.chmod(0o755)
    met = []
    for number, nodes in enumerate(("a[1-2]", "b[3-4]")):
        done = subprocess.run(
            ["sh", str(script), "semraft", "train", "--seed", "3 4"],
            env=step_of(script, number, nodes),
            capture_output=True,
            text=True,
            check=True,
        )
        *options, first, second, third, fourth = done.stdout.splitlines()
        assert (first, second, third, fourth) == ("semraft", "train", "--seed", "3 4")
        met.append(options[options.index("--rdzv-endpoint") + 1].split(":"))
    assert [host for host, _ in met] == ["a1", "b3"]
    assert met[0][1] != met[1][1]
    assert all(15000 <= int(port) < 30000 for _, port in met)


def test_two_tasks_of_a_step_train_together(script: Path) -> None:
    """With torchrun itself, both tasks on this machine. Red when: the script's options no longer make a group
    of two processes, or what torchrun and srun say together is refused."""
    joined = (
        "import torch, torch.distributed as d; from semraft import runtime; "
        "p = runtime.join_processes(torch.device('cpu')); x = torch.tensor([p.rank + 1.0]); d.all_reduce(x); "
        "print(p.count, float(x)); runtime.leave_processes(p)"
    )
    tasks = [
        subprocess.Popen(
            ["sh", str(script), sys.executable, "-c", joined],
            env=step_of(script, 0, "localhost"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [task.communicate(timeout=PATIENCE_S) for task in tasks]
    assert [out for out, _ in said] == ["2 3.0\n"] * 2, said


def test_training_as_a_task_of_slurm_says_what_to_type(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Red when: it ends with a traceback, or waits for tasks that are not there."""
    monkeypatch.setenv("SLURM_NTASKS", "4")
    run = tmp_path / "run"
    done = semraft("train", "world-base", "--device", "cpu", "--output", str(run), check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("semraft train: this is a job of 4 SLURM tasks")
    assert "srun --ntasks-per-node=1 torchrun" in line
    assert not run.exists()
