"""Loss functions by name: plain functions on tensors."""

from semraft.losses.matching import matching
from semraft.losses.semantic import semantic_smoothness_v1
from semraft.losses.sequence import sequence_loss

__all__ = ["matching", "semantic_smoothness_v1", "sequence_loss"]
