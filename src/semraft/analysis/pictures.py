"""Saved pairs as pictures in a page: frames, ground truth, each run's flow and error on common scales.

Knows nothing of pages, and computes no metric: a pair's EPE is the one the run wrote.
"""

import base64
import colorsys
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from semraft.analysis.comparison import format_value, variants
from semraft.analysis.runs import Run, SavedPair, load_pair
from semraft.ops.color import flow_to_color, labels_to_color

MAX_PAIRS = 12
"""Pairs of a split whose pictures are shown."""

MAX_PICTURE_WIDTH_PX = 640
"""Wider frames are scaled down to this in the page."""

NO_TRUTH_GREY = 128
"""What flow and error pictures show where there is no ground truth."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One image of the page and what is said under it."""

    caption: str
    detail: str
    uri: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PairPictures:
    """A validation pair: what all runs were given, and each run's flow and error on common scales in px."""

    id: str
    split: str
    flow_scale_px: float
    error_scale_px: float
    given: list[Picture]
    runs: list[tuple[int, str, Picture, Picture]]
    classes: list[tuple[str, str]]

    @property
    def columns(self) -> int:
        """Runs side by side where there is room: rows of equal length for the usual numbers of runs."""
        return {5: 3, 6: 3}.get(len(self.runs), min(len(self.runs), 4))


def pair_pictures(runs: Sequence[Run]) -> Iterator[PairPictures]:
    """The pairs that runs saved, each with the pictures of every run that has it; one pair in memory."""
    headings = {
        run.path: (color, f"{name} seed {run.seed}")
        for color, (name, group) in enumerate(variants(runs).items())
        for run in group
    }
    for split in dict.fromkeys(split for run in runs for split in run.pair_files):
        names = dict.fromkeys(path.name for run in runs for path in run.pair_files.get(split, ()))
        for name in list(names)[:MAX_PAIRS]:
            saved = [
                (run, load_pair(path))
                for run in runs
                for path in run.pair_files.get(split, ())
                if path.name == name
            ]
            alike = [(run, pair) for run, pair in saved if pair.id == saved[0][1].id]
            yield _pair_pictures(split, alike, headings)


def data_uri(image: UInt8[np.ndarray, "H W 3"], kind: Literal["photo", "flat"]) -> str:
    """An RGB picture as a data URI: `photo` is lossy WebP, `flat` (labels, masks) lossless PNG."""
    suffix, options = (".webp", [cv2.IMWRITE_WEBP_QUALITY, 75]) if kind == "photo" else (".png", [])
    encoded = cv2.imencode(suffix, np.ascontiguousarray(image[..., ::-1]), options)[1]
    return f"data:image/{suffix[1:]};base64,{base64.b64encode(encoded.tobytes()).decode()}"


def shrink(image: UInt8[np.ndarray, "H W 3"], nearest: bool = False) -> UInt8[np.ndarray, "h w 3"]:
    """A frame no wider than the page shows it; labels and masks by their nearest pixel."""
    size = _page_size(*image.shape[:2])
    return cv2.resize(image, size, interpolation=cv2.INTER_NEAREST if nearest else cv2.INTER_AREA)


def flow_scale_px(pair: SavedPair) -> float:
    """The flow length that a pair's pictures show fully saturated: above 99 % of the ground truth, in px."""
    length = np.linalg.norm(pair.flow_gt[pair.valid].astype(np.float32), axis=-1)
    return _nice_ceiling(float(np.quantile(length, 0.99)) if length.size else 1.0)


def error_scale_px(pairs: Sequence[SavedPair]) -> float:
    """The error that all error maps of a pair show as brightest, in px: above 98 % of all runs' errors."""
    errors = np.concatenate([_error_px(pair)[pair.valid] for pair in pairs])
    errors = errors[np.isfinite(errors)]
    return _nice_ceiling(float(np.quantile(errors, 0.98)) if errors.size else 1.0)


def flow_picture(
    flow: Float[np.ndarray, "H W 2"], valid: Bool[np.ndarray, "H W"], max_px: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Flow as colours at page size; a pixel of the page is the mean of the valid pixels under it."""
    values, known = _shrink_valid(flow.astype(np.float32), valid)
    picture = flow_to_color(values, known, max_px)
    picture[~known] = NO_TRUTH_GREY
    return picture


def error_picture(pair: SavedPair, max_px: float) -> UInt8[np.ndarray, "h w 3"]:
    """Endpoint error at page size: black at 0, yellow at `max_px` and beyond, grey without ground truth."""
    error, known = _shrink_valid(_error_px(pair)[..., None], pair.valid)
    picture = error_colors(error[..., 0] / max_px)
    picture[~known] = NO_TRUTH_GREY
    return picture


def error_colors(fraction: Float32[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """The colours of the error scale (inferno: ordered in lightness, also for the colour-blind), RGB."""
    level = (np.nan_to_num(fraction, nan=1.0).clip(0, 1) * 255).round().astype(np.uint8)
    colors: UInt8[np.ndarray, "H W 3"] = cv2.applyColorMap(level, cv2.COLORMAP_INFERNO)[..., ::-1].copy()
    return colors


def _pair_pictures(
    split: str, saved: Sequence[tuple[Run, SavedPair]], headings: dict[Path, tuple[int, str]]
) -> PairPictures:
    shown = saved[0][1]
    classes = _classes(saved[0][0])
    flow_px, error_px = flow_scale_px(shown), error_scale_px([pair for _, pair in saved])
    everywhere = np.ones_like(shown.valid)
    known = f"{100 * shown.valid.mean():.0f} % known"
    given = [
        Picture(caption="Frame 1", detail="", uri=data_uri(shrink(shown.image1), "photo")),
        Picture(caption="Frame 2", detail="", uri=data_uri(shrink(shown.image2), "photo")),
        Picture(
            caption="Ground truth",
            detail=known,
            uri=data_uri(flow_picture(shown.flow_gt, shown.valid, flow_px), "photo"),
        ),
    ]
    present: list[tuple[str, str]] = []
    if shown.labels1 is not None:
        palette = np.array([color for _, color in classes], dtype=np.uint8)
        picture = shrink(labels_to_color(shown.labels1, palette), nearest=True)
        given.append(Picture(caption="Labels of frame 1", detail="", uri=data_uri(picture, "flat")))
        present = [(classes[label][0], _hex(classes[label][1])) for label in np.unique(shown.labels1)]
    if shown.occluded1 is not None:
        light, dark = np.uint8(235), np.uint8(45)
        mask = shrink(np.where(shown.occluded1[..., None].repeat(3, -1), light, dark), nearest=True)
        given.append(Picture(caption="Not visible in frame 2", detail="light", uri=data_uri(mask, "flat")))
    pictures = []
    for run, pair in saved:
        epe = run.per_sample.get((split, pair.id), {}).get("epe", math.nan)
        flow = Picture(
            caption="Flow", detail="", uri=data_uri(flow_picture(pair.flow, everywhere, flow_px), "photo")
        )
        error = Picture(
            caption="Error",
            detail=f"EPE {format_value('epe', epe)} px",
            uri=data_uri(error_picture(pair, error_px), "photo"),
        )
        pictures.append((*headings[run.path], flow, error))
    return PairPictures(
        id=shown.id,
        split=split,
        flow_scale_px=flow_px,
        error_scale_px=error_px,
        given=given,
        runs=pictures,
        classes=present,
    )


def _hex(color: tuple[int, int, int]) -> str:
    return "#" + bytes(color).hex()


def _classes(run: Run) -> list[tuple[str, tuple[int, int, int]]]:
    """Name and colour of each of the 256 labels: as the run recorded its classes, else by hue."""
    hues = [colorsys.hsv_to_rgb(label * 0.618 % 1, 0.55, 0.8) for label in range(255)]
    table = [(f"class {label}", _bytes(color)) for label, color in enumerate(hues)] + [
        ("ignored", (24, 24, 24))
    ]
    for entry in run.environment.get("classes", []):
        red, green, blue = entry["color"]
        table[entry["id"]] = (entry["name"].replace("_", " "), (red, green, blue))
    return table


def _bytes(color: tuple[float, float, float]) -> tuple[int, int, int]:
    red, green, blue = (round(255 * part) for part in color)
    return red, green, blue


def _error_px(pair: SavedPair) -> Float32[np.ndarray, "H W"]:
    difference = pair.flow.astype(np.float32) - pair.flow_gt.astype(np.float32)
    error: Float32[np.ndarray, "H W"] = np.linalg.norm(difference, axis=-1)
    return error


def _shrink_valid(
    values: Float32[np.ndarray, "H W C"], valid: Bool[np.ndarray, "H W"]
) -> tuple[Float32[np.ndarray, "h w C"], Bool[np.ndarray, "h w"]]:
    """Means over valid pixels only: sparse ground truth must not fade into what surrounds it."""
    height, width = valid.shape
    size = _page_size(height, width)
    kept = np.where(valid[..., None], values, 0).astype(np.float32)
    share = cv2.resize(valid.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    total = cv2.resize(kept, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], -1)
    return total / np.maximum(share, 1e-6)[..., None], share > 0


def _page_size(height: int, width: int) -> tuple[int, int]:
    ratio = min(1.0, MAX_PICTURE_WIDTH_PX / width)
    return round(width * ratio), max(1, round(height * ratio))


def _nice_ceiling(value: float) -> float:
    """The next of 1, 2, 3, 5, 10, 20, ... times a power of ten, so that a scale reads well."""
    size = 10.0 ** math.floor(math.log10(max(value, 0.1)))
    return next(size * factor for factor in (1, 2, 3, 5, 10) if size * factor >= value)
