"""Stands for `semraft train` as a study's launcher: the same files in the same order, in milliseconds.

Called with the command it replaces. What it should do wrong is in FAKE, a JSON object in the environment;
`wait_for` names a file without which it does not take its third step.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path


def main() -> None:
    wrong = json.loads(os.environ.get("FAKE", "{}"))
    arguments = sys.argv[sys.argv.index("train") + 1 :]
    resume = arguments[0] == "--resume"
    run = Path(arguments[1] if resume else arguments[arguments.index("--output") + 1])
    config = json.loads((run / "config.json" if resume else Path(arguments[1])).read_text())
    if "--model.weights" in arguments:
        config["model"]["weights"] = arguments[arguments.index("--model.weights") + 1]
        assert Path(config["model"]["weights"]).is_file()
    seed, steps = config["seed"], config["optim"]["steps"]
    if wrong.get("stubborn"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    last = run / "checkpoints" / "last.pt"
    if not resume:
        last.parent.mkdir(parents=True)
        (run / "config.json").write_text(json.dumps({**config, "precision": "float32"}))
        shown = 0 if wrong.get("duplicate_seeds") else seed
        prints = {name: f"{name} {shown}" for name in ("initial_weights", "sample_order", "first_batches")}
        record = {"data": {"train": [], "validation": {}}, "fingerprints": prints}
        (run / "environment.tmp").write_text(json.dumps(record))
        (run / "environment.tmp").rename(run / "environment.json")
    first = int(last.read_text()) if resume else 0
    for step in range(first + 1, steps + 1):
        while step == 3 and "wait_for" in wrong and not Path(wrong["wait_for"]).exists():
            time.sleep(0.02)
        time.sleep(wrong.get("step_s", 0.01))
        if wrong.get("fails") == run.name and step == 2:
            print("semraft train: loss not finite at step 2", file=sys.stderr)
            sys.exit(1)
        with open(run / "metrics.jsonl", "a") as file:
            file.write(
                json.dumps({"step": step, "split": "train", "pid": os.getpid(), "epe": 1 / step}) + "\n"
            )
        (run / "partial").write_text(str(step))
        (run / "partial").rename(last)
    final = last.with_name(f"step-{steps:06d}.pt")
    final.write_text(str(steps))
    os.link(final, run / "partial")
    (run / "partial").rename(last)
    names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "SLURM_NTASKS", "RANK")
    (run / "saw.json").write_text(json.dumps({name: os.environ.get(name) for name in names}))


if __name__ == "__main__":
    main()
