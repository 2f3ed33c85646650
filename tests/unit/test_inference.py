"""Networks at work: shapes, padding, and which frames make a pair."""

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
import torch

import semraft
from semraft import inference
from semraft.config import ModelConfig
from semraft.data.formats import read_flow
from semraft.data.pictures import read_ids, read_mask, write_image
from semraft.models.build import build_model
from semraft.sample import Estimate


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return semraft.raft_tiny().eval()


def frame(rng: np.random.Generator, height: int = 70, width: int = 93) -> np.ndarray:
    noise = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def test_predict_is_the_last_refinement(model: torch.nn.Module, rng: np.random.Generator) -> None:
    image1, image2 = frame(rng), frame(rng)
    flow = semraft.predict(model, image1, image2, num_updates=3)
    flows = inference.estimate(model, image1, image2, 3).flows
    assert flow.shape == (70, 93, 2)
    assert flow.dtype == np.float32
    assert len(flows) == 3
    np.testing.assert_allclose(flow, flows[-1], atol=1e-4)


@pytest.mark.parametrize(("top_padding", "top"), [("half", 1), ("none", 0)])
def test_padding_is_undone_where_it_was_added(
    model: torch.nn.Module, rng: np.random.Generator, top_padding: Literal["half", "none"], top: int
) -> None:
    """70 x 93 is padded to 72 x 96: one left, two right. Red when the window is cut at the wrong place."""
    image1, image2 = frame(rng), frame(rng)
    padded = [
        cv2.copyMakeBorder(image, top, 2 - top, 1, 2, cv2.BORDER_REPLICATE) for image in (image1, image2)
    ]
    whole = inference.estimate(model, padded[0], padded[1], 2).flows[-1]
    flow = inference.decided(inference.on_device(model, image1, image2, 2, top_padding=top_padding)).flows[-1]
    np.testing.assert_allclose(flow, whole[top : top + 70, 1:94], atol=1e-5)


def test_a_training_model_goes_on_training(rng: np.random.Generator) -> None:
    model = semraft.raft_tiny().train()
    semraft.predict(model, frame(rng), frame(rng), num_updates=1)
    assert model.training


def names(folder: Path, stems: list[str]) -> list[str]:
    for stem in stems:
        write_image(folder / f"{stem}.png", np.zeros((8, 9, 3), dtype=np.uint8))
    _, pairs = inference.frame_pairs([folder])
    return [pair.name for pair in pairs]


def test_a_folder_is_taken_in_natural_order(tmp_path: Path) -> None:
    """Red when sorted as text: frame10 would come before frame2."""
    assert names(tmp_path, ["frame10", "frame2", "frame1"]) == ["frame1", "frame2"]


def test_kitti_frames_are_paired_by_their_number(tmp_path: Path) -> None:
    """Consecutive pairing would match 000000_11 with 000001_10: another street."""
    stems = ["000000_10", "000000_11", "000001_10", "000001_11", "000002_10"]
    assert names(tmp_path, stems) == ["000000_10", "000001_10"]


def test_a_video_gives_its_consecutive_frames(tmp_path: Path) -> None:
    path = tmp_path / "drive.avi"
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    for level in (40, 120, 200):
        video.write(np.full((64, 96, 3), (0, 0, level), dtype=np.uint8))  # BGR: red.
    video.release()
    count, pairs = inference.frame_pairs([path])
    listed = list(pairs)
    assert count == len(listed) == 2
    assert [pair.name for pair in listed] == ["drive_000000", "drive_000001"]
    assert np.abs(listed[0].image2.mean((0, 1)) - (120, 0, 0)).max() < 4  # Red: RGB, not BGR.


def test_what_is_written_can_be_read(tmp_path: Path, rng: np.random.Generator) -> None:
    flow = rng.normal(0, 20, (12, 17, 2)).astype(np.float32)
    inference.write_prediction(tmp_path, "a", Estimate(flows=[flow]), ("flo", "kitti", "color"))
    np.testing.assert_array_equal(read_flow(tmp_path / "a.flo")[0], flow)
    np.testing.assert_allclose(read_flow(tmp_path / "a_kitti.png", encoding="kitti")[0], flow, atol=1 / 128)
    assert (tmp_path / "a_flow.png").exists()


def test_what_heads_say_is_written(tmp_path: Path, rng: np.random.Generator) -> None:
    """Of 70 x 93, which is padded. Red when: the window is not cut, or frame 2's labels are written."""
    heads = build_model(ModelConfig(arch="tiny", heads=("occlusion", "decoder")), 1)
    images = frame(rng), frame(rng)
    found = inference.estimate(heads, *images, 2, keep="last")
    inference.write_prediction(tmp_path, "a", found, ())
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
    with pytest.warns(UserWarning, match="1 pixels"):
        inference.write_prediction(tmp_path, "a", Estimate(flows=[flow]), ("kitti",))


@pytest.mark.parametrize("inputs", [[], ["a.png"], ["a.png", "b.png", "c.png"], ["notes.txt"]])
def test_other_inputs_are_refused(tmp_path: Path, inputs: list[str]) -> None:
    for name in inputs:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match="two images"):
        inference.frame_pairs([tmp_path / name for name in inputs])
