"""Checks semraft on a GPU in a few minutes: right, how fast, how close to what the device can do.

    python -m benchmarks.gpu_check --out FOLDER [--minutes 8] [--parts NAME ...] [--device cuda]
                                   [--weights FILE] [--pairs FOLDER] [--workers N] [--small]

From the checkout's root, with semraft installed or PYTHONPATH=src; torch 2.11 or later. Every part is a
process of its own: an error, or its time, costs only that part. FOLDER gets results.json and results.md, both
written anew after each part, each part's rows while it runs (PART.jsonl) and what it printed (PART.log).
`--pairs` holds real pairs in KITTI 2015's layout, `--weights` RAFT weights. Exit code 1: a part failed.
"""

import argparse
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.table import as_markdown


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A part of the check, and its largest share of the time."""

    module: str
    share: float
    about: str


PARTS = {
    "facts": Part(module="facts", share=0.08, about="The device, and whether it computes."),
    "tests": Part(module="marked_tests", share=0.15, about="Tests marked `gpu`."),
    "agreement": Part(
        module="agreement", share=0.15, about="The network on the CPU in float32, and on the device."
    ),
    "lookups": Part(
        module="lookups",
        share=0.2,
        about="The correlation lookup: right, against other ways, against its bound.",
    ),
    "speed": Part(
        module="speed",
        share=0.25,
        about="Networks in turn with the same weights; flow loss alone in training.",
    ),
    "steps": Part(module="steps", share=0.25, about="Whole training steps, and what each loss term adds."),
    "resume": Part(module="resuming", share=0.15, about="A run killed and resumed, against one left alone."),
    "feeding": Part(module="feeding", share=0.15, about="1080p files through the loader into training."),
    "compiled": Part(module="compiled", share=1.0, about="As `speed`, with torchvision under torch.compile."),
}
"""In order of value: time may run out."""
SHORTEST_S = 5.0
"""A part that has less time left is not begun."""


def main(arguments: Sequence[str]) -> int:
    options = parsed(arguments)
    if options.part:
        run_part(options)
        return 0
    if options.device.startswith("cuda") and not has_cuda():
        print("no CUDA device: nothing to check (--device cpu --small shows that it runs)", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # The part at work ends too.
    began, limit_s = time.monotonic(), 60 * options.minutes
    results: dict[str, Any] = {
        "command": f"python -m benchmarks.gpu_check {' '.join(arguments)}",
        "parts": {},
    }
    for name in options.parts:
        left_s = limit_s - (time.monotonic() - began)
        print(f"{name}: ", end="", file=sys.stderr, flush=True)
        found = outcome(name, min(PARTS[name].share * limit_s, left_s), options)
        print(f"{found['state']} {found['why']} ({found['seconds']:.0f} s)", file=sys.stderr, flush=True)
        results["parts"][name] = found
        results["minutes_taken"] = (time.monotonic() - began) / 60
        write(options.out / "results.json", json.dumps(results, indent=2) + "\n")
        write(options.out / "results.md", as_markdown(results))
    print((options.out / "results.md").read_text())
    return int(any(part["state"] == "failed" for part in results["parts"].values()))


def has_cuda() -> bool:
    import torch  # Here alone: it takes seconds, and the parts import it themselves.

    return torch.cuda.is_available()


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="NAME")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--workers", type=int, default=min(16, os.cpu_count() or 1))
    parser.add_argument("--small", action="store_true", help="tiny sizes: does every part run?")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def outcome(name: str, limit_s: float, options: argparse.Namespace) -> dict[str, Any]:
    """Runs a part in a process group of its own, and says how it ended with the rows that it got to."""
    about = {"about": PARTS[name].about}
    if limit_s < SHORTEST_S:
        return {**about, "state": "skipped", "why": "time is up", "seconds": 0.0, "rows": []}
    began, log = time.monotonic(), options.out / f"{name}.log"
    rows_file(options.out, name).unlink(missing_ok=True)
    with open(log, "w") as output:
        process = subprocess.Popen(
            command_of(name, limit_s, options),
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment_of(options.device),
            process_group=0,
        )
        timed_out = False
        try:
            process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # Whatever it had started, too.
    code = process.wait()
    file = rows_file(options.out, name)
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    state, why = "done", ""
    if timed_out:
        state, why = "cut", f"after {limit_s:.0f} s"
    elif code != 0:
        state, why = (
            "failed",
            (log.read_text(errors="replace").strip().splitlines() or [f"exit code {code}"])[-1],
        )
    elif any("error" in row for row in rows):
        state, why = "failed", "rows with an error"
    elif rows and all("skipped" in row for row in rows):
        state, why = "skipped", rows[0]["skipped"]
    return {**about, "state": state, "why": why, "seconds": time.monotonic() - began, "rows": rows}


def command_of(name: str, limit_s: float, options: argparse.Namespace) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--out", str(options.out), "--part", name]
    command += ["--seconds", str(limit_s), "--device", options.device, "--workers", str(options.workers)]
    for option in ("weights", "pairs"):
        if value := getattr(options, option):
            command += [f"--{option}", str(value)]
    return command + (["--small"] if options.small else [])


def environment_of(device: str) -> dict[str, str]:
    """Triton's kernels run in its interpreter where there is no GPU; it chooses when it is imported."""
    return {**os.environ} | ({"TRITON_INTERPRET": "1"} if device in ("cpu", "standin") else {})


def run_part(options: argparse.Namespace) -> None:
    """Measures one part, and writes each of its rows as soon as it is there."""
    with contextlib.ExitStack() as stack:
        if options.device == "standin":
            from tests import stand_in

            from semraft.kernels.cpu import correlation_numba

            # Quicker than Triton's interpreter, which `lookups` uses itself.
            stack.enter_context(stand_in.pretended(correlation_numba))
        from benchmarks.gpu_check.setting import Setting

        part = importlib.import_module(f"benchmarks.gpu_check.{PARTS[options.part].module}")
        with open(rows_file(options.out, options.part), "w") as file:
            for row in part.measure(Setting.of(options)):
                file.write(json.dumps(row) + "\n")
                file.flush()


def rows_file(out: Path, name: str) -> Path:
    return out / f"{name}.jsonl"


def write(path: Path, text: str) -> None:
    """Whole or not at all: a check may be cut at any time."""
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(text)
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
