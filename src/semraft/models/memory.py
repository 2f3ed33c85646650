"""Memory of an accelerator: how much of it is left, and what a RAFT may keep there."""

from typing import Literal

import torch

from semraft.config import Recompute

Again = Literal["nothing", "ends", "everything"]
"""Activations that a forward pass does not keep for the gradients: `config.Recompute` without `auto`."""

KEPT_FRAC = 1 / 2
"""Part of the free memory that kept activations may take; losses and the backward pass need the rest."""
VOLUME_FRAC = 1 / 4
"""Part of the free memory that a stored correlation volume and its gradient may take."""
KEPT_BYTES_PX: dict[Again, dict[str, tuple[int, int]]] = {
    "nothing": {"large": (3900, 290), "small": (1700, 80), "tiny": (500, 80)},
    "ends": {"large": (470, 230), "small": (200, 70), "tiny": (120, 70)},
}
"""What a training step keeps for its gradients in float32, in bytes for a pixel of a pair of frames: at both
ends (encoders), and for each refinement with its upsampling. Without correlation volumes."""


def free_bytes(device: torch.device) -> int | None:
    """Bytes that new tensors can take: what the device has free, and what torch holds there unused.

    None where the device does not say, and for the CPU, whose memory is not asked for.
    """
    if device.type == "cpu":
        return None
    try:
        free, _ = torch.accelerator.get_memory_info(device)
        unused = torch.accelerator.memory_reserved(device) - torch.accelerator.memory_allocated(device)
    except (RuntimeError, NotImplementedError):
        return None
    return free + unused


def choose_recompute(
    kind: Recompute, arch: str, pixels: int, num_updates: int, device: torch.device
) -> Again:
    """The kind itself, or what `auto` means for a step on so many pixels of pairs, all of its batch.

    On the CPU, where memory is what limits the size of frames: both ends, 7 % of a step's time for a third
    of its memory (docs/performance.md). Elsewhere nothing is recomputed while what is then kept takes up to
    KEPT_FRAC of the free memory; else the ends, if that is enough; else everything.
    """
    if kind != "auto":
        return kind
    if device.type == "cpu":
        return "ends"
    free = free_bytes(device)
    for again, of_arch in KEPT_BYTES_PX.items():
        ends, refinement = of_arch[arch]
        if free is None or pixels * (ends + num_updates * refinement) <= KEPT_FRAC * free:
            return again
    return "everything"


def volumes_fit(batch: int, cells: int, trains: bool, device: torch.device) -> bool:
    """Whether the correlation volumes of a batch take at most VOLUME_FRAC of a device's free memory.

    All levels, in float32; a step of training adds up a gradient as large.
    """
    volumes = 4 * batch * cells**2 * 4 / 3
    free = free_bytes(device)
    return free is None or (2 if trains else 1) * volumes <= VOLUME_FRAC * free
