"""A run that is killed and resumed against the same run left alone: are the weights the same, bit for bit?

Two runs are left alone, so that one sees whether the device repeats itself at all. All three run beside each
other, with torch's deterministic algorithms; the operations that have none are named.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from benchmarks.gpu_check.setting import Row, Setting, guarded, precisions

LAUNCH = {
    "standin": """
import sys
from tests import stand_in
from semraft import cli
from semraft.kernels.cpu import correlation_numba
with stand_in.pretended(correlation_numba):
    sys.exit(cli.run(sys.argv[1:]))
""",
    "other": """
import sys, torch
from semraft import cli
torch.use_deterministic_algorithms(True, warn_only=True)
sys.exit(cli.run(sys.argv[1:]))
""",
}


RUNS = {
    "semantic-v1": ("world-semantic-v1",),
    "census, signed-distance": ("world-base", "--loss.terms", "census:0.1", "signed-distance:0.1"),
}
"""Loss terms -> the command's arguments. The second samples frames along the flow."""


def measure(setting: Setting) -> Iterator[Row]:
    for terms, arguments in list(RUNS.items())[: 1 if setting.small else None]:
        if setting.seconds_left < 20 and not setting.small:
            yield {"terms": terms, "skipped": "time is up"}
            continue
        yield from guarded(
            {"terms": terms}, lambda terms=terms, arguments=arguments: of_run(terms, arguments, setting)
        )


def of_run(terms: str, arguments: tuple[str, ...], setting: Setting) -> Iterator[Row]:
    place = setting.out / "runs" / re.sub(r"\W+", "-", terms)
    shutil.rmtree(place, ignore_errors=True)  # Of an earlier check.
    folders = {name: place / name for name in ("alone", "again", "killed")}
    begin = ["train", *arguments, *options_of(setting)]
    running = {
        name: started([*begin, "--output", str(folder)], folder, setting) for name, folder in folders.items()
    }
    stopped_at = kill_after(running["killed"], folders["killed"], steps_of(setting) // 2)
    running["killed"].wait()
    running["killed"] = started(["train", "--resume", str(folders["killed"])], folders["killed"], setting)
    for name, process in running.items():
        if process.wait() != 0:
            raise RuntimeError(f"{name} ended with {process.returncode}: {last_line(log_of(folders[name]))}")
    left_alone = weights(folders["alone"])
    yield {
        "terms": terms,
        "steps": f"{steps_of(setting)}, {precisions(setting)[0]}",
        "killed after step": stopped_at,
        "repeated bit for bit": difference(left_alone, weights(folders["again"])),
        "resumed bit for bit": difference(left_alone, weights(folders["killed"])),
        "not deterministic": ", ".join(sorted(without_deterministic(log_of(folders["alone"])))),
    }


def options_of(setting: Setting) -> list[str]:
    frame, batch, updates = (("64", "64"), "1", "1") if setting.small else (("288", "480"), "2", "6")
    return [
        *("--data.world.size", *frame, "--data.crop", *frame, "--data.world.scenes", "12"),
        *("--data.workers", "0" if setting.small else "2"),
        *("--model.arch", "tiny" if setting.small else "large"),
        *("--data.validation-pairs", "1", "--validation-updates", "1", "--saved-pairs", "1"),
        *("--optim.batch", batch, "--optim.steps", str(steps_of(setting)), "--num-updates", updates),
        *("--validate-every", str(steps_of(setting)), "--log-every", "1", "--checkpoint-every", "1"),
        *("--health-every", "3", "--device", str(setting.device), "--precision", precisions(setting)[0]),
    ]


def steps_of(setting: Setting) -> int:
    return 4 if setting.small else 10


def last_line(log: Path) -> str:
    return (log.read_text(errors="replace").strip().splitlines() or [""])[-1]


def log_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.log")


def started(arguments: list[str], folder: Path, setting: Setting) -> subprocess.Popen[bytes]:
    """A command of semraft's with deterministic algorithms, its output in a file beside the run."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    launch = LAUNCH.get(setting.device.type, LAUNCH["other"])
    environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    with open(log_of(folder), "ab") as log:
        command = [sys.executable, "-c", launch, *arguments]
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


def kill_after(process: subprocess.Popen[bytes], folder: Path, step: int) -> int:
    """Kills a run (SIGKILL) once its last checkpoint is of `step` or later, and says which it is.

    Raises:
        RuntimeError: The run ended before.
    """
    last = folder / "checkpoints" / "last.pt"
    while not (last.exists() and step_of(last) >= step):
        if process.poll() is not None:
            raise RuntimeError(f"ended before it was killed: {last_line(log_of(folder))}")
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return step_of(last)


def step_of(checkpoint: Path) -> int:
    return int(torch.load(checkpoint, map_location="cpu", weights_only=True)["step"])


def weights(run: Path) -> dict[str, torch.Tensor]:
    model: dict[str, torch.Tensor] = torch.load(
        run / "checkpoints" / "last.pt", map_location="cpu", weights_only=True
    )["model"]
    return model


def difference(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> str:
    """`yes`, or how many tensors differ and by how much at most."""
    off = {
        name: float((found[name].double() - value.double()).abs().max())
        for name, value in expected.items()
        if not torch.equal(found[name], value)
    }
    return f"no: {len(off)} of {len(expected)} tensors, by {max(off.values()):.1e} at most" if off else "yes"


def without_deterministic(log: Path) -> set[str]:
    """The operations of which torch warned that they have no deterministic implementation."""
    return set(
        re.findall(r"(\w+) does not have a deterministic implementation", log.read_text(errors="replace"))
    )
