"""Classical predictors of flow, scored as networks are: what any network must beat."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from semraft.evaluation.evaluate import Predict, readable
from semraft.sample import FlowDataset, FlowSample

BASELINES = ("zero", "constant", "farneback", "dis")
"""Predictors without a network."""

_CONSTANT_STEP = 97  # Every so many valid pixels; prime, so that no column of the image is preferred.


def baseline(
    name: str,
    dataset: FlowDataset,
    indices: Sequence[int] | None = None,
    damaged: Literal["refuse", "skip"] = "refuse",
) -> Predict:
    """A classical predictor by its name in BASELINES: what any network must beat.

    `zero` is no motion. `constant` is the one vector that is best for this data set's pooled EPE; it is found
    from the ground truth it is then scored on, and so flattered. `farneback` and `dis` are OpenCV's.

    Raises:
        ValueError: Unknown name, or for `constant` no valid pixel at all.
        DamagedFile: As in `evaluate`, for `constant`.
    """
    if name == "zero":
        return lambda sample: [np.zeros_like(sample.flow)]
    if name == "constant":
        indices = range(len(dataset)) if indices is None else indices
        vector = best_constant(readable(dataset, indices, damaged, []))
        return lambda sample: [np.broadcast_to(vector, sample.flow.shape).copy()]
    if name == "farneback":
        return lambda sample: [opencv_flow(sample.image1, sample.image2, "farneback")]
    if name == "dis":
        return lambda sample: [opencv_flow(sample.image1, sample.image2, "dis")]
    raise ValueError(f"unknown baseline {name!r}: expected one of {', '.join(BASELINES)}")


def opencv_flow(
    image1: UInt8[np.ndarray, "H W 3"],
    image2: UInt8[np.ndarray, "H W 3"],
    method: Literal["dis", "farneback"] = "dis",
) -> Float32[np.ndarray, "H W 2"]:
    """OpenCV's flow of two RGB images, in pixels.

    `dis`: dense inverse search (Kroeger et al., ECCV 2016), preset medium. `farneback`: polynomial expansion
    (Farneback, SCIA 2003), 5 levels of pyramid, windows of 15 px, the tutorial's values otherwise.
    """
    no_start: Any = None  # OpenCV's annotations lack that a flow to start from may be missing.
    grey1, grey2 = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (image1, image2))
    if method == "dis":
        search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        flow = search.calc(grey1, grey2, no_start)
    else:
        flow = cv2.calcOpticalFlowFarneback(
            grey1,
            grey2,
            no_start,
            pyr_scale=0.5,
            levels=5,
            winsize=15,
            iterations=3,
            poly_n=5,
            poly_sigma=1.2,
            flags=0,
        )
    return np.asarray(flow, dtype=np.float32)


def best_constant(samples: Iterable[FlowSample]) -> Float32[np.ndarray, " 2"]:
    """The vector with the least mean distance to the ground truth: its geometric median, on a subset.

    One valid pixel in 97 is looked at. Weiszfeld's iteration with distances softened at 0.01 px, to 1e-4 px.

    Raises:
        ValueError: No sample has a valid pixel.
    """
    vectors = np.concatenate(
        [np.zeros((0, 2)), *(sample.flow[sample.valid][::_CONSTANT_STEP] for sample in samples)]
    )
    if len(vectors) == 0:
        raise ValueError("no valid ground truth to find the best constant flow from")
    center = np.median(vectors, axis=0)
    for _ in range(1000):
        weight = 1 / np.sqrt(np.square(vectors - center).sum(1) + 0.01**2)
        previous, center = center, weight @ vectors / weight.sum()
        if np.abs(center - previous).max() < 1e-4:
            break
    return np.asarray(center, dtype=np.float32)
