"""Submissions, read by readers that share no code with the writers: struct, zipfile, OpenCV and h5py."""

import struct
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import semraft
from semraft.cli.main import run
from semraft.config import ModelConfig
from semraft.data.files.pictures import read_image
from semraft.models.weights import build_model
from semraft.products.submission import wanted_files

SIZE = (64, 72)
FRAMES = {
    "kitti": [f"testing/image_2/00000{scene}_{frame}.png" for scene in (0, 7) for frame in (10, 11)],
    "sintel": [
        f"test/{rendering}/{scene}/frame_000{frame}.png"
        for rendering in ("clean", "final")
        for scene in ("market_1", "wall")
        for frame in (1, 2)
    ]
    + ["test/depth_viz/wall/frame_0001.png"],
    "spring": [
        f"test/0003/frame_{camera}/frame_{camera}_000{frame}.png"
        for camera in ("left", "right")
        for frame in (1, 2)
    ],
    "viper": [f"test/img/003/003_000{frame}.png" for frame in (28, 29, 30)],
}
FILES = {
    "kitti": ["flow/000000_10.png", "flow/000007_10.png"],
    "sintel": [
        f"{rendering}/{scene}/frame_0001.flo"
        for rendering in ("clean", "final")
        for scene in ("market_1", "wall")
    ],
    "spring": [
        f"0003/flow_{way}_{camera}/flow_{way}_{camera}_000{first}.flo5"
        for camera in ("left", "right")
        for way, first in (("FW", 1), ("BW", 2))
    ],
    "viper": ["003_00029.flo"],
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(build_model(ModelConfig(arch="tiny"), 1).state_dict(), path)
    return path


def make_frames(root: Path, benchmark: str) -> None:
    rng = np.random.default_rng(5)
    for name in FRAMES[benchmark]:
        noise = rng.integers(0, 256, (8, 9, 3), dtype=np.uint8)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / name), cv2.resize(noise, SIZE[::-1], interpolation=cv2.INTER_CUBIC))
    if benchmark == "viper":
        (root / "flow_frames.txt").write_text("003_00029\n")


def read_independently(benchmark: str, out: Path, name: str) -> np.ndarray:
    """A flow file as the benchmark's server reads it."""
    if benchmark == "kitti":
        with zipfile.ZipFile(out) as archive:
            stored = cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), cv2.IMREAD_UNCHANGED)
        assert stored.dtype == np.uint16
        assert (stored[..., 0] == 1).all()
        return (stored[..., :0:-1].astype(np.float32) - 2**15) / 64
    if benchmark == "spring":
        import h5py

        with h5py.File(out / name) as file:
            assert list(file) == ["flow"]
            return file["flow"][()]
    data = (out / name).read_bytes()
    tag, width, height = struct.unpack("<fii", data[:12])
    assert tag == 202021.25
    return np.frombuffer(data[12:], "<f4").reshape(height, width, 2)


@pytest.mark.parametrize("benchmark", FRAMES)
def test_submissions_are_read_back(
    benchmark: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Red when: a file is called otherwise, a direction or camera is missing, or u and v are exchanged."""
    make_frames(tmp_path / "data", benchmark)
    out = tmp_path / ("out.zip" if benchmark == "kitti" else "out")
    command = ["submit", benchmark, str(tmp_path / "data"), "--out", str(out), "--weights", str(weights)]
    assert run([*command, "--num-updates", "1", "--device", "cpu"]) == 0
    assert f"({len(FILES[benchmark])} files)" in capsys.readouterr().out
    if benchmark == "kitti":
        found = zipfile.ZipFile(out).namelist()
    else:
        found = [str(path.relative_to(out)) for path in sorted(out.rglob("*.flo*"))]
    assert sorted(found) == sorted(FILES[benchmark])
    model = semraft.load(weights)
    padding = "none" if benchmark == "kitti" else "half"
    for name, image1, image2 in wanted_files(benchmark, tmp_path / "data"):
        frames = read_image(image1), read_image(image2)
        expected = semraft.predict(model, *frames, 1, "float32", top_padding=padding)
        np.testing.assert_allclose(read_independently(benchmark, out, name), expected, atol=1 / 100)


def test_an_interrupted_submission_goes_on(weights: Path, tmp_path: Path) -> None:
    """Red when: a file that is there is predicted again, or an unfinished one is taken."""
    make_frames(tmp_path / "data", "sintel")
    out = tmp_path / "out"
    kept = out / FILES["sintel"][0]
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"kept")
    command = ["submit", "sintel", str(tmp_path / "data"), "--out", str(out), "--weights", str(weights)]
    assert run([*command, "--num-updates", "1"]) == 0
    assert kept.read_bytes() == b"kept"
    assert len(list(out.rglob("*.flo"))) == 4


@pytest.mark.parametrize(
    ("benchmark", "out", "says"),
    [
        ("kitti", "out.zip", "has no test frames of kitti"),
        ("viper", "out", "lists the pairs that VIPER scores"),
    ],
)
def test_wrong_calls(
    benchmark: str, out: str, says: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["submit", benchmark, str(tmp_path), "--out", str(tmp_path / out), "--weights", str(weights)]
    assert run(command) == 2
    assert says in capsys.readouterr().err
