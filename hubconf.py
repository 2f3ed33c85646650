"""Entry points of torch.hub: torch.hub.load("OWNER/semraft" or a folder, "raft_small", weights="FILE")."""

import sys
from pathlib import Path

dependencies = ["torch", "numpy", "numba", "scipy", "cv2", "isal", "safetensors", "jaxtyping", "msgspec"]

sys.path.insert(0, str(Path(__file__).parent / "src"))

import semraft  # noqa: E402


def raft_large(weights=""):
    """RAFT as published, with the weights of a file or a shipped name; random ones without it."""
    return semraft.load(weights, arch="large") if weights else semraft.raft_large()


def raft_small(weights=""):
    """RAFT small as published, with the weights of a file or a shipped name; random ones without it."""
    return semraft.load(weights, arch="small") if weights else semraft.raft_small()
