"""Makes torchvision importable beside the CPU build of torch, for comparison only.

torchvision's compiled part wants CUDA; without it the import fails on two operators whose schemas are not
declared. RAFT uses neither: declaring them, where the plain import fails, is enough.
"""

import torch

SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

try:
    from torchvision.models import optical_flow
except RuntimeError as error:
    if "torchvision::nms" not in str(error):
        raise
    LIBRARY = torch.library.Library("torchvision", "DEF")  # Kept: declarations die with the object.
    for operator in ("nms", "qnms"):
        LIBRARY.define(operator + SCHEMA)
    from torchvision.models import optical_flow

raft_large = optical_flow.raft_large
raft_small = optical_flow.raft_small
