"""Rounding: our float32 against torchvision's float32, both measured by torchvision's float64.

Sizes are large enough for every fast path (Winograd in encoders and refinements, windows on demand), which
the small images of `test_torchvision_raft` are not.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from semraft.models import winograd
from semraft.models.raft import RAFT
from semraft.models.weights import revert
from tests.parity import torchvision_shim
from tests.parity.test_torchvision_raft import TORCHVISION, make_pair, real_frames, run_theirs, textures

BOUND = 4.0
"""Of torchvision's own error. Seen: flow 0.2 to 1.0, gradient 0.2 to 1.3 times (docs/performance.md)."""


@contextmanager
def in_float64(model: nn.Module) -> Iterator[None]:
    module = torchvision_shim.optical_flow.raft
    grid = module.make_coords_grid
    torch.set_default_dtype(torch.float64)
    module.make_coords_grid = lambda *size: grid(*size).double()
    model.double()
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        module.make_coords_grid = grid
        model.float()


def flow_and_gradients(
    model: nn.Module, images: tuple[Tensor, Tensor], weight: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The last flow, and the gradient of every parameter for a weighted sum of all refinements."""
    model.zero_grad()
    flows = model(*images, num_updates=3).flows if isinstance(model, RAFT) else run_theirs(model, *images, 3)
    sum((flow * weight.to(flow)).sum() for flow in flows).backward()
    gradients = {name: parameter.grad.double() for name, parameter in model.named_parameters()}
    return flows[-1].detach().double(), gradients


def distance(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Over all parameters together: one rectifier that opens or shuts changes a single tensor a lot."""
    squares = sum(float((found[name] - value).square().sum()) for name, value in expected.items())
    return (squares / sum(float(value.square().sum()) for value in expected.values())) ** 0.5


@pytest.mark.parametrize("arch", TORCHVISION)
@pytest.mark.parametrize(("seed", "frames"), [(1, "textures"), (2, "kitti")])
def test_rounding_is_not_above_the_references(
    arch: str, seed: int, frames: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when: the spectra or the products are rounded to bfloat16."""
    theirs, ours = make_pair(arch, flow_scale=3.0, seed=seed)
    images = textures(256, 272, batch=1) if frames == "textures" else real_frames((256, 272), 1.0)
    weight = torch.randn(1, 2, 256, 272, generator=torch.Generator().manual_seed(seed))
    used = []
    convolve = winograd.convolve
    monkeypatch.setattr(winograd, "convolve", lambda *given: (used.append(given[1]), convolve(*given))[1])
    flow, own_gradients = flow_and_gradients(ours.train(), images, weight)
    flow32, gradients32 = flow_and_gradients(theirs.train(), images, weight)
    with in_float64(theirs):
        doubled = (images[0].double(), images[1].double())
        expected, gradients = flow_and_gradients(theirs, doubled, weight)
    buffers = dict(ours.named_buffers())
    renamed = revert(buffers | own_gradients, "torchvision", arch)
    own = {name: renamed[name] for name in gradients}

    assert set(used) == ({(3, 3), (1, 5), (5, 1)} if arch == "large" else {(3, 3)})
    assert (flow - expected).abs().mean() < BOUND * (flow32 - expected).abs().mean()
    assert distance(own, gradients) < BOUND * distance(gradients32, gradients)
