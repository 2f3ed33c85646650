"""The check of a data set: everything wrong is named, and a misread flow is told from a right one."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from semraft.data.check import Report, as_text, check_dataset
from semraft.data.datasets import kitti, viper, virtual_kitti
from semraft.data.files.formats import read_flow, write_flow
from semraft.data.files.pictures import read_image, write_image
from semraft.sample import FlowDataset, FlowSample, Pair, Problem
from tests.helpers import REAL_DATA, needs_real_data
from tests.unit.data.fake_trees import color_image, cut_off, flow_field, valid_mask, write_viper

HEIGHT, WIDTH = 72, 104


def dataset_of(*samples: FlowSample, provides: frozenset[str] = frozenset()) -> FlowDataset:
    by_id = {sample.id: sample for sample in samples}
    pairs = tuple(Pair(id=name, scene=sample.scene, files={}) for name, sample in by_id.items())
    return FlowDataset(
        name="made", split="val", pairs=pairs, read=lambda pair: by_id[pair.id], provides=provides
    )


def affine_flow(number: int = 0) -> np.ndarray:
    """Flow of some 5 px, different in every pixel and component."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    return np.stack([3.5 + columns / 40 + number, rows / 30 - 3.2 - 0.3 * number], axis=-1)


def textured_sample(number: int = 0) -> FlowSample:
    """Image 1 is image 2 fetched along the flow: a pair whose flow is right. Labels move along."""
    rng = np.random.default_rng(number)
    texture = cv2.GaussianBlur(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8), (0, 0), 2.0)
    image2 = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    labels2 = (np.indices((HEIGHT, WIDTH)).sum(0) // 13 % 5).astype(np.uint8)
    flow = affine_flow(number)
    x = flow[..., 0] + np.arange(WIDTH, dtype=np.float32)
    y = flow[..., 1] + np.arange(HEIGHT, dtype=np.float32)[:, None]
    valid = rng.random((HEIGHT, WIDTH)) > 0.3
    return FlowSample(
        id=f"made/{number}",
        scene="made",
        dataset="made",
        image1=cv2.remap(image2, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE),
        image2=image2,
        flow=np.where(valid[..., None], flow, np.float32(0)),
        valid=valid,
        labels1=cv2.remap(labels2, x, y, cv2.INTER_NEAREST, borderValue=255),
        labels2=labels2,
    )


def best_reading(report: Report) -> str:
    """The reading with the smallest error; flipped flow and swapped frames are one, as nearly the same."""
    assert report.alignment is not None
    best = min(report.alignment.readings, key=report.alignment.readings.__getitem__)
    return "both signs flipped" if best == "frames swapped" else best


def verdict(report: Report) -> str:
    assert report.alignment is not None
    return report.alignment.verdict


def swap_frames(sample: FlowSample) -> FlowSample:
    return dataclasses.replace(sample, image1=sample.image2, image2=sample.image1)


MISREAD: dict[str, Callable[[FlowSample], FlowSample]] = {
    "u and v swapped": lambda sample: dataclasses.replace(sample, flow=sample.flow[..., ::-1]),
    "both signs flipped": lambda sample: dataclasses.replace(sample, flow=-sample.flow),
    "sign of u flipped": lambda sample: dataclasses.replace(sample, flow=sample.flow * np.float32([-1, 1])),
    "sign of v flipped": lambda sample: dataclasses.replace(sample, flow=sample.flow * np.float32([1, -1])),
    "0.5 times as long": lambda sample: dataclasses.replace(sample, flow=sample.flow * np.float32(2)),
    "0.9 times as long": lambda sample: dataclasses.replace(sample, flow=sample.flow / np.float32(0.9)),
    "1.1 times as long": lambda sample: dataclasses.replace(sample, flow=sample.flow / np.float32(1.1)),
    "2 times as long": lambda sample: dataclasses.replace(sample, flow=sample.flow / np.float32(2)),
}
"""The expected line of the check -> the change made to a sound sample."""


def test_right_flow_is_aligned() -> None:
    """Red when: sums of one pair overwrite another's, or pixels without valid flow are counted."""
    report = check_dataset(dataset_of(*map(textured_sample, range(3))))
    test = report.alignment
    assert test is not None
    assert (test.verdict, test.labels_verdict, test.pairs) == ("aligned", "aligned", 3)
    assert test.photometric_flow < 0.1  # Made by the same remap: rounding only.
    assert test.photometric_zero > 20
    assert test.label_agreement_flow_frac == 1
    assert test.label_agreement_zero_frac < 0.8
    assert test.moving_frac == 1
    assert report.sound


@pytest.mark.parametrize("name", MISREAD)
def test_misread_flow_is_not_aligned_and_the_misreading_is_named(name: str) -> None:
    """Red when: the reading is applied to the wrong frame or component."""
    report = check_dataset(dataset_of(*(MISREAD[name](textured_sample(number)) for number in range(3))))
    assert (verdict(report), best_reading(report)) == ("not aligned", name)
    assert not report.sound


def test_swapped_frames_are_not_aligned() -> None:
    """Red when: the reading fetches from frame 2 all the same."""
    report = check_dataset(dataset_of(*(swap_frames(textured_sample(number)) for number in range(3))))
    assert verdict(report) == "not aligned"
    assert report.alignment.readings["frames swapped"] < 0.2 * report.alignment.readings["as read"]


def test_flow_of_another_pair_is_not_aligned() -> None:
    sample = textured_sample()
    other = dataclasses.replace(
        sample, flow=np.roll(affine_flow(4), 31, axis=1), valid=np.ones_like(sample.valid)
    )
    still = dataclasses.replace(other, image2=sample.image1)  # Nothing moves, the flow says it does.
    report = check_dataset(dataset_of(still))
    assert (verdict(report), best_reading(report)) == ("not aligned", "zero flow")


def test_flow_that_leaves_the_frame_is_not_aligned() -> None:
    """Red when: what leaves the frame is not counted: raw 16-bit values would fit without error."""
    sample = textured_sample()
    raw = dataclasses.replace(sample, flow=64 * sample.flow + np.float32(32768))
    report = check_dataset(dataset_of(raw))
    assert verdict(report) == "not aligned"
    assert report.alignment.in_frame_frac == 0
    assert report.alignment.readings["as read"] == report.alignment.readings["zero flow"] > 20


def test_undecided() -> None:
    sample = textured_sample()
    still = dataclasses.replace(sample, flow=sample.flow / np.float32(100), image1=sample.image2)
    assert verdict(check_dataset(dataset_of(still))) == "undecided"
    noise = np.random.default_rng(5).integers(0, 256, (2, HEIGHT, WIDTH, 3), dtype=np.uint8)
    unrelated = dataclasses.replace(sample, image1=noise[0], image2=noise[1])
    assert verdict(check_dataset(dataset_of(unrelated))) == "undecided"


def test_occluded_pixels_do_not_count() -> None:
    """Red when: `occluded1` is ignored."""
    sample = textured_sample()
    occluded = np.zeros((HEIGHT, WIDTH), dtype=bool)
    occluded[10:60, 20:90] = True
    painted = sample.image1.copy()
    painted[occluded] = 255 - painted[occluded]
    covered = dataclasses.replace(sample, image1=painted, occluded1=occluded)
    unknown = dataclasses.replace(covered, occluded1=None)
    known_test, unknown_test = (check_dataset(dataset_of(made)).alignment for made in (covered, unknown))
    assert known_test.photometric_flow < 0.1
    assert unknown_test.photometric_flow > 20
    assert known_test.readings["as read"] < 0.5 * unknown_test.readings["as read"]


def test_labels_of_the_wrong_frame() -> None:
    """Red when: labels 2 are compared where they are, not where the flow leads."""
    sample = textured_sample()
    report = check_dataset(dataset_of(dataclasses.replace(sample, labels2=sample.labels1)))
    assert (verdict(report), report.alignment.labels_verdict) == ("aligned", "not aligned")
    assert report.alignment.label_agreement_zero_frac == 1
    assert not report.sound


def write_textured_kitti(training: Path, encoding: str) -> None:
    for kind in ("image_2", "flow_occ"):
        (training / kind).mkdir(parents=True)
    for number in range(2):
        sample = textured_sample(number)
        write_image(training / f"image_2/{number:06d}_10.png", sample.image1)
        write_image(training / f"image_2/{number:06d}_11.png", sample.image2)
        write_flow(training / f"flow_occ/{number:06d}_10.png", sample.flow, sample.valid, encoding)


def test_virtual_kitti_flow_read_as_kitti(tmp_path: Path) -> None:
    """Red when: width and height change places in the encoding that is tried."""
    write_textured_kitti(tmp_path / "right", "kitti")
    right = check_dataset(kitti.index(tmp_path / "right", "val"))
    assert verdict(right) == "aligned"
    write_textured_kitti(tmp_path / "wrong", "virtual-kitti")
    refused = check_dataset(kitti.index(tmp_path / "wrong", "val"))
    assert (refused.sound, refused.problems[0].kind) == (False, "damaged")
    for path in (tmp_path / "wrong").rglob("flow_occ/*.png"):  # Files of others mark validity by 1.
        raw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        raw[..., 0] = raw[..., 0] != 0
        cv2.imwrite(str(path), raw)
    wrong = check_dataset(kitti.index(tmp_path / "wrong", "val"))
    assert (verdict(wrong), best_reading(wrong)) == ("not aligned", "Virtual KITTI's png encoding")
    error = wrong.alignment.readings["Virtual KITTI's png encoding"]
    assert error == pytest.approx(right.alignment.readings["as read"], rel=0.1)


def test_kitti_flow_read_as_virtual_kitti(tmp_path: Path) -> None:
    for encoding, expected, best in (
        ("virtual-kitti", "aligned", "as read"),
        ("kitti", "not aligned", "KITTI's png encoding"),
    ):
        frames = tmp_path / encoding / "Scene01/clone/frames"
        sample = textured_sample(1)
        for modality in ("rgb", "forwardFlow"):
            (frames / modality / "Camera_0").mkdir(parents=True)
        write_image(frames / "rgb/Camera_0/rgb_00000.jpg", sample.image1)
        write_image(frames / "rgb/Camera_0/rgb_00001.jpg", sample.image2)
        write_flow(frames / "forwardFlow/Camera_0/flow_00000.png", sample.flow, sample.valid, encoding)
        report = check_dataset(virtual_kitti.index(tmp_path / encoding, "train"))
        assert (verdict(report), best_reading(report)) == (expected, best)


def test_what_is_there_and_what_is_wrong(tmp_path: Path) -> None:
    """Red when: one bad file ends the check, or a problem of the index or of reading is left out."""
    write_viper(tmp_path, "train", "001", [10, 20, 30, 40, 50, 60])
    (tmp_path / "train/img/001/001_00011.jpg").unlink()
    (tmp_path / "train/flow/001/001_00020.npz").write_bytes(b"")
    cut_off(tmp_path / "train/cls/001/001_00031.png")
    write_image(tmp_path / "train/img/001/001_00041.jpg", color_image(41, width=8))
    seen = []
    report = check_dataset(
        viper.index(tmp_path, "train"), progress=lambda results, total: seen.append(total) or results
    )
    assert seen == [4]
    assert (report.dataset, report.split, report.pairs, report.pairs_read) == ("viper", "train", 4, 2)
    assert [(bad.pair_id[-5:], bad.kind, bad.path.name) for bad in report.problems] == [
        ("00010", "missing", "001_00011.jpg"),
        ("00020", "empty", "001_00020.npz"),
        ("00030", "damaged", "001_00031.png"),
        ("00040", "size", "001_00041.jpg"),
    ]
    assert report.bad_ids == tuple(f"train/001_000{number}0" for number in (1, 2, 3, 4))
    assert not report.sound
    assert report.image_sizes == {"9x6": 2}
    assert report.provides == ("instances1", "instances2", "labels1", "labels2")
    shares = {name: share * 54 for name, share in report.class_frac.items() if share}
    assert shares == pytest.approx({"sky": 9, "road": 20, "car": 25})
    assert json.loads(json.dumps(report.to_json()))["problems"][1]["path"].endswith("001_00020.npz")
    assert "001_00041.jpg" in as_text(report)


def test_flow_statistics(tmp_path: Path) -> None:
    """Red when: invalid pixels are counted, or percentiles are means of percentiles."""
    write_viper(tmp_path, "val", "001", [10, 20])
    flow, valid = np.full((6, 9, 2), (30, -40), np.float32), np.zeros((6, 9), dtype=bool)
    valid[2, 3:6] = True
    write_flow(tmp_path / "val/flow/001/001_00020.npz", flow, valid)
    statistics = check_dataset(viper.index(tmp_path, "val")).flow
    every = np.concatenate([flow_field()[valid_mask()], flow[valid]])
    lengths = np.hypot(every[:, 0], every[:, 1])
    assert statistics.valid_frac == pytest.approx(48 / 108)
    assert (statistics.u_mean_px, statistics.v_mean_px) == pytest.approx(tuple(every.mean(0)))
    assert statistics.magnitude_mean_px == pytest.approx(lengths.mean())
    assert statistics.magnitude_median_px == pytest.approx(np.percentile(lengths, 50), abs=0.05)
    assert statistics.magnitude_99_px == pytest.approx(50, abs=0.05)
    assert statistics.magnitude_max_px == 50


def test_nothing_to_read(tmp_path: Path) -> None:
    missing = Problem("a", tmp_path / "a.npz", "missing", "no such file")
    report = check_dataset(dataclasses.replace(dataset_of(), problems=(missing,)))
    assert (report.pairs_read, report.flow, report.class_frac, report.alignment) == (0, None, None, None)
    assert "a.npz" in as_text(report)
    json.dumps(report.to_json())


def test_nothing_is_never_sound(tmp_path: Path) -> None:
    """Red when: no pair, or pairs without a valid pixel, end with exit code 0."""
    nothing = check_dataset(dataset_of())
    assert not nothing.sound
    assert "NOT SOUND: nothing found" in as_text(nothing)
    write_textured_kitti(tmp_path, "kitti")
    for path in tmp_path.rglob("flow_occ/*.png"):
        raw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        raw[..., 0] = 0
        cv2.imwrite(str(path), raw)
    invalid = check_dataset(kitti.index(tmp_path, "val"))
    assert invalid.problems == ()
    assert not invalid.sound
    assert "NOT SOUND: no valid pixel" in as_text(invalid)


def test_sampling_is_spread_over_the_data_set() -> None:
    """Red when: the first pairs are taken, which are all of one sequence."""
    dataset = dataset_of(*map(textured_sample, range(6)))
    read: list[str] = []
    watched = dataclasses.replace(dataset, read=lambda pair: (read.append(pair.id), dataset.read(pair))[1])
    report = check_dataset(watched, read_pairs=3, alignment_pairs=0)
    assert sorted(read) == ["made/0", "made/2", "made/4"]
    read.clear()
    report = check_dataset(watched, read_pairs=3, alignment_pairs=2)
    beside = ["made/1", "made/1", "made/3"]  # The neighbours of 0 and of 2, whose flow is tried on them.
    assert sorted(read) == sorted(["made/0", "made/2", "made/4", *beside])
    assert (report.pairs, report.pairs_read, report.alignment.pairs) == (6, 3, 2)


def real_samples() -> dict[str, FlowSample]:
    def sample(name: str, image1: str, image2: str, flow: str, encoding: str | None = None) -> FlowSample:
        field, valid = read_flow(REAL_DATA / flow, encoding)
        first, second = read_image(REAL_DATA / image1), read_image(REAL_DATA / image2)
        return FlowSample(
            id=name, scene=name, dataset=name, image1=first, image2=second, flow=field, valid=valid
        )

    kitti_pair = (f"kitti2015/training/{name}.png" for name in ("image_2/000010_10", "image_2/000010_11"))
    chairs = (f"flyingchairs/data/00001_{name}" for name in ("img1.ppm", "img2.ppm", "flow.flo"))
    middlebury = {
        name: [f"middlebury/{name}/{file}" for file in ("frame10.png", "frame11.png", "flow10.flo")]
        for name in ("Urban2", "Grove2", "Hydrangea", "Dimetrodon")
    }
    urban = (f"middlebury/Urban3/{name}" for name in ("frame10.png", "frame11.png", "flow10.flo"))
    return {
        "kitti2015 000010": sample(
            "kitti2015 000010", *kitti_pair, "kitti2015/training/flow_occ/000010_10.png", "kitti"
        ),
        "urban3": sample("urban3", *urban),
        "chairs 1": sample("chairs 1", *chairs),
        **{name: sample(name, *files) for name, files in middlebury.items()},
    }


@needs_real_data
def test_real_pairs_are_aligned_and_their_misreadings_are_not() -> None:
    """Photometric errors equal the reference's to its last digit."""
    reference = json.loads((REAL_DATA / "reference_values.json").read_text())["pairs"]
    for name, sample in real_samples().items():
        test = check_dataset(dataset_of(sample)).alignment
        assert test.verdict == "aligned"
        if name in reference:
            assert test.photometric_zero == pytest.approx(reference[name]["photo_zero"], abs=6e-4)
            assert test.photometric_flow == pytest.approx(reference[name]["photo_gt"], abs=6e-4)
        for expected, misread in MISREAD.items():
            report = check_dataset(dataset_of(misread(sample)))
            assert (name, verdict(report), best_reading(report)) == (name, "not aligned", expected)
