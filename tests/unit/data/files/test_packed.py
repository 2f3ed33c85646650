"""A pack gives what its source gives, bit for bit, or says by name what is wrong with it."""

import dataclasses
import functools
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semraft.cli import main
from semraft.config import AugmentConfig, DataConfig, OptimConfig, WorldConfig
from semraft.data import index_dataset
from semraft.data.check import check_dataset
from semraft.data.files import packed
from semraft.data.files.packed_arrays import PackedFile, to_bytes
from semraft.data.loader import training_batches, training_sample
from semraft.data.requirements import refuse_problems
from semraft.data.world.export import synthesize
from semraft.sample import DamagedFile, FlowDataset, FlowSample, Window
from semraft.training.run_data import fingerprint

LAYOUTS = ("viper", "virtual-kitti", "kitti")
CONFIG = DataConfig(crop=(64, 72), workers=0, augment=AugmentConfig(eraser_size_px=(3, 9)))


def index(name: str, root: Path, split: str = "train") -> FlowDataset:
    return index_dataset(name, root, split, WorldConfig())


def make_pack(name: str, root: Path, out: Path, **options: Any) -> dict[str, int]:
    return packed.pack(functools.partial(index, name, root), root, out, ("train",), **options)


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every layout with three pairs; their frames are 5 px apart in height and as odd in width."""
    folder = tmp_path_factory.mktemp("trees")
    for layout in LAYOUTS:
        synthesize(folder / layout, layout, train=3, val=1, size=(101, 131), seed=4, progress=False)
    viper = folder / "viper" / "train"
    for kind, suffix in (("img", "jpg"), ("cls", "png"), ("inst", "png")):
        # A pair that starts where another ends: frame 11 is in both.
        shutil.copy(
            viper / kind / "002" / f"002_00010.{suffix}", viper / kind / "001" / f"001_00012.{suffix}"
        )
    shutil.copy(viper / "flow" / "002" / "002_00010.npz", viper / "flow" / "001" / "001_00011.npz")
    return {layout: folder / layout for layout in LAYOUTS}


@pytest.fixture(scope="module")
def packs(trees: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("packs")
    for name, root in trees.items():
        make_pack(name, root, folder / name)
    return {name: folder / name for name in trees}


def assert_same(one: FlowSample, other: FlowSample) -> None:
    for field in dataclasses.fields(FlowSample):
        ours, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(ours, np.ndarray):
            assert ours.dtype == theirs.dtype, field.name
            np.testing.assert_array_equal(ours, theirs, field.name)
        else:
            assert ours == theirs, field.name


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_pack_is_its_source(name: str, trees: dict[str, Path], packs: dict[str, Path]) -> None:
    """Red when: ids, fields, sparseness or fingerprint of a pack are its own, or a value is rounded."""
    source, copy = index(name, trees[name]), index(name, packs[name])
    assert [(pair.id, pair.scene) for pair in copy.pairs] == [(pair.id, pair.scene) for pair in source.pairs]
    for field in ("name", "split", "provides", "sparse", "problems"):
        assert getattr(copy, field) == getattr(source, field)
    assert fingerprint(copy) == fingerprint(source)
    some = dataclasses.replace(source, pairs=source.pairs[1:])
    assert fingerprint(dataclasses.replace(copy, pairs=copy.pairs[1:])) == fingerprint(some)
    for number in range(len(source)):
        assert_same(copy[number], source[number])


@pytest.mark.parametrize("name", LAYOUTS)
def test_batches_are_the_same_from_files_and_pack(
    name: str, trees: dict[str, Path], packs: dict[str, Path]
) -> None:
    """Red when: the window of a pack or of any reader is a row off, or a draw depends on what is read."""
    optim = OptimConfig(steps=6, batch=2)
    whole = dataclasses.replace(index(name, trees[name]), read_window=None)
    sources = [whole, index(name, trees[name]), index(name, packs[name])]
    for plain, files, pack in zip(
        *(training_batches([source], [1.0], CONFIG, 7, optim) for source in sources), strict=True
    ):
        for field in dataclasses.fields(plain.batch):
            values = [getattr(batch.batch, field.name) for batch in (plain, files, pack)]
            if isinstance(values[0], torch.Tensor):
                assert torch.equal(values[0], values[1]), field.name
                assert torch.equal(values[0], values[2]), field.name
            else:
                assert values[0] == values[1] == values[2], field.name


def test_images_may_stay_as_their_files_have_them(trees: dict[str, Path], tmp_path: Path) -> None:
    """Red when: keeping the files' bytes changes a sample, or is no smaller."""
    for images in ("files", "pixels"):
        make_pack("viper", trees["viper"], tmp_path / images, images=images)
    source, copy = index("viper", trees["viper"]), index("viper", tmp_path / "files")
    for number in range(6):
        one, other = (training_sample(number, 3, [data], [1.0], CONFIG).sample for data in (source, copy))
        assert_same(one, other)
    files, pixels = (
        sum(path.stat().st_size for path in (tmp_path / images).rglob("*.pack"))
        for images in ("files", "pixels")
    )
    assert files < 0.7 * pixels


def test_a_frame_of_two_pairs_is_stored_once(packs: dict[str, Path]) -> None:
    """Red when: every pair brings its own copy of its frames."""
    copy = index("viper", packs["viper"])
    first, second = (pair for pair in copy.pairs if pair.id in ("train/001_00010", "train/001_00011"))
    assert first.files["image2"] == second.files["image1"]
    assert len(list((packs["viper"] / "frames").rglob("*.pack"))) == 2 * len(copy) - 1


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_check_of_a_pack_reads_like_one_of_the_files(
    name: str, trees: dict[str, Path], packs: dict[str, Path]
) -> None:
    """Red when: a pack hides from the alignment test how its flow was encoded.

    It holds common classes: the names of the data set's own are gone.
    """
    source, copy = (check_dataset(index(name, root[name])).to_json() for root in (trees, packs))
    assert source.pop("label_table") is not None
    assert source.pop("source_class_frac") is not None
    assert (copy.pop("label_table"), copy.pop("source_class_frac")) == (None, None)
    assert copy == source


# ---- what can be wrong with a pack -------------------------------------------------------------------------


def test_an_interrupted_pack_says_so_and_goes_on(trees: dict[str, Path], tmp_path: Path) -> None:
    """Red when: half a pack is read as a data set of half the pairs, or is begun from the start."""
    root, out = trees["virtual-kitti"], tmp_path / "pack"

    class Interrupted(Exception):
        pass

    def stop(results: Iterable[Any], total: int) -> Iterator[Any]:
        for result in results:
            yield result
            raise Interrupted

    source = functools.partial(index, "virtual-kitti", root)
    with pytest.raises(Interrupted):
        packed.pack(source, root, out, ("train",), workers=1, progress=stop)
    with pytest.raises(ValueError, match=r"pack that was interrupted: the same `semraft data pack`"):
        index("virtual-kitti", out)
    with pytest.raises(ValueError, match="unfinished pack of other data"):
        make_pack("kitti", trees["kitti"], out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.pack")}
    assert before
    assert make_pack("virtual-kitti", root, out) == {"train": 3}
    assert before.items() <= {path: path.stat().st_mtime_ns for path in out.rglob("*.pack")}.items()
    assert not (out / packed.UNFINISHED).exists()
    assert_same(index("virtual-kitti", out)[2], index("virtual-kitti", root)[2])
    with pytest.raises(ValueError, match="finished pack"):
        make_pack("virtual-kitti", root, out)


def test_a_pack_that_lost_a_file_names_it(packs: dict[str, Path], tmp_path: Path) -> None:
    """Red when: a cut or missing file of a pack is found by the crop that needs it, steps later."""
    out = tmp_path / "pack"
    shutil.copytree(packs["viper"], out)
    pairs = index("viper", out).pairs
    lost, cut = pairs[0].files["flow"], pairs[-1].files["image1"]
    lost.unlink()
    cut.write_bytes(cut.read_bytes()[:-1])
    damaged = index("viper", out)
    assert [(bad.pair_id, bad.path) for bad in damaged.problems] == [(pairs[0].id, lost), (pairs[-1].id, cut)]
    assert {pair.id for pair in damaged.pairs} == {pair.id for pair in pairs[1:-1]}
    with pytest.raises(DamagedFile, match="gone from the pack"):
        refuse_problems(damaged, "refuse", "skip", "--data.")


@pytest.mark.parametrize("role", ["flow", "image1", "image2"])
def test_a_damaged_byte_of_a_pack_is_named(role: str, packs: dict[str, Path], tmp_path: Path) -> None:
    """Red when: checksums are not looked at, or a header that is no JSON ends in a traceback."""
    out = tmp_path / "pack"
    shutil.copytree(packs["viper"], out)
    dataset = index("viper", out)
    path = dataset.pairs[0].files[role]
    sound = bytearray(path.read_bytes())
    for at in (5, 40, len(sound) // 2, len(sound) - 3):
        damaged = sound.copy()
        damaged[at] ^= 0x55
        path.write_bytes(damaged)
        with pytest.raises(DamagedFile) as caught:
            dataset[0]
        assert caught.value.path == path
    path.write_bytes(sound)
    assert dataset[0].id == dataset.pairs[0].id


def test_a_damaged_source_is_refused_or_left_out_by_name(trees: dict[str, Path], tmp_path: Path) -> None:
    """Red when: a damaged pair is packed as something, ends in a traceback, or vanishes from the count."""
    root = tmp_path / "viper"
    shutil.copytree(trees["viper"], root)
    bad = root / "train" / "flow" / "002" / "002_00010.npz"
    bad.write_bytes(bad.read_bytes()[:1000])
    with pytest.raises(DamagedFile) as caught:
        make_pack("viper", root, tmp_path / "refused")
    assert caught.value.path == bad
    assert make_pack("viper", root, tmp_path / "skipped", damaged="skip") == {"train": 3}
    copy = index("viper", tmp_path / "skipped")
    assert [(problem.pair_id, problem.path, problem.kind) for problem in copy.problems] == [
        ("train/002_00010", bad, "damaged")
    ]


def test_a_pack_is_of_one_data_set_and_has_the_splits_asked_for(packs: dict[str, Path]) -> None:
    """Red when: a pack of one data set is opened as another, or a split it lacks comes out empty."""
    with pytest.raises(ValueError, match="is a pack of viper, not of kitti"):
        index("kitti", packs["viper"])
    with pytest.raises(ValueError, match="holds train only"):
        index("viper", packs["viper"], "val")


def test_packing_overwrites_nothing(trees: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(ValueError, match="is not empty"):
        make_pack("kitti", trees["kitti"], tmp_path)
    with pytest.raises(ValueError, match="has no files to pack"):
        make_pack("world", tmp_path, tmp_path / "new")


def test_the_command(trees: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Red when: the command packs other splits than asked for, or what a user can cause is a traceback."""
    arguments = ["data", "pack", str(trees["viper"]), "--dataset", "viper", "--out", str(tmp_path / "pack")]
    assert main.run([*arguments, "--split", "val"]) == 0
    assert "(1 val pairs)" in capsys.readouterr().out
    assert len(index("viper", tmp_path / "pack", "val")) == 1
    assert main.run(arguments) == 2
    assert "is a finished pack" in capsys.readouterr().err


# ---- the file ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [Window(0, 0, 70, 33), Window(31, 5, 2, 7), Window(33, 0, 37, 1)])
def test_any_window_of_any_array_comes_back(window: Window, tmp_path: Path) -> None:
    """Red when: a band is placed a row off, a type narrowed that its values do not fit, or -0 becomes 0."""
    rng = np.random.default_rng(0)
    flow = rng.normal(0, 300, (70, 33, 2)).astype(np.float32)
    arrays = {
        "image": rng.integers(0, 256, (70, 33, 3), dtype=np.uint8),
        "flow": flow,
        "backward_flow": np.where(flow > 0, np.float32(-0.0), flow.astype(np.float16)).astype(np.float32),
        "valid": rng.random((70, 33)) > 0.5,
        "instances1": rng.integers(0, 200, (70, 33)).astype(np.int32),
        "instances2": rng.integers(0, 60000, (70, 33)).astype(np.int32),
        "instances": rng.integers(-5, 2**31 - 1, (70, 33)).astype(np.int32),
    }
    path = tmp_path / "one.pack"
    path.write_bytes(to_bytes((70, 33), arrays))
    file = PackedFile(path)
    assert file.frame == (70, 33)
    found = file.read(window)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert found[name].tobytes() == np.ascontiguousarray(window.of(array)).tobytes(), name
