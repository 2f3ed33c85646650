"""Learnt weights: a log variance for each term that is modulated."""

import pytest
import torch

from semraft.config import LossConfig, TermConfig, parse_term
from semraft.losses.auxiliary_term import required
from semraft.losses.objective import Objective
from semraft.losses.uncertainty_weights import initial_log_variances, learn_log_variances, modulated

CONFIG = LossConfig(
    gamma=0.5,
    terms=(
        TermConfig(name="label-warp", weight=3.0, modulation="uncertainty"),
        TermConfig(name="matching", weight=2.0),
        TermConfig(name="smoothness", weight=1.0, modulation="uncertainty"),
    ),
)
VALUES = {
    "flow_loss": torch.tensor([9.0, 9.0]),
    "label_warp_loss": torch.tensor([0.4, 0.6]),  # 0.8 as a sum over refinements.
    "matching_loss": torch.tensor([7.0]),
    "smoothness_loss": torch.tensor([1.0, 1.0]),
}
LOSSES = Objective(total=torch.zeros(()), values=VALUES)


def test_the_gradient_is_that_of_the_formula() -> None:
    """Against autograd of w (exp(-s) L + s/2). Red when: the half or the weight is left out, the sign is
    turned, refinements are not weighted, or a term of weight 0 moves its variance."""
    found = initial_log_variances(CONFIG)
    assert found.keys() == {"label-warp", "smoothness"}
    assert modulated({"label-warp": 3.0, "matching": 2.0}, found) == {"label-warp": 3.0, "matching": 2.0}
    with torch.no_grad():
        found["label-warp"].fill_(0.7)
    weights = modulated({"label-warp": 3.0, "matching": 2.0, "smoothness": 0.0}, found)
    learn_log_variances(LOSSES, weights, CONFIG, found)
    s = torch.tensor(0.7, requires_grad=True)
    loss = 3 * (torch.exp(-s) * 0.8 + s / 2)
    loss.backward()
    assert weights["label-warp"] == pytest.approx(3 * float(torch.exp(-s.detach())))
    assert float(required(found["label-warp"].grad)) == pytest.approx(float(required(s.grad)), rel=1e-5)
    assert found["smoothness"].grad is None


def test_it_settles_where_the_source_says() -> None:
    """exp(-s) = 1 / (2 L). Red when: it runs away, or the weight shifts it."""
    found = initial_log_variances(CONFIG)
    optimizer = torch.optim.Adam(found.values(), lr=0.05)
    for _ in range(400):
        weights = modulated({"label-warp": 3.0, "matching": 2.0, "smoothness": 1.0}, found)
        learn_log_variances(LOSSES, weights, CONFIG, found)
        optimizer.step()
    assert weights["label-warp"] == pytest.approx(3 / 1.6, rel=1e-3)
    assert weights["smoothness"] == pytest.approx(1 / 3, rel=1e-3)
    assert weights["matching"] == 2.0


def test_a_share_is_not_modulated() -> None:
    """Its weight would drift from the share that was asked for."""
    with pytest.raises(
        ValueError, match="smoothness modulation is uncertainty: expected none beside a share"
    ):
        parse_term("smoothness:share=0.3,modulation=uncertainty")
