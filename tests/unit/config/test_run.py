"""A run is one value: it survives the way through its file unchanged."""

from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest

from semraft.config import (
    AugmentConfig,
    DataConfig,
    LossConfig,
    ModelConfig,
    RunConfig,
    TermConfig,
    load_config,
    parse_term,
    term_text,
    to_json,
)
from semraft.config.recipes import RECIPES


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
    config: Any = RunConfig()  # A type checker would see it before the test.
    with pytest.raises(FrozenInstanceError):
        config.seed = 3


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


TERMS_AS_TEXT = {
    "semantic-v1:0.5": TermConfig(name="semantic-v1", weight=0.5),
    "signed-distance:share=0.4,ramp=200,where=things": TermConfig(
        name="signed-distance", share=0.4, ramp=200, where="things"
    ),
    "smoothness:2,boundary=instance,order=1": TermConfig(
        name="smoothness", weight=2.0, boundary="instance", options={"order": 1}
    ),
    "label-warp:1e-05,schedule=learning-rate,where=car+person,mask=forward-backward": TermConfig(
        name="label-warp", weight=1e-5, schedule="learning-rate", where="car+person", mask="forward-backward"
    ),
}


@pytest.mark.parametrize("text", TERMS_AS_TEXT)
def test_a_term_is_written_as_it_is_read(text: str, tmp_path: Path) -> None:
    """Red when: an option is lost on the way, or comes back as a string."""
    term = TERMS_AS_TEXT[text]
    assert parse_term(text) == term
    assert term_text(term) == text
    config = replace(RunConfig(), loss=LossConfig(terms=(term,)))
    (tmp_path / "config.json").write_text(to_json(config))
    assert load_config(tmp_path / "config.json") == config


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("semantic-v1", "NAME:WEIGHT"),
        ("semantic-v1:", "NAME:WEIGHT"),
        ("semantic-v1:heavy", "weight is 'heavy': expected a number"),
        ("smoothness:1,mask=3", "mask is '3': choose from auto, none, exact"),
        ("smoothness:1,order", "'order' is not OPTION=VALUE"),
        ("smoothness:1,name=x", "'name=x' is not OPTION=VALUE"),
        ("smoothness:1,ramp=3,ramp=4", "given twice"),
        ("smoothness:1,order=1,order=2", "given twice"),
        ("smoothness:2,share=0.4", "none beside a share"),
        ("smoothness:share=0", "above 0"),
        ("smoothness:1,ramp=-1", "0 or more"),
    ],
)
def test_a_term_written_wrongly_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_term(text)


def test_labels_that_are_blended_are_no_classes_to_learn() -> None:
    """Red when: a cross-entropy is asked for class 143, at the first step and with a traceback."""
    blended = DataConfig(augment=AugmentConfig(labels="grey-blended"))
    complaint = r"--data\.augment\.labels is grey-blended: expected nearest"
    with pytest.raises(ValueError, match=complaint):
        RunConfig(data=blended, loss=LossConfig(terms=(parse_term("segmentation:1"),)))
    with pytest.raises(ValueError, match=complaint):
        RunConfig(data=blended, model=ModelConfig(conditioning="truth"))
    RunConfig(data=blended, loss=LossConfig(terms=(parse_term("semantic-v1:0.5"),)))
