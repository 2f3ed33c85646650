"""Memory of an accelerator: free bytes, and the choices of recomputation and correlation that fit."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from semraft.config import Recompute
from semraft.kernels.conv2d import computed_in

Again = Literal["nothing", "ends", "everything"]
"""Activations recomputed for the gradients instead of kept: `config.Recompute` without `auto`."""

KEPT_FRAC = 1 / 2
"""Part of the free memory for kept activations; losses and the backward pass need the rest."""
VOLUME_FRAC = 1 / 4
"""Part of the free memory for a stored correlation volume and its gradient."""
KEPT_BYTES_PX: dict[Again, dict[str, tuple[int, int]]] = {
    "nothing": {"large": (3450, 290), "small": (1490, 95), "tiny": (450, 95)},
    "ends": {"large": (90, 230), "small": (65, 95), "tiny": (55, 55)},
}
"""Bytes that a training step in float32 keeps for its gradients, for each pixel of a pair of frames: once,
and for each refinement. Without correlation volumes; in half precision about half as many."""


def free_bytes(device: torch.device) -> int | None:
    """Bytes for new tensors: free memory of the device and unused memory of torch's allocator.

    None for the CPU, and for a device without that information.
    """
    if device.type == "cpu":
        return None
    try:
        free, _ = torch.accelerator.get_memory_info(device)
        unused = torch.accelerator.memory_reserved(device) - torch.accelerator.memory_allocated(device)
    except (RuntimeError, NotImplementedError):
        return None
    return free + unused


def choose_recompute(kind: Recompute, arch: str, images: Float[Tensor, "B 3 P Q"], num_updates: int) -> Again:
    """The kind itself, or the meaning of `auto` for a step on so many pairs of images.

    On the CPU, where memory limits the size of frames: both ends, 7 % of a step's time for a third of its
    memory (docs/performance.md). Elsewhere the least recomputation with kept activations of at most KEPT_FRAC
    of the free memory.
    """
    if kind != "auto" or not torch.is_grad_enabled():
        return "nothing" if kind == "auto" else kind
    if images.device.type == "cpu":
        return "ends"
    free, pixels = free_bytes(images.device), images[:, 0].numel()
    of_float32 = computed_in(images).itemsize / 4
    for again, of_arch in KEPT_BYTES_PX.items():
        ends, refinement = of_arch[arch]
        if free is None or of_float32 * pixels * (ends + num_updates * refinement) <= KEPT_FRAC * free:
            return again
    return "everything"


def volumes_fit(batch: int, cells: int, trains: bool, device: torch.device) -> bool:
    """Whether the correlation volumes of a batch take at most VOLUME_FRAC of a device's free memory.

    All levels, in float32; a step of training adds up a gradient as large.
    """
    volumes = 4 * batch * cells**2 * 4 / 3
    free = free_bytes(device)
    return free is None or (2 if trains else 1) * volumes <= VOLUME_FRAC * free
