"""The network a run starts from: what the configuration freezes, and what the seed decides."""

from pathlib import Path
from typing import Literal

import pytest
import torch

from semraft.config import ModelConfig
from semraft.models.build import build_model
from semraft.models.raft import raft_large


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("weights") / "large.pth"
    torch.save(raft_large().state_dict(), path)
    return str(path)


@pytest.mark.parametrize(
    ("batch_norm", "given", "frozen"),
    [
        ("auto", True, True),
        ("auto", False, False),
        ("train", True, False),
        ("freeze", False, True),
    ],
)
def test_batch_norm_is_frozen_in_fine_tuning(
    weights: str, batch_norm: Literal["auto", "train", "freeze"], given: bool, frozen: bool
) -> None:
    """Red when: `auto` does not look at the weights, or `train()` in the loop wakes the statistics."""
    config = ModelConfig(arch="large", weights=weights if given else "", batch_norm=batch_norm)
    model = build_model(config, seed=0)
    model.eval().train()
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) == 15
    assert {norm.training for norm in norms} == {not frozen}


def test_the_seed_decides_the_first_weights() -> None:
    """The study's seeds changed nothing. Red when: the seed is ignored, or left in torch's own generator."""
    state = torch.get_rng_state()
    first, again, other = (build_model(ModelConfig(arch="tiny"), seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    kernels = [name for name, value in first.items() if value.ndim == 4]
    assert len(kernels) > 10
    assert not any(torch.equal(first[name], other[name]) for name in kernels)
