"""Where people meet semraft first: torch.hub, a notebook, a shell, a browser."""

import json
import subprocess
import threading
import urllib.error
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import semraft
from semraft.cli.completion import completion_script
from semraft.cli.main import COMMANDS, GROUPS
from semraft.config import ModelConfig
from semraft.inference import FlowArray
from semraft.models.weights import build_model
from semraft.report.viewer import Pages, make_server
from tests.unit.analysis.fake_runs import make_run

ROOT = Path(__file__).parents[2]


def test_dir_shows_what_there_is() -> None:
    """Red when: a notebook's completion lists none of the names that are looked up on first use."""
    assert {*semraft.__all__, "losses", "metrics"} == set(dir(semraft))


def test_torch_hub(tmp_path: Path) -> None:
    """Red when: hubconf.py lacks an entry, or a named dependency is not there."""
    state = build_model(ModelConfig(arch="small"), 3).state_dict()
    torch.save(state, tmp_path / "small.pt")
    model = torch.hub.load(str(ROOT), "raft_small", source="local", weights=str(tmp_path / "small.pt"))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_flow_is_shown_as_a_picture() -> None:
    """Red when: red and blue are exchanged, or a component is shown as if it were a flow."""
    flow = np.zeros((4, 6, 2), np.float32).view(FlowArray)
    flow[..., 0] = 5
    shown = flow._repr_png_()
    assert shown is not None
    picture = cv2.imdecode(np.frombuffer(shown, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (4, 6, 3)
    assert (picture == (0, 0, 255)).all()  # To the right is red; OpenCV's order is B, G, R.
    assert flow[..., 0]._repr_png_() is None


def test_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells, one after another. Red when: a name has gone, or the last line of a cell shows nothing."""
    monkeypatch.chdir(tmp_path)
    torch.save(build_model(ModelConfig(arch="small"), 1).state_dict(), "raft-small.pth")
    rng = np.random.default_rng(0)
    for name in ("frame1.png", "frame2.png"):
        cv2.imwrite(name, rng.integers(0, 256, (64, 72, 3), dtype=np.uint8))
    notebook = json.loads((ROOT / "docs" / "notebooks" / "two-images.ipynb").read_text())
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert isinstance(names["flow"], FlowArray)
    assert semraft.read_flow("flow.flo")[0].shape == (64, 72, 2)


def completed(script: Path, *words: str) -> list[str]:
    """Completions that bash offers for the last word."""
    line = " ".join(f"'{word}'" for word in ("semraft", *words))
    program = (
        f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _semraft; echo ${{COMPREPLY[@]}}"
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_completion(tmp_path: Path) -> None:
    """Red when: a command, an option or a recipe is missing, or one command gets the words of another."""
    script = tmp_path / "completion.sh"
    script.write_text(completion_script(COMMANDS))
    assert {command.split()[0] for command in COMMANDS} == set(completed(script, ""))
    assert set(GROUPS) <= set(completed(script, ""))
    assert completed(script, "data", "ch") == ["check"]
    assert completed(script, "data", "check", "--list") == ["--list-bad"]
    assert completed(script, "predict", "a.png", "--ov") == ["--overlay"]
    assert "world-base" in completed(script, "train", "world-")
    assert "--model.weights" in completed(script, "train", "world-base", "--model.")


def test_view_serves_pictures_and_nothing_else(tmp_path: Path) -> None:
    """Red when: a file outside the folder, or one that is no picture, is handed out."""
    folder = tmp_path / "flow"
    (folder / "scene").mkdir(parents=True)
    cv2.imwrite(str(folder / "scene" / "a b_flow.png"), np.zeros((4, 4, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "secret.png"), np.zeros((4, 4, 3), np.uint8))
    (folder / "notes.txt").write_text("private")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    with make_server(folder, 0) as server:
        host, port = server.server_address[:2]
        assert host == "127.0.0.1"
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def get(path: str, host: str = "127.0.0.1") -> tuple[int, bytes]:
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}{path}", headers={"Host": f"{host}:{port}"}
            )
            try:
                with urllib.request.urlopen(request) as answer:
                    return answer.status, answer.read()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, b""

        status, page = get("/")
        assert (status, b"scene/a%20b_flow.png" in page, b"notes.txt" in page) == (200, True, False)
        assert get("/scene/a%20b_flow.png")[0] == 200
        for path in (
            "/../secret.png",
            "/%2e%2e/secret.png",
            "/link.png",
            "/notes.txt",
            "/scene",
            "/gone.png",
        ):
            assert get(path)[0] == 404, path
        assert get("/", host="elsewhere.example")[0] == 403
        server.shutdown()


def test_view_writes_the_report_anew(tmp_path: Path) -> None:
    """Red when: the page of a run that goes on stays as it was."""
    run = make_run(tmp_path / "run")
    pages = Pages(run)
    first = pages.current()
    assert b"<html" in first
    assert pages.current() is first
    pages.written_for -= 1
    assert pages.current() is not first
