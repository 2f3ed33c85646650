"""The number of operations and of exchanges that losses cost, on a device and between processes."""

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed
from torch import Tensor

from semraft.config import LossConfig, TermConfig
from semraft.losses.objective import objective
from semraft.losses.reduction import Flows
from semraft.losses.terms import TERMS, term_values
from tests.property.test_loss_laws import UPDATES, VARIANTS, make, value

MOST = {"motion-model": 400, "census": 500}
"""Term -> operations that it may add to a step, where the bound is not 250."""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton exists for Linux alone")
def test_terms_ask_a_device_for_little() -> None:
    """Red when: a term goes from refinement to refinement, or from segment to segment, on a device."""
    command = [sys.executable, "benchmarks/operations.py", "--terms-only"]
    root = Path(__file__).parents[3]
    printed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines()[2:]]
    counts = {name: int(count) for name, count in rows}
    assert counts.pop("flow loss alone") <= 50
    assert {name[2:] for name in counts} >= set(TERMS)
    too_many = {
        name: count for name, count in counts.items() if count > MOST.get(name[2:].split(",")[0], 250)
    }
    assert not too_many


@pytest.mark.parametrize("term", VARIANTS, ids=lambda term: f"{term.name}-{term.where}")
def test_flows_may_be_judged_one_after_another_or_at_once(term: TermConfig) -> None:
    """In float64, truth unknown where it is not trusted. Red when: a refinement gets another's mask, pixels
    or share of the gradient, or what is not known leaks."""
    prediction, batch = make(7)
    prediction.flows = [flow.detach().double().requires_grad_() for flow in prediction.flows]
    trusted = batch.valid
    batch = replace(batch, flow=torch.where(trusted[:, None], batch.flow, torch.nan))

    def judged(flows: Flows) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        values = term_values(term, prediction, batch, trusted, flows)
        assert values.isfinite().all()
        weights = torch.arange(1, 1 + len(values))
        gradients = torch.autograd.grad((weights * values).sum(), prediction.flows, allow_unused=True)
        return values, gradients

    in_turn, at_once = judged(prediction.flows), judged(torch.stack(prediction.flows))
    torch.testing.assert_close(at_once[0], in_turn[0], rtol=1e-9, atol=0)
    for found, expected in zip(at_once[1], in_turn[1], strict=True):
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-12)
            assert found.isfinite().all()


@pytest.fixture
def exchanges(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The exchanges of two processes that have the same batch."""
    sent: list[Tensor] = []

    def all_reduce(tensor: Tensor) -> None:
        sent.append(tensor.clone())
        tensor.mul_(2)

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    return sent


@pytest.mark.parametrize("term", VARIANTS, ids=lambda term: f"{term.name}-{term.where}")
def test_a_mask_s_count_is_exchanged_once(
    term: TermConfig, exchanges: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when: processes ask each other anew at every refinement, or each divides by its own count."""
    prediction, batch = make(7)
    config = LossConfig(terms=(term,))
    together = objective(prediction, batch, config)
    assert len(exchanges) <= 2, [tensor.shape for tensor in exchanges]
    assert all(tensor.numel() in (1, UPDATES) for tensor in exchanges)
    monkeypatch.undo()
    alone = objective(prediction, batch, config)
    torch.testing.assert_close(value(together, term), value(alone, term))
