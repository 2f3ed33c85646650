"""The world on disk: every layout is read by its own loader, and holds what the world says."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from semraft.config import WorldConfig
from semraft.data import index_dataset
from semraft.data.files.pictures import read_ids
from semraft.data.world import driving_scene, export
from semraft.data.world.bodies import CAR, LARGE_VEHICLE, PERSON, SIDEWALK, TERRAIN, TWO_WHEELER
from semraft.data.world.export import ANSWERS
from semraft.data.world.textures import Split
from semraft.sample import FlowDataset, FlowSample

SIZE = (96, 176)
TRAIN, VAL, SEED = 5, 2, 11
HALF_STEP_PX = {
    "viper": (2**-6, 2**-6),  # float16 between 32 and 64 px.
    "virtual-kitti": ((SIZE[1] - 1) / 65535, (SIZE[0] - 1) / 65535),
    "kitti": (1 / 128, 1 / 128),
}
write = partial(export.synthesize, train=TRAIN, val=VAL, size=SIZE, seed=SEED, progress=False)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {layout: tmp_path_factory.mktemp("made") / layout for layout in HALF_STEP_PX}
    for layout, root in made.items():
        write(root, layout)
    return made


def opened(roots: dict[str, Path], layout: str, split: str) -> FlowDataset:
    return index_dataset(layout, roots[layout], split, WorldConfig())


@pytest.mark.parametrize(
    ("layout", "change"),
    [("viper", {"train": -1}), ("kitti", {"train": 0, "val": 0}),
     ("viper", {"size": (60, 200)})],
)  # fmt: skip
def test_a_wrong_call_writes_nothing(tmp_path: Path, layout: str, change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        write(tmp_path / "new", **{"layout": layout, **change})
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """Red when: the check looks only for known_answers.json."""
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match="not empty"):
        write(tmp_path, "kitti")
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_an_interrupted_writing_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when: what was begun is not removed."""

    def interrupted(seed: int, index: int, size: tuple[int, int], split: Split) -> FlowSample:
        if index == 2:
            raise KeyboardInterrupt
        return driving_scene.scene(seed, index, size, split)

    monkeypatch.setattr(export, "scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "new", "viper")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    """A mount point can't be removed or replaced, and may hold the file system's own folder. Red when:
    everything is made and then thrown away."""
    (tmp_path / "lost+found").mkdir()
    before = tmp_path.stat().st_ino
    write(tmp_path, "kitti", train=1, val=0)
    assert tmp_path.stat().st_ino == before
    assert {path.name for path in tmp_path.iterdir()} == {"lost+found", "training", ANSWERS}


@pytest.mark.parametrize("layout", ["viper", "virtual-kitti", "kitti"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_the_loader_finds_every_pair_and_the_known_answers(
    roots: dict[str, Path], layout: str, split: str
) -> None:
    """Red when: the answers are counted before the encoding drops pixels; a colour of a class is wrong."""
    dataset = opened(roots, layout, split)
    assert dataset.problems == ()
    answers = json.loads((roots[layout] / ANSWERS).read_text())["splits"][
        "all" if layout == "kitti" else split
    ]
    assert (
        len(dataset)
        == answers["pairs"]
        == {"kitti": TRAIN + VAL}.get(layout, {"train": TRAIN, "val": VAL}[split])
    )
    samples = [dataset[number] for number in range(len(dataset))]
    flows = np.concatenate([sample.flow[sample.valid] for sample in samples])
    assert len(flows) == answers["valid_pixels"]
    np.testing.assert_allclose(flows.mean(axis=0), (answers["mean_u_px"], answers["mean_v_px"]), atol=2e-3)
    counted = sum(np.bincount(sample.labels1.ravel(), minlength=256) for sample in samples)
    assert {str(label): int(counted[label]) for label in np.flatnonzero(counted)} == answers["class_pixels"]


@pytest.mark.parametrize("layout", ["viper", "virtual-kitti"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_both_frames_come_back(roots: dict[str, Path], layout: str, split: driving_scene.Split) -> None:
    """Red when: frame 1's labels are written for both frames; R and B change places in the instances."""
    dataset = opened(roots, layout, split)
    if layout == "virtual-kitti":  # Train pairs go round four scenes, and the loader sorts by scene.
        assert {pair.id.split("/")[0] for pair in dataset.pairs} == (
            {"Scene02"} if split == "val" else {"Scene01", "Scene06", "Scene18", "Scene20"}
        )
    order = [0, 4, 1, 2, 3] if (layout, split) == ("virtual-kitti", "train") else range(len(dataset))
    for sample, number in zip((dataset[place] for place in range(len(dataset))), order, strict=True):
        real = driving_scene.scene(SEED, number, SIZE, split)
        np.testing.assert_array_equal(sample.valid, real.valid)
        for axis, half_step in enumerate(HALF_STEP_PX[layout]):
            assert np.abs(sample.flow - real.flow)[..., axis].max() <= half_step + 1e-5
        for name in ("image1", "image2"):
            assert np.abs(getattr(sample, name).astype(int) - getattr(real, name)).mean() < 6
        for step in (1, 2):
            labels = getattr(real, f"labels{step}").copy()
            if layout == "virtual-kitti":
                labels[labels == SIDEWALK] = TERRAIN
                labels[np.isin(labels, (PERSON, TWO_WHEELER))] = 255
            np.testing.assert_array_equal(getattr(sample, f"labels{step}"), labels)
            np.testing.assert_array_equal(
                getattr(sample, f"instances{step}"), getattr(real, f"instances{step}")
            )
        if layout == "virtual-kitti":
            np.testing.assert_array_equal(sample.moving1, real.moving1)
            np.testing.assert_array_equal(sample.backward_valid, real.backward_valid)
            assert np.abs(sample.backward_flow - real.backward_flow).max() <= HALF_STEP_PX[layout][0] + 1e-5


def test_kitti_is_sparse_low_and_dense_on_moving_vehicles(roots: dict[str, Path]) -> None:
    """Red when: the truth is dense; people that move have truth; the sizes are all one."""
    dataset = opened(roots, "kitti", "val")
    samples = [dataset[number] for number in range(len(dataset))]
    assert len({sample.image1.shape for sample in samples}) == 5
    vehicles, elsewhere = [], []
    for number, sample in enumerate(samples):
        split, index = ("train", number) if number < TRAIN else ("val", number - TRAIN)
        real = driving_scene.scene(SEED, index, sample.valid.shape, split)
        assert sample.sparse
        assert not sample.valid[: len(sample.valid) // 3].any()
        assert (sample.valid_noc <= sample.valid).all()
        np.testing.assert_array_equal(sample.valid_noc, sample.valid & real.valid_noc)
        assert np.abs(sample.flow - real.flow)[sample.valid].max() <= 1 / 128 + 1e-6
        moving = real.moving1 & np.isin(real.labels1, (CAR, LARGE_VEHICLE))
        np.testing.assert_array_equal(sample.moving1, moving)
        assert not sample.valid[real.moving1 & ~moving].any()
        np.testing.assert_array_equal(sample.labels1, real.labels1)
        np.testing.assert_array_equal(sample.instances1 > 0, real.instances1 > 0)
        assert sample.labels2 is None
        low = np.arange(len(sample.valid)) >= len(sample.valid) // 3
        vehicles.append(sample.valid[moving & real.valid & low[:, None]])
        elsewhere.append(sample.valid[~real.moving1 & real.valid & low[:, None]])
    assert 0.8 < np.concatenate(vehicles).mean() < 0.9
    assert 0.2 < np.concatenate(elsewhere).mean() < 0.4


def test_viper_files_are_as_awkward_as_the_real_ones(roots: dict[str, Path]) -> None:
    """NaN in the sky and some Inf, float16, a palette with van and train among the ids.

    Red when: invalid flow is written as 0; every car has one id.
    """
    folder = roots["viper"] / "train"
    ids = set()
    for path in sorted((folder / "flow").rglob("*.npz")):
        with np.load(path) as archive:
            assert archive["u"].dtype == archive["v"].dtype == np.float16
            sky = read_ids(folder / "cls" / path.parent.name / f"{path.stem}.png") == 2
            assert not np.isfinite(archive["u"][sky]).any()
            assert np.isinf(archive["u"]).sum() == np.isinf(archive["v"]).sum() == min(3, sky.sum())
    for path in (folder / "cls").rglob("*.png"):
        ids |= set(np.unique(read_ids(path)).tolist())
    assert {2, 3, 24, 25} <= ids
    assert ids & {26, 27, 29}


def test_virtual_kitti_has_its_text_files(roots: dict[str, Path]) -> None:
    """Red when: a box is taken from the other frame; rows and columns change places."""
    boxes = 0
    for drive in sorted(roots["virtual-kitti"].glob("Scene*/*")):
        colors = (drive / "colors.txt").read_text().splitlines()
        assert colors[:2] == ["Category r g b", "Terrain 210 0 200"]
        maps = {
            number: read_ids(drive / f"frames/instanceSegmentation/Camera_0/instancegt_0000{number}.png")
            for number in "01"
        }
        for line in (drive / "bbox.txt").read_text().splitlines()[1:]:
            frame, _, track, left, right, top, bottom, pixels, *_ = line.split()
            y, x = np.nonzero(maps[frame] == int(track) + 1)
            found = [str(value) for value in (x.min(), x.max(), y.min(), y.max(), len(x))]
            assert found == [left, right, top, bottom, pixels]
            boxes += 1
    assert boxes > 50


def test_more_pairs_than_viper_has_sequence_numbers(tmp_path: Path) -> None:
    """Pair 999 is a later frame of sequence 001. Red when: sequence numbers get a fourth digit."""
    sample = driving_scene.scene(SEED, 0, (64, 64))
    for place in (0, 998, 999):
        export._write_viper(tmp_path, "train", place, sample, set())
    dataset = index_dataset("viper", tmp_path, "train", WorldConfig())
    assert [pair.id for pair in dataset.pairs] == ["train/001_00010", "train/001_00020", "train/999_00010"]
