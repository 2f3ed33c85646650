"""A study is one value: what it refuses, and what its folder holds it to."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from semraft.analysis.study_file import read_study
from semraft.config import LossConfig, RunConfig, TermConfig
from semraft.config.recipes import RECIPES
from semraft.losses.objective import check_terms
from semraft.models.heads import given_by
from semraft.studies.catalog import STUDIES
from semraft.studies.runner import prepare
from semraft.studies.study import Study, load_study, override, settle
from semraft.training.run_data import training_data

BASE = RunConfig()
V1 = replace(BASE, recipe="other", loss=LossConfig(terms=(TermConfig(name="semantic-v1", weight=0.5),)))
STUDY = Study(name="tried", about="", variants={"base": BASE, "v1": V1}, base="base", seeds=(0, 42))


def with_steps(config: RunConfig, steps: int) -> RunConfig:
    return replace(config, optim=replace(config.optim, steps=steps))


def test_variants_differ_in_what_the_study_is_about() -> None:
    """Red when: `may_differ` is not looked at, or a prefix of a name passes for the group."""
    with pytest.raises(ValueError, match=r"base and v1 also differ in optim\.steps"):
        replace(STUDY, variants={"base": BASE, "v1": with_steps(V1, 60)})
    replace(STUDY, variants={"base": BASE, "v1": with_steps(V1, 60)}, may_differ=("loss", "optim.steps"))
    with pytest.raises(ValueError, match="same configuration"):
        replace(STUDY, variants={"base": BASE, "again": replace(BASE, seed=4, recipe="another")})
    with pytest.raises(ValueError, match=r"differ in loss\.terms"):
        replace(STUDY, may_differ=("model", "los"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"base": "v2"}, "none of base, v1"),
        ({"against": {"v1": "other"}}, "names 'other', which is no variant"),
        ({"seeds": (0, 1, 0)}, "each once"),
        ({"seeds": ()}, "one or more"),
        ({"name": "../elsewhere"}, "in a name"),
        ({"variants": {"base": BASE, "v/1": V1}}, "in a name"),
        ({"start": replace(STUDY, variants={"base": BASE})}, "if there is a start, and only then"),
        ({"start": STUDY}, "one variant with all of its seeds"),
        ({"start": replace(STUDY, variants={"base": BASE}, seeds=(0,))}, "one variant with all of its seeds"),
    ],
)
def test_what_is_no_study(change: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(STUDY, **change)


def test_the_protocol_is_what_the_variants_share() -> None:
    """Red when: a field of a variant's own lands in the protocol, or a machine's place does."""
    contents = STUDY.to_json()
    assert contents["protocol"]["optim.batch"] == BASE.optim.batch
    assert contents["differences"] == {
        "base": {"loss.terms": []},
        "v1": {"loss.terms": [asdict(V1.loss.terms[0])]},
    }
    assert not {"seed", "output", "recipe", "data.root", "loss.terms"} & contents["protocol"].keys()
    config = STUDY.job_config("v1", 42)
    assert (config.seed, config.loss) == (42, V1.loss)


def test_what_a_seed_starts_from_is_no_protocol() -> None:
    """Red when: `start` is held against runs, whose `model.weights` are a path for each seed."""
    contents = STUDIES["movers"].to_json()
    assert "model.weights" not in contents["protocol"] | contents["differences"]["base"]
    assert contents["start"]["protocol"]["model.weights"] == ""
    assert STUDIES["movers"].job_config("base", 3).model.weights == "start"


def test_a_folder_takes_more_seeds_and_variants_of_its_protocol_only(tmp_path: Path) -> None:
    """Red when: another budget, a changed variant or a seed that vanished is accepted."""
    prepare(STUDY, tmp_path)
    settle(tmp_path, override(STUDY, lambda config: replace(config, data=replace(config.data, root="/b"))))
    v2 = replace(BASE, loss=LossConfig(gamma=0.9))
    more = replace(STUDY, seeds=(0, 42, 7), variants={"base": BASE, "v1": V1, "v2": v2})
    prepare(more, tmp_path)
    assert read_study(tmp_path)["seeds"] == [0, 42, 7]
    with pytest.raises(ValueError, match=r"base had optim\.steps 100000, now 60\)"):
        settle(tmp_path, override(more, lambda config: with_steps(config, 60)))
    changed = replace(V1, loss=LossConfig(terms=(TermConfig(name="semantic-v1", weight=0.4),)))
    with pytest.raises(ValueError, match=r"v1 had loss\.terms"):
        settle(tmp_path, replace(more, variants={**more.variants, "v1": changed}))
    with pytest.raises(ValueError, match="seed 7"):
        settle(tmp_path, replace(more, seeds=(0, 42)))
    with pytest.raises(ValueError, match="study tried with base base"):
        settle(tmp_path, replace(more, base="v1"))
    assert read_study(tmp_path) == more.to_json()


def test_an_override_reaches_every_variant_and_no_name() -> None:
    changed = override(STUDY, lambda config: with_steps(config, 60))
    assert {config.optim.steps for config in changed.variants.values()} == {60}
    with pytest.raises(ValueError, match="--seed is set by the study"):
        override(STUDY, lambda config: replace(config, seed=3))


def test_a_study_of_ones_own_is_a_python_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import asdict, replace\nfrom semraft.studies import Study\n"
        "from semraft.config.recipes import RECIPES\nbase = RECIPES['world-base'].config\n"
        "v1 = RECIPES['world-semantic-v1'].config\n"
        "study = Study(name='mine', about='', variants={'b': base, 'v': v1}, base='b', seeds=(3,))\n"
    )
    assert load_study(file).variants["v"] == RECIPES["world-semantic-v1"].config
    file.write_text("studie = 1")
    with pytest.raises(ValueError, match="defines no `study"):
        load_study(file)
    with pytest.raises(ValueError, match="semraft study list"):
        load_study(tmp_path / "worlt")


@pytest.mark.parametrize(
    ("code", "line", "says"),
    [
        ("study = 1 / 0", 1, "ZeroDivisionError: division by zero"),
        ("study = (", 1, r"SyntaxError: '\(' was never closed"),
        ("class Ours(Exception): pass\nraise Ours('no such scene')", 2, "Ours: no such scene"),
    ],
)
def test_a_file_of_ones_own_that_fails_is_named_with_its_error(
    code: str, line: int, says: str, tmp_path: Path
) -> None:
    """Red when: only some kinds of error are caught, or where it happened is not said."""
    file = tmp_path / "mine.py"
    file.write_text(code)
    with pytest.raises(ValueError, match=rf"mine\.py:{line} can't be read: {says}"):
        load_study(file)


@pytest.mark.parametrize("wish", [KeyboardInterrupt, SystemExit])
def test_a_wish_to_stop_is_no_error_of_the_file(wish: type[BaseException], tmp_path: Path) -> None:
    """Red when: BaseException is caught."""
    file = tmp_path / "mine.py"
    file.write_text(f"raise {wish.__name__}")
    with pytest.raises(wish):
        load_study(file)


def test_the_shipped_studies() -> None:
    """The facts page's seeds and scenarios; the demo's recipes; every variant has a run of its own name."""
    assert {"smoke", "world", "origin"} <= STUDIES.keys()
    origin = STUDIES["origin"]
    assert origin.seeds == (0, 42, 1234)
    assert len(origin.variants) == 6
    assert origin.variants["virtual-kitti-semantic-v1"] == RECIPES["virtual-kitti-semantic-v1"].config
    assert origin.to_json()["protocol"]["optim.steps"] == 100_000
    world = STUDIES["world"].variants
    assert list(world) == ["base", "semantic-v1", "signed-distance"]
    assert world["base"].loss == RECIPES["world-base"].config.loss
    smoke = STUDIES["smoke"]
    assert (len(smoke.variants), len(smoke.seeds)) == (2, 2)
    ideas = STUDIES["ideas"]
    assert len(ideas.seeds) >= 3
    smooth, decoders = {"semantic-v1", "v1-instance", "smoothness2"}, {"decoder", "decoder-temporal"}
    others = {"base", "label-warp", "occlusion", "occlusion-consistency", "decoder-down"}
    assert ideas.variants.keys() >= smooth | decoders | others
    refinements = STUDIES["refinements"]
    assert [config.num_updates for config in refinements.variants.values()] == [6, 8, 12]
    assert refinements.to_json()["protocol"]["validation_updates"] == 32
    divergence = STUDIES["divergence"]
    assert len(divergence.seeds) == 3
    assert divergence.start is not None
    assert {config.optim.steps for config in divergence.variants.values()} == {250}
    few = STUDIES["few-truths"].to_json()["protocol"]
    assert (few["data.truth_frac"], few["data.truth"]) == (0.25, "all")


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("world-")])
def test_the_world_has_what_its_recipes_need(name: str) -> None:
    """Red when: a term of a recipe lacks a head, a label, or an option: a study of hours ends at once."""
    config = RECIPES[name].config
    datasets, _ = training_data(config.data)
    provides = {dataset.name: dataset.provides for dataset in datasets}
    check_terms(config.loss, provides, given_by(config.model.heads))
