"""Trainings and studies that are killed and stopped at random instants, compared with undisturbed ones.

    python benchmarks/soak.py kills --count 100     # SIGKILL; one and two processes, with and without workers
    python benchmarks/soak.py stops --count 50      # SIGTERM and Ctrl-C, to the process and to its group
    python benchmarks/soak.py workers --count 10    # SIGKILL to a loader process
    python benchmarks/soak.py disks --count 10      # full disks; they are mounted, which needs root
    python benchmarks/soak.py study --count 10      # SIGKILL and SIGTERM to a study and to its trainings

Trial k is the same in every session but for the machine's timing. A line of OUT/KIND.jsonl holds what it
found; trials that are there are not repeated, so that the same command goes on. Exit code 1: a trial failed.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import torch

from semraft.cli import main as command_line
from semraft.training import loop as loop  # Loaded once, for all trials.

STEPS = 16
OPTIONS = (
    f"world-base --optim.steps {STEPS} --optim.batch 2 --num-updates 2 --validation-updates 2 "
    "--saved-pairs 0 --data.world.size 64 96 --data.world.scenes 32 --data.crop 64 64 "
    "--data.validation-pairs 4 --device cpu --precision float32 "
    "--log-every 2 --validate-every 6 --checkpoint-every 4"
).split()
STUDY = '''"""Two variants, one seed."""
from dataclasses import replace
from semraft.config import LossConfig, TermConfig
from semraft.config.recipes import RECIPES
from semraft.studies import Study
base = RECIPES["world-base"].config
data = replace(base.data, crop=(64, 64), validation_pairs=4, world=replace(base.data.world, size=(64, 96)))
base = replace(base, num_updates=2, validation_updates=2, log_every=2, validate_every=6, checkpoint_every=4,
    saved_pairs=0, device="cpu", precision="float32", data=data, optim=replace(base.optim, steps=16, batch=2))
v1 = replace(base, loss=LossConfig(terms=(TermConfig(name="semantic-v1", weight=0.1),)))
study = Study(name="two", about="", variants={"base": base, "v1": v1}, base="base", seeds=(0,))
'''
PATIENCE_S = 900
RECORDS = ("metrics.jsonl", "pulse.jsonl", "per_sample.csv", "verdict.json")
FORK = multiprocessing.get_context("fork")
Record = dict[str, Any]


def start(arguments: Sequence[str], log: Path, count: int = 1) -> list[ForkProcess]:
    """`semraft ARGUMENTS` as so many processes that train together, each in a group of its own.

    Forked from this one, which has torch loaded and has used nothing of it: a start takes no time.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    log.unlink(missing_ok=True)
    started = []
    for rank in range(count):
        together = {
            "RANK": str(rank),
            "WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        process = FORK.Process(target=_run, args=(arguments, log, together if count > 1 else {}))
        process.start()
        started.append(process)
    return started


def _run(arguments: Sequence[str], log: Path, together: dict[str, str]) -> None:
    os.setsid()
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(together, TQDM_MININTERVAL="0")
    sys.argv = ["semraft", *arguments]
    command_line.main()


def wait(started: Sequence[ForkProcess]) -> list[int | None]:
    """The exit codes of processes, once they have ended; a process that hangs is killed."""
    for process in started:
        process.join(PATIENCE_S)
        process.kill()
        process.join()
    return [process.exitcode for process in started]


def finish(arguments: Sequence[str], log: Path, count: int = 1) -> str:
    """Runs a command to its end; returns "" or how it failed."""
    codes = wait(start(arguments, log, count))
    return f"{arguments[:2]} ended with {codes}: {last_line(log)}" if any(codes) else ""


def last_line(log: Path) -> str:
    said = [line for line in log.read_text(errors="replace").replace("\r", "\n").splitlines() if line.strip()]
    return next((line for line in reversed(said) if line.startswith("semraft")), (said or [""])[-1])


def train(run: Path, workers: int) -> list[str]:
    return ["train", *OPTIONS, "--data.workers", str(workers), "--output", str(run)]


def go_on(run: Path, workers: int) -> list[str]:
    """--resume, or where there is no checkpoint the same command."""
    saved = (run / "checkpoints" / "last.pt").exists()
    return ["train", "--resume", str(run)] if saved else train(run, workers)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def instant(kind: str, rng: random.Random, run: Path, log: Path) -> Callable[[], bool]:
    """A function that is true from the chosen instant on."""
    if kind == "start":
        until_s = time.monotonic() + rng.uniform(0, 3)
        return lambda: time.monotonic() > until_s
    if kind == "checkpoint":
        return lambda: any((run / "checkpoints").glob(".*.partial"))
    if kind == "validation":
        wanted = rng.randint(1, 2)
        seen = set[int]()

        def validates() -> bool:
            if log.exists() and "world val" in log.read_text(errors="replace")[-400:]:
                seen.add(lines(run / "pulse.jsonl"))
            return len(seen) >= wanted

        return validates
    step = rng.randint(1, STEPS - 1)
    return lambda: lines(run / "pulse.jsonl") >= step


def family(pid: int) -> list[int]:
    """The processes that a process has started, and theirs, the nearest first."""
    with suppress(OSError):
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return children + [pid for child in children for pid in family(child)]
    return []


def wait_for(process: ForkProcess, is_due: Callable[[], bool]) -> bool:
    """Waits for an instant; False if the process ends before."""
    while process.is_alive():
        if is_due():
            return True
        time.sleep(0.002)
    return False


def send(number: int, pid: int, group: bool = False) -> None:
    with suppress(ProcessLookupError):
        (os.killpg if group else os.kill)(pid, number)


def difference(run: Path, undisturbed: Path) -> str:
    """The first record or number of a checkpoint that differs, or ""."""
    for name in RECORDS:
        if (run / name).read_bytes() != (undisturbed / name).read_bytes():
            return f"{name} differs"
    last = [torch.load(at / "checkpoints" / "last.pt", weights_only=True) for at in (run, undisturbed)]
    found, expected = map(leaves, last)
    for name, value in expected.items():
        other = found.get(name)
        same = torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
        if not same:
            return f"{name} of last.pt differs"
    stray = [path.name for path in run.rglob(".*")]
    return f"left behind: {stray}" if stray else ""


def leaves(tree: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict | list | tuple):
        return {path: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {name: leaf for key, value in items for name, leaf in leaves(value, f"{path}/{key}").items()}


def kill(trial: int, folder: Path) -> Record:
    """SIGKILL to a training: of two processes to one of them."""
    rng = random.Random(trial)
    kind = ("step", "checkpoint", "validation", "start")[trial % 4]
    count, workers = (2 if trial % 5 == 4 else 1), rng.choice((0, 2))
    run, log = folder / f"kill-{trial}", folder / "kill.log"
    shutil.rmtree(run, ignore_errors=True)
    started = start(train(run, workers), log, count)
    due = wait_for(started[0], instant(kind, rng, run, log))
    rng.choice(started).kill()
    wait(started)
    step = lines(run / "pulse.jsonl")
    wrong = finish(go_on(run, workers), log, count) or difference(run, undisturbed(folder, count))
    at = kind if due else "end"
    return {"at": at, "processes": count, "workers": workers, "step": step, "wrong": wrong}


def stop(trial: int, folder: Path) -> Record:
    """SIGTERM or Ctrl-C to a training, or to all processes of its group."""
    rng = random.Random(trial)
    number, group = (signal.SIGTERM, signal.SIGINT)[trial % 2], trial // 2 % 2 == 1
    kind = ("step", "validation", "step", "checkpoint")[trial // 4 % 4]
    workers = 2 if group else rng.choice((0, 2))
    run, log = folder / f"stop-{trial}", folder / "stop.log"
    shutil.rmtree(run, ignore_errors=True)
    (process,) = started = start(train(run, workers), log)
    due, sent_s = wait_for(process, instant(kind, rng, run, log)), time.monotonic()
    send(number, process.pid or 0, group)
    (code,) = wait(started)
    took_s, step = round(time.monotonic() - sent_s, 1), lines(run / "pulse.jsonl")
    wrong = complaint(log, f"stopped after step {step}") if code else ""  # 0: it was at its end.
    if code:
        saved = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["step"]
        wrong = wrong or ("" if saved == step else f"step {step}, saved {saved}")
    wrong = wrong or finish(go_on(run, workers), log) or difference(run, undisturbed(folder, 1))
    record = {"signal": number.name, "group": group, "at": kind if due else "end", "workers": workers}
    return record | {"step": step, "took_s": took_s, "wrong": wrong}


def kill_worker(trial: int, folder: Path) -> Record:
    """SIGKILL to one of two loader processes."""
    rng = random.Random(trial)
    run, log = folder / f"worker-{trial}", folder / "worker.log"
    shutil.rmtree(run, ignore_errors=True)
    (process,) = started = start(train(run, 2), log)
    due = wait_for(process, instant("step", rng, run, log))
    send(signal.SIGKILL, rng.choice(family(process.pid or 0) or [process.pid or 0]))
    (code,) = wait(started)
    step = lines(run / "pulse.jsonl")
    wrong = complaint(log, "a loader process was killed", f"ended after step {step}") if code else ""
    wrong = wrong or finish(go_on(run, 2), log) or difference(run, undisturbed(folder, 1))
    return {"at": "step" if due else "end", "step": step, "code": code, "wrong": wrong}


def fill(trial: int, folder: Path) -> Record:
    """A disk of a random size that gets full, and has room later. It is mounted, which needs root."""
    rng = random.Random(trial)
    size_kb, workers = round(20 * 1500 ** rng.random()), rng.choice((0, 2))
    disk, log = folder / "disk", folder / "fill.log"
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "tmpfs", str(disk)], check=True)
    try:
        (code,) = wait(start(train(disk / "run", workers), log))
        wrong = complaint(log, str(disk)) if code else ""
        partial = [path.name for path in disk.rglob(".*")]
        subprocess.run(["mount", "-o", "remount,size=1g", str(disk)], check=True)
        wrong = wrong or (f"left on the full disk: {partial}" if partial else "")
        wrong = wrong or finish(go_on(disk / "run", workers), log)
        wrong = wrong or difference(disk / "run", undisturbed(folder, 1))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    return {"size_kb": size_kb, "workers": workers, "code": code, "wrong": wrong}


def complaint(log: Path, *expected: str) -> str:
    """The last line of a training that lacks one of the expected words or follows a traceback, or ""."""
    said = last_line(log)
    sound = all(words in said for words in expected) and "Traceback" not in log.read_text(errors="replace")
    return "" if sound else said or "nothing said"


def disturb_study(trial: int, folder: Path) -> Record:
    """SIGKILL or SIGTERM to a study or one of its trainings; the tenth time it is finished and compared."""
    rng = random.Random(trial)
    description, log = folder / "study.py", folder / "study.log"
    description.write_text(STUDY)
    whole, study = (
        ["study", "run", str(description), "--jobs", "1", "--out", str(folder / name)]
        for name in ("study-undisturbed", "study")
    )
    expected, found = (folder / name / "summary.json" for name in ("study-undisturbed", "study"))
    if not expected.exists() and (wrong := finish(whole, log)):
        return {"wrong": wrong}
    (process,) = started = start(study, log)
    after_s, number = rng.uniform(1, 30), rng.choice((signal.SIGKILL, signal.SIGTERM))
    until_s = time.monotonic() + after_s
    due = wait_for(process, lambda: time.monotonic() > until_s)
    send(number, rng.choice([process.pid or 0, *family(process.pid or 0)]))
    wait(started)  # A training that it leaves running is found and waited for by the next.
    record = {"signal": number.name, "after_s": round(after_s, 1), "at": "run" if due else "end", "wrong": ""}
    if trial % 10 != 9:
        return record
    wrong = finish(study, log)
    if not wrong and found.read_bytes() != expected.read_bytes():
        wrong = "summary.json differs"
    return record | {"finished": True, "wrong": wrong}


def undisturbed(folder: Path, count: int) -> Path:
    """The run of so many processes that nothing disturbed, made once."""
    run = folder / f"undisturbed-{count}"
    if not (run / "checkpoints" / f"step-{STEPS:06d}.pt").exists():
        shutil.rmtree(run, ignore_errors=True)
        if wrong := finish(train(run, 0), folder / "undisturbed.log", count):
            raise SystemExit(wrong)
    return run


KINDS = {"kills": kill, "stops": stop, "workers": kill_worker, "disks": fill, "study": disturb_study}


def main() -> None:
    """Runs the trials that are missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--out", type=Path, default=Path("soak"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # In the background a shell has it ignored.
    torch.set_num_threads(1)
    folder, results = options.out.resolve(), options.out / f"{options.kind}.jsonl"
    for trial in range(lines(results), options.count):
        record = {"trial": trial, **KINDS[options.kind](trial, folder)}
        print(json.dumps(record), flush=True)
        with open(results, "a") as file:
            file.write(json.dumps(record) + "\n")
        if not record["wrong"]:  # The run of a failed trial stays.
            for run in folder.glob(f"*-{trial}"):
                if not run.name.startswith("undisturbed"):
                    shutil.rmtree(run)
    found = [json.loads(line) for line in results.read_text().splitlines()]
    wrong = [record for record in found if record["wrong"]]
    print(f"{options.kind}: {len(found) - len(wrong)} of {len(found)} as undisturbed")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
