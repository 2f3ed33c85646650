"""Held-out pairs: by share of scenes or by list, for every data set."""

import dataclasses
from pathlib import Path

import pytest

from semraft.config import DataConfig
from semraft.data.held_out import part_of_split
from semraft.sample import FlowDataset, Pair, Problem
from semraft.training.run_data import data_record, training_data, validation_data
from tests.unit.data.fake_trees import write_flying_chairs, write_kitti, write_sintel


def made(scenes: int = 10, frames: int = 3) -> FlowDataset:
    pairs = [
        Pair(id=f"s{scene}/{frame}", scene=f"made/s{scene}", files={})
        for scene in range(scenes)
        for frame in range(frames)
    ]

    def read(pair: Pair) -> None:
        raise AssertionError("nothing is read")

    return FlowDataset(name="made", split="train", pairs=tuple(pairs), read=read, provides=frozenset())


def ids(dataset: FlowDataset) -> list[str]:
    return [pair.id for pair in dataset.pairs]


@pytest.mark.parametrize("share", ["0.2", "0.01", "0.9"])
def test_a_share_is_of_whole_scenes(share: str) -> None:
    """Red when: frames of one scene are on both sides, or the two sides do not add up to the set."""
    whole = made()
    train, val = (part_of_split(whole, share, 0, part) for part in ("train", "val"))
    assert (train.split, val.split) == ("train", "val")
    assert sorted(ids(train) + ids(val)) == sorted(ids(whole))
    assert not {pair.scene for pair in train.pairs} & {pair.scene for pair in val.pairs}
    assert len(val) == {"0.2": 6, "0.01": 3, "0.9": 27}[share]


def test_a_share_depends_on_the_seed_and_not_on_other_scenes() -> None:
    """Red when: scenes are drawn by their place: one that a machine lacks would change all."""
    assert ids(part_of_split(made(), "0.3", 0, "val")) != ids(part_of_split(made(), "0.3", 1, "val"))
    nine = dataclasses.replace(made(), pairs=made().pairs[3:])
    changed = set(ids(part_of_split(made(), "0.3", 0, "val"))) ^ set(
        ids(part_of_split(nine, "0.3", 0, "val"))
    )
    assert len({name.split("/")[0] for name in changed}) <= 2


def test_a_list_names_pairs_or_scenes(tmp_path: Path) -> None:
    """Red when: a line that names nothing is passed over, or a pair that can't be used is an error."""
    path = tmp_path / "held-out.txt"
    path.write_text("s2/1\nmade/s4\nlost/0\n")
    lost = dataclasses.replace(made(), problems=(Problem("lost/0", tmp_path, "missing", "gone"),))
    assert ids(part_of_split(lost, str(path), 0, "val")) == ["s2/1", "s4/0", "s4/1", "s4/2"]
    assert len(part_of_split(lost, str(path), 0, "train")) == 26
    with pytest.raises(ValueError, match=r"held-out.txt: 'lost/0' is no pair and no scene of made; .* s0/0"):
        part_of_split(made(), str(path), 0, "val")


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("1.5", "a share between 0 and 1"),
        ("nowhere.txt", "or a file"),
        ("0", "a share between"),
        ("nan", "a share"),
    ],
)
def test_wrong_rules_are_named(rule: str, says: str) -> None:
    with pytest.raises(ValueError, match=f"made: --data.split {rule}: .*{says}"):
        part_of_split(made(), rule, 0, "val")


def test_one_scene_can_not_be_shared() -> None:
    with pytest.raises(ValueError, match="no pair is left to train on"):
        part_of_split(made(scenes=1), "0.2", 0, "train")


def write_tree(name: str, root: Path) -> None:
    match name:
        case "kitti":
            write_kitti(root / "training", [1, 2, 3, 4])
        case "flying-chairs":
            write_flying_chairs(root, "1111")
        case "sintel":
            for scene in ("alley_1", "bamboo_2", "cave_4", "market_5"):
                write_sintel(root / "training", scene, frames=2)


@pytest.mark.parametrize("name", ["kitti", "flying-chairs", "sintel", "world"])
@pytest.mark.parametrize("rule", ["0.25", "by name"])
def test_every_data_set_can_be_parted(name: str, rule: str, tmp_path: Path) -> None:
    """Red when: a data set's own validation pairs come back, or held-out pairs are trained on."""
    write_tree(name, tmp_path)
    config = DataConfig(
        train=name,
        root=str(tmp_path),
        validation=(name,),
        split="0.25" if rule == "0.25" else f"viper=0.5,{name}=0.25",
        world=dataclasses.replace(DataConfig().world, scenes=4, size=(64, 72)),
    )
    (train,), _ = training_data(config)
    validation, left_out = validation_data(config)
    ((split, (val, indices)),) = validation.items()
    assert (len(train), len(val), len(indices), left_out) == (3, 1, 1, [])
    assert not set(ids(train)) & set(ids(val))
    record = data_record([train], validation, left_out)
    assert record["data"]["validation"][split]["trained_on"] == 0


def test_validation_on_training_pairs_is_recorded_and_said(tmp_path: Path) -> None:
    """Red when: a run that validates on what it trains on says nothing of it."""
    write_tree("kitti", tmp_path)
    config = DataConfig(train="kitti", root=str(tmp_path), validation=("kitti",))
    training, _ = training_data(config)
    validation, left_out = validation_data(config)
    record = data_record(training, validation, left_out)
    assert record["data"]["validation"]["kitti"]["trained_on"] == 4
    assert any("kitti: 4 of 4 validation pairs are trained on too" in line for line in record["warnings"])


def test_missing_files_are_skipped_or_refused(tmp_path: Path) -> None:
    """Red when: nobody can ask for a stop at a missing label file."""
    write_tree("kitti", tmp_path)
    (tmp_path / "training/semantic/000002_10.png").unlink()
    config = DataConfig(train="kitti", root=str(tmp_path), validation=())
    (skipping,), _ = training_data(config)
    assert ids(skipping) == ["000001", "000003", "000004"]
    assert "labels1" in skipping.provides
    with pytest.raises(ValueError, match=r"semantic/000002_10.png: missing .*--data.missing skip leaves"):
        training_data(dataclasses.replace(config, missing="refuse"))
