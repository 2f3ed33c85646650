"""A run is one value: it survives the way through its file unchanged."""

import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest

from semraft.config import (
    LossConfig,
    RunConfig,
    TermConfig,
    load_config,
    parse_term,
    term_text,
    to_json,
)
from semraft.config.recipes import RECIPES
from semraft.faults.altered_recipes import ALTERED_RECIPES

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("name", [*RECIPES, *ALTERED_RECIPES])
def test_every_recipe_survives_its_file(name: str, tmp_path: Path) -> None:
    config = (RECIPES | ALTERED_RECIPES)[name].config
    (tmp_path / "config.json").write_text(to_json(config))
    assert load_config(tmp_path / "config.json") == config
    assert config.recipe == name


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


NOT_NUMBERS = {
    "optim": {"warm_up_frac": (5.0, -1.0), "learning_rate": (0.0, INF, NAN), "weight_decay": (NAN, -1.0)}
    | {"epsilon": (NAN, -1.0), "clip_norm": (NAN, -1.0), "steps": (0,), "batch": (0,)},
    "loss": {"max_flow_px": (0.0, NAN), "gamma": (0.0, NAN), "share_cap": (NAN, -1.0)},
    "data.augment": {"max_log2_scale": (NAN, 50.0), "hue_turns": (NAN, 2.0), "brightness": (INF, -1.0)}
    | {"eraser_probability": (7.0, NAN), "eraser_size_px": ((-5, -1), (9, 3))},
    "data.world": {"size": ((0, 0), (63, 64), (-64, 96), (10**6, 10**6)), "seed": (-1,), "scenes": (0, -5)},
    "data": {"truth_frac": (-1.0, NAN), "draw_seed": (-1,), "train_pairs": (0,), "workers": (-1,)},
    "": {"seed": (-1, 2**70), "saved_pairs": (-1,), "health_every": (-1,)},
}
"""Part of the configuration -> field -> values that nothing can be trained with."""


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        (part, name, value)
        for part, fields in NOT_NUMBERS.items()
        for name, values in fields.items()
        for value in values
    ],
)
def test_numbers_out_of_range_are_refused(part: str, name: str, value: Any) -> None:
    """Red when: a run trains with them, ends in a traceback, or the message lacks the option."""
    owner: Any = RunConfig()
    for piece in part.split(".") if part else ():
        owner = getattr(owner, piece)
    option = ".".join(filter(None, (part, name.replace("_", "-"))))
    with pytest.raises(ValueError, match=rf"^--({option}|{part}) is .*: expected "):
        replace(owner, **{name: value})


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
        ("smoothness:nan", "weight is nan: expected a number"),
    ],
)
def test_a_term_written_wrongly_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_term(text)


def test_fields_of_earlier_versions_become_alterations(tmp_path: Path) -> None:
    """Red when: an old run can't be read, its fault or a switch is forgotten, or a default becomes one."""
    config = RunConfig(loss=LossConfig(terms=(parse_term("semantic-v1:1"),)))
    path = tmp_path / "config.json"

    def read(fault: dict[str, Any], switches: dict[str, str]) -> RunConfig:
        old = json.loads(to_json(config))
        del old["altered"]
        old["fault"] = fault
        old["data"]["draws"] = switches.get("draws", "by-seed")
        old["data"]["augment"] |= {
            "invalid_targets": switches.get("targets", "left-out"),
            "labels": switches.get("labels", "nearest"),
        }
        old["loss"]["normalize"] = switches.get("normalize", "valid")
        old["loss"]["terms"][0] |= {"mean": switches.get("mean", "mask"), "masked_by": "own"}
        old["loss"]["terms"][0]["options"] = {"masked_by": switches.get("masked_by", "own")}
        path.write_text(json.dumps(old))
        return load_config(path)

    assert read({"kind": "none", "step": 1}, {}) == config
    found = read(
        {"kind": "swapped-flow", "step": 9}, {"draws": "fixed", "targets": "as-65504", "mean": "all"}
    )
    assert found == replace(config, altered=("swapped-flow@9", "fixed-draws", "as-65504", "v1-mean-all"))
    found = read({"kind": "none", "step": 1}, {"labels": "grey-blended", "masked_by": "broadcast"})
    assert found.altered == ("grey-labels", "v1-broadcast-mask")
    found = read({"kind": "none", "step": 1}, {"normalize": "valid-broadcast"})
    assert (found.altered, found.loss.normalize) == (("broadcast-flow-mask",), "valid")


def test_fields_of_one_term_become_its_own_options(tmp_path: Path) -> None:
    """Red when: the options of an earlier run's terms can't be read, are lost, or a default becomes one."""
    text = "smoothness:0.5,order=1,where=things"
    config = RunConfig(loss=LossConfig(terms=(parse_term(text), parse_term("census:1"))))
    old = json.loads(to_json(config))
    for term, order in zip(old["loss"]["terms"], (1, 2), strict=True):
        del term["options"]
        term |= {"order": order, "penalty": "l1", "mean": "mask", "masked_by": "own", "radius_px": 16}
        term |= {"gain": 2.0, "falloff_px": 8.0, "plane_model": "homography", "fit_gradient": "through"}
        term |= {"gradient": "both", "prior": 0.05}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(old))
    assert load_config(path) == config
