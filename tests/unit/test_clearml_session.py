"""ClearML through its real SDK, without a server: what lies in the zip is what the run said."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import PATIENCE_S, make_sample

CODE = """
import sys
from pathlib import Path
from semraft.clearml_session import ClearMLSession
from semraft.tracking import Tracker

run = Path(sys.argv[1])
with Tracker(run, 1, [ClearMLSession(run, 1)]) as tracker:
    tracker.log(5, "train", {"semantic_loss": 0.25, "flow_loss_iter_000": 2.5, "epe": float("nan")})
    tracker.log(10, "kitti", {"epe_image_mean": 1.5, "fl": 7.5})
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a kept pair, tracked with a server configured that refuses connections."""
    pytest.importorskip("clearml", reason="needs the extra `clearml`")
    run = tmp_path_factory.mktemp("runs") / "base-seed3"
    (run / "pairs" / "kitti").mkdir(parents=True)
    (run / "config.json").write_text('{"optim": {"batch": 6}}')
    (run / "environment.json").write_text('{"torch": "2"}')
    (run / "per_sample.csv").write_text("split,id,epe\nkitti,000010_10,1.5\n")
    sample = make_sample(np.random.default_rng(1))
    arrays = {
        "id": np.str_("000010_10"),
        "image1": sample.image1,
        "image2": sample.image2,
        "flow_gt": sample.flow.astype(np.float16),
        "valid": sample.valid,
        "flow": sample.flow.astype(np.float16),
    }
    np.savez(run / "pairs" / "kitti" / "000010_10.npz", **arrays)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLEARML")}
    environment |= {
        "HOME": str(run.parent),
        "CLEARML_API_HOST": "http://127.0.0.1:9",
        "CLEARML_API_ACCESS_KEY": "key",
        "CLEARML_API_SECRET_KEY": "secret",
    }
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(run)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    assert "no ClearML server" in done.stderr
    return run


@pytest.fixture(scope="module")
def session(run: Path) -> zipfile.ZipFile:
    (path,) = (run / "clearml").iterdir()
    return zipfile.ZipFile(path)


def events(session: zipfile.ZipFile) -> list[dict[str, Any]]:
    text = session.read("metrics.jsonl").decode()
    return [event for line in text.splitlines() for event in json.loads(line)]


def test_scalars_have_the_names_of_the_study(session: zipfile.ZipFile) -> None:
    """Old and new runs stand side by side. Red when: a name is prefixed, or NaN is reported as a number."""
    found = {
        (event["metric"], event["variant"], event["iter"], event["value"])
        for event in events(session)
        if event["type"] == "training_stats_scalar"
    }
    assert found == {
        ("semantic_loss", "semantic_loss", 5, 0.25),
        ("flow_loss_iter_000", "flow_loss_iter_000", 5, 2.5),
        ("kitti-epe", "kitti-epe", 10, 1.5),
        ("kitti-f1", "kitti-f1", 10, 7.5),
    }


def test_configuration_pictures_and_files_are_there(session: zipfile.ZipFile) -> None:
    """Red when: the configuration is not the run's file, or an artifact or a kept pair is left out."""
    task = json.loads(session.read("task.json"))
    assert task["name"] == "base-seed3"
    assert json.loads(task["configuration"]["config"]["value"]) == {"optim": {"batch": 6}}
    assert json.loads(task["configuration"]["environment"]["value"]) == {"torch": "2"}
    names = session.namelist()
    artifacts = {artifact["key"] for artifact in task["execution"]["artifacts"]}
    assert artifacts == {"config.json", "environment.json", "metrics.jsonl", "per_sample.csv"}
    (table,) = (name for name in names if name.endswith("/per_sample.csv"))
    assert session.read(table).startswith(b"split,id,epe")
    (picture,) = (event for event in events(session) if event["type"] == "training_debug_image")
    assert (picture["metric"], picture["variant"], picture["iter"]) == ("kitti", "000010_10", 10)
    assert [name for name in names if name.endswith(".jpeg") and "000010_10" in name]


def test_nothing_is_left_in_the_home_folder(run: Path, session: zipfile.ZipFile) -> None:
    """Red when: every run leaves a copy of its session in ~/.clearml."""
    assert not list((run.parent / ".clearml").rglob("offline-*"))
