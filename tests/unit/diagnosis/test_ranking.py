"""semraft.diagnosis.ranking: the order of causes, their facts, and commands that work."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from semraft.cli import main
from semraft.config import DataConfig, LossConfig, RunConfig, TermConfig
from semraft.diagnosis.causes import CAUSES
from semraft.diagnosis.diagnose import Diagnosis, diagnose
from semraft.diagnosis.ranking import RankedCause
from semraft.diagnosis.record import Line
from tests.unit.diagnosis.made_runs import CONFIG, ONSET, health, pulse, set_from, validation, write_run

HEALTHY = validation([2.0, 1.8, 1.7, 1.65, 1.6, 1.58])


def named(found: Diagnosis, name: str) -> RankedCause:
    return next(cause for cause in found.causes if cause.name == name)


def test_nobody_is_suspected_of_a_healthy_run(tmp_path: Path) -> None:
    """Red when: a fact for somebody is counted where nothing has happened."""
    run = write_run(tmp_path / "run", pulses=pulse(), healths=health(share_pct=60), metrics=HEALTHY)
    found = diagnose(run)
    assert (found.verdict.state, found.likely, found.notes) == ("healthy", (), ())
    assert {cause.name for cause in found.ruled_out} >= {
        *(name for name, cause in CAUSES.items() if cause.check),
        "rate-too-high",
        "overfitting",
    }
    swapped = named(found, "swapped-flow")
    assert swapped.evidence_against == (
        "0 of 480 samples fit their pictures with u and v exchanged, and not as given",
    )


def test_a_contradiction_comes_first_with_its_number(tmp_path: Path) -> None:
    """Red when: a suspect with many facts overtakes a contradiction, or its evidence is lost."""
    pulses = set_from(pulse({"epe_px": 6.0}), rate_ratio=30.0)
    found = diagnose(write_run(tmp_path / "run", pulses=pulses, healths=health(moved=30)))
    guilty = found.likely[0]
    assert (guilty.name, guilty.is_broken) == ("learning-rate", True)
    assert "30 times" in guilty.evidence_for[0]
    # What acts is then what was asked for.
    words = shlex.split(guilty.experiment)
    assert float(words[words.index("--optim.learning-rate") + 1]) == pytest.approx(2e-3 / 30, rel=1e-3)


def test_a_rate_is_too_high_where_steps_grow_and_not_where_they_do_not(tmp_path: Path) -> None:
    """Red when: the facts about steps are not read, or speak the wrong way."""
    worse = pulse({"epe_px": 8.0})
    growing = named(
        diagnose(write_run(tmp_path / "a", pulses=worse, healths=health(moved=5))), "rate-too-high"
    )
    assert any("moves the update 5 times" in text for text in growing.evidence_for)
    # The first refinement has not changed: 1.4 x 0.3 of the motion against 8 x 0.3.
    assert any("no better than the first" in text for text in growing.evidence_for)
    better = pulse({"epe_px": 8.0, "first_epe_px": 8.0})
    steady = named(diagnose(write_run(tmp_path / "b", pulses=better, healths=health())), "rate-too-high")
    assert any("moves the update 1 times" in text for text in steady.evidence_against)
    assert any("is better than the first" in text for text in steady.evidence_against)
    assert len(growing.evidence_for) > len(steady.evidence_for)


def test_a_spike_that_comes_back_speaks_for_hard_batches(tmp_path: Path) -> None:
    """Red when: an error that stays high counts as back."""
    spell = {"epe_px": 9.0, "first_epe_px": 9.0, "total_loss": 9.0, "flow_loss": 9.0, "l1_px": 9.0}
    back = [a if a["step"] > ONSET + 8 else b for a, b in zip(pulse(), pulse(spell), strict=True)]
    back = [
        line | ({"true_length_px": 9.0} if line["step"] >= ONSET and line in back[:69] else {})
        for line in back
    ]
    spelled = named(diagnose(write_run(tmp_path / "a", pulses=back)), "hard-batches")
    assert any("is back where it was" in text for text in spelled.evidence_for)
    stays = named(diagnose(write_run(tmp_path / "b", pulses=pulse(spell))), "hard-batches")
    assert stays.evidence_for == ()
    assert any("has not come back" in text for text in stays.evidence_against)


def test_overfitting_is_training_that_falls_while_validation_rises(tmp_path: Path) -> None:
    """Red when: training that rises too, or another split that stays well, changes nothing."""
    rising = validation([2.0, 1.9, 1.8, 1.9, 2.6, 2.9])
    falling = pulse({"epe_px": 0.5, "first_epe_px": 0.5, "l1_px": 0.5, "flow_loss": 0.5})
    found = diagnose(write_run(tmp_path / "a", pulses=falling, metrics=rising))
    assert found.likely[0].name == "overfitting"
    assert any("fell by" in text for text in found.likely[0].evidence_for)
    config = replace(CONFIG, data=DataConfig(train="viper", root="/d", validation=("kitti", "viper")))
    two = [
        *validation([2.0, 1.9, 1.8, 1.9, 2.6, 2.9], "kitti"),
        *validation([2, 1.9, 1.8, 1.7, 1.6, 1.5], "viper-val"),
    ]
    found = diagnose(write_run(tmp_path / "b", config=config, pulses=pulse(), metrics=two))
    assert found.likely[0].name == "validation-differs"
    assert any(text == "viper-val does not get worse" for text in found.likely[0].evidence_for)


def test_a_heavy_term_needs_a_sign(tmp_path: Path) -> None:
    """Red when: most of the gradient alone makes guilty."""
    worse = pulse({"epe_px": 8.0, "first_epe_px": 8.0})
    heavy = named(
        diagnose(write_run(tmp_path / "a", pulses=worse, healths=health(share_pct=70))), "term-too-heavy"
    )
    assert (heavy.term, "70 %" in heavy.evidence_for[0]) == ("matching", True)
    assert any("with the flow loss (cosine 0.30)" in text for text in heavy.evidence_against)
    light = named(diagnose(write_run(tmp_path / "b", pulses=worse, healths=health())), "term-too-heavy")
    assert light.evidence_for == ()


def test_half_precision_is_suspected_only_where_it_is_used(tmp_path: Path) -> None:
    worse = pulse({"epe_px": 8.0})
    half = replace(CONFIG, precision="float16")
    found = named(diagnose(write_run(tmp_path / "a", config=half, pulses=worse)), "half-precision")
    assert found.evidence_for == ("the network computes in float16",)
    assert "--precision float32" in found.experiment
    assert named(diagnose(write_run(tmp_path / "b", pulses=worse)), "half-precision").evidence_for == ()


WORSE = {"epe_px": 8.0, "first_epe_px": 8.0}


def test_a_cause_comes_no_later_than_what_it_causes(tmp_path: Path) -> None:
    """Errors rise at ONSET. Red when: a rate that is wrong only later is not doubted, or one that is wrong
    from there on is, or one that did no harm so far."""

    def rate_from(name: str, lines: list[Line], step: int) -> RankedCause:
        run = write_run(tmp_path / name, pulses=set_from(lines, onset=step, rate_ratio=30.0))
        return named(diagnose(run), "learning-rate")

    late = rate_from("late", pulse(WORSE), 100)
    assert any("long before it (step 100)" in text for text in late.evidence_against)
    together = rate_from("together", pulse(WORSE), ONSET)
    assert any(f"with it (step {ONSET})" in text for text in together.evidence_for)
    assert rate_from("silent", pulse(), ONSET).evidence_against == ("no error shows it so far",)


def test_those_who_cannot_be_judged_come_last(tmp_path: Path) -> None:
    found = diagnose(write_run(tmp_path / "run", pulses=[{"step": 1, "rate_ratio": 1.0}]))
    judged = [bool(cause.evidence_for or cause.evidence_against) for cause in found.causes]
    assert judged == sorted(judged, reverse=True)
    assert {True, False} == set(judged)


TWO = replace(CONFIG, loss=LossConfig(terms=(TermConfig(name="matching"), TermConfig(name="census"))))


def terms_of(found: Diagnosis) -> dict[str, RankedCause]:
    return {cause.term: cause for cause in found.causes if cause.term}


def test_each_term_is_told_of_what_it_does_itself(tmp_path: Path) -> None:
    """Red when: one is blamed for another, or a dead, a biased or a contrary term is not called so."""
    for name, values, expected in (
        ("dead-term", {"gradient_norm_matching": 0.0}, "its gradient is 0"),
        ("term-biased", {"floor_matching": 0.2, "value_matching": 0.1}, "pulls away from the truth"),
        ("term-too-heavy", {"cosine_matching_update": -0.5}, "cosine -0.50 with the flow gradient"),
    ):
        lines = set_from(health(share_pct=30.0), onset=1, **values)
        found = terms_of(diagnose(write_run(tmp_path / name, config=TWO, pulses=pulse(), healths=lines)))
        assert found["matching"].name == name
        assert expected in found["matching"].evidence_for[0]
        assert found["census"].evidence_for == ()
    near = set_from(lines, onset=1, floor_matching=0.2, value_matching=0.19)
    found = terms_of(diagnose(write_run(tmp_path / "near", config=TWO, pulses=pulse(), healths=near)))
    assert any("0.2 on the true flow" in text for text in found["matching"].evidence_for)


def test_a_rate_is_suspected_where_refinements_collapse_and_not_for_a_validation(tmp_path: Path) -> None:
    """Red when: a collapse alone is no sign of a high rate, or validations that get worse are one."""
    collapsed = diagnose(write_run(tmp_path / "a", pulses=pulse({"first_epe_px": 0.5})))
    assert named(collapsed, "rate-too-high").evidence_for[0].startswith("refinement collapse since step ")
    half, rising = replace(CONFIG, precision="float16"), validation([2.0, 1.9, 1.8, 1.9, 2.6, 2.9])
    run = write_run(tmp_path / "b", config=half, pulses=pulse(), healths=health(moved=5), metrics=rising)
    found = diagnose(run)
    assert found.verdict.state == "worse"
    assert named(found, "rate-too-high").evidence_for == named(found, "half-precision").evidence_for == ()


def test_a_hasty_start_is_suspected_where_the_context_is_switched_off(tmp_path: Path) -> None:
    """Red when: it is suspected of anything else, or a run of before the number was recorded is judged."""
    switched_off = set_from(health(), onset=ONSET, inactive_context_pct=70.0)
    lines = [{"inactive_context_pct": 25.0, **line} for line in switched_off]
    found = named(diagnose(write_run(tmp_path / "a", pulses=pulse(), healths=lines)), "hasty-start")
    assert found.evidence_for[0].startswith("inactive context since step ")
    assert "--optim.warm-up-frac 0.5" in found.experiment
    active = [{"inactive_context_pct": 25.0, **line} for line in health()]
    found = named(diagnose(write_run(tmp_path / "b", pulses=pulse(), healths=active)), "hasty-start")
    assert found.evidence_against == ("at most 25% of the context channels are 0 in a whole batch",)
    found = named(diagnose(write_run(tmp_path / "c", pulses=pulse(), healths=health())), "hasty-start")
    assert found.evidence_for == found.evidence_against == ()


@pytest.mark.parametrize(("pairs", "times", "often"), [(20, 48, True), (100, 9.6, False)])
def test_few_pairs_are_learnt_by_heart(tmp_path: Path, pairs: int, times: float, often: bool) -> None:
    """120 steps of 8. Red when: steps are taken for pairs, or scenes for the pairs that were asked for."""
    data, optim = replace(CONFIG.data, train_pairs=pairs), replace(CONFIG.optim, batch=8)
    rising = validation([2.0, 1.9, 1.8, 1.9, 2.6, 2.9])
    config = replace(CONFIG, data=data, optim=optim)
    found = named(
        diagnose(write_run(tmp_path / "run", config=config, pulses=pulse(), metrics=rising)), "overfitting"
    )
    told = found.evidence_for if often else found.evidence_against
    assert f"{pairs} training pairs were seen {times:g} times each" in told


def test_what_a_run_that_went_well_has_otherwise(tmp_path: Path) -> None:
    """Red when: own and other are exchanged, or a suspect is told of settings or numbers of another, or
    somebody is suspected for nothing but them."""
    config = replace(
        TWO,
        optim=replace(TWO.optim, learning_rate=5e-3),
        data=replace(TWO.data, train_pairs=50),
    )
    lines = [line | {"share_pct_census": 70.0} for line in health(share_pct=70.0, moved=3, onset=41)]
    others = [line | {"share_pct_census": 70.0} for line in health()]
    well = write_run(tmp_path / "well", config=TWO, pulses=pulse(noise=1), healths=others)
    run = write_run(tmp_path / "run", config=config, pulses=pulse(WORSE, noise=2), healths=lines)
    found = diagnose(run, against=well)
    rate, overfitting, terms = named(found, "rate-too-high"), named(found, "overfitting"), terms_of(found)
    assert found.against is not None
    assert found.against.parted is not None
    assert rate.evidence_for[-2:] == (
        "optim.learning_rate is 0.005, and 0.002 in well",
        f"other than in well before errors part at step {found.against.parted.step}: moved_update (step 50)",
    )
    assert overfitting.evidence_for == ()
    assert "share_pct_matching (step 1)" in terms["matching"].evidence_for[-1]
    assert not any("other than" in text for text in terms["census"].evidence_for)
    rising = validation([2.0, 1.9, 1.8, 1.9, 2.6, 2.9])
    run = write_run(tmp_path / "risen", config=config, pulses=pulse(noise=2), healths=lines, metrics=rising)
    told = named(diagnose(run, against=well), "overfitting").evidence_for
    assert "data.train_pairs is 50, and None in well" in told
    assert not any("learning_rate" in text for text in told)
    assert not any("other than" in text for text in told)


CONFIGS = {
    "world": CONFIG,
    "files": replace(
        CONFIG,
        data=DataConfig(train="viper:0.7,kitti:0.3", root="viper=/data/my viper,kitti=/k", train_pairs=None),
        precision="bfloat16",
        loss=LossConfig(
            terms=(
                TermConfig(name="semantic-v1"),
                TermConfig(name="signed-distance", share=0.4, where="things"),
            )
        ),
    ),
    "few pairs": replace(CONFIG, data=DataConfig(train="viper", root="/data", train_pairs=20)),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_experiment_is_a_command_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: RunConfig
) -> None:
    """Every command goes through the real command line, up to what it would do.

    Red when: an option is renamed, a path with a blank is not quoted, or a term is not written as it is read.
    """
    done: list[tuple[str, Any]] = []

    def noted(name: str, result: object) -> Callable[..., object]:
        def note(*given: object, **options: object) -> object:
            done.append((name, given))
            return result

        return note

    for name, result in (
        ("training.loop.train", None),
        ("evaluation.evaluate_command.score", []),
        ("evaluation.evaluate_command.table", ""),
        ("data.index_dataset", None),
        ("data.check.check_dataset", SimpleNamespace(sound=True, bad_ids=())),
        ("data.check.as_text", ""),
    ):
        monkeypatch.setattr(f"semraft.{name}", noted(name, result))
    run = write_run(tmp_path / "my run", config=config, pulses=pulse(), healths=health(), metrics=HEALTHY)
    found = diagnose(run)
    assert len(found.causes) >= 18
    for cause in found.causes:
        for command in cause.experiment.split(" && "):
            program, *words = shlex.split(command)
            assert program == "semraft"
            assert main.run(words) == 0, command
    trained = [given for what, given in done if what == "training.loop.train"]
    assert len(trained) >= 8
    outputs = [str(folder) for _, folder, *_ in trained]
    assert all(output.startswith(f"{run}-") for output in outputs)
    left = {
        tuple(term.name for term in asked.loss.terms)
        for asked, folder, *_ in trained
        if "without" in str(folder)
    }
    every = [term.name for term in config.loss.terms]
    assert left == {tuple(name for name in every if name != out) for out in every}
