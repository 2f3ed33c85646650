"""Pre-training in miniature, as `make weights-gpu` runs it: short sittings, machines that keep nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import semraft
from tests.e2e.test_training import ONE_THREAD
from tests.helpers import PATIENCE_S

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "pretrain.py"
SMALL = [
    *("--data.crop", "64", "96", "--data.shapes.size", "64", "96", "--data.world.size", "64", "96"),
    *("--optim.steps", "2", "--optim.batch", "1", "--num-updates", "2", "--validation-updates", "2"),
    *("--data.validation-pairs", "2", "--log-every", "1", "--device", "cpu", "--precision", "float32"),
]


def pretrain(*arguments: str) -> str:
    command = [sys.executable, str(SCRIPT), "--chain", "gpu", *arguments, *SMALL]
    done = subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_chain_ends_wherever_its_sittings_are(tmp_path: Path) -> None:
    """At one go; then again from the file that was carried. Red when: a stage is done twice or left out, the
    weights of one are not the start of the next, or an option is no option any more."""
    carried = str(tmp_path / "carried.pt")
    alone = pretrain("--out", str(tmp_path / "a"), "--carry", carried)
    assert "all stages are finished" in alone
    card = json.loads((tmp_path / "a" / "milestone.json").read_text())
    stages = [f"pretrain-gpu-{number}" for number in (1, 2, 3)]
    assert [entry["recipe"] for entry in card["curve"]] == stages
    assert set(card["scores"]) == {"shapes-val", "world-val"}
    model = semraft.load(tmp_path / "a" / "milestone.safetensors")
    assert model.arch == "small"
    config = json.loads((tmp_path / "a" / stages[2] / "config.json").read_text())
    assert config["model"]["weights"] == str(tmp_path / "a" / stages[1] / "checkpoints" / "last.pt")
    assert "all stages are finished" in pretrain("--out", str(tmp_path / "b"), "--carry", carried)
    assert [folder.name for folder in (tmp_path / "b").iterdir() if folder.is_dir()] == [stages[-1]]
