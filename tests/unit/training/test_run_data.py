"""Which data a run trains and validates on, and what it records of it."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from semraft.config import DataConfig, WorldConfig
from semraft.data.world.export import synthesize
from semraft.sample import DamagedFile
from semraft.training.run_data import data_record, fingerprint, training_data, validation_data


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    synthesize(root / "viper", "viper", train=3, val=2, size=(64, 96), seed=0, progress=False)
    synthesize(root / "kitti", "kitti", train=1, val=1, size=(64, 96), seed=0, progress=False)
    return root


STUDY = DataConfig(train="viper", validation=("viper", "kitti"), validation_pairs=1)


def test_each_set_has_a_root_of_its_own(folders: Path) -> None:
    """Red when only the roots of training sets are looked up: KITTI was left out although it was named."""
    config = replace(STUDY, root=f"viper={folders / 'viper'},kitti={folders / 'kitti'}")
    drawn, left_out = validation_data(config)
    assert {split: len(indices) for split, (_, indices) in drawn.items()} == {"viper-val": 1, "kitti": 2}
    assert left_out == []


def test_one_folder_above_them_all(folders: Path) -> None:
    drawn, left_out = validation_data(replace(STUDY, root=str(folders)))
    assert list(drawn) == ["viper-val", "kitti"]
    assert left_out == []


def test_a_validation_set_that_is_not_there_is_left_out_and_named(folders: Path) -> None:
    """The folder of the training data must not be mistaken for KITTI's."""
    drawn, left_out = validation_data(replace(STUDY, root=str(folders / "viper")))
    assert list(drawn) == ["viper-val"]
    assert len(left_out) == 1
    assert left_out[0].startswith("kitti: no root given")


def test_a_root_that_is_given_must_hold_the_set(folders: Path) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        validation_data(replace(STUDY, root=f"viper={folders / 'viper'},kitti=/nowhere"))


def test_the_record_names_every_pair_of_the_draw(folders: Path) -> None:
    config = replace(STUDY, root=str(folders), train_pairs=2)
    training, weights = training_data(config)
    drawn, left_out = validation_data(config)
    record = data_record(training, drawn, left_out)
    assert weights == [1.0]
    assert record["data"]["train"][0]["pairs"] == 2
    (drawn_id,) = record["data"]["validation"]["viper-val"]["ids"]
    assert drawn_id.startswith("val/")
    again = data_record(training_data(config)[0], *validation_data(config))
    assert again == record


def test_damaged_files_are_refused_or_skipped_and_missing_ones_reported(
    folders: Path, tmp_path: Path
) -> None:
    """Red when an empty file is passed over in silence, or a missing partner stops a VIPER run."""
    root = tmp_path / "viper"
    shutil.copytree(folders / "viper", root)
    images = sorted((root / "train" / "img").rglob("*_00011.*"))
    images[0].unlink()
    config = replace(STUDY, root=str(root), validation=())
    training, _ = training_data(config)
    assert len(training[0]) == 2
    (warning,) = data_record(training, {}, [])["warnings"]
    assert "1 files can't be used" in warning
    assert images[0].name in warning
    images[1].write_bytes(b"")
    with pytest.raises(DamagedFile, match=images[1].name) as refusal:
        training_data(config)
    assert "--data.damaged skip" in str(refusal.value)
    assert len(training_data(replace(config, damaged="skip"))[0][0]) == 1


def test_a_damaged_first_frame_does_not_stop_the_record(folders: Path, tmp_path: Path) -> None:
    """Red when: the fingerprint decodes a frame that `damaged="skip"` would have passed over."""
    shutil.copytree(folders / "viper", tmp_path / "viper")
    training, _ = training_data(replace(STUDY, root=str(tmp_path / "viper")))
    before = fingerprint(training[0])
    first = training[0].pairs[0].files["image1"]
    first.write_bytes(b"no picture".ljust(first.stat().st_size))
    assert fingerprint(training[0]) != before


def test_the_fingerprint_tells_data_apart(folders: Path) -> None:
    def world(seed: int) -> str:
        config = DataConfig(world=WorldConfig(size=(64, 96), scenes=2, seed=seed))
        return fingerprint(training_data(config)[0][0])

    assert world(0) == world(0)
    assert world(0) != world(1)
