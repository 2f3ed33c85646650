"""Trained networks at work: shapes, padding, refinements, and inputs that are refused."""

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch

import semraft
from semraft import inference
from semraft.sample import DamagedFile


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


def test_predict_refines_as_often_as_the_weights_were_validated_with(rng: np.random.Generator) -> None:
    """Red when: a network validated with 3 refinements is run with RAFT's 24, and drifts."""
    tensors = {
        "semraft": 1,
        "arch": "tiny",
        "model": semraft.raft_tiny().state_dict(),
        "validation_updates": 3,
    }
    model = semraft.load(tensors)
    images = frame(rng), frame(rng)
    flow = semraft.predict(model, *images)
    np.testing.assert_array_equal(flow, semraft.predict(model, *images, num_updates=3))
    assert (flow != semraft.predict(model, *images, num_updates=4)).any()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((70, 93, 3), np.float32),
        np.full((70, 93, 3), np.nan),
        np.zeros((70, 93), np.uint8),
        np.zeros((3, 70, 93), np.uint8),
        torch.zeros(70, 93, 3),
    ],
    ids=["0..1", "NaN", "grey", "channels first", "tensor"],
)
def test_images_that_are_no_pictures_are_refused(
    model: torch.nn.Module, rng: np.random.Generator, image: object
) -> None:
    """Red when: a frame in 0..1 is taken for a black one in 0..255."""
    with pytest.raises(ValueError, match=r"image2: expected a uint8 array H W 3 .* got"):
        semraft.predict.__wrapped__(model, frame(rng), image)  # type: ignore[attr-defined]


def test_weights_that_are_not_finite_are_refused() -> None:
    state = semraft.raft_tiny().state_dict()
    state["update_block.flow_head.2.bias"][0] = torch.nan
    with pytest.raises(ValueError, match=r"NaN or Inf, in update_block.flow_head.2.bias"):
        semraft.load(state)


def test_half_precision_weights_of_a_safetensors_file_are_loaded(tmp_path: Path) -> None:
    model = semraft.raft_tiny()
    half = {name: tensor.half() for name, tensor in model.state_dict().items()}
    safetensors.torch.save_file(half, tmp_path / "tiny.safetensors")
    loaded = semraft.load(tmp_path / "tiny.safetensors")
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, half[name].float(), rtol=0, atol=0)
    (tmp_path / "tiny.safetensors").write_bytes(b"no tensors")
    with pytest.raises(DamagedFile, match="not a file of tensors"):
        semraft.load(tmp_path / "tiny.safetensors")
