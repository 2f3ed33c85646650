"""Correlation windows from stored volumes and on demand, against `correlation.lookup` in float64."""

import pytest
import torch
from torch import Tensor

from semraft.config import CorrelationKind
from semraft.models import correlation, lookup
from semraft.models.lookup import choose, make_lookup

KINDS = pytest.mark.parametrize("kind", ["all-pairs", "on-demand"])
LEVELS, RADIUS = 4, 3
HEIGHT, WIDTH, CHANNELS = 9, 14, 19


def make_features(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    size = (2, CHANNELS, HEIGHT, WIDTH)
    return tuple(torch.randn(size, generator=generator).to(dtype).requires_grad_() for _ in range(2))


def make_points(number: int) -> Tensor:
    """In and around the frame, some on cell centres, one far outside, one not a number."""
    generator = torch.Generator().manual_seed(number)
    spread = torch.tensor([WIDTH, HEIGHT]).view(1, 2, 1, 1)
    points = torch.rand(2, 2, HEIGHT, WIDTH, generator=generator) * 2 * spread - spread / 2
    points[0, :, 0] = points[0, :, 0].round()
    points[1, :, 1, 1] = torch.tensor([1e9, -3e8])
    return points


def reference(points: list[Tensor]) -> tuple[list[Tensor], tuple[Tensor, ...], list[Tensor]]:
    """Windows in float64, the gradients of a weighted sum of them, and the weights."""
    features = make_features(torch.float64)
    volumes = correlation.pyramid(*features, LEVELS)
    found = [correlation.lookup(volumes, each.double(), RADIUS) for each in points]
    generator = torch.Generator().manual_seed(8)
    weights = [torch.randn(each.shape, generator=generator, dtype=torch.float64) for each in found]
    total = sum((weight * each).sum() for weight, each in zip(weights, found, strict=True))
    return found, torch.autograd.grad(total, features), weights


@KINDS
@pytest.mark.parametrize("threads", [1, 3])
def test_values_and_gradients_over_refinements(kind: CorrelationKind, threads: int) -> None:
    """Three refinements share one gradient. Red when: x and y change places; the border is repeated; a
    refinement's gradient replaces the one before; levels are not scaled; threads write to one place.
    """
    points = [make_points(number) for number in range(3)]
    expected, gradients_expected, weights = reference(points)
    features = make_features()
    used = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        look = make_lookup(*features, LEVELS, RADIUS, num_updates=3, kind=kind)
        found = [look(each) for each in points]
        total = sum((weight.float() * each).sum() for weight, each in zip(weights, found, strict=True))
        gradients = torch.autograd.grad(total, features, retain_graph=True)
        again = torch.autograd.grad(total, features)
    finally:
        torch.set_num_threads(used)
    for window, window_expected in zip(found, expected, strict=True):
        torch.testing.assert_close(window, window_expected.float(), rtol=0, atol=1e-5)
    for gradient, repeated, gradient_expected in zip(gradients, again, gradients_expected, strict=True):
        torch.testing.assert_close(gradient, gradient_expected.float(), rtol=0, atol=1e-4)
        assert torch.equal(gradient, repeated)  # The sums begin anew with every backward.


@KINDS
def test_one_of_several_windows(kind: CorrelationKind) -> None:
    """The gradient of one refinement's loss alone, as gradient norms per term ask for."""
    points = [make_points(number) for number in range(2)]
    features, precise = make_features(), make_features(torch.float64)
    look = make_lookup(*features, LEVELS, RADIUS, num_updates=2, kind=kind)
    first, second = (look(each) for each in points)
    gradients = torch.autograd.grad(second.square().sum(), features)
    expected = correlation.lookup(correlation.pyramid(*precise, LEVELS), points[1].double(), RADIUS)
    for gradient, value in zip(gradients, torch.autograd.grad(expected.square().sum(), precise), strict=True):
        torch.testing.assert_close(gradient, value.float(), rtol=1e-4, atol=1e-3)
    assert first.requires_grad


@KINDS
def test_not_a_number_stays_where_it_is(kind: CorrelationKind) -> None:
    """A point that is NaN must not read or write beyond the frame; the windows of others are as before."""
    features = make_features()
    look = make_lookup(*features, LEVELS, RADIUS, num_updates=1, kind=kind)
    points = make_points(0)
    before = look(points)
    points[0, :, 3, 4] = torch.nan
    after = look(points)
    others = torch.ones(2, 1, HEIGHT, WIDTH, dtype=torch.bool)
    others[0, :, 3, 4] = False
    assert torch.equal(after.where(others, 0), before.where(others, 0))
    gradients = torch.autograd.grad(after.where(others, 0).sum(), features)
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_float64_is_sampled_by_the_definition_and_has_no_kernel_on_demand() -> None:
    features = make_features(torch.float64)
    points = make_points(0).double()
    look = make_lookup(*features, LEVELS, RADIUS, num_updates=1)
    expected = correlation.lookup(correlation.pyramid(*features, LEVELS), points, RADIUS)
    assert torch.equal(look(points), expected)
    with pytest.raises(ValueError, match=r"no kernel for torch\.float64 on cpu: take all-pairs or auto"):
        make_lookup(*features, LEVELS, RADIUS, num_updates=1, kind="on-demand")


def test_auto_weighs_the_volume_against_the_windows() -> None:
    """Many cells and few refinements: on demand; with gradients later than without."""
    limit = lookup.CHEAPER_ON_DEMAND_CELLS
    for work in ("inference", "training"):
        for cells, expected in ((limit[work] * 2, "all-pairs"), (limit[work] * 2 + 1, "on-demand")):
            features = torch.empty(1, 2, 1, cells, requires_grad=work == "training")
            assert choose("auto", features, num_updates=2) == expected
            assert choose("all-pairs", features, num_updates=2) == "all-pairs"
