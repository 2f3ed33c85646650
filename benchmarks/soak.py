"""Trainings and studies that are killed and stopped at random instants, compared with undisturbed ones.

    python benchmarks/soak.py kills --count 100     # SIGKILL; one and two processes, with and without workers
    python benchmarks/soak.py stops --count 50      # SIGTERM and Ctrl-C, to the process and to its group
    python benchmarks/soak.py workers --count 4     # SIGKILL to a loader process
    python benchmarks/soak.py study --count 10      # SIGKILL and SIGTERM to a study and to its trainings

Trial k is the same in every session but for the machine's timing. A line of FOLDER/KIND.jsonl holds what it
found; trials that are there are not repeated, so that the same command goes on. Exit code 1: a trial failed.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

SEMRAFT = [sys.executable, "-m", "semraft"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
STEPS, VALIDATE_EVERY = 16, 6
OPTIONS = (
    f"world-base --optim.steps {STEPS} --optim.batch 2 --num-updates 2 --validation-updates 2 "
    "--saved-pairs 0 --data.world.size 64 96 --data.world.scenes 32 --data.crop 64 64 "
    "--data.validation-pairs 4 --device cpu --precision float32 "
    f"--log-every 2 --validate-every {VALIDATE_EVERY} --checkpoint-every 4"
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
PATIENCE_S = 600
RECORDS = ("metrics.jsonl", "pulse.jsonl", "per_sample.csv", "verdict.json")


def start(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """The command in a process group of its own; its output goes to `log`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_MININTERVAL": "0"}
    with open(log, "wb") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment,
            start_new_session=True,
        )


def finish(command: Sequence[str], log: Path) -> str:
    """Runs a command to its end; returns "" or how it failed."""
    process = start(command, log)
    code = process.wait(PATIENCE_S)
    return "" if code == 0 else f"{' '.join(command[-2:])} ended with {code}: {last_line(log)}"


def last_line(log: Path) -> str:
    said = [line for line in log.read_text(errors="replace").replace("\r", "\n").splitlines() if line.strip()]
    return next((line for line in reversed(said) if line.startswith("semraft")), (said or [""])[-1])


def train(run: Path, processes: int, workers: int) -> list[str]:
    launched = [*TORCHRUN, "-m", "semraft"] if processes > 1 else SEMRAFT
    return [*launched, "train", *OPTIONS, "--data.workers", str(workers), "--output", str(run)]


def go_on(run: Path, processes: int, workers: int) -> list[str]:
    """--resume, or where there is no checkpoint the same command."""
    if not (run / "checkpoints" / "last.pt").exists():
        return train(run, processes, workers)
    return [*train(run, processes, workers)[: -len(OPTIONS) - 4], "--resume", str(run)]


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def instant(kind: str, rng: random.Random, run: Path, log: Path) -> Callable[[float], bool]:
    """A function of the seconds since the start that is true from the chosen instant on."""
    if kind == "start":
        after_s = rng.uniform(0, 6)
        return lambda since_s: since_s > after_s
    if kind == "checkpoint":
        return lambda since_s: any((run / "checkpoints").glob(".*.partial"))
    if kind == "validation":
        count = rng.randint(1, 2)
        seen = set[int]()

        def validates(since_s: float) -> bool:
            if "world val" in log.read_text(errors="replace")[-400:]:
                seen.add(lines(run / "metrics.jsonl"))
            return len(seen) >= count

        return validates
    wanted = rng.randint(1, STEPS - 1)
    return lambda since_s: lines(run / "pulse.jsonl") >= wanted


def family(pid: int) -> list[int]:
    """The processes that a process has started, and theirs, the nearest first."""
    with suppress(OSError):
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return children + [pid for child in children for pid in family(child)]
    return []


def wait_for(process: subprocess.Popen[bytes], is_due: Callable[[float], bool]) -> bool:
    """Waits for an instant; False if the process ends before."""
    began_s = time.monotonic()
    while process.poll() is None:
        if is_due(time.monotonic() - began_s):
            return True
        time.sleep(0.002)
    return False


def difference(run: Path, undisturbed: Path) -> str:
    """The first record or number of a checkpoint that differs, or ""."""
    for name in RECORDS:
        if (run / name).read_bytes() != (undisturbed / name).read_bytes():
            return f"{name} differs"
    found, expected = (
        torch.load(at / "checkpoints" / "last.pt", weights_only=True) for at in (run, undisturbed)
    )
    for name, value in leaves(expected).items():
        other = leaves(found).get(name)
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


def kill(trial: int, folder: Path) -> dict[str, Any]:
    """SIGKILL to a training: of two processes to one of them or to torchrun."""
    rng = random.Random(trial)
    kind = ("step", "checkpoint", "validation", "start")[trial % 4]
    processes, workers = (2 if trial % 5 == 4 else 1), rng.choice((0, 2))
    run, log = folder / f"kill-{trial}", folder / "kill.log"
    shutil.rmtree(run, ignore_errors=True)
    process = start(train(run, processes, workers), log)
    due = wait_for(process, instant(kind, rng, run, log))
    everyone = family(process.pid)
    os.kill(rng.choice([process.pid, *everyone[:2]]) if processes > 1 else process.pid, signal.SIGKILL)
    end(process, everyone)
    step = lines(run / "pulse.jsonl")
    wrong = finish(go_on(run, processes, workers), log) or difference(run, undisturbed(folder, processes))
    shutil.rmtree(run)
    return {
        "kind": kind,
        "processes": processes,
        "workers": workers,
        "hit": due,
        "step": step,
        "wrong": wrong,
    }


def end(process: subprocess.Popen[bytes], everyone: Sequence[int], grace_s: float = 60) -> None:
    """Waits until a process and all that it had started are gone; loaders notice their parent's end."""
    until_s = time.monotonic() + grace_s
    with suppress(subprocess.TimeoutExpired):
        process.wait(grace_s)
    while time.monotonic() < until_s and any(Path(f"/proc/{pid}").exists() for pid in everyone):
        time.sleep(0.05)
    for pid in (process.pid, *everyone):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def stop(trial: int, folder: Path) -> dict[str, Any]:
    """SIGTERM or Ctrl-C to a training, or to all processes of its group."""
    rng = random.Random(trial)
    number, group = (signal.SIGTERM, signal.SIGINT)[trial % 2], trial // 2 % 2 == 1
    kind = ("step", "validation", "step", "checkpoint")[trial // 4 % 4]
    workers = 2 if group else rng.choice((0, 2))
    run, log = folder / f"stop-{trial}", folder / "stop.log"
    shutil.rmtree(run, ignore_errors=True)
    process = start(train(run, 1, workers), log)
    due = wait_for(process, instant(kind, rng, run, log))
    everyone, sent_s = family(process.pid), time.monotonic()
    (os.killpg if group else os.kill)(process.pid, number)
    code = process.wait(PATIENCE_S)
    took_s, said, step = time.monotonic() - sent_s, last_line(log), lines(run / "pulse.jsonl")
    end(process, everyone)
    wrong = ""
    if code != 0:  # 0: it was at its end.
        saved = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["step"]
        if (code, saved) != (1, step) or f"stopped after step {step}" not in said:
            wrong = f"code {code}, step {step}, saved {saved}: {said}"
        elif "Traceback" in log.read_text(errors="replace"):
            wrong = "a traceback"
    wrong = wrong or finish([*SEMRAFT, "train", "--resume", str(run)], log)
    wrong = wrong or difference(run, undisturbed(folder, 1))
    shutil.rmtree(run)
    record = {
        "signal": number.name,
        "group": group,
        "kind": kind,
        "workers": workers,
        "hit": due,
        "step": step,
    }
    return record | {"took_s": round(took_s, 1), "wrong": wrong}


def kill_worker(trial: int, folder: Path) -> dict[str, Any]:
    """SIGKILL to one of two loader processes."""
    rng = random.Random(trial)
    run, log = folder / f"worker-{trial}", folder / "worker.log"
    shutil.rmtree(run, ignore_errors=True)
    process = start(train(run, 1, 2), log)
    due = wait_for(process, instant("step", rng, run, log))
    os.kill(rng.choice(family(process.pid)), signal.SIGKILL)
    code, step = process.wait(PATIENCE_S), lines(run / "pulse.jsonl")
    said, wrong = last_line(log), ""
    if code != 0 and ("a loader process was killed" not in said or f"ended after step {step}" not in said):
        wrong = f"code {code}, step {step}: {said}"
    wrong = wrong or finish([*SEMRAFT, "train", "--resume", str(run)], log)
    wrong = wrong or difference(run, undisturbed(folder, 1))
    shutil.rmtree(run)
    return {"hit": due, "step": step, "code": code, "wrong": wrong}


def disturb_study(trial: int, folder: Path) -> dict[str, Any]:
    """SIGKILL or SIGTERM to a study or to one of its trainings; the last trial's study is then finished."""
    rng = random.Random(trial)
    name = folder / "study.py"
    name.write_text(STUDY)
    command = [*SEMRAFT, "study", "run", str(name), "--jobs", "1", "--out"]
    whole, study, log = folder / "study-undisturbed", folder / "study", folder / "study.log"
    if not (whole / "summary.json").exists() and (wrong := finish([*command, str(whole)], log)):
        return {"wrong": wrong}
    process = start([*command, str(study)], log)
    after_s = rng.uniform(1, 20)
    due = wait_for(process, lambda since_s: since_s > after_s)
    everyone, number = family(process.pid), rng.choice((signal.SIGKILL, signal.SIGTERM))
    with suppress(ProcessLookupError):
        os.kill(rng.choice([process.pid, *everyone]), number)
    with suppress(subprocess.TimeoutExpired):
        process.wait(60)
    end(process, everyone)
    record = {"signal": number.name, "after_s": round(after_s, 1), "hit": due, "wrong": ""}
    if due and trial % 10 != 9:
        return record
    if wrong := finish([*command, str(study)], log):
        return record | {"wrong": wrong}
    same = (study / "summary.json").read_bytes() == (whole / "summary.json").read_bytes()
    shutil.rmtree(study)
    return record | {"finished": True, "wrong": "" if same else "summary.json differs"}


def undisturbed(folder: Path, processes: int) -> Path:
    """The run that nothing disturbed, made once."""
    run = folder / f"undisturbed-{processes}"
    if not (run / "checkpoints" / f"step-{STEPS:06d}.pt").exists():
        shutil.rmtree(run, ignore_errors=True)
        if wrong := finish(train(run, processes, 0), folder / "undisturbed.log"):
            raise SystemExit(wrong)
    return run


KINDS = {"kills": kill, "stops": stop, "workers": kill_worker, "study": disturb_study}


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
    folder, results = options.out.resolve(), options.out / f"{options.kind}.jsonl"
    for trial in range(lines(results), options.count):
        record = {"trial": trial, **KINDS[options.kind](trial, folder)}
        print(json.dumps(record), flush=True)
        with open(results, "a") as file:
            file.write(json.dumps(record) + "\n")
    found = [json.loads(line) for line in results.read_text().splitlines()]
    wrong = [record for record in found if record["wrong"]]
    print(f"{options.kind}: {len(found) - len(wrong)} of {len(found)} as undisturbed")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
