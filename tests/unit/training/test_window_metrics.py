"""Metrics of a logging window: what counts, and means over steps."""

import math

import numpy as np
import pytest
import torch

from semraft.config import LossConfig, parse_term
from semraft.data.loader import collate
from semraft.losses.gradient_surgery import StepGradients
from semraft.losses.objective import Objective
from semraft.sample import Prediction
from semraft.training.window_metrics import add_step, batch_metrics, window_means
from tests.helpers import make_sample, result_of


@pytest.mark.parametrize("poison", [1e6, math.nan])
def test_batch_metrics_see_valid_pixels_only(rng: np.random.Generator, poison: float) -> None:
    """Red when: the zeros stored at invalid pixels are scored as if they were truth, or the mean is over all.

    The prediction is off by 3-4-5 triangles, at invalid pixels by anything.
    """
    batch = collate([make_sample(rng), make_sample(rng)])
    assert not batch.valid.all()
    off = torch.tensor([3.0, -4.0]).view(1, 2, 1, 1)
    flows = [
        torch.where(batch.valid[:, None], batch.flow + scale * off, torch.tensor(poison)) for scale in (2, 1)
    ]
    nothing = torch.zeros(2, 4, 5, 7)
    metrics = batch_metrics(Prediction(flows=flows, features1=nothing, features2=nothing), batch)
    assert metrics["epe"] == pytest.approx(5, rel=1e-5)
    assert metrics["epe_iter_000"] == pytest.approx(10, rel=1e-5)
    assert metrics["epe_iter_001"] == pytest.approx(5, rel=1e-5)


def test_means_over_steps_and_refinements() -> None:
    """Two steps of two refinements. Red when: a window is not emptied, gamma weights the wrong refinement, or
    a term that surgery left alone counts as cut."""
    config = LossConfig(gamma=0.5, share_cap=0.1, terms=(parse_term("matching:1"), parse_term("census:1")))
    window: dict[str, torch.Tensor] = {}
    for factor in (1.0, 3.0):
        losses = Objective(
            total=torch.tensor(factor), values={"flow_loss": factor * torch.tensor([2.0, 4.0])}
        )
        kept = {"matching": torch.tensor(0.5)}
        gradients = StepGradients(kept_frac=kept, norm=torch.tensor(10 * factor))
        result = result_of(losses=losses, gradients=gradients, log_variances={"census": factor})
        add_step(window, result, config)
    assert window_means(window, 0.5) == {
        "total_loss": 2,
        "gradient_norm": 20,
        "flow_loss": 10,
        "flow_loss_iter_000": 4,
        "flow_loss_iter_001": 8,
        "census_loss_log_variance": 2,
        "matching_loss_kept_frac": 0.5,
        "census_loss_kept_frac": 1,
    }
    assert window == {}
