"""The study of the divergence: each variant differs from what it is compared with by what it isolates."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from semraft.config import RunConfig, to_json
from semraft.faults.altered_recipes import ALTERED_RECIPES
from semraft.faults.altered_training import draw_seed
from semraft.faults.fault_config import AS_IT_WAS
from semraft.losses.auxiliary_term import option_values
from semraft.losses.terms import TERMS
from semraft.models.weights import build_model
from semraft.studies.catalog import STUDIES
from semraft.studies.job import Job
from semraft.studies.preflight import StudyStopped, check_comparable
from semraft.studies.study import differing_fields, settings_of
from semraft.training.provenance import fingerprints
from semraft.training.run_data import training_data

STUDY = STUDIES["divergence"]
WITHOUT_FLOOR = {"gradient-matching-5": "gradient-matching", "second-order-5": "smoothness"}


def test_a_run_with_v1_differs_from_its_base_by_v1_alone() -> None:
    """Red when: a fault or a suspect is missing in the base, so that it is blamed on V1, or V1 is in a base.

    Labels are read by V1 alone: blended ones are no difference to a run without it.
    """
    for variant, config in STUDY.variants.items():
        names = [term.name for term in config.loss.terms]
        if variant == "base" or variant.startswith("base-") or variant == "as-it-was-base":
            assert names == []
            continue
        assert names == [WITHOUT_FLOOR.get(variant, "semantic-v1")]
        base = STUDY.variants[STUDY.against.get(variant, STUDY.base)]
        held = {"loss.combine", "loss.share_cap"}  # Nothing to a run without terms.
        differs = set(differing_fields(settings_of(config), settings_of(base))) - held
        of_v1 = {"v1-mean-all", "v1-broadcast-mask", "grey-labels"}
        assert set(config.altered) - of_v1 == set(base.altered), variant
        assert differs - {"altered"} == {"loss.terms"}, variant


def test_a_fault_alone_is_one_change_of_v1() -> None:
    """Red when: two faults come together, or a fault of the original's is in no variant."""
    alone: dict[str, set[str]] = {}
    for variant in STUDY.variants:
        if variant.startswith("v1-"):
            one, two = (
                settings_of(config) | flat_terms(config)
                for config in (STUDY.variants[variant], STUDY.variants["v1"])
            )
            alone[variant] = {name for name in one if name != "loss.terms" and one[name] != two[name]}
            alone[variant] -= {"recipe"}
    # A mean over all pixels is of both losses, and doubles V1's weight beside a mean over both components.
    assert alone.pop("v1-all-pixels") == {"loss.normalize", "altered", "weight"}
    assert alone.pop("v1-5-updates-8") == {"weight", "num_updates", "validation_updates"}
    assert alone == {
        "v1-broadcast-mask": {"altered"},
        "v1-repaired": {"altered"},
        "v1-zero-targets": {"altered"},
        "v1-huge-targets": {"altered"},
        "v1-grey-labels": {"altered"},
        "v1-2": {"weight"},
        "v1-5": {"weight"},
        "v1-5-learning-rate": {"weight", "schedule"},
        "v1-5-exact": {"weight", "mask"},
        "v1-5-forward-backward": {"weight", "mask"},
        "v1-exact": {"mask"},
        "v1-5-gamma-085": {"weight", "loss.gamma"},
        "v1-5-gamma-1": {"weight", "loss.gamma"},
        "v1-5-gate": {"weight", "loss.combine"},
        "v1-5-project": {"weight", "loss.combine"},
        "v1-5-cap": {"weight", "loss.share_cap"},
        "v1-5-flow-loss": {"weight", "schedule"},
        "v1-5-decay": {"weight", "schedule"},
        "v1-5-uncertainty": {"weight", "modulation"},
        "v1-5-exact-learning-rate": {"weight", "mask", "schedule"},
    }
    whole = settings_of(STUDY.variants["as-it-was"]) | flat_terms(STUDY.variants["as-it-was"])
    assert (whole["loss.normalize"], whole["loss.gamma"]) == ("all", 0.85)
    assert whole["altered"] == ["as-zero", "v1-mean-all", "v1-broadcast-mask"]
    assert whole["weight"] == 1
    every = {name for config in STUDY.variants.values() for name in config.altered}
    assert every == set(AS_IT_WAS) - {"fixed-draws"}


def test_what_takes_the_floor_away_takes_nothing_else() -> None:
    """Red when: a term without V1's floor has another weight, mask or segments than V1, so that it is not the
    floor that the two differ by."""
    (held,) = STUDY.variants["v1-5"].loss.terms
    for variant, name in WITHOUT_FLOOR.items():
        (term,) = STUDY.variants[variant].loss.terms
        assert replace(term, options={}) == replace(held, name=name, mask="same-label")
        assert term.options in ({}, {"order": 2})
        assert TERMS["semantic-v1"].mask == "same-label"
        assert (term.boundary, term.where) == ("class", "all")


def flat_terms(config: RunConfig) -> dict[str, Any]:
    (term,) = config.loss.terms
    places = {name: getattr(term, name) for name in ("weight", "schedule", "modulation", "mask")}
    return places | option_values(TERMS["semantic-v1"], term)


def test_the_study_and_its_start_are_of_the_scenes_for_reporting() -> None:
    """Red when: a start saw other scenes, or scenes that choices were made on: the cure's terms and weights
    on world seed 4, with what 5 had shown."""
    seeds = {}
    for name in (name for name in STUDIES if name.startswith("divergence")):
        study = STUDIES[name]
        assert study.start is not None
        configs = [*study.variants.values(), *study.start.variants.values()]
        (world,) = {config.data.world for config in configs}
        seeds[name] = world.seed
    assert seeds == {"divergence": 5, "divergence-seeds": 5, "divergence-cured": 7}
    assert not any("fixed-draws" in config.altered for config in STUDY.variants.values())


def test_more_seeds_are_of_the_same_runs() -> None:
    """Red when: the study with more seeds takes other variants or another start than the one it follows."""
    seeds = STUDIES["divergence-seeds"]
    assert STUDY.start is not None
    assert seeds.start is not None
    assert set(STUDY.seeds) < set(seeds.seeds)
    assert seeds.start.variants == STUDY.start.variants
    added = {variant for variant, config in seeds.variants.items() if config != STUDY.variants.get(variant)}
    assert added == {"v1-exact-static"}


def test_the_cure_is_told_apart_by_its_terms_alone() -> None:
    """Red when: anything but the loss could make a difference, a term acts where it should not, or one of the
    two is not tried alone."""
    cured = STUDIES["divergence-cured"]
    base = cured.variants[cured.base]
    planes, things = ("motion-model", "static"), ("boundary-weight", "things")
    places = {}
    for name, config in cured.variants.items():
        assert replace(config.loss, terms=()) == base.loss
        assert replace(config, loss=base.loss) == base
        places[name] = [(term.name, term.where) for term in config.loss.terms]
    assert places == {"base": [], "cured": [planes, things], "planes": [planes], "things": [things]}
    world = replace(base.data.world, seed=5)
    assert replace(base, data=replace(base.data, world=world)) == STUDY.variants["base"]


def test_the_three_seeds_that_were_one_are_refused(tmp_path: Path) -> None:
    """The recipe of the original's code, with two seeds, from given weights: fingerprints tell that it is one
    run twice, and a study does not go on. Red when: --seed reaches order or augmentation after all, or given
    weights excuse everything."""
    config = ALTERED_RECIPES["world-as-it-was"].config
    data = replace(config.data, crop=(64, 72), world=replace(config.data.world, size=(72, 96), scenes=5))
    config = replace(config, data=data, model=replace(config.model, weights="things.pth"))
    datasets, shares = training_data(data)
    weights = build_model(replace(config.model, weights=""), 0).state_dict()

    def begin(seed: int, wanted: RunConfig) -> Job:
        job = Job(study=tmp_path / str(len(wanted.altered)), variant="v1", seed=seed, steps=9)
        job.config.parent.mkdir(parents=True, exist_ok=True)
        job.run.mkdir(parents=True)
        begun = replace(wanted, seed=seed)
        ran = replace(begun, precision="float32", model=replace(begun.model, batch_norm="freeze"))
        job.config.write_text(to_json(begun))
        (job.run / "config.json").write_text(to_json(ran))
        record = {
            "data": {"train": [], "validation": {}},
            "fingerprints": fingerprints(begun, weights, datasets, shares, draw_seed(begun)),
        }
        (job.run / "environment.json").write_text(json.dumps(record))
        return job

    with pytest.raises(
        StudyStopped, match=r"v1: seeds 0 and 42 have the same sample order and first batches"
    ):
        check_comparable([begin(seed, config) for seed in (0, 42, 1234)], "v1")
    check_comparable([begin(seed, replace(config, altered=())) for seed in (0, 42)], "v1")
