"""semraft.diagnosis.run_diff: a run beside one that went well."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from semraft.config import LossConfig, OptimConfig, TermConfig
from semraft.diagnosis.record import Line
from semraft.diagnosis.run_diff import FALSE_ALARM, compare_records, settings
from tests.unit.diagnosis.made_runs import CONFIG, ONSET, health, pulse, record_of, set_from

WORSE = {"epe_px": 1.25, "first_epe_px": 1.25, "l1_px": 1.25, "flow_loss": 1.25}


def test_errors_part_where_one_was_made_worse(tmp_path: Path) -> None:
    """A quarter more error, which single batches hide: how hard they are, for their motion, varies twofold.

    Red when: steps are not paired, the place is the window's start, or p is not of the difference.
    """
    good = record_of(tmp_path / "good", pulses=pulse(noise=1), healths=health())
    bad = record_of(tmp_path / "bad", pulses=pulse(WORSE, noise=2), healths=health(moved=3))
    found = compare_records(bad, good, "good")
    assert found.other_batches_from is None
    assert found.shared_lines == 120
    assert found.parted is not None
    assert abs(found.parted.step - ONSET) <= 5
    assert found.parted.p < FALSE_ALARM
    assert abs(found.parted.rise_frac - 0.25) < 0.05


def test_healthy_runs_do_not_part(tmp_path: Path) -> None:
    """Red when: noise of a few lines counts as parting."""
    good = record_of(tmp_path / "good", pulses=pulse(noise=1))
    for noise in range(2, 7):
        other = record_of(tmp_path / f"other{noise}", pulses=pulse(noise=noise))
        assert compare_records(other, good, "good").parted is None


def test_other_batches_are_noticed_and_not_compared_in_pairs(tmp_path: Path) -> None:
    """Red when: runs of other seeds are paired, or their single batches are held against a run."""
    good = record_of(tmp_path / "good", pulses=pulse(noise=1), healths=health())
    shuffled = np.random.default_rng(0).permutation(np.array([line["true_length_px"] for line in pulse()]))
    lines = [
        line | {"true_length_px": float(length)} for line, length in zip(pulse(WORSE), shuffled, strict=True)
    ]
    other = record_of(tmp_path / "other", pulses=lines, healths=health(moved=3, share_pct=40))
    found = compare_records(other, good, "good")
    assert found.other_batches_from == 1
    assert found.earlier == ()
    spoiled = record_of(
        tmp_path / "spoiled", pulses=set_from(pulse(), between_classes_frac=0.2), healths=health(moved=3)
    )
    found = compare_records(spoiled, good, "good")
    assert found.other_batches_from == ONSET
    assert [(one.quantity, one.step) for one in found.earlier] == [("between_classes_frac", ONSET)]


def test_what_differed_before_is_listed_and_what_came_after_is_not(tmp_path: Path) -> None:
    """Red when: quantities are listed that changed only once errors had parted, by little, or say nothing;
    or they are not in their order."""
    good = record_of(tmp_path / "good", pulses=pulse(noise=1), healths=health())
    lines = set_from(pulse(WORSE, noise=2), onset=51, rate_ratio=3.0, weight_late=1.0)
    lines = set_from(set_from(lines, onset=100, weight_later=1.0), onset=41, clipped_ratio_max=2.0)
    healths = set_from(health(moved=4, onset=100), onset=30, loss_scale=0.5, share_pct_matching=4.4)
    bad = record_of(tmp_path / "bad", pulses=lines, healths=healths)
    names = [one.quantity for one in compare_records(bad, good, "good").earlier]
    assert names == ["clipped_ratio_max", "rate_ratio", "weight_late"]
    assert compare_records(bad, bad, "itself").earlier == ()
    weighed = set_from(pulse(WORSE, noise=2), onset=51, **{"weight_semantic-v1": 20.0})
    unasked = record_of(tmp_path / "unasked", pulses=weighed)
    earlier = compare_records(unasked, good, "good").earlier
    assert [(one.quantity, one.step, one.own) for one in earlier] == [("weight_semantic-v1", 51, 20.0)]


def times(lines: Iterable[Line], factor: float, *names: str, since: int = 1) -> list[Line]:
    """Lines with some quantities multiplied from a step on."""
    return [line | {name: line[name] * factor for name in names if line["step"] >= since} for line in lines]


def test_the_place_is_the_first_line_that_parted(tmp_path: Path) -> None:
    """Red when: it is the start of the window that shows it, or errors that part for a while count."""
    good = record_of(tmp_path / "good", pulses=pulse(noise=1))
    bad = record_of(tmp_path / "bad", pulses=pulse({"epe_px": 8.0}, noise=2))
    found = compare_records(bad, good, "good").parted
    assert found is not None
    assert found.step == ONSET
    for_a_while = times(pulse({"epe_px": 2.0}, noise=2), 0.2, "epe_px", since=85)
    assert compare_records(record_of(tmp_path / "back", pulses=for_a_while), good, "good").parted is None


def test_errors_on_other_batches_part_too(tmp_path: Path) -> None:
    """By Welch's t. Red when: the spread of lines is taken for that of their mean, or noise is enough."""
    good = record_of(tmp_path / "good", pulses=pulse(noise=1))
    for name, factor, parts in (("bad", 2.2, True), ("well", 1.0, False)):
        lines = times(pulse({"epe_px": factor}, noise=2), 1.01, "epe_px", "true_length_px")
        found = compare_records(record_of(tmp_path / name, pulses=lines), good, "good")
        assert found.other_batches_from == 1
        assert (found.parted is not None) == parts
        assert found.parted is None or abs(found.parted.step - ONSET) <= 5


def test_since_when_batches_are_others(tmp_path: Path) -> None:
    """Red when: rounding counts, the last quantity decides, or what nobody wrote down is the same."""
    good = record_of(tmp_path / "good", pulses=pulse())
    for name, lines, since in (
        ("rounded", times(pulse(), 1 + 1e-6, "true_length_px"), None),
        ("two", set_from(set_from(pulse(), between_classes_frac=0.2), onset=90, trusted_frac=0.5), ONSET),
        ("unknown", [{"step": line["step"], "epe_px": line["epe_px"]} for line in pulse()], 1),
    ):
        other = record_of(tmp_path / name, pulses=lines)
        assert compare_records(other, good, "good").other_batches_from == since


def test_settings_that_differ_are_written_as_one_types_them() -> None:
    """Neither a planted fault nor a name is evidence."""
    terms = (TermConfig(name="matching", weight=0.5), TermConfig(name="census", share=0.2))
    other = replace(
        CONFIG,
        recipe="fault-learning-rate",
        altered=("learning-rate@3",),
        loss=LossConfig(terms=terms),
        optim=OptimConfig(steps=120, learning_rate=1e-3),
    )
    assert settings(CONFIG, other) == {
        "loss.terms": ("matching:0.5", "matching:0.5 census:share=0.2"),
        "optim.learning_rate": ("0.002", "0.001"),
    }
    bare = replace(CONFIG, loss=LossConfig())
    assert settings(bare, CONFIG) == {"loss.terms": ("none", "matching:0.5")}
