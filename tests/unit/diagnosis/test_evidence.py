"""semraft.diagnosis.evidence: which way each sentence speaks, and where there is none."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

import pytest

from semraft.diagnosis import evidence
from semraft.diagnosis.evidence import Fact
from tests.unit.diagnosis.made_runs import CONFIG, ONSET, health, made, pulse, set_from

TERM = "matching"


def says(told: Iterable[Fact], *expected: tuple[str, bool]) -> bool:
    """Whether these are the facts, by a part of each, and which way they speak."""
    found = list(told)
    return len(found) == len(expected) and all(
        part in fact.text and fact.supports == supports
        for fact, (part, supports) in zip(found, expected, strict=True)
    )


def test_how_far_steps_move() -> None:
    """Red when: the first step counts, a module that moves as before hides another, or 2 is not asked."""
    lines = [line | {"moved_encoder": 1e-3} for line in health(moved=5, onset=20)]
    lines[0]["moved_update"] = 1.0
    assert says(evidence.moves(made(healths=lines), 20), ("moves the update 5 times", True))
    assert says(evidence.moves(made(healths=health(moved=1.5)), ONSET), ("1.5 times", False))
    assert says(evidence.moves(made(), None))


@pytest.mark.parametrize(("times", "supports"), [(4.0, True), (2.0, None), (1.0, False)])
def test_how_long_gradients_are(times: float, supports: bool | None) -> None:
    told = evidence.gradients(made(pulse({"gradient_norm": times})), ONSET)
    assert says(told, *([] if supports is None else [(f"{times:.2g} times as long", supports)]))


def test_little_is_known_soon_after_the_onset_and_told() -> None:
    """Red when: the first lines from the onset on do not count."""
    late = made(pulse({"gradient_norm": 4.0}, onset=115))
    assert says(evidence.gradients(late, 115), ("4 times as long", True))


def test_whether_refinements_refine_since_then() -> None:
    """Red when: what was before counts too."""
    record = made(pulse({"first_epe_px": 0.5}, onset=111))
    assert says(evidence.refinements(record, 111), ("no better than the first", True))
    assert says(evidence.refinements(record, None), ("is better than the first", False))


@pytest.mark.parametrize(("part", "supports"), [(0.8, True), (0.3, None), (0.1, False)])
def test_where_in_the_schedule(part: float, supports: bool | None) -> None:
    """Red when: it is the rate of another step, or the middle of the schedule says something."""
    record = made(healths=set_from(health(), onset=60, learning_rate=2e-3 * part))
    percent = f"at step 60 the rate is {100 * part:.0f} %"
    assert says(evidence.schedule(record, ONSET), *([] if supports is None else [(percent, supports)]))


@pytest.mark.parametrize(("motion", "hard"), [(3.0, True), (1.0, False)])
def test_a_spell_of_hard_batches(motion: float, hard: bool) -> None:
    """The error is up for 8 lines; the first 30 have no flow truth. Red when: lines without truth shift the
    ones whose motion is looked at, or other motion is as usual."""
    spell = pulse({"epe_px": 9.0 * motion, "true_length_px": motion})
    lines = [b if a["step"] >= ONSET + 8 else a for a, b in zip(spell, pulse(), strict=True)]
    without = {"trusted_frac": 0.0, "epe_px": 0.0, "true_length_px": 0.0}
    lines = [line | (without if line["step"] <= 30 else {}) for line in lines]
    told = list(evidence.comes_back(made(lines), ONSET))
    assert says(told, ("is back where it was at step 6", True), ("times as far as usual", hard))
    assert float(told[1].text.split()[3]) == pytest.approx(motion, rel=0.4)
    stays = pulse({"epe_px": 2.0})
    assert says(
        evidence.comes_back(made(stays), ONSET), ("has not come back in 59 steps", False), ("", False)
    )


def test_training_since() -> None:
    """Red when: lines of long before count, or falling is called rising."""
    for times, expected in ((0.5, ("fell by", True)), (2.0, ("rose by", False))):
        lines = pulse({"epe_px": times})
        for line in lines[:20]:
            line["epe_px"] *= 6
        assert says(evidence.training_since(made(lines), ONSET - 1), expected)


@pytest.mark.parametrize(
    ("precision", "largest", "scales", "expected"),
    [
        ("float32", 2e4, (1, 0.5), (False,)),
        ("bfloat16", 2e4, (1, 0.5), (True,)),
        ("float16", 2e4, (1, 2, 1), (True, True, True)),
        ("float16", 1e4, (1, 2, 4), (True, False, False)),
    ],
)
def test_what_numbers_can_hold(
    precision: Literal["float32", "bfloat16", "float16"],
    largest: float,
    scales: Sequence[float],
    expected: tuple[bool, ...],
) -> None:
    healths = [{"step": step, "loss_scale": float(scale)} for step, scale in enumerate(scales, 1)]
    pulses = [line | {"correlation_abs_max": largest} for line in pulse()]
    told = evidence.numbers(made(pulses, healths, replace(CONFIG, precision=precision)))
    assert tuple(fact.supports for fact in told) == expected


def test_what_a_term_does() -> None:
    """Red when: a sign is turned, or a threshold is not asked."""
    for share, heavy in ((50.0, True), (40.0, False)):
        lines = set_from(health(share_pct=share), onset=100, share_pct_matching=4.0)
        says_share = (f"up to {share:.2g} % of the gradient, lately 4 %", heavy)
        assert says(evidence.share(made(healths=lines), TERM), says_share)
    for floor, expected in ((0.2, ("away from", True)), (0.05, ("towards", False))):
        lines = [line | {"floor_matching": floor, "value_matching": 0.1} for line in health()]
        assert says(evidence.floor(made(healths=lines), TERM), expected)
    for cosine, works in ((-0.3, [("against", True)]), (0.3, [("with", False)]), (-0.04, [])):
        lines = [line | {"cosine_matching_update": cosine} for line in health()]
        assert says(evidence.agreement(made(healths=lines), TERM), *works)
    for times, shorter in ((0.5, True), (0.95, False)):
        record = made(pulse({"length_px": times}))
        assert says(evidence.lengths(record, ONSET), ("90% as long as the truth before", shorter))
