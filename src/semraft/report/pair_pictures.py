"""Saved pairs as pictures in a page: frames, ground truth, each variant's flow and error on common scales.

Knows nothing of pages, and computes no metric: a pair's EPE is the one the runs wrote. Which pairs are shown,
and in which order, is decided by their differences.
"""

import base64
import colorsys
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from semraft.analysis.runs import Run, SavedPair, load_pair
from semraft.analysis.variants import format_value, variants
from semraft.ops.color import flow_to_color, labels_to_color
from semraft.report.hover_data import HoverData, make_hover_data

MAX_PAIRS = 12
"""Pairs of a split whose pictures are shown."""

MAX_RUNS = 3
"""Runs of a single variant whose pictures are shown: more would not fit a page of 8 MB."""

MAX_PICTURE_WIDTH_PX = 640
"""Wider frames are scaled down to this in the page."""

NO_TRUTH_GREY = 128
"""Colour of flow and error pictures where there is no ground truth."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One image of the page and the text under it."""

    caption: str
    detail: str
    uri: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPictures:
    """One run's flow of a pair; `change` is where its error is smaller or larger than base's.

    `heads` are the pictures of its other heads: classes, occlusion.
    """

    color: int
    variant: str
    label: str
    flow: Picture
    error: Picture
    change: Picture | None
    heads: list[Picture]


@dataclass(frozen=True, kw_only=True, slots=True)
class PairPictures:
    """A validation pair: what all runs were given, and each run's flow and error on common scales in px.

    `scores` is the pair's entry in the summary, None where not all runs scored it.
    """

    id: str
    split: str
    flow_scale_px: float
    error_scale_px: float
    given: list[Picture]
    runs: list[RunPictures]
    classes: list[tuple[str, str]]
    hover: HoverData
    scores: dict[str, Any] | None

    @property
    def columns(self) -> int:
        """Runs side by side where there is room: rows of equal length for the usual numbers of runs."""
        return {5: 3, 6: 3}.get(len(self.runs), min(len(self.runs), 4))


def pair_pictures(runs: Sequence[Run], numbers: dict[str, Any]) -> Iterator[PairPictures]:
    """Saved pairs with one run of every variant, largest gain first; one pair in memory.

    Of more than MAX_PAIRS pairs of a split, those with the largest gains and the largest losses are shown.
    """
    shown = _shown_runs(runs, numbers)
    scores = {(entry["split"], entry["id"]): entry for entry in numbers["pairs"]}
    for split in dict.fromkeys(split for run, _, _ in shown for split in run.pair_files):
        saved: dict[str, list[tuple[Run, int, str, Path]]] = {}
        for run, color, variant in shown:
            for path in run.pair_files.get(split, ()):
                saved.setdefault(path.name, []).append((run, color, variant, path))
        ids = {name: load_pair(found[0][-1]).id for name, found in saved.items()}
        ordered = sorted(saved, key=lambda name: _gain(scores.get((split, ids[name]))))
        if len(ordered) > MAX_PAIRS:
            ordered = ordered[: MAX_PAIRS // 2] + ordered[-MAX_PAIRS // 2 :]
        for name in ordered:
            loaded = [(run, color, variant, load_pair(path)) for run, color, variant, path in saved[name]]
            alike = [entry for entry in loaded if entry[-1].id == ids[name]]
            yield _pair_pictures(split, alike, numbers["against"], scores.get((split, ids[name])))


def _shown_runs(runs: Sequence[Run], numbers: dict[str, Any]) -> list[tuple[Run, int, str]]:
    """One run of every variant, of a seed they share where they do; the first few of a single variant."""
    groups = variants(runs)
    if len(groups) == 1:
        return [(run, 0, name) for name, group in groups.items() for run in group[:MAX_RUNS]]
    common = set.intersection(*({run.seed for run in group} for group in groups.values()))
    return [
        (next((run for run in group if run.seed in common), group[0]), color, name)
        for color, (name, group) in enumerate(groups.items())
    ]


def _gain(scores: dict[str, Any] | None) -> float:
    """Sorting key of pairs: the first variant's difference, negative where it is better."""
    return float(next(iter(scores["difference"].values()), 0.0)) if scores else 0.0


def data_uri(image: UInt8[np.ndarray, "H W 3"], kind: Literal["photo", "flat"]) -> str:
    """An RGB picture as a data URI: `photo` is lossy WebP, `flat` (labels, masks) lossless PNG."""
    # OpenCV packs PNG fast by default: labels take almost three times this size.
    photo, flat = [cv2.IMWRITE_WEBP_QUALITY, 75], [cv2.IMWRITE_PNG_COMPRESSION, 9]
    suffix, options = (".webp", photo) if kind == "photo" else (".png", flat)
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


def change_picture(pair: SavedPair, base: SavedPair, max_px: float) -> UInt8[np.ndarray, "h w 3"]:
    """Error minus base's error at page size: blue where smaller, orange where larger, near black at 0."""
    change, known = _shrink_valid((_error_px(pair) - _error_px(base))[..., None], pair.valid)
    picture = change_colors(change[..., 0] / max_px)
    picture[~known] = NO_TRUTH_GREY
    return picture


def change_colors(fraction: Float32[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """The colours of the scale of differences: -1 light blue, 0 near black, 1 light orange, RGB."""
    ends = np.array([[122, 200, 255], [16, 17, 20], [255, 158, 92]], dtype=np.float32)
    level = np.nan_to_num(fraction, nan=1.0).clip(-1, 1)
    weight = np.sqrt(np.abs(level))[..., None]  # Most differences are small: they must not all be black.
    mixed = np.where(level[..., None] < 0, ends[0], ends[2]) * weight + ends[1] * (1 - weight)
    colors: UInt8[np.ndarray, "H W 3"] = mixed.round().astype(np.uint8)
    return colors


def _pair_pictures(
    split: str,
    saved: Sequence[tuple[Run, int, str, SavedPair]],
    against: dict[str, str],
    scores: dict[str, Any] | None,
) -> PairPictures:
    run, _, _, shown = saved[0]
    classes = _classes(run)
    flow_px, error_px = flow_scale_px(shown), error_scale_px([pair for *_, pair in saved])
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
    if shown.labels1 is not None:
        given.append(_labels_picture("Labels of frame 1", shown.labels1, classes))
    if shown.occluded1 is not None:
        given.append(_occlusion_picture("Not visible in frame 2", shown.occluded1))
    painted = [shown.labels1, *(pair.found_labels1 for *_, pair in saved)]
    present = {label for labels in painted if labels is not None for label in np.unique(labels)}
    flows = {variant: pair for _, _, variant, pair in saved}
    pictures = [
        _run_pictures(split, entry, flows.get(against.get(entry[2], "")), flow_px, error_px)
        for entry in saved
    ]
    return PairPictures(
        id=shown.id,
        split=split,
        flow_scale_px=flow_px,
        error_scale_px=error_px,
        given=given,
        runs=pictures,
        classes=[(classes[label][0], _hex(classes[label][1])) for label in sorted(present)],
        hover=make_hover_data(
            shown.flow_gt,
            shown.valid,
            {own.label: pair.flow for own, (*_, pair) in zip(pictures, saved, strict=True)},
        ),
        scores=scores,
    )


def _run_pictures(
    split: str,
    entry: tuple[Run, int, str, SavedPair],
    base: SavedPair | None,
    flow_px: float,
    error_px: float,
) -> RunPictures:
    run, color, variant, pair = entry
    everywhere = np.ones_like(pair.valid)
    epe = run.per_sample.get((split, pair.id), {}).get("epe", math.nan)
    flow = data_uri(flow_picture(pair.flow, everywhere, flow_px), "photo")
    error = data_uri(error_picture(pair, error_px), "photo")
    change = None
    if base is not None:
        uri = data_uri(change_picture(pair, base, error_px), "photo")
        change = Picture(caption="Against its base", detail="blue is better", uri=uri)
    heads = []
    if pair.found_labels1 is not None:
        heads.append(_labels_picture("Classes", pair.found_labels1, _classes(run)))
    if pair.found_occluded1 is not None:
        heads.append(_occlusion_picture("Occlusion", pair.found_occluded1))
    return RunPictures(
        color=color,
        variant=variant,
        label=f"{variant} seed {run.seed}",
        flow=Picture(caption="Flow", detail="", uri=flow),
        error=Picture(caption="Error", detail=f"EPE {format_value('epe', epe)} px", uri=error),
        change=change,
        heads=heads,
    )


def _labels_picture(
    caption: str, labels: UInt8[np.ndarray, "H W"], classes: Sequence[tuple[str, tuple[int, int, int]]]
) -> Picture:
    palette = np.array([color for _, color in classes], dtype=np.uint8)
    picture = shrink(labels_to_color(labels, palette), nearest=True)
    return Picture(caption=caption, detail="", uri=data_uri(picture, "flat"))


def _occlusion_picture(caption: str, occluded: Bool[np.ndarray, "H W"]) -> Picture:
    light, dark = np.uint8(235), np.uint8(45)
    mask = shrink(np.where(occluded[..., None].repeat(3, -1), light, dark), nearest=True)
    return Picture(caption=caption, detail="light", uri=data_uri(mask, "flat"))


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
