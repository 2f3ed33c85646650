"""Trained networks at work: load one, get flow for a pair of frames."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch.nn import functional as F

from semraft import runtime
from semraft.config import CorrelationKind, Precision
from semraft.data.files.pictures import encode
from semraft.models.encoder import STRIDE
from semraft.models.raft import RAFT
from semraft.models.weights import load_model
from semraft.ops.color import flow_to_color
from semraft.ops.occlusion import predicted
from semraft.sample import Estimate, Prediction

TopPadding = Literal["half", "none"]
"""Above an image half of the padding that its height needs, or none: the Sintel and KITTI ways of RAFT."""


class FlowArray(np.ndarray):
    """A flow H W 2 in pixels that a notebook shows in the Middlebury colour code; else a plain array."""

    def _repr_png_(self) -> bytes | None:
        """The picture as PNG; None for parts of a flow, such as one component."""
        if self.ndim != 3 or self.shape[2] != 2:
            return None
        return encode(".png", flow_to_color(np.asarray(self))[..., ::-1])


def load(
    path_or_state_dict: str | Path | dict[str, Any] | None = None,
    arch: str | None = None,
    correlation: CorrelationKind = "auto",
) -> RAFT:
    """A network from the weights that come with semraft, a semraft checkpoint, or public RAFT weights.

    Without a path the shipped default; a name that `semraft weights` lists; a semraft checkpoint, a public
    RAFT .pth file or torchvision's RAFT weights; or the dictionary of tensors that is in such a file.

    Strict: every weight has to be there and to fit. The architecture is read from the weights; `arch`
    ("large", "small", "tiny") only checks it. On the CPU, ready to predict. `correlation`
    stores the all-pairs volume, computes what is looked at on demand, or takes what is faster: the same flow
    but for rounding.

    Raises:
        ValueError: No such weights, no RAFT, or another architecture than `arch`.
    """
    runtime.bound_kernel_caches()
    model = load_model("" if path_or_state_dict is None else path_or_state_dict, arch=arch).eval()
    model.correlation = correlation
    return model


def predict(
    model: RAFT,
    image1: UInt8[np.ndarray, "H W 3"],
    image2: UInt8[np.ndarray, "H W 3"],
    num_updates: int | None = None,
    precision: Precision | None = None,
    top_padding: TopPadding = "half",
) -> Float32[np.ndarray, "H W 2"]:
    """The flow from image1 to image2 in pixels. Images are RGB, uint8, 0..255. Runs where the model is.

    By default the flow that the training validated and `semraft evaluate` scores.

    Args:
        num_updates: Refinements; without it those that the weights were validated with.
        precision: Arithmetic of the network; without it that of the weights' validation, if the device
            computes in it at speed, else float32.
        top_padding: "none" for KITTI, whose published figures are of frames padded below alone.

    Raises:
        ValueError: Images of another type, of different sizes, or smaller than 64 x 64 pixels.
    """
    for name, image in (("image1", image1), ("image2", image2)):
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,):
            found = f"{image.dtype} of shape {image.shape}" if isinstance(image, np.ndarray) else type(image)
            raise ValueError(f"{name}: expected a uint8 array H W 3 of RGB values 0..255, got {found}")
    updates = model.validation_updates if num_updates is None else num_updates
    prediction = on_device(
        model,
        image1,
        image2,
        updates,
        precision=precision or validated_precision(model),
        keep="last",
        top_padding=top_padding,
    )
    return decided(prediction).flows[0].view(FlowArray)


def validated_precision(model: RAFT) -> Precision:
    """The precision that a network's weights were validated in; float32 where its device is slow in that."""
    return runtime.native_precision(model.validation_precision, next(model.parameters()).device)


def estimate(
    model: RAFT,
    image1: UInt8[np.ndarray, "H W 3"],
    image2: UInt8[np.ndarray, "H W 3"],
    num_updates: int,
    *,
    precision: Precision = "float32",
    keep: Literal["all", "last"] = "all",
    backward: bool = False,
) -> Estimate:
    """The flow after each refinement or after the last alone, with the heads' outputs; see `on_device`."""
    return decided(
        on_device(model, image1, image2, num_updates, precision=precision, keep=keep, backward=backward)
    )


@torch.inference_mode()
def on_device(
    model: RAFT,
    image1: UInt8[np.ndarray, "H W 3"],
    image2: UInt8[np.ndarray, "H W 3"],
    num_updates: int,
    *,
    precision: Precision = "float32",
    keep: Literal["all", "last"] = "all",
    top_padding: TopPadding = "half",
    backward: bool = False,
    labels1: UInt8[np.ndarray, "H W"] | None = None,
    labels2: UInt8[np.ndarray, "H W"] | None = None,
) -> Prediction:
    """The prediction of a pair, on the network's device.

    Pads as RAFT's evaluation does, so that published figures can be met: half of the padding left and half
    right; above half (its Sintel way), or none and all of it below (its KITTI way). With `backward` the last
    flow from image2 to image1 too. Labels are for a network that is conditioned on the truth.

    Raises:
        ValueError: Such a network without labels.
    """
    parameter = next(model.parameters())
    device = parameter.device
    height, width = image1.shape[:2]
    padding_height, padding_width = -height % STRIDE, -width % STRIDE
    left, top = padding_width // 2, padding_height // 2 if top_padding == "half" else 0
    tensors = [
        F.pad(
            torch.from_numpy(np.ascontiguousarray(image))
            .to(device)
            .permute(2, 0, 1)[None]
            .to(parameter.dtype),
            (left, padding_width - left, top, padding_height - top),
            mode="replicate",
        )
        for image in (image1, image2)
    ]
    borders = (top, padding_height - top), (left, padding_width - left)
    classes = [
        None
        if labels is None or model.conditioning != "truth"
        else torch.from_numpy(np.pad(labels, borders, mode="edge")).to(device)[None].long()
        for labels in (labels1, labels2)
    ]
    was_training = model.training
    model.eval()
    with runtime.autocast(device, precision):
        prediction: Prediction = model(
            tensors[0], tensors[1], num_updates, labels1=classes[0], labels2=classes[1], keep=keep
        )
        if backward:
            prediction.backward_flow = model.backward_flow(
                tensors[1], prediction, num_updates, classes[0], classes[1]
            )
    model.train(was_training)
    window = (..., slice(top, top + height), slice(left, left + width))
    others: dict[str, Any] = {
        name: None if (values := getattr(prediction, name)) is None else values[window]
        for name in ("backward_flow", "occlusion", "segmentation1", "segmentation2")
    }
    return replace(prediction, flows=[flow[window] for flow in prediction.flows], **others)


@torch.inference_mode()
def decided(prediction: Prediction) -> Estimate:
    """The arrays of one pair's prediction, heads decided."""
    back = prediction.backward_flow
    occluded, decoded = prediction.occlusion, (prediction.segmentation1, prediction.segmentation2)
    labels1, labels2 = (
        None if logits is None else logits[0].argmax(dim=0).byte().cpu().numpy() for logits in decoded
    )
    return Estimate(
        flows=[_to_array(flow) for flow in prediction.flows],
        backward_flow=None if back is None else _to_array(back),
        occluded1=None if occluded is None else predicted(occluded)[0].cpu().numpy(),
        labels1=labels1,
        labels2=labels2,
    )


def _to_array(flow: Float[torch.Tensor, "1 2 H W"]) -> Float32[np.ndarray, "H W 2"]:
    array: Float32[np.ndarray, "H W 2"] = flow[0].permute(1, 2, 0).float().cpu().numpy()
    return array
