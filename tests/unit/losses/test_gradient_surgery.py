"""Gate, projection and cap of the gradient of a term beside that of the flow loss."""

import math
from collections.abc import Sequence
from typing import Literal

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from semraft.config import LossConfig, TermConfig
from semraft.losses import gradient_surgery as module
from semraft.losses.auxiliary_term import required
from semraft.losses.gradient_surgery import (
    batch_gradients,
    capped,
    combine,
    constrain,
    gated,
    projected,
    term_gradients,
)
from semraft.losses.objective import Objective

VECTORS = arrays(np.float64, 7, elements=st.floats(-1e3, 1e3).map(lambda value: round(value, 3)))
Combining = Literal["sum", "gate", "project"]
CLOSE = 1e-9
"""Of float64, relative to the product of norms."""


def reference(flow: Sequence[float], term: Sequence[float], config: LossConfig) -> list[float]:
    """By the definitions, number by number."""
    dot = math.fsum(f * t for f, t in zip(flow, term, strict=True))
    squared = math.fsum(f * f for f in flow)
    kept = list(term)
    if dot < 0 and config.combine == "gate":
        kept = [0.0] * len(kept)
    if dot < 0 and config.combine == "project":
        kept = [t - dot / squared * f for f, t in zip(flow, term, strict=True)]
    norm = math.sqrt(math.fsum(t * t for t in kept))
    largest = config.share_cap * math.sqrt(squared)
    if config.share_cap > 0 and norm > largest:
        kept = [t * largest / norm for t in kept]
    return kept


@settings(deadline=None)
@given(VECTORS, VECTORS, st.sampled_from(["sum", "gate", "project"]), st.sampled_from([0.0, 0.3, 2.0]))
def test_laws(flow: np.ndarray, term: np.ndarray, combining: Combining, cap: float) -> None:
    """Red when: the sign of the conflict is turned, the projection is divided by one norm instead of two,
    the cap comes before the projection or lengthens what is short, or the flow gradient is written to."""
    config = LossConfig(combine=combining, share_cap=cap)
    given_flow, given_term = torch.from_numpy(flow), torch.from_numpy(term)
    left = constrain(given_flow, given_term, config)
    size = float(np.linalg.norm(flow)) * max(float(np.linalg.norm(term)), 1.0)
    expected = torch.tensor(reference(flow.tolist(), term.tolist(), config), dtype=torch.float64)
    # Where flow and term are at right angles but for rounding, the gate may see either sign.
    if config.combine != "gate" or abs(float(flow @ term)) > CLOSE * size:
        torch.testing.assert_close(left, expected, rtol=1e-6, atol=1e-7)
    if config.combine != "sum":
        assert float(given_flow @ left) >= -CLOSE * size
    if config.share_cap > 0:
        assert float(left.norm()) <= config.share_cap * float(given_flow.norm()) * (1 + CLOSE)
    elif float(given_flow @ given_term) >= 0:
        assert torch.equal(left, given_term)
    assert float(left.norm()) <= float(given_term.norm()) * (1 + CLOSE)
    assert np.array_equal(flow, given_flow.numpy())
    assert np.array_equal(term, given_term.numpy())


def test_what_is_not_finite_is_not_hidden() -> None:
    """A scaler must see it and lower the loss scale. Red when: a gate chooses 0 where it can't compare."""
    flow, term = torch.tensor([1.0, 2.0]), torch.tensor([1.0, math.inf])
    for left in (gated(flow, -term), projected(flow, -term), capped(flow, term, 0.5)):
        assert not left.isfinite().all()
    _, kept_frac = combine([flow], {"any": [term]}, LossConfig(share_cap=0.5))
    assert float(kept_frac["any"]) == 0  # A mean over steps is made of it.


def test_without_a_flow_gradient() -> None:
    """No pixel with truth. Red when: a norm of 0 makes NaN, or a conflict is seen where there is none."""
    flow, term = torch.zeros(2), torch.tensor([1.0, -3.0])
    assert torch.equal(gated(flow, term), term)
    assert torch.equal(projected(flow, term), term)
    assert torch.equal(capped(flow, term, 0.5), torch.zeros(2))


def made() -> tuple[list[nn.Parameter], dict[str, Tensor]]:
    """Three parameters: shared by all, of the flow and label warp, of label warp and matching."""
    shared = nn.Parameter(torch.tensor([[1.0, -2.0, 0.5], [3.0, 1.0, -1.0]]))
    with_flow, own = nn.Parameter(torch.tensor([2.0, 1.0])), nn.Parameter(torch.tensor([1.0, 4.0, 2.0]))
    losses = {
        "flow_loss": 2 * shared.sum() + 3 * with_flow[0],
        "label_warp_loss": -(shared[0].sum()) + 5 * with_flow[0] + 7 * own.sum(),
        "matching_loss": -4 * shared[1, 2] + 6 * own[0],
    }
    return [shared, with_flow, own], losses


def gradients_by(
    config: LossConfig, weights: dict[str, float]
) -> tuple[list[Tensor | None], dict[str, Tensor]]:
    """Times 8, as a gradient scaler makes them."""
    parameters, losses = made()
    values = {name: value[None] for name, value in losses.items()}
    objective = Objective(total=losses["flow_loss"], values=values)
    flow = batch_gradients(8 * losses["flow_loss"], parameters)
    terms = term_gradients(objective, weights, parameters, config, lambda loss: 8 * loss)
    return combine(flow, terms, config)


TERMS = (TermConfig(name="label-warp"), TermConfig(name="matching"))
BOTH = {"label-warp": 1.0, "matching": 0.5}


def test_one_cosine_for_all_that_flow_and_term_share() -> None:
    """label-warp: -2 x 3 + 3 x 5 = 9 over both shared parameters, so that it counts though the first tensor
    alone conflicts; matching conflicts, and its own parameter learns in full. Red when: each tensor is
    judged alone, own parameters are gated, terms are gated against each other, or the weight is forgotten."""
    total, kept_frac = gradients_by(LossConfig(terms=TERMS, combine="gate"), BOTH)
    shared, with_flow, own = map(required, total)
    assert (shared / 8).tolist() == [[1, 1, 1], [2, 2, 2]]
    assert (with_flow / 8).tolist() == [8, 0]
    assert (own / 8).tolist() == [7 + 3, 7, 7]
    assert {name: float(value) for name, value in kept_frac.items()} == {"label-warp": 1, "matching": 0}


def test_the_projection_leaves_what_a_term_alone_reaches() -> None:
    """Flow on the tensor shared with matching: 2 everywhere. Red when: the flow's norm is taken over
    parameters that matching does not reach, or the projection reaches into them."""
    total, kept_frac = gradients_by(
        LossConfig(terms=TERMS, combine="project"), {"label-warp": 0.0, "matching": 0.5}
    )
    shared, with_flow, own = map(required, total)
    torch.testing.assert_close(shared / 8, torch.tensor([[2, 2, 2], [2, 2, 0.0]]) + 2 / 6)
    assert (with_flow / 8).tolist() == [3, 0]
    assert (own / 8).tolist() == [3, 0, 0]
    assert kept_frac.keys() == {"matching"}
    assert float(kept_frac["matching"]) == pytest.approx(math.sqrt(5 / 6))


def test_the_cap_is_of_shared_parameters() -> None:
    """Red when: the cap counts or shortens own parameters, or is one for all terms together."""
    total, _ = gradients_by(LossConfig(terms=TERMS, share_cap=0.1), BOTH)
    shared, with_flow, own = map(required, total)
    warp = 0.1 * math.sqrt(6 * 4 + 9) / math.sqrt(3 + 25)
    matching = 0.1 * math.sqrt(6 * 4) / 2
    expected = [[2 - warp] * 3, [2, 2, 2 - 2 * matching]]
    torch.testing.assert_close(shared / 8, torch.tensor(expected))
    torch.testing.assert_close(with_flow / 8, torch.tensor([3 + 5 * warp, 0]))
    assert (own / 8).tolist() == [10, 7, 7]


@pytest.mark.parametrize("config", [LossConfig(combine="gate"), LossConfig(combine="project", share_cap=0.2)])
def test_without_terms_that_weigh_the_flow_gradient_is_all(config: LossConfig) -> None:
    """Red when: a term of weight 0 has a gradient or fills one in, or the flow loss is scaled twice."""
    total, _ = combine([torch.ones(2), None], {}, config)
    assert required(total[0]).tolist() == [1, 1]
    assert total[1] is None
    config = LossConfig(terms=TERMS, combine=config.combine, share_cap=config.share_cap)
    (shared, with_flow, own), _ = gradients_by(config, {"label-warp": 0.0, "matching": 0.0})
    assert torch.equal(required(shared) / 8, torch.full((2, 3), 2.0))
    assert (required(with_flow) / 8).tolist() == [3, 0]
    assert own is None


def test_gradients_share_no_memory() -> None:
    """Clipping writes gradients in place.

    Red when: a gradient that autograd gives twice is handed on twice, or one that is a view of one number.
    """
    first, second = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(2, 3))
    flow = batch_gradients((first + second).sum(), [first, second])
    for parts in ((flow, {}), ([None, None], {"any": flow})):
        total, _ = combine(*parts, LossConfig())
        gradients = list(map(required, total))
        for gradient in gradients:
            gradient.mul_(0.5)
        assert all((gradient == 0.5).all() for gradient in gradients)


def test_processes_agree_on_what_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process's part reaches only the second parameter. Red when: what this one does not reach is
    not sent, which would leave the other waiting, or sums are taken for means."""
    first, second, third = (nn.Parameter(torch.ones(size)) for size in (2, 3, 1))

    def with_the_other(value: Tensor) -> Tensor:
        other = torch.cat([torch.zeros(2), torch.full((3,), 5.0), torch.zeros(1), torch.tensor([0.0, 1, 0])])
        return (value + other) / 2

    monkeypatch.setattr(module, "process_count", lambda: 2)
    monkeypatch.setattr(module, "mean_over_processes", with_the_other)
    found = batch_gradients(4 * first.sum(), [first, second, third])
    assert found[2] is None
    assert [None if value is None else value.tolist() for value in found[:2]] == [[2, 2], [2.5, 2.5, 2.5]]


def test_when_one_backward_pass_will_do() -> None:
    assert not LossConfig().has_surgery
    assert LossConfig(share_cap=0.5).has_surgery
    assert LossConfig(combine="gate").has_surgery


def test_a_cap_below_0_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--loss.share-cap is -1.0: expected 0 or more"):
        LossConfig(share_cap=-1.0)
