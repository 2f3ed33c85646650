"""Wrong readings planted in sound data: `data check` names each of them, and accuses no sound data."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from semraft.config import WorldConfig
from semraft.data import index_dataset
from semraft.data.check import Report, as_text, check_dataset
from semraft.data.files.formats import read_flow, write_flow
from semraft.data.files.pictures import (
    read_ids,
    read_image,
    write_ids,
    write_image,
    write_palette,
)
from semraft.data.taxonomy import VIPER_PALETTE
from semraft.data.world.export import synthesize
from tests.helpers import REAL_DATA, needs_real_data
from tests.unit.data.moving_trees import (
    HEIGHT,
    LABEL_IDS,
    TRAIN_IDS,
    VIPER_IDS,
    WIDTH,
    WRITERS,
    make_sequence,
)

Files = Callable[[str], list[Path]]
"""Pattern -> the files of a tree that fit, sorted."""
Plant = Callable[[Files], None]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with each data set, sound, under its name."""
    folder = tmp_path_factory.mktemp("sound")
    drives = [make_sequence(seed) for seed in (1, 2)]
    for name, write in WRITERS.items():
        write(folder / name, drives)
    return folder


def checked(name: str, root: Path) -> Report:
    return check_dataset(index_dataset(name, root, "train", WorldConfig()))


@pytest.mark.parametrize("name", WRITERS)
def test_sound_layouts_are_sound(name: str, sound: Path) -> None:
    """Red when: a reading that is only a little worse than the right one is called better."""
    report = checked(name, sound / name)
    assert report.sound, as_text(report)
    assert report.alignment.verdict == "aligned"
    assert report.alignment.labels_verdict in ("aligned", None)
    assert report.alignment.occlusion_verdict in ("aligned", None)


@pytest.mark.parametrize("name", ["viper", "virtual-kitti", "kitti"])
def test_synthesized_layouts_are_sound(name: str, tmp_path: Path) -> None:
    synthesize(tmp_path / name, name, train=6, val=0, size=(96, 160), seed=3, progress=False)
    report = checked(name, tmp_path / name)
    assert report.sound, as_text(report)


@needs_real_data
@pytest.mark.parametrize("folder", ["kitti2015", "kitti2015_pairs"])
def test_real_kitti_is_sound(folder: str) -> None:
    report = checked("kitti", REAL_DATA / folder)
    assert report.sound, as_text(report)
    assert report.alignment.verdict == "aligned"


# ---- what is planted ---------------------------------------------------------------------------------------


def each_flow(change: Callable[[np.ndarray], np.ndarray], pattern: str = "*.flo") -> Plant:
    """Changes the flow of every file that fits."""

    def plant(files: Files) -> None:
        for path in files(pattern):
            flow, valid = read_flow(path)
            changed = np.ascontiguousarray(change(flow))
            write_flow(path, changed, valid if changed.shape == flow.shape else None)

    return plant


def each_image(pattern: str, change: Callable[[np.ndarray], np.ndarray]) -> Plant:
    def plant(files: Files) -> None:
        for path in files(pattern):
            write_image(path, np.ascontiguousarray(change(read_image(path))))

    return plant


def each_raw(pattern: str, change: Callable[[np.ndarray], np.ndarray]) -> Plant:
    """Changes the numbers of every png as OpenCV stores them (blue first)."""

    def plant(files: Files) -> None:
        for path in files(pattern):
            cv2.imwrite(str(path), np.ascontiguousarray(change(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))))

    return plant


def exchanged(first: str, second: str) -> Plant:
    """Exchanges the contents of two lists of files, one by one."""

    def plant(files: Files) -> None:
        for one, other in zip(files(first), files(second), strict=True):
            kept = one.read_bytes()
            one.write_bytes(other.read_bytes())
            other.write_bytes(kept)

    return plant


def copied(source: str, target: str, step: int = 0) -> Plant:
    """Overwrites each target file with the source file `step` places after it, as far as there are any."""

    def plant(files: Files) -> None:
        contents = [path.read_bytes() for path in files(source)]
        for place, path in enumerate(files(target)):
            if place + step < len(contents):
                path.write_bytes(contents[place + step])

    return plant


def relabelled(pattern: str, before: np.ndarray, after: np.ndarray) -> Plant:
    def plant(files: Files) -> None:
        table = np.zeros(256, np.uint8)
        table[before] = after
        for path in files(pattern):
            write_ids(path, table[read_ids(path)])

    return plant


def reencoded(pattern: str, before: str, after: str, flag: int) -> Plant:
    """Flow pngs in another encoding; `flag` is what their third channel has where flow is valid."""

    def plant(files: Files) -> None:
        for path in files(pattern):
            write_flow(path, *read_flow(path, before), after)
            raw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            raw[..., 0] = np.where(raw[..., 0] != 0, flag, 0)
            cv2.imwrite(str(path), raw)

    return plant


def drives_exchanged(files: Files) -> None:
    """FlyingChairs: flow of the one sequence with the frames of the other."""
    flows = files("data/*_flow.flo")
    contents = [path.read_bytes() for path in flows]
    for path, content in zip(flows, contents[3:] + contents[:3], strict=True):
        path.write_bytes(content)


def second_frame_after_next(files: Files) -> None:
    """FlyingChairs: frame t + 2 in the place of t + 1, but for the last pair of each sequence."""
    seconds = files("data/*_img2.ppm")
    for pair in (0, 1, 3, 4):
        seconds[pair].write_bytes(seconds[pair + 1].read_bytes())


def enlarged(flow: np.ndarray) -> np.ndarray:
    """Flow of half the resolution, enlarged without a change of its values."""
    small = cv2.resize(flow, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) / 2
    return cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)


def scaled_raw(raw: np.ndarray) -> np.ndarray:
    """KITTI flow that is 64 times as long when read."""
    wide = (raw[..., 1:].astype(np.int64) - 32768) * 64 + 32768
    return np.dstack([raw[..., :1], wide.clip(0, 65535)]).astype(np.uint16)


def inverted(raw: np.ndarray) -> np.ndarray:
    """KITTI flow whose valid channel is its complement."""
    return np.dstack([1 - raw[..., :1], raw[..., 1:]])


def inverted_without_noc(files: Files) -> None:
    each_raw("flow_occ/*.png", inverted)(files)
    shutil.rmtree(files("flow_noc")[0])


def blended(colors: np.ndarray) -> np.ndarray:
    half = cv2.resize(colors, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_LINEAR)
    return cv2.resize(half, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)


def palette_swapped(files: Files) -> None:
    """VIPER: labels of a pair's first frame and of its second frame exchanged."""
    exchanged("cls/*/*0.png", "cls/*/*1.png")(files)


def labels_of_label_ids(files: Files) -> None:
    table = np.zeros(256, np.uint8)
    table[VIPER_IDS] = LABEL_IDS
    for path in files("cls/*/*.png"):
        palette = np.zeros((256, 3), np.uint8)
        palette[:32] = VIPER_PALETTE[:32]
        write_palette(path, table[read_ids(path)], palette)


def shifted(pixels: int) -> Callable[[np.ndarray], np.ndarray]:
    """The picture of a camera beside, in front of a plane."""
    return lambda image: np.roll(image, -pixels, axis=1)


SIZE = np.array([WIDTH, HEIGHT], np.float32)
UNKNOWN_COLOURS = r"damaged .*unknown colours"


class Planted(NamedTuple):
    """A wrong reading: the data set it is planted in, how, and what the check must print."""

    dataset: str
    plant: Plant
    named: str
    of_the_world: bool = False
    """Planted in the driving world: frames of a plane look alike from a camera beside."""


PLANTED = {
    "u and v exchanged": Planted("sintel", each_flow(lambda f: f[..., ::-1]), "better: u and v swapped"),
    "both signs": Planted("flying-chairs", each_flow(np.negative), "better: .*both signs flipped"),
    "sign of u": Planted("viper", each_flow(lambda f: f * np.float32([-1, 1]), pattern="*.npz"), "sign of u"),
    "sign of v": Planted(
        "flying-things", each_flow(lambda f: f * np.float32([1, -1]), pattern="*.pfm"), "sign of v"
    ),
    "twice as long": Planted("sintel", each_flow(lambda f: 2 * f), "better: 0.5 times as long"),
    "a tenth too short": Planted(
        "viper", each_flow(lambda f: f * np.float32(0.9), pattern="*.npz"), "better: 1.1 times"
    ),
    "half resolution, enlarged": Planted(
        "flying-things", each_flow(enlarged, pattern="*.pfm"), "better: 2 times"
    ),
    "half resolution": Planted("sintel", each_flow(lambda f: f[::2, ::2]), r"size .*is 80x48 .* is 160x96"),
    "in parts of the frame": Planted(
        "flying-things",
        each_flow(lambda f: f / SIZE, pattern="*.pfm"),
        "better: in parts of the frame's width",
    ),
    "rows upside down": Planted(
        "flying-things", each_flow(lambda f: f[::-1], pattern="*.pfm"), "rows in reverse order"
    ),
    "KITTI scale missing": Planted(
        "kitti", each_raw("flow_*/*.png", scaled_raw), "better: 1/64 times as long"
    ),
    "KITTI read, Virtual KITTI written": Planted(
        "kitti",
        reencoded("flow_*/*.png", "kitti", "virtual-kitti", 1),
        "better: Virtual KITTI's png encoding",
    ),
    "Virtual KITTI read, KITTI written": Planted(
        "virtual-kitti",
        reencoded("forwardFlow/*/*.png", "virtual-kitti", "kitti", 65535),
        "better: KITTI's png",
    ),
    "KITTI channels exchanged": Planted(
        "kitti", each_raw("flow_occ/*.png", lambda raw: raw[..., ::-1]), "damaged .*third channel holds"
    ),
    "KITTI validity inverted": Planted(
        "kitti", each_raw("flow_*/*.png", inverted), "damaged .*valid here and not in flow_occ"
    ),
    "validity inverted, no flow_noc": Planted(
        "kitti",
        inverted_without_noc,
        "but the frames do: .*validity is inverted",
    ),
    "flow of 8 bits": Planted(
        "kitti", each_raw("flow_occ/*.png", lambda raw: (raw // 257).astype(np.uint8)), "damaged .*16-bit RGB"
    ),
    "flow_noc for flow_occ": Planted(
        "kitti", exchanged("flow_noc/*.png", "flow_occ/*.png"), "not in flow_occ"
    ),
    "flow_noc of the next pair": Planted("kitti", copied("flow_noc/*.png", "flow_noc/*.png", 1), "flow_noc"),
    "frames exchanged": Planted("kitti", exchanged("image_2/*_10.png", "image_2/*_11.png"), "frames swapped"),
    "frame off by one: flow of the next pair": Planted(
        "sintel", copied("flow/*/*.flo", "flow/*/*.flo", 1), "better: flow of the pair before"
    ),
    "frame off by one: second frame after next": Planted(
        "flying-chairs", second_frame_after_next, "better: second frame from frame 1 of the pair after"
    ),
    "second frame is the first": Planted(
        "viper", copied("img/*/*0.png", "img/*/*1.png"), "better: zero flow"
    ),
    "flow of other scenes": Planted("flying-chairs", drives_exchanged, "flow not aligned"),
    "backward flow for forward": Planted(
        "virtual-kitti", copied("backwardFlow/*/*.png", "forwardFlow/*/*.png"), "frames swapped"
    ),
    "wrong camera": Planted(
        "virtual-kitti",
        each_image("rgb/*/*.jpg", shifted(28)),
        "estimated from the frames .*another camera",
        True,
    ),
    "second frame of the right camera": Planted(
        "kitti", each_image("image_2/*_11.png", shifted(20)), "flow not aligned: better"
    ),
    "frames mirrored": Planted(
        "flying-things",
        each_image("frames_cleanpass/*/*/*/*/*.png", lambda image: image[:, ::-1]),
        "mirrored left to right",
    ),
    "labelTrainIds for labelIds": Planted(
        "kitti",
        relabelled("semantic/*.png", LABEL_IDS, TRAIN_IDS),
        "hold Cityscapes labelTrainIds",
    ),
    "VIPER ids for labelIds": Planted(
        "kitti", relabelled("semantic/*.png", LABEL_IDS, VIPER_IDS), "hold VIPER ids"
    ),
    "labelIds for VIPER ids": Planted("viper", labels_of_label_ids, "hold Cityscapes labelIds"),
    "labels of the frames exchanged": Planted("viper", palette_swapped, "labels not aligned"),
    "labels off by one frame": Planted(
        "virtual-kitti",
        copied("classSegmentation/*/*.png", "classSegmentation/*/*.png", 1),
        "labels not aligned: better: .*labels of the pair before",
    ),
    "label colours blue first": Planted(
        "virtual-kitti", each_raw("classSegmentation/*/*.png", lambda raw: raw[..., ::-1]), UNKNOWN_COLOURS
    ),
    "label colours blended": Planted(
        "virtual-kitti", each_raw("classSegmentation/*/*.png", blended), UNKNOWN_COLOURS
    ),
    "labels of half resolution": Planted(
        "kitti", each_raw("semantic/*.png", lambda raw: raw[::2, ::2]), r"size .*semantic.* is 80x48"
    ),
    "instances blue first": Planted(
        "viper", each_raw("inst/*/*.png", lambda raw: raw[..., ::-1]), "damaged .*red channel"
    ),
    "occlusion inverted": Planted(
        "sintel", each_raw("occlusions/*/*.png", lambda raw: 255 - raw), "occlusion not aligned: .*inverted"
    ),
}
"""Name of a wrong reading -> how it is planted, and its name in the report."""


def test_thirty_kinds_are_planted() -> None:
    assert len(PLANTED) >= 30
    assert {planted.dataset for planted in PLANTED.values()} == set(WRITERS)


@pytest.mark.parametrize("kind", PLANTED)
def test_each_wrong_reading_is_named(kind: str, tmp_path: Path, sound: Path) -> None:
    """Red when: a wrong reading passes as sound data, or is called by another name."""
    dataset, plant, named, of_the_world = PLANTED[kind]
    root = tmp_path / dataset
    if of_the_world:
        synthesize(root, dataset, train=6, val=0, size=(96, 160), seed=3, progress=False)
    else:
        shutil.copytree(sound / dataset, root)

    def files(pattern: str) -> list[Path]:
        found = sorted(root.rglob(pattern))
        assert found, f"nothing to plant in: {pattern}"
        return found

    plant(files)
    report = checked(dataset, root)
    assert not report.sound, as_text(report)
    problems = [f"{bad.kind} {bad.path} {bad.detail}" for bad in report.problems]
    assert any(re.search(named, line) for line in (*problems, *report.contradictions)), as_text(report)
