"""Fixtures every test may use, and what a run of all tests says of itself."""

import numpy as np
import pytest
import torch
from hypothesis import settings

from tests.progress import Progress

# The same examples in every run: what fails on one machine fails on another. `make test-all` draws others.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("numprocesses", None):
        config.pluginmanager.register(Progress(config))


def pytest_deselected(items: list[pytest.Item]) -> None:
    """A worker's count, for `Progress` in the process that it reports to."""
    output = getattr(items[0].config, "workeroutput", None) if items else None
    if output is not None:
        output["deselected"] = output.get("deselected", 0) + len(items)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20230401)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20230401)
