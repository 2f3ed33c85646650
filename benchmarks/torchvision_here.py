"""Makes torchvision importable beside the CPU build of torch: import this module before it.

Its compiled part wants CUDA; without it the import fails on two operators whose schemas are not declared and
which neither RAFT nor the transforms use.
"""

import torch

SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

try:
    import torchvision
except RuntimeError as error:
    if "torchvision::nms" not in str(error):
        raise
    LIBRARY = torch.library.Library("torchvision", "DEF")  # Kept: declarations die with the object.
    for operator in ("nms", "qnms"):
        LIBRARY.define(operator + SCHEMA)
    import torchvision

__all__ = ["torchvision"]
