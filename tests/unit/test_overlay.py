"""A video's flow over its frames: one scale, the frame rate kept, a range and every n-th frame."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from semraft.cli.main import run
from semraft.config import ModelConfig
from semraft.data.files.formats import read_flow
from semraft.data.files.pictures import read_mask
from semraft.frames import Cut, frame_pairs, spread_pairs
from semraft.models.weights import build_model
from semraft.overlay import Overlay

FRAMES, RATE = 9, 12.0


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video whose frame n is as bright as 20 n."""
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), RATE, (96, 64))
    for number in range(FRAMES):
        writer.write(np.full((64, 96, 3), 20 * number, np.uint8))
    writer.release()
    return path


def numbers_of(pairs: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[int, int]]:
    return [tuple(round(float(image.mean()) / 20) for image in pair) for pair in pairs]


@pytest.mark.parametrize(
    ("cut", "expected"),
    [
        (Cut(), [(n, n + 1) for n in range(8)]),
        (Cut(2, 5), [(2, 3), (3, 4), (4, 5)]),
        (Cut(1, None, 3), [(1, 4), (4, 7)]),
        (Cut(0, 7, 4), [(0, 4)]),
    ],
)
def test_cuts(clip: Path, cut: Cut, expected: list[tuple[int, int]]) -> None:
    """Red when: a cut begins or ends a frame beside, or the frame rate stays that of all frames."""
    found = frame_pairs([clip], cut)
    assert found.count == len(expected)
    assert found.frames_per_s == pytest.approx(RATE / cut.every)
    pairs = list(found.pairs)
    assert numbers_of([(pair.image1, pair.image2) for pair in pairs]) == expected
    assert [pair.name for pair in pairs] == [f"clip_{first:06d}" for first, _ in expected]


def test_spread_pairs(clip: Path) -> None:
    """Red when: the pairs for the scale come from the beginning alone, or from outside the cut."""
    pairs = list(spread_pairs(clip, Cut(1, 7, 2), 2))
    assert numbers_of([(pair.image1, pair.image2) for pair in pairs]) == [(1, 3), (5, 7)]


def test_one_scale(tmp_path: Path) -> None:
    """Red when: a picture is scaled by its own fastest pixel."""
    overlay = Overlay(tmp_path / "a.mp4", 10.0, fastest_px=8.0)
    frame = np.full((64, 96, 3), 100, np.uint8)
    slow, fast = (
        overlay.picture(frame, np.full((64, 96, 2), (speed, 0), np.float32))[32, 20] for speed in (1, 8)
    )
    assert int(slow[0]) - int(slow[1]) < 40 < int(fast[0]) - int(fast[1])
    with pytest.raises(ValueError, match=r"one of \.mp4, \.avi, \.webm"):
        Overlay(tmp_path / "a.gif", 10.0, 1.0)


@pytest.mark.parametrize("ending", ["mp4", "webm"])
def test_predict_writes_the_overlay(
    clip: Path, tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Red when: frames or the rate get lost, or files are written that were not asked for."""
    weights, out = tmp_path / "tiny.pt", tmp_path / f"out.{ending}"
    torch.save(build_model(ModelConfig(arch="tiny"), 1).state_dict(), weights)
    files = (
        ["--out", str(tmp_path / "files"), "--formats", "backward", "untrusted"] if ending == "mp4" else []
    )
    command = ["predict", str(clip), "--overlay", str(out), "--weights", str(weights), "--num-updates", "1"]
    assert run([*command, "--frames", "0", "6", "--every", "2", *files]) == 0
    assert "6 frames/s, full colour" in capsys.readouterr().out
    video = cv2.VideoCapture(str(out))
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(RATE / 2)
    read = 0
    while video.read()[0]:
        read += 1
    assert read == 3
    written = sorted(path.name for path in (tmp_path / "files").glob("*"))
    names = [f"clip_00000{n}_{kind}" for n in (0, 2, 4) for kind in ("backward.flo", "untrusted.png")]
    assert written == (names if files else [])
    if files:
        assert read_flow(tmp_path / "files" / names[0])[0].shape == (64, 96, 2)
        assert read_mask(tmp_path / "files" / names[1]).shape == (64, 96)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "give --out DIR for files, or --overlay"),
        (["--overlay", "a.mp4", "--frames", "3", "3"], "leave 1, two are needed"),
        (["--overlay", "a.mp4", "--every", "0"], "--every is 0"),
    ],
)
def test_wrong_calls(
    clip: Path,
    options: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["predict", str(clip), *options]) == 2
    assert says in capsys.readouterr().err
