"""Census against a loop over pixels and neighbours."""

import numpy as np
import pytest
import torch

from semraft.losses import census
from semraft.ops.census import census_difference, grey
from tests.unit.losses.tiny import (
    BATCH,
    GAMMA,
    HEIGHT,
    WIDTH,
    arrays,
    bilinear,
    gradient_is_right,
    in_frame,
    make,
    mean,
    pixels,
    weighted,
)

PATCH = [(dy, dx) for dy in range(-3, 4) for dx in range(-3, 4) if (dy, dx) != (0, 0)]


def images(rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Dim, so that soft signs are not all -1 and 1."""
    shape = BATCH, 3, HEIGHT, WIDTH
    first, second = (torch.from_numpy(rng.uniform(0, 4, shape).astype(np.float32)) for _ in range(2))
    return first, second


def soft_sign(d: float) -> float:
    return d / np.sqrt(d * d + 0.81)


def test_equals_the_loop(rng: np.random.Generator) -> None:
    """Red when: opposite neighbours are shifted the wrong way, a patch that leaves a frame counts, or frame 2
    is not warped."""
    case = make(rng)
    image1, image2 = images(rng)
    greys = [
        (np.array([0.299, 0.587, 0.114]) @ np.moveaxis(i.double().numpy(), 1, -2)) for i in (image1, image2)
    ]
    flows = [flow.detach() / 4 for flow in case.flows]
    loops = []
    for flow in arrays(flows):
        warped = np.full((BATCH, HEIGHT, WIDTH), np.nan)
        for b, y, x in pixels():
            target = x + flow[b, 0, y, x], y + flow[b, 1, y, x]
            if in_frame(*target):
                warped[b, y, x] = bilinear(greys[1][b], *target)
        found = []
        for b, y, x in pixels():
            inside = 3 <= y < HEIGHT - 3 and 3 <= x < WIDTH - 3
            if not case.mask[b, y, x] or not inside:
                continue
            if np.isnan(warped[b, y - 3 : y + 4, x - 3 : x + 4]).any():
                continue
            differs = 0.0
            for dy, dx in PATCH:
                signs = [soft_sign(i[b, y + dy, x + dx] - i[b, y, x]) for i in (greys[0], warped)]
                differs += (signs[0] - signs[1]) ** 2 / (0.1 + (signs[0] - signs[1]) ** 2) / 48
            found.append(differs)
        assert len(found) > 20
        loops.append(mean(found))
    value = census(flows, image1.double(), image2.double(), case.mask, GAMMA)
    assert float(value) == pytest.approx(weighted(loops), rel=1e-6)


def test_has_the_right_gradient(rng: np.random.Generator) -> None:
    """Red when: what is made anew in the backward pass is not what was made before."""
    case = make(rng)
    image1, image2 = (image.double() for image in images(rng))
    flow = (case.flows[0].detach() / 4).requires_grad_()
    assert gradient_is_right(lambda flow: census([flow], image1, image2, case.mask), flow)


def test_brightness_does_not_count(rng: np.random.Generator) -> None:
    """Red when: the centre of a patch is not subtracted."""
    image1, image2 = (grey(image) for image in images(rng))
    assert torch.equal(grey(torch.full((2, 3, 2, 4), 200.0)).round(), torch.full((2, 2, 4), 200.0))
    inner = np.s_[:, 3:-3, 3:-3]
    brighter = census_difference(image1, image2 + 60)[inner]
    torch.testing.assert_close(brighter, census_difference(image1, image2)[inner], atol=1e-3, rtol=0)
    assert census_difference(image1, image1 + 60)[inner].max() < 1e-4


def test_compiled_is_the_same(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images against one by windows, image after image, and by the loop. Red when: a pair of neighbours
    counts for one of the two, its slope is that of the other image, or a part is of other images."""
    monkeypatch.setattr("semraft.ops.census.WINDOWS_BYTES", 1)
    image1, image2 = (grey(image) for image in images(rng))
    inside = torch.zeros_like(image1)
    inside[:, 3:-3, 3:-3] = torch.from_numpy(rng.uniform(size=inside[:, 3:-3, 3:-3].shape))
    found = []
    for dtype in (torch.float64, torch.float32):
        second = torch.stack([image2, image2.flip(1)]).to(dtype).requires_grad_()
        difference = census_difference(image1.to(dtype), second) * inside.to(dtype)
        difference.sum().backward()
        found.append((difference.detach().double(), second.grad.double()))
    for plain, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain, atol=1e-6, rtol=1e-5)
