"""Going back: to which step, and changed how."""

from dataclasses import replace
from typing import Literal

import pytest

from semraft.config import LossConfig, RunConfig, parse_term
from semraft.diagnosis.rollback import acted_on, apply_rollbacks, plan
from semraft.diagnosis.symptoms import Finding
from semraft.diagnosis.verdict import Verdict

CONFIG = RunConfig(loss=LossConfig(terms=(parse_term("matching:0.5"), parse_term("semantic-v1:20"))))


def wrong(first_step: int, term: str = "", name: str = "term-too-heavy") -> Finding:
    return Finding(name=name, first_step=first_step, evidence="heavy", term=term)


@pytest.mark.parametrize(
    ("names", "steps", "expected"),
    [
        (("spike",), 180, "spike"),
        (("spike",), 181, None),
        (("spike", "learning-rate"), 100_000, "learning-rate"),
        (("worse-than-start",), 100, None),
        (("refinements-undone", "spike"), 100, "spike"),
        ((), 100, None),
    ],
)
def test_only_validated_causes_are_acted_on(names: tuple[str, ...], steps: int, expected: str | None) -> None:
    """Red when: a symptom stops a run longer than those that its false alarms were counted in, or one whose
    false alarms nobody has counted."""
    config = replace(CONFIG, optim=replace(CONFIG.optim, steps=steps))
    causes = tuple(wrong(10, name=name) for name in names)
    found = acted_on(config, Verdict(state="worse", first_step=10, causes=causes, symptoms=()))
    assert (found and found.name) == expected


@pytest.mark.parametrize(
    ("wish", "term", "dropped", "rate_frac"),
    [
        ("lower-rate", "semantic-v1", "", 0.5),
        ("drop-term", "semantic-v1", "semantic-v1", 1.0),
        ("drop-term", "", "", 0.5),
        ("drop-term", "census", "", 0.5),
    ],
)
def test_what_is_changed(
    wish: Literal["lower-rate", "drop-term"], term: str, dropped: str, rate_frac: float
) -> None:
    """Red when: an innocent term goes, or a run goes on unchanged into the same fault."""
    config = replace(CONFIG, when_worse=wish)
    found = plan(config, wrong(101, term), seen_at=130, sound=(0, 60, 100, 120))
    assert found is not None
    assert (found.step, found.dropped, found.rate_frac) == (100, dropped, rate_frac)
    after = apply_rollbacks(config, [found, found])
    names = [chosen.name for chosen in after.loss.terms]
    assert names == [name for name in ("matching", "semantic-v1") if name != dropped]
    assert after.optim.learning_rate == pytest.approx(config.optim.learning_rate * rate_frac**2)
    assert "130" in found.text()


def test_a_checkpoint_of_the_first_bad_step_is_not_sound() -> None:
    assert plan(CONFIG, wrong(100), seen_at=130, sound=(100, 120)) is None
