"""Fixtures of the tests of training."""

import pytest
import torch


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients scaled as for float16, arithmetic in float32: what a GPU's scaler does, on a CPU."""
    make = torch.amp.GradScaler

    def scaler(device: str, enabled: bool) -> torch.amp.GradScaler:
        return make(device, init_scale=2.0**8, growth_interval=3)

    monkeypatch.setattr(torch.amp, "GradScaler", scaler)
