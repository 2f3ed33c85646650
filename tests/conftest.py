"""Fixtures every test may use."""

import numpy as np
import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20230401)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20230401)
