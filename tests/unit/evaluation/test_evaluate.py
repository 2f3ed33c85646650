"""Scoring a data set: strata, pooling, damaged pairs, files written, baselines, real frames."""

import csv
import dataclasses
import json
import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest

from semraft.data.datasets.pairs import WrongSize
from semraft.data.files.formats import read_flow
from semraft.data.files.pictures import read_image
from semraft.evaluation.baselines import BASELINES, baseline, best_constant, opencv_flow
from semraft.evaluation.evaluate import derive_occlusion, evaluate, sample_masks, write_per_sample
from semraft.metrics import STRATA, evaluate_flow, split_metric_name
from semraft.sample import DamagedFile, FlowDataset, FlowSample, Pair
from tests.helpers import REAL_DATA, make_sample, needs_real_data


def make_dataset(samples: Sequence[FlowSample | DamagedFile], name: str = "made") -> FlowDataset:
    def read(pair: Pair) -> FlowSample:
        found = samples[int(pair.id)]
        if isinstance(found, DamagedFile):
            raise found
        return dataclasses.replace(found, id=pair.id, scene=pair.scene, dataset=name)

    pairs = tuple(Pair(id=f"{i:03d}", scene=f"scene{i // 2}", files={}) for i in range(len(samples)))
    return FlowDataset(name=name, split="val", pairs=pairs, read=read, provides=frozenset())


def shifted(sample: FlowSample) -> list[np.ndarray]:
    """Three refinements, each nearer; the last is off by 2.5 px where x is even, else exact."""
    offset = np.where(np.arange(sample.flow.shape[1]) % 2 == 0, 2.5, 0)[None, :, None]
    off = offset * np.array([0.6, -0.8])
    return [(sample.flow + factor * off).astype(np.float32) for factor in (4, 2, 1)]


@pytest.fixture
def samples(rng: np.random.Generator) -> list[FlowSample]:
    return [make_sample(rng, 37 + i, 53 - i) for i in range(5)]


def by_hand(samples: list[FlowSample], masks: list[np.ndarray]) -> float:
    errors = [
        np.linalg.norm(shifted(sample)[-1].astype(np.float64) - sample.flow, axis=-1)[mask & sample.valid]
        for sample, mask in zip(samples, masks, strict=True)
    ]
    return float(np.concatenate(errors).mean())


def test_strata_come_from_the_fields_of_the_sample(samples: list[FlowSample]) -> None:
    """Red when: a mask is taken from another field, inverted, or from frame 2."""
    metrics = evaluate(shifted, make_dataset(samples)).metrics
    expected = {
        "epe": by_hand(samples, [s.valid for s in samples]),
        "epe_moving": by_hand(samples, [s.moving1 for s in samples]),
        "epe_static": by_hand(samples, [~s.moving1 for s in samples]),
        "epe_occluded": by_hand(samples, [s.occluded1 for s in samples]),
        "epe_noc": by_hand(samples, [s.valid_noc for s in samples]),
        "epe_road": by_hand(samples, [s.labels1 == 0 for s in samples]),
        "epe_ground": by_hand(samples, [s.labels1 == 2 for s in samples]),
        "epe_car": by_hand(samples, [s.labels1 == 10 for s in samples]),
    }
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=1e-12), name
    for name in metrics:
        split_metric_name(name)  # Raises for a name that is not in the table.


def test_boundary_is_within_five_pixels(samples: list[FlowSample]) -> None:
    """Red when: `<` for `<=`, or the far side of the boundary does not count (both sides are 0)."""
    labels = np.zeros((37, 53), dtype=np.uint8)
    labels[:, 20:] = 10
    mask = sample_masks(dataclasses.replace(samples[0], labels1=labels))["boundary"]
    assert np.flatnonzero(mask[3]).tolist() == list(range(14, 26))


def test_an_unlabelled_image_has_no_boundary(samples: list[FlowSample]) -> None:
    nothing = np.full((37, 53), 255, dtype=np.uint8)
    metrics = evaluate(shifted, make_dataset([dataclasses.replace(samples[0], labels1=nothing)])).metrics
    assert "epe_boundary" not in metrics
    assert metrics["valid_interior"] == metrics["valid"]


def test_kitti_gives_its_own_names_to_the_object_map(samples: list[FlowSample]) -> None:
    """Red when: foreground and background change places (errors of 10 px make the two differ)."""
    metrics = evaluate(lambda s: shifted(s)[:1], make_dataset(samples, "kitti")).metrics
    assert metrics["fl_foreground"] == metrics["fl_moving"] > 0
    assert metrics["fl_background"] == metrics["fl_static"] != metrics["fl_moving"]
    assert "fl_foreground" not in evaluate(shifted, make_dataset(samples)).metrics


def test_sky_is_reported_by_its_motion_and_kept_out_of_the_error(samples: list[FlowSample]) -> None:
    """Red when: invalid sky counts as valid zero flow, or its motion is averaged over valid sky only."""
    no_sky_truth = [dataclasses.replace(s, valid=s.valid & (s.labels1 != 7)) for s in samples]
    result = evaluate(
        lambda s: [s.flow + np.float32([3, -4]) * (s.labels1 == 7)[..., None]], make_dataset(no_sky_truth)
    )
    truth_in_sky = np.concatenate([s.flow[s.labels1 == 7] for s in samples]).astype(np.float64)
    assert result.metrics["epe"] == 0
    expected = np.linalg.norm(truth_in_sky + np.array([3, -4]), axis=1).mean()
    assert result.metrics["flow_px_sky"] == pytest.approx(expected, rel=1e-6)
    assert "epe_sky" not in result.metrics


def test_each_refinement_is_scored(samples: list[FlowSample]) -> None:
    """Red when: refinements are reversed, or the last is not the prediction."""
    scored = evaluate(shifted, make_dataset(samples))
    metrics = scored.metrics
    for row in scored.per_sample:  # The same by pair, so that it can be compared by scene.
        assert row["epe_iter_001"] == pytest.approx(2 * row["epe"], rel=1e-6)
    assert metrics["epe_iter_000"] == pytest.approx(4 * metrics["epe"], rel=1e-6)
    assert metrics["epe_iter_001"] == pytest.approx(2 * metrics["epe"], rel=1e-6)
    assert metrics["epe_iter_002"] == metrics["epe"]
    assert "epe_iter_000" not in evaluate(lambda s: shifted(s)[-1:], make_dataset(samples)).metrics


def test_order_and_choice_of_pairs(samples: list[FlowSample]) -> None:
    """Red when: sums are carried from pair to pair in floating point, or rows do not follow `indices`."""
    dataset = make_dataset(samples)
    whole, reordered = evaluate(shifted, dataset), evaluate(shifted, dataset, [3, 0, 4, 2, 1])
    assert whole.metrics == reordered.metrics
    assert list(whole.metrics) == list(reordered.metrics)
    assert [row["id"] for row in reordered.per_sample] == ["003", "000", "004", "002", "001"]
    assert len(evaluate(shifted, dataset, [2]).per_sample) == 1


def test_rows_pool_to_the_metrics(samples: list[FlowSample]) -> None:
    """Red when: a row holds another pair's numbers; or `valid_moving` is not what `epe_moving` is over."""
    result = evaluate(shifted, make_dataset(samples))
    for stratum in ("", "_moving", "_car"):
        counts = np.array([row[f"valid{stratum}"] for row in result.per_sample])
        means = np.array([row[f"epe{stratum}"] for row in result.per_sample])
        assert counts.sum() == result.metrics[f"valid{stratum}"]
        assert counts @ means / counts.sum() == pytest.approx(result.metrics[f"epe{stratum}"], rel=1e-12)
        assert means.mean() == pytest.approx(result.metrics[f"epe_image_mean{stratum}"], rel=1e-12)


def test_a_damaged_pair_is_refused_or_named_and_left_out(samples: list[FlowSample]) -> None:
    """Red when: a damaged pair counts as zero error, or is dropped without a word."""
    broken = [samples[0], DamagedFile("b.npz", "truncated"), samples[2], WrongSize("d.png", "is 3x4")]
    dataset = make_dataset(broken)
    with pytest.raises(DamagedFile, match=r"b\.npz: truncated"):
        evaluate(shifted, dataset)
    result = evaluate(shifted, dataset, damaged="skip")
    assert [(p.pair_id, str(p.path), p.kind, p.detail) for p in result.skipped] == [
        ("001", "b.npz", "damaged", "truncated"),
        ("003", "d.png", "size", "is 3x4"),
    ]
    assert result.metrics == evaluate(shifted, dataset, [0, 2]).metrics
    with pytest.raises(ValueError, match=r"none of 1 pairs could be scored; the first: b\.npz: truncated"):
        evaluate(shifted, dataset, [1], damaged="skip")
    with pytest.raises(ValueError, match="none of 0 pairs"):
        evaluate(shifted, dataset, [])


def test_a_wrong_prediction_is_refused_by_pair(samples: list[FlowSample]) -> None:
    for wrong in (lambda s: [s.flow[:-1]], lambda s: []):
        with pytest.raises(ValueError, match=r"^000: predicted flow \[.*\], expected \(37, 53, 2\)"):
            evaluate(wrong, make_dataset(samples))


def test_a_non_finite_prediction_is_named_by_pair(samples: list[FlowSample], tmp_path: Path) -> None:
    """Red when: NaN is dropped from the mean; or json writes NaN or Infinity, which no parser must take."""

    def predict(sample: FlowSample) -> list[np.ndarray]:
        flow = sample.flow.copy()
        if sample.id == "001":
            flow[tuple(np.argwhere(sample.valid)[5])] = np.nan
        return [flow]

    result = evaluate(predict, make_dataset(samples))
    assert [row["non_finite"] for row in result.per_sample] == [0, 1, 0, 0, 0]
    assert result.metrics["epe"] == math.inf
    assert result.per_sample[0]["epe"] == 0

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads(json.dumps(result.to_json()), parse_constant=refuse)
    assert content["metrics"]["epe"] is None
    assert content["metrics"]["non_finite"] == 1
    write_per_sample(tmp_path / "per_sample.csv", {"made-val": result})
    with (tmp_path / "per_sample.csv").open(newline="") as file:
        assert [float(row["epe"]) for row in csv.DictReader(file)] == [0, math.inf, 0, 0, 0]


def test_per_sample_csv_columns_do_not_depend_on_the_order_of_pairs(
    samples: list[FlowSample], tmp_path: Path
) -> None:
    """Red when: columns are those of the first row, or appear as rows bring them."""
    mixed = [dataclasses.replace(samples[0], labels1=None, moving1=None), *samples[1:]]
    tables = []
    for indices in ([0, 1, 2], [2, 0, 1]):
        path = tmp_path / "per_sample.csv"
        first = evaluate(shifted, make_dataset(mixed), indices)
        write_per_sample(path, {"made-val": first, "bare": evaluate(shifted, make_dataset(mixed), [0])})
        with path.open(newline="") as file:
            tables.append(list(csv.DictReader(file)))
    assert list(tables[0][0]) == list(tables[1][0])
    assert list(tables[0][0])[:5] == ["split", "id", "scene", "epe", "1px"]
    assert [(row["split"], row["id"]) for row in tables[1]] == [
        ("made-val", "002"),
        ("made-val", "000"),
        ("made-val", "001"),
        ("bare", "000"),
    ]
    assert tables[0][0]["epe_moving"] == tables[0][0]["epe_car"] == ""
    assert float(tables[0][1]["epe_moving"]) > 0
    by_pair = [{(row["split"], row["id"]): row for row in table} for table in tables]
    assert by_pair[0] == by_pair[1]
    assert [path.name for path in tmp_path.iterdir()] == ["per_sample.csv"]


def test_json_names_what_was_scored(samples: list[FlowSample]) -> None:
    broken = make_dataset([samples[0], DamagedFile("b.npz", "truncated")])
    content = evaluate(shifted, broken, damaged="skip").to_json()
    assert (content["dataset"], content["split"], content["pairs"]) == ("made", "val", 1)
    assert content["skipped"] == [
        {"pair_id": "001", "path": "b.npz", "kind": "damaged", "detail": "truncated"}
    ]
    assert content["derived"] == []
    assert content["metrics"]["epe"] > 0


def test_occlusion_is_derived_where_only_backward_flow_is_known(samples: list[FlowSample]) -> None:
    """A bar of 8 px moves right by 6 over still ground. Red when: what leaves the frame is left out; what it
    uncovers is called occluded; unknown backward flow counts as a failed check."""
    flow = np.zeros((37, 53, 2), dtype=np.float32)
    backward = np.zeros((37, 53, 2), dtype=np.float32)
    flow[:, 10:18] = [6, 0]
    backward[:, 16:24] = [-6, 0]
    flow[:, 50:] = [9, 0]
    known = np.ones((37, 53), dtype=bool)
    known[:5] = False
    sample = dataclasses.replace(
        samples[0],
        flow=flow,
        backward_flow=backward,
        backward_valid=known,
        occluded1=None,
        valid=np.ones((37, 53), dtype=bool),
    )
    occluded = derive_occlusion(sample)
    assert np.flatnonzero(occluded[20]).tolist() == [*range(18, 24), 50, 51, 52]
    assert np.flatnonzero(occluded[2]).tolist() == [50, 51, 52]
    result = evaluate(lambda s: [s.flow], make_dataset([sample]))
    assert result.derived == ("occluded", "visible")
    assert result.metrics["valid_occluded"] == 9 * 32 + 3 * 5
    assert evaluate(shifted, make_dataset(samples)).derived == ()
    assert derive_occlusion(dataclasses.replace(sample, backward_flow=None)) is None


def test_a_bare_sample_has_no_strata_it_can_not_know(samples: list[FlowSample]) -> None:
    nothing = dict.fromkeys(
        ("valid_noc", "backward_flow", "backward_valid", "labels1", "occluded1", "moving1")
    )
    metrics = evaluate(shifted, make_dataset([dataclasses.replace(samples[0], **nothing)])).metrics
    strata = {split_metric_name(name)[1] for name in metrics}
    assert strata & set(STRATA) <= {"out_of_frame", "speed_0_10", "speed_10_40", "speed_40"}


def test_predict_runs_in_the_callers_thread_and_in_order(samples: list[FlowSample]) -> None:
    """Red when: the network is called from a reading thread, where a GPU's context and autocast are not."""
    seen: list[tuple[str, int]] = []

    def predict(sample: FlowSample) -> list[np.ndarray]:
        seen.append((sample.id, threading.get_ident()))
        return [sample.flow]

    evaluate(predict, make_dataset(samples))
    assert seen == [(f"{i:03d}", threading.get_ident()) for i in range(5)]


def test_the_best_constant_is_the_geometric_median(samples: list[FlowSample]) -> None:
    """Three motions, equally frequent: the corners of a right triangle with legs of 10 px, whose Fermat point
    is known. Red when: the mean is taken (6.54 px; best is 6.44), or each component's median (6.67); the
    iteration stops at its start; invalid pixels are asked as well."""
    height, width = 97, 120
    motions = np.float32([[1, 2], [11, 2], [1, 12]])
    truth = motions[np.arange(height * width) % 3].reshape(height, width, 2)
    valid = np.ones((height, width), dtype=bool)
    valid[:20] = False
    truth[:20] = 300
    labels = np.zeros((height, width), dtype=np.uint8)
    image = np.zeros((height, width, 3), dtype=np.uint8)
    sample = FlowSample(
        id="a", scene="a", dataset="made", image1=image, image2=image, flow=truth, valid=valid, labels1=labels
    )
    best = 10 * math.sqrt(2 + math.sqrt(3)) / 3
    dataset = make_dataset([sample, sample])
    metrics = evaluate(baseline("constant", dataset), dataset).metrics
    assert metrics["epe"] == pytest.approx(best, rel=2e-3)
    assert best_constant([sample]) == pytest.approx(
        1 + np.array([0, 1]) + 10 * (1 - 1 / math.sqrt(3)) / 2, abs=0.1
    )
    nothing = [dataclasses.replace(s, valid=np.zeros_like(s.valid)) for s in samples]
    with pytest.raises(ValueError, match="no valid ground truth"):
        best_constant(nothing)


@pytest.mark.parametrize("method", ["dis", "farneback"])
def test_opencv_flow_finds_a_known_shift(
    rng: np.random.Generator, method: Literal["dis", "farneback"]
) -> None:
    """Red when: images change places, u and v do, or the flow is halved."""
    noise = rng.integers(0, 256, (120, 176, 3), dtype=np.uint8)
    texture = cv2.GaussianBlur(noise, (0, 0), 3)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    flow = opencv_flow(texture[10:106, 20:148], texture[12:108, 16:144], method)
    assert flow.shape == (96, 128, 2)
    assert np.median(flow[20:-20, 20:-20], axis=(0, 1)) == pytest.approx([4, -2], abs=0.2)


def test_every_baseline_scores_and_an_unknown_one_is_named(rng: np.random.Generator) -> None:
    dataset = make_dataset([make_sample(rng, 96, 128) for _ in range(2)])
    scores = {name: evaluate(baseline(name, dataset), dataset).metrics["epe"] for name in BASELINES}
    assert all(math.isfinite(value) for value in scores.values())
    truth = [np.linalg.norm(dataset[i].flow.astype(float), axis=-1)[dataset[i].valid] for i in range(2)]
    assert scores["zero"] == pytest.approx(np.concatenate(truth).mean(), rel=1e-12)
    with pytest.raises(ValueError, match="unknown baseline 'tvl1': expected one of zero, constant"):
        baseline("tvl1", dataset)


REAL_PAIRS = {
    "kitti2015 000010": (
        "kitti2015/training/image_2/000010_10.png",
        "kitti2015/training/image_2/000010_11.png",
        "kitti2015/training/flow_occ/000010_10.png",
    ),
    "urban3": (
        "middlebury/Urban3/frame10.png",
        "middlebury/Urban3/frame11.png",
        "middlebury/Urban3/flow10.flo",
    ),
    "chairs 1": (
        "flyingchairs/data/00001_img1.ppm",
        "flyingchairs/data/00001_img2.ppm",
        "flyingchairs/data/00001_flow.flo",
    ),
}


@needs_real_data
@pytest.mark.parametrize("name", REAL_PAIRS)
def test_opencv_dis_on_real_frames_scores_as_an_independent_decode_says(name: str) -> None:
    """Zero flow to the printed digits; DIS within 2 %, because OpenCV's versions round differently."""
    reference = json.loads((REAL_DATA / "reference_values.json").read_text())["pairs"][name]
    image1, image2, flow_file = (REAL_DATA / part for part in REAL_PAIRS[name])
    truth, valid = read_flow(flow_file, encoding="kitti" if flow_file.suffix == ".png" else None)
    assert evaluate_flow(np.zeros_like(truth), truth, valid)["epe"] == pytest.approx(
        reference["zero_epe"], abs=6e-5
    )
    scores = evaluate_flow(opencv_flow(read_image(image1), read_image(image2), "dis"), truth, valid)
    assert scores["epe"] == pytest.approx(reference["dis_epe"], rel=0.02)
    assert scores["fl"] == pytest.approx(reference["dis_fl"], rel=0.02)
