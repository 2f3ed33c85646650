"""Random geometry and colour of a training pair, everything known about it kept true.

A window of the frame is cut at whole pixels and resized to the crop, so that only the pixels a crop needs are
touched. Resizing is affine: the point x of the window is at (x + 1/2) f - 1/2 in the crop, f = crop / window
being the realised factor that flow is multiplied with. Both frames go through the same window.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Complex64, Float32, Int64, Shaped, UInt8

from semraft.config import AugmentConfig
from semraft.ops.warp import in_frame, match_positions
from semraft.sample import IGNORE_LABEL, FlowSample, Window

BLEND_TOLERANCE_PX = 0.5
"""Flow is interpolated only where that moves it less than this, in pixels of the frame, from its nearest
neighbour's. Mean error in pixels of an analytic road with a box moving across it, enlarged by 1.15, inside a
motion and beside the border of two: nearest neighbour 0.055 and 0.051; bilinear 0.0005 and 0.63 (flow that no
object has); this rule 0.002 and 0.009, and the same within a tenth for tolerances from 0.25 to 1."""

GREY = np.array([0.299, 0.587, 0.114])
"""Shares of red, green and blue in a pixel's grey (ITU-R BT.601, as in torchvision)."""


class Colour(NamedTuple):
    """A change of colour: factors of brightness, contrast and saturation, and a turn of the colour circle."""

    brightness: float
    contrast: float
    saturation: float
    hue_turns: float


Resize = Callable[[FlowSample, tuple[int, int]], FlowSample]
"""Every array of a sample to height and width of a crop: `resize`, or one altered by an experiment."""


def augment(
    sample: FlowSample, config: AugmentConfig, crop: tuple[int, int], rng: np.random.Generator
) -> FlowSample:
    """A random crop of the pair, resized, flipped and recoloured as `config` says; the sample is not changed.

    Labels, instances and all masks come from the nearest pixel; flow too, interpolated where its neighbours
    are valid and agree (`BLEND_TOLERANCE_PX`). Sparse ground truth is never interpolated: each measurement
    moves to its nearest new pixel. The crop is the new frame: what leaves it is occluded, and not in
    `valid_noc`. Boxes erased in frame 2 lose label, instance and backward flow, and occlude what moves there.

    Differs from RAFT's augmentor: the window lies at whole pixels of the frame, not of the resized frame; the
    contrast's mean grey and the eraser's colour are the crop's, not the frame's.

    Args:
        crop: Height and width of the result in pixels. A frame too small for it is enlarged.
        rng: All that is random is drawn from here: equal generators give equal results.
    """
    height, width = sample.valid.shape
    window = draw_window((height, width), crop, config, rng)
    return augment_part(sample.part(window), (height, width), window, config, crop, rng, resize)


def augment_part(
    part: FlowSample,
    frame: tuple[int, int],
    window: Window,
    config: AugmentConfig,
    crop: tuple[int, int],
    rng: np.random.Generator,
    resized: Resize,
) -> FlowSample:
    """`augment` once the window is drawn: `part` is that window of a pair of height and width `frame`."""
    result = _hide_outside(resized(part, crop))
    if not config.enabled:
        return result
    result = _recolour_pair(result, config, rng)
    if rng.random() < config.eraser_probability:
        result = erase(result, _draw_boxes(frame, window, crop, config.eraser_size_px, rng))
    if rng.random() < config.horizontal_flip_probability:
        result = flip(result, axis=1)
    if rng.random() < config.vertical_flip_probability:
        result = flip(result, axis=0)
    return result


def draw_window(
    size: tuple[int, int], crop: tuple[int, int], config: AugmentConfig, rng: np.random.Generator
) -> Window:
    """Draws how much of a frame of `size` (height, width) becomes the crop, and where it lies.

    As in RAFT: the scale is 2^U(min, max), stretched along each axis by a 2^U(-s, s) of its own, and raised
    to what lets the crop fit in both directions.
    """
    scale = np.ones(2)
    if config.enabled and rng.random() < config.scale_probability:
        scale *= 2 ** rng.uniform(config.min_log2_scale, config.max_log2_scale)
        if rng.random() < config.stretch_probability:
            scale *= 2 ** rng.uniform(-config.max_log2_stretch, config.max_log2_stretch, 2)
    scale = np.maximum(scale, max(crop[0] / size[0], crop[1] / size[1]))
    height, width = (max(1, round(crop[axis] / scale[axis])) for axis in (0, 1))
    top, left = int(rng.integers(size[0] - height + 1)), int(rng.integers(size[1] - width + 1))
    return Window(top, left, height, width)


def cut(sample: FlowSample, window: Window, crop: tuple[int, int]) -> FlowSample:
    """The window of every array resized to `crop`, flow in pixels of the crop; nothing is judged anew."""
    return resize(sample.part(window), crop)


def resize(sample: FlowSample, crop: tuple[int, int]) -> FlowSample:
    """Every array resized to `crop`, flow in pixels of the crop; nothing is judged anew."""
    height, width = sample.valid.shape
    changes: dict[str, Any] = {
        name: _resize(getattr(sample, name), crop, cv2.INTER_LINEAR) for name in ("image1", "image2")
    }
    frame1 = ("flow", "valid", "valid_noc", "labels1", "instances1", "occluded1", "moving1")
    frame2 = ("backward_flow", "backward_valid", "labels2", "instances2", "occluded2")
    for flow, valid, names in (("flow", "valid", frame1), ("backward_flow", "backward_valid", frame2)):
        known = {name: getattr(sample, name) for name in names if getattr(sample, name) is not None}
        taken = {name: _resize(array, crop, cv2.INTER_NEAREST_EXACT) for name, array in known.items()}
        if valid in known and sample.sparse:
            source, target = _moved(known[valid], crop)
            taken[valid] = np.zeros(crop, bool)
            for name in taken:
                taken[name][target] = known[name][source]
        elif flow in known:
            taken[flow] = _blend(known[flow], known[valid], taken[flow])
        if flow in known:
            taken[flow][..., 0] *= crop[1] / width
            taken[flow][..., 1] *= crop[0] / height
            _as_one(taken[flow])[~taken[valid]] = 0
        changes |= taken
    if sample.valid_noc is not None:
        changes["valid_noc"] &= changes["valid"]
    return dataclasses.replace(sample, **changes)


def erase(sample: FlowSample, erased: Bool[np.ndarray, "H W"]) -> FlowSample:
    """Paints `erased` pixels of frame 2 with its mean colour, and marks as occluded the points behind them.

    There frame 2 has no label, no instance and no backward flow any more, and what of frame 1 has its match
    there (rounded to the nearest pixel) is occluded. Flow and labels of frame 1 stay true and stay.
    """
    if not erased.any():
        return sample
    image2 = sample.image2.copy()
    image2[erased] = np.rint(sample.image2.mean((0, 1)))
    changes: dict[str, Any] = {"image2": image2}
    for name, nothing in (
        ("labels2", IGNORE_LABEL),
        ("instances2", 0),
        ("backward_flow", 0),
        ("backward_valid", False),
    ):
        if getattr(sample, name) is not None:
            changes[name] = getattr(sample, name).copy()
            changes[name][erased] = nothing
    if sample.occluded1 is not None:
        x, y = match_positions(sample.flow)
        seen = sample.valid & in_frame(x, y)
        hidden = np.zeros_like(seen)
        hidden[seen] = erased[np.rint(y[seen]).astype(np.int64), np.rint(x[seen]).astype(np.int64)]
        changes["occluded1"] = sample.occluded1 | hidden
    return dataclasses.replace(sample, **changes)


def flip(sample: FlowSample, axis: int) -> FlowSample:
    """Mirrors both frames: axis 1 swaps left and right and negates u, axis 0 swaps up and down, negates v."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(sample):
        array = getattr(sample, field.name)
        if isinstance(array, np.ndarray):
            changes[field.name] = _as_bytes(lambda values: cv2.flip(values, axis), array)
    for name in {"flow", "backward_flow"} & changes.keys():
        changes[name][..., 1 - axis] *= -1
    return dataclasses.replace(sample, **changes)


def recolour(image: UInt8[np.ndarray, "H W 3"], colour: Colour) -> UInt8[np.ndarray, "H W 3"]:
    """Changes brightness b, contrast c, saturation s, and hue.

    x' = b (c (s x + (1 - s) grey(x)) + (1 - c) mean grey), torchvision's three adjustments, which give the
    same in any order as long as nothing is clipped: one matrix, rounded and clipped once. Then the hue (in
    256 steps of the circle) is turned at equal HSV saturation and value.
    """
    brightness, contrast, saturation, hue_turns = colour
    linear = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * GREY)
    mean_grey = float(GREY @ np.array(cv2.mean(image)[:3]))
    shift = np.full((3, 1), brightness * (1 - contrast) * mean_grey)
    result = cv2.transform(image, np.hstack([linear, shift]))
    hue = np.uint8(round(hue_turns * 256) % 256)
    if hue:
        result = cv2.cvtColor(result, cv2.COLOR_RGB2HSV_FULL)
        result[..., 0] += hue  # Wraps around, as the circle does.
        result = cv2.cvtColor(result, cv2.COLOR_HSV2RGB_FULL)
    return np.asarray(result, np.uint8)


def _recolour_pair(sample: FlowSample, config: AugmentConfig, rng: np.random.Generator) -> FlowSample:
    first = _draw_colour(config, rng)
    if rng.random() < config.asymmetric_probability:
        image1, image2 = recolour(sample.image1, first), recolour(sample.image2, _draw_colour(config, rng))
    else:
        image1, image2 = np.split(recolour(np.concatenate([sample.image1, sample.image2]), first), 2)
    return dataclasses.replace(sample, image1=image1, image2=image2)


def _draw_colour(config: AugmentConfig, rng: np.random.Generator) -> Colour:
    brightness, contrast, saturation = (
        rng.uniform(max(0.0, 1 - change), 1 + change)
        for change in (config.brightness, config.contrast, config.saturation)
    )
    return Colour(brightness, contrast, saturation, rng.uniform(-config.hue_turns, config.hue_turns))


def _draw_boxes(
    size: tuple[int, int],
    window: Window,
    crop: tuple[int, int],
    sides_px: tuple[int, int],
    rng: np.random.Generator,
) -> Bool[np.ndarray, "H W"]:
    """One or two boxes drawn over the whole frame, as RAFT does, seen through the window."""
    erased = np.zeros(crop, bool)
    origin, factor = np.array(window[:2]), np.array(crop) / window[2:]
    for _ in range(rng.integers(1, 3)):
        corner = rng.integers(0, size)
        ends = np.stack([corner, corner + rng.integers(sides_px[0], sides_px[1] + 1, 2)])
        (top, left), (bottom, right) = np.rint((ends - origin) * factor).clip(0).astype(int)
        erased[top:bottom, left:right] = True
    return erased


def _blend(
    flow: Float32[np.ndarray, "h w 2"], valid: Bool[np.ndarray, "h w"], nearest: Float32[np.ndarray, "H W 2"]
) -> Float32[np.ndarray, "H W 2"]:
    """Bilinear flow where every pixel it comes from is valid and near the nearest one's, else the nearest."""
    crop = nearest.shape[:2]
    blend = _resize(flow, crop, cv2.INTER_LINEAR)
    invalid_share = _resize((~valid).astype(np.float32), crop, cv2.INTER_LINEAR)
    change_px = np.abs(blend - nearest)
    agrees = (change_px[..., 0] < BLEND_TOLERANCE_PX) & (change_px[..., 1] < BLEND_TOLERANCE_PX)
    np.copyto(_as_one(nearest), _as_one(blend), where=agrees & (invalid_share == 0))
    return nearest


def _moved(
    valid: Bool[np.ndarray, "h w"], crop: tuple[int, int]
) -> tuple[tuple[Int64[np.ndarray, " N"], ...], tuple[Int64[np.ndarray, " N"], ...]]:
    """Rows and columns of the measured pixels of a window, before and after it is resized.

    Of several that meet in one pixel the nearest to its centre is kept, of equally near ones the first.
    """
    source = np.stack(np.nonzero(valid), 1)
    place = (source + 0.5) * (np.array(crop) / valid.shape) - 0.5
    target = np.floor(place + 0.5).astype(np.int64)
    place_number = target[:, 0] * crop[1] + target[:, 1]
    order = np.lexsort((np.square(place - target).sum(1), place_number))
    kept = order[np.diff(place_number[order], prepend=-1) > 0]
    return tuple(source[kept].T), tuple(target[kept].T)


def _hide_outside(sample: FlowSample) -> FlowSample:
    """Makes the crop the frame: what has its match outside is occluded and leaves `valid_noc`."""
    changes: dict[str, Any] = {}
    if sample.occluded1 is not None or sample.valid_noc is not None:
        stays = in_frame(*match_positions(sample.flow))
        if sample.occluded1 is not None:
            changes["occluded1"] = sample.occluded1 | (sample.valid & ~stays)
        if sample.valid_noc is not None:
            changes["valid_noc"] = sample.valid_noc & stays
    if (
        sample.occluded2 is not None
        and sample.backward_flow is not None
        and sample.backward_valid is not None
    ):
        stays = in_frame(*match_positions(sample.backward_flow))
        changes["occluded2"] = sample.occluded2 | (sample.backward_valid & ~stays)
    return dataclasses.replace(sample, **changes)


def _as_one(flow: Float32[np.ndarray, "H W 2"]) -> Complex64[np.ndarray, "H W"]:
    """The same memory as one number a pixel, u + iv, for speed: NumPy is slow along an axis of two."""
    return np.asarray(flow.view(np.complex64)[..., 0])


def _resize(
    array: Shaped[np.ndarray, "h w *channels"], crop: tuple[int, ...], interpolation: int
) -> Shaped[np.ndarray, "H W *channels"]:
    return _as_bytes(lambda values: cv2.resize(values, crop[::-1], interpolation=interpolation), array)


def _as_bytes(function: Callable[[np.ndarray], np.ndarray], array: np.ndarray) -> np.ndarray:
    """Applies an OpenCV function, which takes no bool, to any array."""
    if array.dtype == bool:
        return np.asarray(function(array.view(np.uint8))).view(bool)
    return np.asarray(function(array))
