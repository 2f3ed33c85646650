"""Loss functions by name: plain functions on tensors."""

from semraft.losses.boundary import boundary_weight
from semraft.losses.labels import label_distance, label_warp, signed_distance
from semraft.losses.matching import matching
from semraft.losses.semantic import semantic_smoothness_v1
from semraft.losses.sequence import sequence_loss
from semraft.losses.smoothness import gradient_matching, smoothness

__all__ = [
    "boundary_weight",
    "gradient_matching",
    "label_distance",
    "label_warp",
    "matching",
    "semantic_smoothness_v1",
    "sequence_loss",
    "signed_distance",
    "smoothness",
]
