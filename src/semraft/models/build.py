"""From a model configuration to a network with its first weights."""

import torch

from semraft.config import ModelConfig
from semraft.models.raft import ARCHITECTURES, RAFT
from semraft.models.weights import load_model


def build_model(config: ModelConfig, seed: int) -> RAFT:
    """The network a run starts from: given weights, or random ones that `seed` determines.

    Raises:
        ValueError: The weights are for another architecture, or don't fit strictly.
    """
    if config.weights:
        model = load_model(config.weights, arch=config.arch)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = ARCHITECTURES[config.arch]()
    freeze = config.batch_norm == "freeze" or (config.batch_norm == "auto" and bool(config.weights))
    return model.freeze_batch_norm() if freeze else model
