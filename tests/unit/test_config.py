"""A run is one value: it survives the way through its file unchanged."""

from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from semraft.config import LossConfig, RunConfig, TermConfig, load_config, to_json
from semraft.recipes import RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_its_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(to_json(RECIPES[name].config))
    assert load_config(tmp_path / "config.json") == RECIPES[name].config
    assert RECIPES[name].config.recipe == name


def test_whole_numbers_come_back_as_floats(tmp_path: Path) -> None:
    config = replace(RunConfig(), loss=LossConfig(terms=(TermConfig(name="matching", weight=3.0),)))
    (tmp_path / "config.json").write_text(to_json(config).replace("3.0", "3"))
    weight = load_config(tmp_path / "config.json").loss.terms[0].weight
    assert type(weight) is float


def test_a_misspelt_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(to_json(RunConfig()).replace('"seed"', '"sead"'))
    with pytest.raises(ValueError, match="sead"):
        load_config(tmp_path / "config.json")


def test_a_run_cannot_change_under_way() -> None:
    with pytest.raises(FrozenInstanceError):
        RunConfig().seed = 3  # type: ignore[misc]


def test_the_study_scenarios_are_there() -> None:
    for data in ("viper", "virtual-kitti", "viper+virtual-kitti"):
        for scenario in ("baseline", "semantic-v1", "overfit-100", "overfit-100-semantic-v1"):
            config = RECIPES[f"{data}-{scenario}"].config
            assert config.data.crop == (288, 960)
            assert "kitti" in config.data.validation
            assert [term.name for term in config.loss.terms] == (
                ["semantic-v1"] if "semantic" in scenario else []
            )
            assert (config.data.train_pairs == 100) == ("overfit" in scenario)
