"""Weights in another layout or file format, read back and compared."""

import io
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import safetensors.torch
import torch
from jaxtyping import UInt8
from torch import Tensor

from semraft.inference import load, predict
from semraft.models.raft import RAFT
from semraft.models.weights import CHECKPOINT_VERSION, Layout, revert
from semraft.writing import write_bytes

ENDINGS = (".pt", ".pth", ".safetensors")
PARITY_PX = 1e-3
"""Largest difference of flow, anywhere, between a network and its copy."""


class Conversion(NamedTuple):
    """Result of a conversion."""

    difference_px: float
    """Largest difference between the flow of the source and that of the written file on a made pair."""
    lost: str
    """Properties of the source that the file does not keep, as a sentence; empty if there are none."""


def convert_weights(source: str, out: Path, layout: Layout) -> Conversion:
    """Writes weights in a layout, by the file's ending with torch or as .safetensors, and reads them back.

    Raises:
        ValueError: Another ending, or a network with parts that the layout has no names for.
        RuntimeError: The flow of the file differs by more than PARITY_PX; the file is removed.
    """
    if out.suffix not in ENDINGS:
        raise ValueError(f"{out}: the ending says what to write, one of {', '.join(ENDINGS)}")
    model = load(source)
    tensors = {name: value.clone() for name, value in in_layout(model, layout).items()}
    notes = {
        "semraft": CHECKPOINT_VERSION,
        "arch": model.arch,
        "validation_updates": model.validation_updates,
        "precision": model.validation_precision,
    }
    if out.suffix == ".safetensors":
        metadata = {name: str(note) for name, note in notes.items()} if layout == "semraft" else None
        write_bytes(out, safetensors.torch.save(tensors, metadata=metadata))
    else:
        packed = io.BytesIO()  # torch turns the error of a full disk into one that does not name it.
        torch.save({**notes, "model": tensors} if layout == "semraft" else tensors, packed)
        write_bytes(out, packed.getvalue())
    image1, image2 = made_pair()
    copy, updates = load(out), model.validation_updates
    flows = [predict(network, image1, image2, updates, "float32") for network in (model, copy)]
    difference_px = float(np.abs(flows[0] - flows[1]).max())
    if not difference_px <= PARITY_PX:
        out.unlink()
        raise RuntimeError(f"{out}: its flow differs by {difference_px:.2g} px, so it was removed")
    lost = f"{out} does not keep that the weights were validated with {updates} refinements: give that number"
    return Conversion(difference_px, lost if copy.validation_updates != updates else "")


def in_layout(model: RAFT, layout: Layout) -> dict[str, Tensor]:
    """The tensors of a network by the names of a layout, as its own code writes them.

    Raises:
        ValueError: The architecture, a head or a conditioning that only semraft has.
    """
    state = model.state_dict()
    if layout == "semraft":
        return state
    parts = [f"the head {head}" for head in model.heads]
    parts += [] if model.conditioning == "none" else [f"conditioning on classes of {model.conditioning}"]
    parts += ["RAFT tiny"] if model.arch == "tiny" else []
    if parts:
        raise ValueError(f"the {layout} layout has no names for {' and '.join(parts)}: take --layout semraft")
    # RAFT's own files are saved from a data-parallel wrapper, and its code loads no others.
    prefix = "module." if layout == "princeton" else ""
    return {prefix + name: value for name, value in revert(state, layout, model.arch).items()}


def made_pair() -> list[UInt8[np.ndarray, "96 128 3"]]:
    """Two frames of a blurred random texture that moves 3 px to the left and 2 px up."""
    noise = np.random.default_rng(0).integers(0, 256, (104, 136, 3), np.uint8)
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]
    return [np.ascontiguousarray(texture[y : y + 96, x : x + 128]) for y, x in ((0, 0), (2, 3))]
