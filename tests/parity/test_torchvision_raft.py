"""Is our RAFT the RAFT? The same weights in torchvision's and ours: every refinement, every gradient.

Red when (each seen): update and reset gate swapped; context before hidden state among the channels; window
channels over y before x; levels sampled at unscaled points; cells as (y, x); no detach of the flow; no
factor 0.25 on the mask; bilinear upsampling without align_corners; no rectifier before a sum; images in
0..1.
"""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from semraft.models.raft import ARCHITECTURES, RAFT
from semraft.models.weights import convert, half_precision, load_model, revert
from tests.helpers import REAL_DATA, combinations_of
from tests.parity import torchvision_shim

TORCHVISION = {"large": torchvision_shim.raft_large, "small": torchvision_shim.raft_small}
ARCHS = pytest.mark.parametrize("arch", TORCHVISION)


def make_pair(arch: str, flow_scale: float = 10.0, seed: int = 7) -> tuple[nn.Module, RAFT]:
    """torchvision's network and ours with the same random weights.

    Batch norm statistics are random too. The last layer of the flow head is scaled up so that flow moves by
    several cells: a fresh network's stays within one, and hides errors of the lookup.
    """
    torch.manual_seed(seed)
    theirs = TORCHVISION[arch](weights=None)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    with torch.no_grad():
        theirs.update_block.flow_head.conv2.weight *= flow_scale
    found, state = convert(theirs.state_dict())
    assert found == arch
    ours = ARCHITECTURES[arch]()
    ours.load_state_dict(state)
    return theirs, ours


def textures(height: int, width: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Smooth random images, the second one a shifted and noisy copy of the first."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(batch, 3, height // 8 + 3, width // 8 + 3, generator=generator)
    image = nn.functional.interpolate(coarse, scale_factor=8, mode="bicubic").clamp(0, 1) * 255
    noise = 3 * torch.randn(batch, 3, height, width, generator=generator)
    return image[..., 3 : 3 + height, 5 : 5 + width], image[..., :height, :width] + noise


def real_frames(size: tuple[int, int] = (128, 256), scale: float = 0.4) -> tuple[Tensor, Tensor]:
    """A crop of KITTI's pair 000010, resized by `scale`, or textures of its size where it is not at hand."""
    folder = REAL_DATA / "kitti2015" / "training" / "image_2"
    paths = [folder / "000010_10.png", folder / "000010_11.png"]
    if not all(path.is_file() for path in paths):
        return textures(*size, batch=1)
    frames = []
    for path in paths:
        image = cv2.resize(cv2.imread(str(path)), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        image = np.ascontiguousarray(image[-size[0] :, : size[1], ::-1])
        frames.append(torch.from_numpy(image).permute(2, 0, 1)[None].float())
    return frames[0], frames[1]


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float(((ours - theirs).abs().max() / theirs.abs().max()).detach())


def run_theirs(model: nn.Module, image1: Tensor, image2: Tensor, num_updates: int) -> list[Tensor]:
    flows: list[Tensor] = model(2 * (image1 / 255) - 1, 2 * (image2 / 255) - 1, num_flow_updates=num_updates)
    return flows


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torchvision in double precision: its coordinate grid and its square root are float32 otherwise."""
    module = torchvision_shim.optical_flow.raft
    grid = module.make_coords_grid
    monkeypatch.setattr(module, "make_coords_grid", lambda *size: grid(*size).double())
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("arch", "frames"),
    combinations_of(TORCHVISION, ("textures", "kitti"), short=[("large", "textures"), ("small", "kitti")]),
)
def test_every_refinement_in_float32(arch: str, frames: str) -> None:
    """Relative to the largest flow; both compute the same sums in another order, so rounding is all."""
    theirs, ours = make_pair(arch)
    image1, image2 = textures(128, 144) if frames == "textures" else real_frames()
    with torch.no_grad():
        expected = run_theirs(theirs.eval(), image1, image2, 4)
        flows = ours.eval()(image1, image2, num_updates=4).flows
    assert len(flows) == len(expected) == 4
    assert expected[0].abs().max() > 8  # Beyond one cell: the lookup is put to the test.
    for flow, flow_expected in zip(flows, expected, strict=True):
        assert relative(flow, flow_expected) < 1e-4


@ARCHS
def test_every_refinement_and_gradient_in_float64(arch: str, in_float64: None) -> None:
    """In training mode: batch norm by batch statistics, and its running statistics moved alike."""
    theirs, ours = make_pair(arch)
    image1, image2 = (image.double() for image in textures(128, 136))
    expected = run_theirs(theirs.train(), image1, image2, 2)
    flows = ours.train()(image1, image2, num_updates=2).flows
    weights = [torch.randn(flow.shape, generator=torch.Generator().manual_seed(1)) for flow in flows]
    for flow, flow_expected in zip(flows, expected, strict=True):
        assert relative(flow, flow_expected) < 1e-9

    for predicted in (expected, flows):
        sum((weight * flow).sum() for weight, flow in zip(weights, predicted, strict=True)).backward()
    gradients = {name: value.grad for name, value in ours.named_parameters()}
    compared = dict(theirs.named_parameters())
    buffers = {name: value for name, value in ours.named_buffers()}
    renamed = revert(buffers | gradients, "torchvision", arch)
    assert renamed.keys() == theirs.state_dict().keys()
    largest = max(float(value.grad.abs().max()) for value in compared.values())
    for name, value in compared.items():
        # A bias before a norm by the data's own statistics has no effect: its gradient is rounding, some
        # 1e-15 of the network's largest gradient. The floor puts its bound at 1e-13 of that.
        scale = max(float(value.grad.abs().max()), 1e-4 * largest)
        assert float((renamed[name] - value.grad).abs().max()) < 1e-9 * scale, name
    for name, value in theirs.named_buffers():
        torch.testing.assert_close(renamed[name], value, rtol=1e-12, atol=1e-12)


def test_weights_in_half_precision_load_everywhere(tmp_path: Path) -> None:
    """The small network's file: at most 2.1 MB, strictly loaded by torchvision and by us, in any layout.

    Red when: a name of a layout is ours, a shortcut is missing, or weights are cut instead of rounded.
    """
    state = make_pair("small")[1].state_dict()
    rounded = {name: value.half().float() for name, value in state.items()}
    for layout in ("semraft", "princeton", "torchvision"):
        path = tmp_path / f"{layout}.safetensors"
        path.write_bytes(half_precision(state, layout, "small"))
        assert path.stat().st_size < 2.1e6
        found = load_model(path, arch="small").state_dict()
        assert all(torch.equal(found[name], value) for name, value in rounded.items())
    theirs = TORCHVISION["small"](weights=None)
    theirs.load_state_dict(safetensors.torch.load_file(tmp_path / "torchvision.safetensors"))
    assert all(torch.equal(value, rounded[name]) for name, value in convert(theirs.state_dict())[1].items())
    with pytest.raises(ValueError, match=r"does not hold: \S*flow_head\.2\.weight$"):
        half_precision(
            {name: 1e7 * value if "flow_head.2.w" in name else value for name, value in state.items()},
            "semraft",
            "small",
        )
