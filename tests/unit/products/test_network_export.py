"""Exported networks: the flow of semraft without semraft, at any size."""

import logging
from collections.abc import Iterator
from pathlib import Path

import cv2
import jaxtyping
import numpy as np
import pytest
import torch
from torch import nn

import semraft
from semraft.cli.main import run
from semraft.config import ModelConfig
from semraft.models.correlation import lookup, pyramid
from semraft.models.lookup import make_lookup
from semraft.models.weights import build_model
from tests.helpers import REAL_DATA

PARITY_PX = 1e-3
PUBLIC_SMALL = REAL_DATA / "weights" / "raft-small.pth"


@pytest.fixture(autouse=True)
def sizes_stay_free() -> Iterator[None]:
    """Shape checks would fix sizes in the graph by comparing them; torch's traces would fill the log."""
    jaxtyping.config.update("jaxtyping_disable", True)
    logging.disable(logging.DEBUG)
    yield
    logging.disable(logging.NOTSET)
    jaxtyping.config.update("jaxtyping_disable", False)


def frames(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    noise = np.random.default_rng(3).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    texture = cv2.resize(noise, (width + 4, height), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(texture[:, 4:]), np.ascontiguousarray(texture[:, :-4])


def flow_by_onnxruntime(file: Path, image1: np.ndarray, image2: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(["flow"], {"image1": image1[None], "image2": image2[None]})[0][0]


class Lookup(nn.Module):
    """The lookup of a network between two feature maps."""

    def forward(self, features1: torch.Tensor, features2: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        return make_lookup(features1, features2, levels=2, radius=1, num_updates=1)(points)


def test_the_graph_of_a_lookup() -> None:
    """The part of the graph that depends on the frames' size most, at another size than the exported one.

    Red when: `new_tensor` of a shape fixes a size, or the compiled loops are taken.
    """
    rng = torch.Generator().manual_seed(0)

    def inputs(height: int, width: int) -> tuple[torch.Tensor, ...]:
        maps = (torch.randn(1, 4, height, width, generator=rng) for _ in range(2))
        return *maps, 8 * torch.rand(1, 2, height, width, generator=rng)

    rows, columns = (torch.export.Dim(name, min=4, max=64) for name in ("rows", "columns"))
    sizes = ({2: rows, 3: columns},) * 3
    graph = torch.export.export(Lookup(), inputs(8, 9), dynamic_shapes=sizes, strict=False)
    given = inputs(11, 6)
    expected = lookup(pyramid(given[0], given[1], 2), given[2], 1)
    torch.testing.assert_close(graph.module()(*given), expected)


@pytest.mark.slow
def test_onnx(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """RAFT small by the command, at a size that it was not exported with.

    Red when: an operation fixes a size (`new_tensor` of a shape), or a compiled loop enters the graph.
    """
    weights, out = tmp_path / "small.pt", tmp_path / "small.onnx"
    torch.save(build_model(ModelConfig(arch="small"), 1).state_dict(), weights)
    assert run(["export", str(weights), str(out), "--num-updates", "1"]) == 0
    assert "1 refinements, flow on a made pair differs by" in capsys.readouterr().out
    image1, image2 = frames(72, 128)
    expected = semraft.predict(semraft.load(weights), image1, image2, 1, "float32")
    found = flow_by_onnxruntime(out, image1, image2)
    assert np.abs(expected).max() > 0.1
    assert np.abs(found - expected).max() < PARITY_PX


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's own, when it reads the graph.
def test_torch_export(tmp_path: Path) -> None:
    """RAFT tiny, with convex upsampling. Red when: the graph needs semraft's classes, or has fixed sizes."""
    weights, out = tmp_path / "tiny.pt", tmp_path / "tiny.pt2"
    torch.save(build_model(ModelConfig(arch="tiny"), 1).state_dict(), weights)
    assert run(["export", str(weights), str(out), "--format", "torch-export", "--num-updates", "2"]) == 0
    image1, image2 = frames(72, 128)
    expected = semraft.predict(semraft.load(weights), image1, image2, 2, "float32")
    graph = torch.export.load(out).module()
    found = graph(*(torch.from_numpy(image)[None] for image in (image1, image2)))[0].numpy()
    assert np.abs(found - expected).max() < PARITY_PX


@pytest.mark.slow
@pytest.mark.skipif(not PUBLIC_SMALL.exists(), reason=f"no public weights at {PUBLIC_SMALL}")
def test_onnx_on_real_pairs(tmp_path: Path) -> None:
    """The public RAFT small with 12 refinements on real pairs, cut to whole cells.

    KITTI's pairs are held to their mean: where motion is long, a few pixels magnify any rounding. In 000001,
    50 px in the mean, they are so many that it is left out (docs/how-to/take-a-network-elsewhere.md).
    """
    out = tmp_path / "small.onnx"
    assert run(["export", str(PUBLIC_SMALL), str(out), "--num-updates", "12"]) == 0
    model = semraft.load(PUBLIC_SMALL)
    pairs = sorted((REAL_DATA / "middlebury").glob("*/frame10.png"))[:2]
    pairs += sorted((REAL_DATA / "kitti2015_pairs").rglob("image_2/*_10.png"))[1:3]
    assert pairs
    for first in pairs:
        names = first, first.with_name(first.name.replace("10.png", "11.png"))
        image1, image2 = (cv2.imread(str(name))[..., ::-1] for name in names)
        height, width = (side // 8 * 8 for side in image1.shape[:2])
        image1, image2 = (np.ascontiguousarray(image[:height, :width]) for image in (image1, image2))
        expected = semraft.predict(model, image1, image2, 12, "float32")
        apart_px = np.abs(flow_by_onnxruntime(out, image1, image2) - expected)
        print(
            f"{first.parent.name}/{first.name}: mean {apart_px.mean():.1e} px, largest {apart_px.max():.1e}"
        )
        assert apart_px.mean() < PARITY_PX
        assert first.parent.name == "image_2" or apart_px.max() < PARITY_PX
