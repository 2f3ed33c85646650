"""`make gpu-check` whole on the pretended device with tiny sizes: it must work when there is a GPU."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks.gpu_check.__main__ import PARTS, environment_of, main, outcome, parsed
from benchmarks.gpu_check.table import table

from tests.e2e.test_training import ONE_THREAD

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed: it exists for Linux alone"
)
ONLY_ON_A_GPU = ("tests", "compiled")
"""Parts that a stand-in can't show; torch.compile on a CPU takes minutes."""
SLOW = ("lookups", "resume", "compiled", "speed", "feeding")
"""Parts for `make test-all`: Triton's interpreter, four trainings, a compiler, more networks, 1080p files."""


@pytest.mark.parametrize("part", sorted(PARTS))
def test_every_part_is_found(part: str) -> None:
    """Red when: a part imports a name that is no longer there; `resume` and `tests` start programs."""
    module = importlib.import_module(f"benchmarks.gpu_check.{PARTS[part].module}")
    assert callable(module.measure)


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "standin"])
def test_every_part_runs_or_says_why_not(device: str, tmp_path: Path) -> None:
    """Red when: a part meets a function that was renamed, leaves its rows out, or, on the stand-in, a tensor
    of the CPU among the device's."""
    parts = [name for name in PARTS if device == "standin" or name not in SLOW]
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--out", str(tmp_path), "--device", device]
    command += ["--small", "--minutes", "60", "--workers", "1", "--parts", *parts]
    done = subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True)
    results = json.loads((tmp_path / "results.json").read_text())
    ended = {name: (part["state"], part["why"]) for name, part in results["parts"].items()}
    assert list(ended) == parts
    for name, (state, why) in ended.items():
        expected = "skipped" if name in ONLY_ON_A_GPU else "done"
        assert state == expected, f"{name}: {state}, {why}\n{(tmp_path / f'{name}.log').read_text()[-2000:]}"
        assert bool(why) == (state == "skipped")
        assert results["parts"][name]["rows"]
    assert done.returncode == 0
    written = (tmp_path / "results.md").read_text()
    assert done.stdout == written + "\n"
    assert all(f"\n## {name}\n" in written for name in parts)

    named = {row["step"].split(":")[0] for row in results["parts"]["steps"]["rows"]}
    assert {"semraft, float32", "+ motion-model", "+ census"} <= named
    if device == "cpu":
        return
    (resumed,) = results["parts"]["resume"]["rows"]
    assert resumed["repeated bit for bit"] == resumed["resumed bit for bit"] == "yes"
    kernels = [row for row in results["parts"]["lookups"]["rows"] if "relative error" in row]
    assert {row["call"] for row in kernels} >= {"all-pairs, against float64", "on-demand, against float64"}
    assert all(row["relative error"] < 1e-5 and row["of gradients"] < 1e-5 for row in kernels)


def test_a_part_that_breaks_or_takes_too_long_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are kept. Red when: its exit code, its time limit or its last line is not looked at."""
    options = parsed(["--out", str(tmp_path), "--device", "cpu", "--small"])
    code = """
import json, os, sys, time
with open(sys.argv[1], "w") as file:
    file.write(json.dumps({"measured": 1}) + "\\n")
if sys.argv[2] == "breaks":
    sys.exit("CUDA error: an illegal memory access was encountered")
time.sleep(600)
"""
    for ending, state, why in (("breaks", "failed", "illegal memory access"), ("hangs", "cut", "after 6 s")):
        command = [sys.executable, "-c", code, str(tmp_path / "facts.jsonl"), ending]
        monkeypatch.setattr("benchmarks.gpu_check.__main__.command_of", lambda *_, command=command: command)
        found = outcome("facts", 6.0 if ending == "hangs" else 60.0, options)
        assert (found["state"], found["rows"]) == (state, [{"measured": 1}])
        assert why in found["why"]
    assert outcome("facts", 1.0, options) == {
        "about": PARTS["facts"].about,
        "state": "skipped",
        "why": "time is up",
        "seconds": 0.0,
        "rows": [],
    }


def test_columns_without_values_are_left_out() -> None:
    rows = [{"call": "a", "ms": 1.2345, "peak MB": None}, {"call": "b|c", "error": "out of memory"}]
    assert table(rows) == [
        "| call | ms | error |",
        "| --- | --- | --- |",
        "| a | 1.23 |  |",
        "| b/c |  | out of memory |",
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there to be checked")
def test_it_says_in_one_line_that_there_is_no_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "no CUDA device: nothing to check (--device cpu --small shows that it runs)\n"


def test_the_interpreter_is_for_devices_without_triton() -> None:
    assert environment_of("standin")["TRITON_INTERPRET"] == "1"
    assert environment_of("cuda").get("TRITON_INTERPRET") == os.environ.get("TRITON_INTERPRET")
