"""RAFT optical flow with semantic supervision on driving data."""

from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Prediction": "semraft.sample",
    "evaluate_flow": "semraft.metrics",
    "load": "semraft.inference",
    "predict": "semraft.inference",
    "raft_large": "semraft.models.raft",
    "raft_small": "semraft.models.raft",
    "raft_tiny": "semraft.models.raft",
    "read_flow": "semraft.data.files.formats",
    "write_flow": "semraft.data.files.formats",
}
"""Public name -> module. Looked up on first use: importing torch takes seconds, `semraft --help` must not."""

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    import importlib

    if name in ("losses", "metrics"):
        return importlib.import_module(f"semraft.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'semraft' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "losses", "metrics"])
