"""Pre-trains RAFT small, stage after stage, in any number of sittings: `make weights`, `make weights-gpu`.

    python benchmarks/pretrain.py --out FOLDER --minutes M [--chain cpu|gpu] [--device auto]
                                  [--carry FILE] [--stage NAME --weights FILE] [OPTION OF semraft train ...]

Goes on where the last sitting ended: FOLDER holds a run for each stage (`semraft recipes`: pretrain-...), and
each stage starts from the last weights of the one before. Every --milestone-minutes and at the end of the
sitting it writes FOLDER/milestone.safetensors, in half precision and in the public layout, and its card,
milestone.json. With --stage and --weights a new chain starts at that stage from that file.

--carry FILE is for machines that keep nothing: one file below 16 MB that the sitting ends with, and that the
next one goes on from where FOLDER is empty. The moments of AdamW are bfloat16 in it, all else is exact: going
on from it is sound but not the same to the bit.
"""

import argparse
import json
import math
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from semraft import tracking
from semraft.cli.main import OUT_OF_TIME
from semraft.config import load_config
from semraft.config.pretraining import CHAINS
from semraft.models.weights import half_precision
from semraft.records import read_lines
from semraft.run_records import MetricsLine

CARD, MILESTONE = "milestone.json", "milestone.safetensors"
CARRIED_FILES = (tracking.CONFIG, tracking.ENVIRONMENT, tracking.METRICS)
"""The texts of a run that a carried file has beside its checkpoint."""
MOMENTS = ("exp_avg", "exp_avg_sq")
SPARE_S = 20.0
"""Less is left of a sitting: no training is begun any more."""


def last_checkpoint(run: Path) -> Path:
    return run / tracking.CHECKPOINTS / "last.pt"


def is_finished(run: Path) -> bool:
    step = torch.load(last_checkpoint(run), weights_only=True, map_location="cpu")["step"]
    return bool(step >= load_config(run / tracking.CONFIG).optim.steps)


def latest_stage(out: Path, stages: list[str]) -> str | None:
    """The last stage that has a checkpoint."""
    begun = [stage for stage in stages if last_checkpoint(out / stage).exists()]
    return begun[-1] if begun else None


def next_command(out: Path, stages: list[str], first: str, weights: str, options: list[str]) -> list[str]:
    """The arguments of `semraft` that go on with the chain; none where all stages are finished."""
    latest = latest_stage(out, stages)
    if latest is not None and not is_finished(out / latest):
        return ["train", "--resume", str(out / latest)]
    if latest is not None:
        following = stages[stages.index(latest) + 1 :]
        if not following:
            return []
        first, weights = following[0], str(last_checkpoint(out / latest))
    shutil.rmtree(out / first, ignore_errors=True)  # A sitting that ended before its first checkpoint.
    start = ["--model.weights", weights] if weights else []
    return ["train", first, *start, "--output", str(out / first), *options]


def train(command: list[str], minutes: float, every_minutes: float, keep: Callable[[], None]) -> int:
    """Runs a training for so long, calls `keep` every so many minutes, and gives its exit code.

    SIGTERM and Ctrl-C let it end with a checkpoint. It has a session of its own: it would otherwise hear of
    Ctrl-C twice, and a second time means at once.
    """
    called = [sys.executable, "-m", "semraft", *command, "--max-minutes", f"{minutes:.2f}"]
    process = subprocess.Popen(called, start_new_session=True)
    try:
        while True:
            try:
                return process.wait(60 * every_minutes if math.isfinite(every_minutes) else None)
            except subprocess.TimeoutExpired:
                keep()
    except KeyboardInterrupt:
        process.terminate()
        return process.wait()


def write_milestone(out: Path, stages: list[str], sitting: dict[str, float]) -> dict[str, Any]:
    """Writes the latest weights in half precision, and the card that says what they are."""
    stage = latest_stage(out, stages)
    assert stage is not None
    run = out / stage
    saved = torch.load(last_checkpoint(run), weights_only=True, map_location="cpu")
    with tracking.whole_file(out / MILESTONE) as file:
        file.write(half_precision(saved["model"], "princeton", saved["arch"]))
    config, environment = (
        load_config(run / tracking.CONFIG),
        json.loads((run / tracking.ENVIRONMENT).read_text()),
    )
    metrics = read_lines(run / tracking.METRICS, MetricsLine).records
    scored = {line["split"]: line for line in metrics if line["split"] != "train"}
    kept = ("step", "epe", "1px", "fl")
    card = {
        "about": f"{config.data.train}; {stage}, step {saved['step']} of {config.optim.steps}",
        "recipe": stage,
        "step": saved["step"],
        "steps": config.optim.steps,
        "seed": config.seed,
        "arch": saved["arch"],
        "refinements": saved["validation_updates"],
        "layout": "princeton",
        **{name: round(hours, 3) for name, hours in sitting.items()},
        "commit": environment["commit"],
        "data": environment["data"]["train"],
        "scores": {split: {name: line[name] for name in kept} for split, line in scored.items()},
    }
    card["limits"] = "Not known: judged on made scenes alone. benchmarks/real_frames.py judges on real ones."
    point = {name: card[name] for name in ("recipe", "step", "scores")}
    before = [earlier for earlier in read_card(out).get("curve", []) if earlier != point]
    card["curve"] = [*before, point]
    tracking.write_text(out / CARD, json.dumps(card, indent=1) + "\n")
    return card


def read_card(out: Path) -> dict[str, Any]:
    """The card of the last milestone; empty before the first."""
    return json.loads((out / CARD).read_text()) if (out / CARD).exists() else {}


def pack(out: Path, stages: list[str], carried: Path) -> None:
    """Writes the one file that the next sitting goes on from."""
    stage = latest_stage(out, stages)
    assert stage is not None
    run = out / stage
    saved = torch.load(last_checkpoint(run), weights_only=True, map_location="cpu")
    for moments in saved["optimizer"]["state"].values():
        moments |= {name: moments[name].bfloat16() for name in MOMENTS}
    texts = {name: (run / name).read_text() for name in CARRIED_FILES if (run / name).exists()}
    content = {"stage": stage, "checkpoint": saved, "texts": texts, "card": json.dumps(read_card(out))}
    with tracking.whole_file(carried) as file:
        torch.save(content, file)


def unpack(carried: Path, out: Path) -> None:
    """Lays out the run that a carried file holds."""
    content = torch.load(carried, weights_only=True, map_location="cpu")
    run = out / content["stage"]
    (run / tracking.CHECKPOINTS).mkdir(parents=True)
    for name, text in content["texts"].items():
        tracking.write_text(run / name, text)
    for moments in content["checkpoint"]["optimizer"]["state"].values():
        moments |= {name: moments[name].float() for name in MOMENTS}
    with tracking.whole_file(last_checkpoint(run)) as file:
        torch.save(content["checkpoint"], file)
    tracking.write_text(out / CARD, content["card"])


def hours_so_far(before: dict[str, Any], began_s: float) -> dict[str, float]:
    """Wall-clock hours of all sittings, and hours of a core that trainings which have ended took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = {"hours": time.monotonic() - began_s, "core_hours": used.ru_utime + used.ru_stime}
    return {name: before.get(name, 0.0) + seconds / 3600 for name, seconds in own.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--milestone-minutes", type=float, default=math.inf)
    parser.add_argument("--chain", choices=sorted(CHAINS), default="cpu")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--carry", type=Path)
    parser.add_argument("--stage", default="")
    parser.add_argument("--weights", default="")
    arguments, options = parser.parse_known_args()
    out, stages = arguments.out, list(CHAINS[arguments.chain])
    began_s = time.monotonic()
    if arguments.stage not in ("", *stages):
        parser.error(f"--stage {arguments.stage}: the stages are {', '.join(stages)}")
    out.mkdir(parents=True, exist_ok=True)
    if arguments.carry and arguments.carry.exists() and latest_stage(out, stages) is None:
        unpack(arguments.carry, out)
    before = read_card(out)
    options = ["--device", arguments.device, *options]

    def keep() -> None:
        if latest_stage(out, stages) is None:  # Before the first checkpoint.
            return
        card = write_milestone(out, stages, hours_so_far(before, began_s))
        shown = {name: value for name, value in card.items() if name != "curve"}
        print(f"{out / MILESTONE}: {json.dumps(shown)}", flush=True)
        if arguments.carry:
            pack(out, stages, arguments.carry)

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    while True:
        left_s = 60 * arguments.minutes - (time.monotonic() - began_s)
        command = next_command(out, stages, arguments.stage or stages[0], arguments.weights, options)
        if not command or left_s < SPARE_S:
            break
        code = train(command, left_s / 60, arguments.milestone_minutes, keep)
        keep()  # Also of a training that failed: its last checkpoint is sound.
        if code not in (0, OUT_OF_TIME):
            sys.exit(code)
    print("all stages are finished" if not command else "the time is up: the same command goes on")


if __name__ == "__main__":
    main()
