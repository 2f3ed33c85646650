"""The original study's resize, masks and means, as its code had them (docs/divergence.md)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped, UInt8
from torch import Tensor

from semraft.config import LossConfig
from semraft.data.augment import GREY, resize
from semraft.data.taxonomy import CLASSES
from semraft.losses.auxiliary_term import term_inputs
from semraft.losses.objective import Objective, objective, supervised_pixels
from semraft.losses.reduction import in_turn, quickest, refinement_sum
from semraft.losses.sequence import distance_from
from semraft.losses.terms import TERMS
from semraft.sample import IGNORE_LABEL, FlowBatch, FlowSample, Prediction

NOTHING_PX = {"as-zero": 0.0, "as-65504": 65504.0}
"""Alteration -> the value that a component of unknown flow is blended as; 65504 is float16's largest."""


def resize_as_it_was(altered: frozenset[str], sample: FlowSample, crop: tuple[int, int]) -> FlowSample:
    """`resize` with the alterations of targets and labels in `altered`; sparse truth is never blended."""
    changes: dict[str, Any] = {}
    resized = resize(sample, crop)
    for flow, valid, labels in (
        ("flow", "valid", "labels1"),
        ("backward_flow", "backward_valid", "labels2"),
    ):
        for nothing_px in (px for name, px in NOTHING_PX.items() if name in altered and not sample.sparse):
            if getattr(sample, flow) is not None:
                blended = _blended(getattr(sample, flow), getattr(sample, valid), crop, nothing_px)
                changes[flow], changes[valid] = blended
        if "grey-labels" in altered and getattr(sample, labels) is not None:
            changes[labels] = LABEL_OF_GREY[_bilinear(GREY_OF_LABEL[getattr(sample, labels)], crop)]
    return dataclasses.replace(resized, **changes)


def objective_as_it_was(
    altered: frozenset[str],
    prediction: Prediction,
    batch: FlowBatch,
    config: LossConfig,
    weights: Mapping[str, float],
) -> Objective:
    """`objective` with the alterations of masks and means in `altered`."""
    values = dict(objective(prediction, batch, config, weights).values)
    if "broadcast-flow-mask" in altered:
        values["flow_loss"] = broadcast_flow_values(prediction, batch, config)
    if altered & {"v1-broadcast-mask", "v1-mean-all"} and "semantic-v1" in weights:
        values["semantic_loss"] = v1_values(altered, prediction, batch, config)
    total = refinement_sum(values["flow_loss"], config.gamma)
    for name, weight in weights.items():
        if weight != 0:
            total = total + weight * refinement_sum(values[TERMS[name].scalar], config.gamma)
    return Objective(total=total, values=values)


def broadcast_flow_values(
    prediction: Prediction, batch: FlowBatch, config: LossConfig
) -> Float[Tensor, " T"]:
    """The flow loss at each refinement, whose mask B 1 H W met distances B H W: B B H W.

    The sum of every sample under the mask of every sample, divided by the number of valid pixels: about B
    times the flow loss. A pixel that is valid in another sample but not in its own has the target 0.
    """
    supervised = supervised_pixels(batch, config)
    distance = distance_from(batch.flow, supervised)
    of_all = torch.cat([distance(flows).sum(dim=1) for flows in in_turn(quickest(prediction.flows))])
    masks = supervised.sum(dim=0)
    return (of_all * masks).sum(dim=(1, 2)) / masks.sum().clamp(min=1)


def v1_values(
    altered: frozenset[str], prediction: Prediction, batch: FlowBatch, config: LossConfig
) -> Float[Tensor, " T"]:
    """V1 at each refinement, with the mask or the mean of the original code."""
    (chosen,) = (term for term in config.terms if term.name == "semantic-v1")
    trusted = batch.trusted(config.max_flow_px)
    inputs = term_inputs(TERMS["semantic-v1"], chosen, prediction, batch, trusted)
    labels = inputs.labels1
    counted = trusted & (labels != IGNORE_LABEL)  # B H W, or B B H W with an axis that was forgotten.
    counted = counted & (inputs.acting[:, None] if "v1-broadcast-mask" in altered else inputs.acting)
    counted = counted[..., 1:, 1:]
    together = labels[:, 1:, 1:] == labels[:, :-1, 1:], labels[:, 1:, 1:] == labels[:, 1:, :-1]
    values = []
    for flows in in_turn(inputs.flows):
        here = flows[..., 1:, 1:]
        steps = here - flows[..., :-1, 1:], here - flows[..., 1:, :-1]
        sizes = [
            torch.where(same, step.abs().sum(dim=2), 0) for same, step in zip(together, steps, strict=True)
        ]
        roughness = (sizes[0] + sizes[1])[(slice(None), *(None,) * (counted.ndim - 3))]
        values.append(torch.where(counted, roughness, 0).flatten(1).sum(dim=1))
    divisor = counted.numel() if "v1-mean-all" in altered else counted.sum().clamp(min=1)
    return torch.cat(values) / divisor


def _blended(
    flow: Float[np.ndarray, "h w 2"], valid: Bool[np.ndarray, "h w"], crop: tuple[int, int], nothing_px: float
) -> tuple[Float[np.ndarray, "H W 2"], Bool[np.ndarray, "H W"]]:
    """Flow resized across every border, unknown flow as `nothing_px`; valid where any part is known."""
    filled = np.where(valid[..., None], flow, np.float32(nothing_px))
    known = _bilinear(valid.astype(np.float32), crop) > 0
    factors = np.array([crop[1] / valid.shape[1], crop[0] / valid.shape[0]], np.float32)
    return np.where(known[..., None], _bilinear(filled, crop) * factors, np.float32(0)), known


def _bilinear(
    array: Shaped[np.ndarray, "h w *channels"], crop: tuple[int, int]
) -> Shaped[np.ndarray, "H W *channels"]:
    return np.asarray(cv2.resize(array, crop[::-1], interpolation=cv2.INTER_LINEAR))


def _grey_tables() -> tuple[UInt8[np.ndarray, " 256"], UInt8[np.ndarray, " 256"]]:
    """Label -> grey level of its class's colour, and back; a level of no class is a label of its own.

    Ignored pixels are black, as in the palettes of the data sets, and black is ignored. No two of the common
    classes have one level.
    """
    grey, label = np.zeros(256, np.uint8), np.full(256, IGNORE_LABEL, np.uint8)
    greys = [round(float(GREY @ entry.color)) for entry in CLASSES]
    others = [level for level in range(1, 256) if level not in greys]
    for number, level in enumerate((*greys, *others)):
        grey[number], label[level] = level, number
    return grey, label


GREY_OF_LABEL, LABEL_OF_GREY = _grey_tables()
