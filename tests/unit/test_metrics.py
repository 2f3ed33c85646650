"""Metrics against a per-pixel loop written from the definitions, and the laws they must obey."""

import itertools
import math
from typing import Any

import jaxtyping
import numpy as np
import pytest

from semraft import metrics
from semraft.metrics import ALL, evaluate_flow, measure, pair_metrics, pool, split_metric_name

CLASS_NAMES = ("road", "sidewalk", "terrain", "building", "sky")


def make_pair(rng: np.random.Generator, height: int = 23, width: int = 31) -> dict[str, Any]:
    """Flow with errors and speeds on both sides of every threshold, some of them exactly on one."""
    shape = (height, width)
    truth = rng.choice([0.0, 1.0, 6.0, 10.0, 40.0, 80.0], (*shape, 1)) * np.array([0.6, -0.8])
    truth = truth + rng.normal(0, 3, (*shape, 2)) * (rng.random((*shape, 1)) > 0.3)
    offset = rng.choice([0.0, 0.05, 1.0, 2.5, 3.0, 4.0, 5.0], (*shape, 1)) * np.array([0.0, 1.0])
    offset = offset + rng.normal(0, 1.5, (*shape, 2)) * (rng.random((*shape, 1)) > 0.3)
    return {
        "flow": (truth + offset).astype(np.float32),
        "flow_gt": truth.astype(np.float32),
        "valid": rng.random(shape) > 0.2,
        "labels": rng.choice(np.array([0, 1, 2, 3, 255], dtype=np.uint8), shape),
        "masks": {name: rng.random(shape) > 0.6 for name in ("moving", "occluded", "boundary", "noc")},
    }


def loop_scores(pairs: list[dict[str, Any]], belongs: Any) -> dict[str, float]:
    """The definitions, pixel by pixel: `belongs(pair, y, x)` says which valid pixels count."""
    errors: list[float] = []
    outliers = above_3px = 0
    image_epes, image_waucs = [], []

    def wauc(values: list[float]) -> float:
        weighted = 0.0
        for i in range(1, 101):
            reached = sum(1 for e in values if e <= max(i / 20, float(np.float32(i / 20))))
            weighted += (1 - (i - 1) / 100) * reached / len(values)
        return 100 * weighted / 50.5

    for pair in pairs:
        image_errors: list[float] = []
        height, width = pair["valid"].shape
        for y, x in itertools.product(range(height), range(width)):
            if not pair["valid"][y, x] or not belongs(pair, y, x):
                continue
            u, v = (float(value) for value in pair["flow"][y, x])
            u_gt, v_gt = (float(value) for value in pair["flow_gt"][y, x])
            e = math.sqrt((u - u_gt) ** 2 + (v - v_gt) ** 2)
            length = math.sqrt(u_gt**2 + v_gt**2)
            image_errors.append(e)
            above_3px += e > 3
            outliers += e > 3 and (length == 0 or e / length > 0.05)
        if image_errors:
            image_epes.append(sum(image_errors) / len(image_errors))
            image_waucs.append(wauc(image_errors))
        errors += image_errors
    count = len(errors)
    return {
        "valid": count,
        "epe": sum(errors) / count,
        "epe_image_mean": sum(image_epes) / len(image_epes),
        "1px": sum(e < 1 for e in errors) / count,
        "3px": sum(e < 3 for e in errors) / count,
        "5px": sum(e < 5 for e in errors) / count,
        "fl": 100 * outliers / count,
        "outliers_3px_pct": 100 * above_3px / count,
        "wauc": wauc(errors),
        "wauc_image_mean": sum(image_waucs) / len(image_waucs),
        "non_finite": 0,
    }


def speed(pair: dict[str, Any], y: int, x: int) -> float:
    return math.hypot(*(float(value) for value in pair["flow_gt"][y, x]))


def outside(pair: dict[str, Any], y: int, x: int) -> bool:
    height, width = pair["valid"].shape
    u, v = (float(value) for value in pair["flow_gt"][y, x])
    return not (0 <= x + u <= width - 1 and 0 <= y + v <= height - 1)


BELONGS = {
    ALL: lambda pair, y, x: True,
    "road": lambda pair, y, x: pair["labels"][y, x] == 0,
    "terrain": lambda pair, y, x: pair["labels"][y, x] == 2,
    "ground": lambda pair, y, x: pair["labels"][y, x] in (1, 2),
    "moving": lambda pair, y, x: pair["masks"]["moving"][y, x],
    "static": lambda pair, y, x: not pair["masks"]["moving"][y, x],
    "occluded": lambda pair, y, x: pair["masks"]["occluded"][y, x],
    "visible": lambda pair, y, x: not pair["masks"]["occluded"][y, x],
    "boundary": lambda pair, y, x: pair["masks"]["boundary"][y, x],
    "interior": lambda pair, y, x: not pair["masks"]["boundary"][y, x],
    "noc": lambda pair, y, x: pair["masks"]["noc"][y, x],
    "out_of_frame": outside,
    "speed_0_10": lambda pair, y, x: speed(pair, y, x) < 10,
    "speed_10_40": lambda pair, y, x: 10 <= speed(pair, y, x) < 40,
    "speed_40": lambda pair, y, x: speed(pair, y, x) >= 40,
}


def record(pair: dict[str, Any]) -> metrics.Record:
    return measure(**pair, class_names=CLASS_NAMES)


def constant_error(error_px: float, dtype: type = np.float32) -> dict[str, float]:
    truth = np.zeros((3, 5, 2), dtype=dtype)
    flow = truth + np.array([0, error_px], dtype=dtype)
    return evaluate_flow(flow, truth, np.ones((3, 5), dtype=bool))


@pytest.mark.parametrize("stratum", BELONGS)
def test_every_stratum_equals_a_loop_over_pixels(rng: np.random.Generator, stratum: str) -> None:
    """Red when: labels are read without `valid`; an axis of the table is summed away; bins include their end;
    the mean over images counts images without such pixels."""
    pairs = [make_pair(rng), make_pair(rng, 17, 40), make_pair(rng, 9, 13)]
    pairs[2]["labels"][:] = 3  # The last image has neither road nor ground: it counts in no mean of theirs.
    pooled = pool([record(pair) for pair in pairs])
    for metric, value in loop_scores(pairs, BELONGS[stratum]).items():
        assert pooled[metrics.metric_name(metric, stratum)] == pytest.approx(value, rel=1e-12), metric


def test_evaluate_flow_is_the_same_as_one_pooled_pair(rng: np.random.Generator) -> None:
    pair = make_pair(rng)
    scores = evaluate_flow(pair["flow"], pair["flow_gt"], pair["valid"])
    assert list(scores) == ["epe", "1px", "3px", "5px", "fl", "wauc"]
    assert scores == pytest.approx({name: pool([record(pair)])[name] for name in scores}, rel=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("error_px", "wauc"),
    [(0, 100), (0.05, 100), (2.5, 100 * 13.26 / 50.5), (5, 100 * 0.01 / 50.5), (5.01, 0)],
)
def test_wauc_reaches_a_threshold_it_equals(error_px: float, wauc: float, dtype: type) -> None:
    """Red when: `<` for `<=`; thresholds compared in float64 only, where float32 0.05 lies above 0.05."""
    assert constant_error(error_px, dtype)["wauc"] == pytest.approx(wauc, rel=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_wauc_at_each_threshold_and_just_above(dtype: type) -> None:
    """Red when: 20 e is rounded up without asking whether e reaches the threshold below."""
    for i in range(1, 101):
        threshold = dtype(i / 20)
        at = sum(101 - k for k in range(i, 101)) / 50.5
        assert constant_error(float(threshold), dtype)["wauc"] == pytest.approx(at, rel=1e-12)
        above = float(np.nextafter(np.float32(threshold), np.float32(9)))
        assert constant_error(above)["wauc"] == pytest.approx(at - (101 - i) / 50.5, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(("error_px", "good"), [(1, "3px"), (3, "5px"), (5, None)])
def test_an_error_at_a_threshold_is_not_below_it(error_px: float, good: str | None) -> None:
    """Red when: `<=` for `<`, or the share of bad pixels for the share of good ones."""
    scores = constant_error(error_px)
    assert scores[f"{error_px}px"] == 0
    assert good is None or scores[good] == 1


@pytest.mark.parametrize(
    ("truth_px", "error_px", "fl"),
    [(0, 3, 0), (0, 3.25, 100), (80, 4, 0), (80, 4.25, 100), (60, 3, 0), (1000, 40, 0), (1, 3.5, 100)],
)
def test_fl_needs_both_bounds_strictly_of_the_ground_truth(truth_px: float, error_px: float, fl: int) -> None:
    """Red when: either bound includes its end; `or` for `and`; the prediction's length in the denominator."""
    truth = np.full((2, 3, 2), [truth_px, 0], dtype=np.float32)
    for sign in (-1, 1):
        flow = truth + np.array([sign * error_px, 0], dtype=np.float32)
        scores = evaluate_flow(flow, truth, np.ones((2, 3), dtype=bool))
        assert scores["fl"] == fl


def test_values_at_invalid_pixels_change_nothing(rng: np.random.Generator) -> None:
    """Red when: errors are multiplied by `valid` (0 x NaN), or averaged over all pixels."""
    pair = make_pair(rng)
    expected = pool([record(pair)])
    for poison in (np.nan, np.inf, -np.inf, 1e30):
        for name in ("flow", "flow_gt"):
            poisoned = {**pair, name: np.where(pair["valid"][..., None], pair[name], np.float32(poison))}
            assert pool([record(poisoned)]) == expected


def test_no_valid_pixel_is_nan_and_counted_as_none(rng: np.random.Generator) -> None:
    """Red when: sums are divided by max(count, 1), which scores nothing as perfect."""
    pair = make_pair(rng)
    pair["valid"][:] = False
    assert all(
        math.isnan(value) for value in evaluate_flow(pair["flow"], pair["flow_gt"], pair["valid"]).values()
    )
    flat = pair_metrics(record(pair))
    assert flat["valid"] == 0
    assert "epe_road" not in flat
    full = make_pair(rng)
    assert pool([record(pair), record(full)]) == pool([record(full)])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_non_finite_prediction_is_an_infinite_error_and_named(rng: np.random.Generator, bad: float) -> None:
    """Red when: nanmean drops the pixel, or NaN compares as no outlier."""
    pair = make_pair(rng)
    good = pool([record(pair)])
    y, x = np.argwhere(pair["valid"] & (np.linalg.norm(pair["flow"] - pair["flow_gt"], axis=-1) < 1))[0]
    pair["flow"][y, x] = [bad, 1.0]
    spoiled = pool([record(pair)])
    assert spoiled["epe"] == math.inf
    assert spoiled["non_finite"] == 1
    assert spoiled["valid"] == good["valid"]
    assert spoiled["fl"] == pytest.approx(good["fl"] + 100 / good["valid"])
    assert spoiled["1px"] == pytest.approx(good["1px"] - 1 / good["valid"])
    assert spoiled["wauc"] < good["wauc"]


def test_pooling_does_not_depend_on_the_order_of_pairs(rng: np.random.Generator) -> None:
    """Red when: error sums are added one after the other."""
    records = [record(make_pair(rng, 5 + i % 7, 11)) for i in range(40)]
    expected = pool(records)
    for _ in range(5):
        assert pool([records[i] for i in rng.permutation(len(records))]) == expected


def test_both_epe_conventions_where_they_differ() -> None:
    """Red when: the two means are mixed up (one pair of 2 px on 4 pixels, one of 5 px on 1 pixel)."""
    truth = np.zeros((2, 3, 2), dtype=np.float32)
    wide, narrow = np.zeros((2, 3), dtype=bool), np.zeros((2, 3), dtype=bool)
    wide.flat[:4] = True
    narrow.flat[5] = True
    pooled = pool(
        [measure(truth + np.float32([2, 0]), truth, wide), measure(truth + np.float32([0, 5]), truth, narrow)]
    )
    assert pooled["epe"] == 13 / 5
    assert pooled["epe_image_mean"] == 3.5


def test_strata_complement_each_other(rng: np.random.Generator) -> None:
    sums = record(make_pair(rng))
    for part, rest in (("moving", "static"), ("occluded", "visible"), ("boundary", "interior")):
        assert sums[part].valid + sums[rest].valid == sums[ALL].valid
    assert sums["sidewalk"].valid + sums["terrain"].valid == sums["ground"].valid > 0


def test_without_labels_or_masks_only_what_the_flow_tells(rng: np.random.Generator) -> None:
    pair = make_pair(rng)
    names = set(measure(pair["flow"], pair["flow_gt"], pair["valid"]))
    assert names == {ALL, "out_of_frame", "speed_0_10", "speed_10_40", "speed_40"}


def test_wrong_input_is_refused_by_name(rng: np.random.Generator) -> None:
    pair = make_pair(rng)
    truth = pair["flow_gt"].copy()
    truth[pair["valid"]] = np.nan
    with pytest.raises(ValueError, match="flow_gt holds NaN or Inf at valid pixels"):
        evaluate_flow(pair["flow"], truth, pair["valid"])
    with pytest.raises(jaxtyping.TypeCheckError):
        evaluate_flow(pair["flow"][:-1], pair["flow_gt"], pair["valid"])
    with pytest.raises(jaxtyping.TypeCheckError):
        evaluate_flow(pair["flow"], pair["flow_gt"], pair["valid"].astype(np.float32))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("epe", ("epe", ALL)),
        ("epe_moving", ("epe", "moving")),
        ("epe_image_mean", ("epe_image_mean", ALL)),
        ("epe_image_mean_large vehicle", ("epe_image_mean", "large vehicle")),
        ("1px_speed_10_40", ("1px", "speed_10_40")),
        ("epe_iter_003", ("epe", "iter_003")),
        ("flow_px_sky", ("flow_px", "sky")),
    ],
)
def test_names_split_into_metric_and_stratum(name: str, parts: tuple[str, str]) -> None:
    assert split_metric_name(name) == parts
    assert metrics.metric_name(*parts) == name


def test_every_pooled_name_is_in_the_table(rng: np.random.Generator) -> None:
    pooled = pool([record(make_pair(rng))])
    strata = {split_metric_name(name)[1] for name in pooled}
    assert strata - {ALL, *CLASS_NAMES} <= set(metrics.STRATA)
    of_heads = {"miou_pct", "iou_pct", "temporal_consistency_pct", "occlusion_f1_pct"}
    assert {split_metric_name(name)[0] for name in pooled} == set(metrics.METRICS) - {"flow_px"} - of_heads
    with pytest.raises(ValueError, match="'loss' is not a metric"):
        split_metric_name("loss")
