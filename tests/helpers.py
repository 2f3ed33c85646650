"""Helpers that several tests share: where the real frames are, and small asymmetric samples."""

import os
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semraft.agreement import Ending
from semraft.losses.gradient_surgery import StepGradients
from semraft.losses.objective import Objective
from semraft.sample import FlowSample, Prediction
from semraft.step_result import StepResult

PATIENCE_S = 900
"""After so long a process hangs; none takes a tenth of it, on a machine as busy as it may be."""

REAL_DATA = Path(os.environ.get("SEMRAFT_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))

needs_real_data = pytest.mark.skipif(
    not REAL_DATA.is_dir(), reason=f"no real frames at {REAL_DATA} (set SEMRAFT_REAL_DATA)"
)


def combinations_of(*values: Iterable[Any], short: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Every combination of some parameters' values; those that are not in `short` are slow tests.

    `short` has each value at least once, and each pair of values that one fault needs.
    """
    every = list(product(*values))
    assert set(short) <= set(every)
    return [pytest.param(*case, marks=() if case in short else pytest.mark.slow) for case in every]


def global_numpy() -> np.random.RandomState:
    """NumPy's global generator, for tests that nothing reads or moves it; nobody draws from it here."""
    return np.random.RandomState(np.random.get_bit_generator())


def make_sample(rng: np.random.Generator, height: int = 37, width: int = 53) -> FlowSample:
    """A sample with every field set, no symmetry, and some invalid pixels."""
    valid = rng.random((height, width)) > 0.2
    backward_valid = rng.random((height, width)) > 0.2
    flow = rng.normal(0, 4, (height, width, 2)).astype(np.float32) * valid[..., None]
    backward = rng.normal(0, 4, (height, width, 2)).astype(np.float32) * backward_valid[..., None]
    return FlowSample(
        id="made/000001",
        scene="made",
        dataset="made",
        image1=rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
        image2=rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
        flow=flow,
        valid=valid,
        valid_noc=valid & (rng.random((height, width)) > 0.1),
        backward_flow=backward,
        backward_valid=backward_valid,
        labels1=rng.choice(np.array([0, 2, 7, 10, 255], dtype=np.uint8), (height, width)),
        labels2=rng.choice(np.array([0, 2, 7, 10, 255], dtype=np.uint8), (height, width)),
        instances1=rng.integers(0, 4, (height, width)).astype(np.int32),
        instances2=rng.integers(0, 4, (height, width)).astype(np.int32),
        occluded1=rng.random((height, width)) > 0.8,
        occluded2=rng.random((height, width)) > 0.8,
        moving1=rng.random((height, width)) > 0.7,
    )


def result_of(**fields: Any) -> StepResult:
    """A step without losses on a pair of zeros, with some fields set."""
    flow, features = torch.zeros(1, 2, 8, 16), torch.zeros(1, 3, 1, 2)
    return StepResult(
        **{
            "step": 1,
            "prediction": Prediction(flows=[flow], features1=features, features2=features),
            "losses": Objective(total=torch.zeros(()), values={"flow_loss": torch.zeros(1)}),
            "weights": {},
            "log_variances": {},
            "measured": {},
            "gradients": StepGradients(norm=torch.ones(())),
            "ending": Ending.NONE,
            **fields,
        }
    )
