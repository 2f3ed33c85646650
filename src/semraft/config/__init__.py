"""The configuration of a run: frozen dataclasses, one for each part, that load without torch."""

from semraft.config.data import AugmentConfig, DataConfig, ShapesConfig, WorldConfig
from semraft.config.run import (
    HEADS,
    Conditioning,
    CorrelationKind,
    Head,
    LossConfig,
    ModelConfig,
    OptimConfig,
    Precision,
    Recompute,
    RunConfig,
    flat,
    load_config,
    to_json,
)
from semraft.config.term import TermConfig, parse_term, term_text

__all__ = [
    "HEADS",
    "AugmentConfig",
    "Conditioning",
    "CorrelationKind",
    "DataConfig",
    "Head",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "Precision",
    "Recompute",
    "RunConfig",
    "ShapesConfig",
    "TermConfig",
    "WorldConfig",
    "flat",
    "load_config",
    "parse_term",
    "term_text",
    "to_json",
]
