"""Loss functions by name: plain functions on tensors."""

from semraft.losses.boundary import boundary_weight
from semraft.losses.label_consistency import label_distance, label_warp, signed_distance
from semraft.losses.matching import matching
from semraft.losses.motion import motion_model
from semraft.losses.occlusion_head import occlusion
from semraft.losses.photometric import census
from semraft.losses.segmentation import segmentation, temporal_consistency
from semraft.losses.self_supervised import transform_consistency, zero_forcing
from semraft.losses.sequence import sequence_loss
from semraft.losses.smoothness import gradient_matching, semantic_smoothness_v1, smoothness

__all__ = [
    "boundary_weight",
    "census",
    "gradient_matching",
    "label_distance",
    "label_warp",
    "matching",
    "motion_model",
    "occlusion",
    "segmentation",
    "semantic_smoothness_v1",
    "sequence_loss",
    "signed_distance",
    "smoothness",
    "temporal_consistency",
    "transform_consistency",
    "zero_forcing",
]
