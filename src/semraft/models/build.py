"""From a model configuration to a network with its first weights."""

from dataclasses import replace
from typing import Literal

import torch

from semraft.config import ModelConfig
from semraft.models.raft import ARCHITECTURES, RAFT
from semraft.models.weights import load_model


def settle_batch_norm(config: ModelConfig) -> ModelConfig:
    """The configuration with `auto` replaced by what it means for these weights."""
    meant: Literal["train", "freeze"] = "freeze" if config.weights else "train"
    return replace(config, batch_norm=meant) if config.batch_norm == "auto" else config


def build_model(config: ModelConfig, seed: int) -> RAFT:
    """The network a run starts from: given weights, or random ones that `seed` determines.

    Raises:
        ValueError: The weights are for another architecture, don't fit strictly, or have a head or a
            conditioning that the configuration does not name.
    """
    if config.weights:
        model = load_model(config.weights, arch=config.arch)
        if unnamed := [head for head in model.heads if head not in config.heads]:
            raise ValueError(
                f"{config.weights} has the head {' and '.join(unnamed)}, which --model.heads "
                f"({' '.join(config.heads) or 'empty'}) does not name: name it, or take other weights"
            )
        if model.conditioning not in ("none", config.conditioning):
            raise ValueError(
                f"{config.weights} is conditioned on classes of {model.conditioning}: give "
                f"--model.conditioning {model.conditioning}, or take other weights"
            )
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = ARCHITECTURES[config.arch]()
    # After everything else: one seed gives networks with and without heads the same weights.
    model.add_heads(config.heads, seed).condition_on(config.conditioning)
    model.correlation, model.recompute = config.correlation, config.recompute
    return model.freeze_batch_norm() if settle_batch_norm(config).batch_norm == "freeze" else model
