"""Files of a prediction, what is said of a flow without truth, and the command's exit codes."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import semraft
from semraft import shipped
from semraft.cli import main
from semraft.config import ModelConfig
from semraft.data.files.formats import read_flow
from semraft.data.files.pictures import read_ids, read_image, read_mask, write_image
from semraft.data.world.driving_scene import scene
from semraft.frames import FramePair
from semraft.inference import estimate
from semraft.models.weights import build_model
from semraft.prediction import contact_sheet, undone_refinements, untrusted, write_prediction
from semraft.sample import Estimate


def picture(rng: np.random.Generator, height: int = 70, width: int = 93) -> np.ndarray:
    noise = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def shifted(rng: np.random.Generator, right_px: int) -> tuple[FramePair, np.ndarray]:
    """A pair whose second frame is the first moved to the right, and its flow."""
    wide = picture(rng, 72, 120)
    pair = FramePair("a", wide[:, 20:116], wide[:, 20 - right_px : 116 - right_px])
    flow = np.zeros((72, 96, 2), np.float32)
    flow[..., 0] = right_px
    return pair, flow


def test_files_can_be_read_back(tmp_path: Path, rng: np.random.Generator) -> None:
    flow = rng.normal(0, 20, (12, 17, 2)).astype(np.float32)
    pair = FramePair("scene/a", np.zeros((12, 17, 3), np.uint8), np.zeros((12, 17, 3), np.uint8))
    found = Estimate(flows=[flow], backward_flow=-flow)
    write_prediction(tmp_path, pair, found, ("flo", "kitti", "color", "sheet"))
    place = tmp_path / "scene"
    np.testing.assert_array_equal(read_flow(place / "a.flo")[0], flow)
    np.testing.assert_allclose(read_flow(place / "a_kitti.png", encoding="kitti")[0], flow, atol=1 / 128)
    assert read_image(place / "a_flow.png").shape == (12, 17, 3)
    assert read_image(place / "a_sheet.png").shape == (2 * (24 + 12), 2 * 17, 3)


def test_outputs_of_heads_are_written(tmp_path: Path, rng: np.random.Generator) -> None:
    """Of 70 x 93, which is padded. Red when: the window is not cut, or frame 2's labels are written."""
    heads = build_model(ModelConfig(arch="tiny", heads=("occlusion", "decoder")), 1)
    pair = FramePair("a", picture(rng), picture(rng))
    found = estimate(heads, pair.image1, pair.image2, 2, keep="last")
    write_prediction(tmp_path, pair, found, ())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a_labels.png", "a_occlusion.png"]
    labels, occluded = read_ids(tmp_path / "a_labels.png"), read_mask(tmp_path / "a_occlusion.png")
    assert labels.shape == occluded.shape == (70, 93)
    np.testing.assert_array_equal(labels, found.labels1)
    np.testing.assert_array_equal(occluded, found.occluded1)
    assert (found.labels1 != found.labels2).any()
    assert len(np.unique(labels)) > 1


def test_pixels_a_format_cannot_hold_are_told(tmp_path: Path) -> None:
    flow = np.zeros((12, 17, 2), dtype=np.float32)
    flow[3, 4] = 700
    pair = FramePair("a", np.zeros((12, 17, 3), np.uint8), np.zeros((12, 17, 3), np.uint8))
    with pytest.warns(UserWarning, match="1 pixels"):
        write_prediction(tmp_path, pair, Estimate(flows=[flow]), ("kitti",))


def test_the_backward_flow_is_that_of_the_frames_exchanged(rng: np.random.Generator) -> None:
    """In float64. Red when: its window is cut elsewhere, or frames are mixed up."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = semraft.raft_tiny().double()
    image1, image2 = picture(rng), picture(rng)
    found = estimate(model, image1, image2, 3, backward=True)
    exchanged = estimate(model, image2, image1, 3)
    assert found.backward_flow is not None
    np.testing.assert_allclose(found.backward_flow, exchanged.flows[-1], atol=1e-5)
    assert estimate(model, image1, image2, 1).backward_flow is None


def test_late_refinements_that_undo_earlier_ones_are_found(rng: np.random.Generator) -> None:
    """Also under a change of exposure. Red when: residuals are not compared along the flow."""
    pair, truth = shifted(rng, 5)
    dark = FramePair("a", pair.image1, (0.7 * pair.image2).astype(np.uint8))
    flows = [0 * truth, truth, truth + 0.1, 3 * truth]
    for frames in (pair, dark):
        undone = undone_refinements(frames, flows)
        assert undone is not None
        assert undone.best == 2
        assert undone.best_residual < undone.last_residual
        assert undone_refinements(frames, flows[:3]) is None


def test_pixels_without_a_way_back_are_not_trusted(rng: np.random.Generator) -> None:
    _, flow = shifted(rng, 5)
    mask = untrusted(flow, -flow)
    np.testing.assert_array_equal(mask[:, -5:], True)  # These leave the frame.
    assert not mask[:, :-5].any()
    assert untrusted(flow, flow).all()


def test_the_sheet_marks_doubtful_pixels(rng: np.random.Generator) -> None:
    pair, flow = shifted(rng, 5)
    doubtful = np.zeros((72, 96), bool)
    doubtful[10:20, 30:40] = True
    sheet = contact_sheet(pair, flow, doubtful)
    marked = sheet[24 + 72 + 24 :, 96:]
    assert (marked[doubtful] != pair.image1[doubtful]).any(-1).all()
    np.testing.assert_array_equal(marked[~doubtful], pair.image1[~doubtful])
    np.testing.assert_array_equal(sheet[24 : 24 + 72, :96], pair.image1)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file of a tiny network that was validated with two refinements."""
    path = tmp_path / "tiny.pt"
    state = {"semraft": 1, "arch": "tiny", "model": semraft.raft_tiny().state_dict(), "validation_updates": 2}
    torch.save(state, path)
    return path


def run(*arguments: str | Path) -> int:
    return main.run([*map(str, arguments), "--device", "cpu"])


def test_the_command_writes_a_pair(tmp_path: Path, weights: Path, rng: np.random.Generator) -> None:
    """Weights first or by option: the same files. Red when: a format is left out of a single pair's."""
    for name in ("f1.png", "f2.png"):
        write_image(tmp_path / name, picture(rng))
    frames = tmp_path / "f1.png", tmp_path / "f2.png"
    assert run("predict", weights, *frames, "--out", tmp_path / "one") == 0
    assert run("predict", *frames, "--weights", weights, "--out", tmp_path / "other") == 0
    written = [sorted(path.name for path in (tmp_path / out).iterdir()) for out in ("one", "other")]
    assert written[0] == written[1] == ["f1.flo", "f1_flow.png", "f1_kitti.png", "f1_sheet.png"]
    assert (tmp_path / "one" / "f1.flo").read_bytes() == (tmp_path / "other" / "f1.flo").read_bytes()


def test_the_command_fails_where_nothing_is_written(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Red when: a folder whose frames have no partners ends with exit code 0."""
    frames = tmp_path / "frames"
    frames.mkdir()
    for name in ("000000_10.png", "000001_10.png"):
        write_image(frames / name, np.zeros((64, 64, 3), np.uint8))
    assert run("predict", weights, frames, "--out", tmp_path / "out") == 1
    said = capsys.readouterr()
    assert "000000_10.png: no partner" in said.err
    assert "000001_10.png: no partner" in said.err
    assert "0 of 0 pairs, 2 frames" in said.out


def test_unknown_weights_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("f1.png", "f2.png"):
        write_image(tmp_path / name, np.zeros((64, 64, 3), np.uint8))
    frames = tmp_path / "f1.png", tmp_path / "f2.png"
    assert run("predict", *frames, "--weights", "nobody", "--out", tmp_path / "out") == 2
    assert re.fullmatch(
        r"semraft predict: no weights are called 'nobody'.*`semraft weights`.*\n", capsys.readouterr().err
    )


def test_weights_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["weights"]) == 0
    said = capsys.readouterr().out
    for name in (*shipped.shipped_names(), *shipped.PUBLIC_FILES):
        assert name in said


@pytest.mark.parametrize("name", shipped.shipped_names())
def test_shipped_weights_load_and_say_what_they_are(name: str) -> None:
    """Red when: a card lacks what a person needs to trust the weights, or the wheel would exceed 2.2 MB."""
    model = semraft.load(name)
    card = shipped.card(name)
    assert {"arch", "about", "recipe", "seed", "data", "hours", "scores", "limits"} <= card.keys()
    assert model.arch == card["arch"]
    assert (shipped.HERE / f"{name}.safetensors").stat().st_size <= 2.2e6


def test_shipped_weights_see_motion() -> None:
    """On eight driving scenes they err by less than 0.7 of zero flow, after 6 refinements as after 12.

    Red when: the file is of another layout, its numbers are lost in half precision, or it runs away.
    """
    model = semraft.load()
    errors_px = np.zeros((8, 3))
    for number in range(8):
        made = scene(11, number, (128, 256), "val")
        for column, updates in enumerate((6, 12)):
            flow = semraft.predict(model, made.image1, made.image2, num_updates=updates)
            errors_px[number, column] = np.linalg.norm(flow - made.flow, axis=-1)[made.valid].mean()
        errors_px[number, 2] = np.linalg.norm(made.flow, axis=-1)[made.valid].mean()
    after_6, after_12, zero = errors_px.mean(axis=0)
    assert max(after_6, after_12) < 0.7 * zero


def test_weights_without_a_name_are_the_shipped_ones_and_say_what_they_are_bad_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Red when: predict needs a checkpoint, or the warning of a card is lost."""
    for name in ("f1.png", "f2.png"):
        write_image(tmp_path / name, np.zeros((64, 64, 3), np.uint8))
    frames = tmp_path / "f1.png", tmp_path / "f2.png"
    options = ("--num-updates", 1, "--formats", "flo")
    assert run("predict", *frames, "--out", tmp_path / "out", *options) == 0
    assert (tmp_path / "out" / "f1.flo").exists()
    said = shipped.card("small").get("warning", "")
    assert (f"! {said}" in capsys.readouterr().err) == bool(said)
