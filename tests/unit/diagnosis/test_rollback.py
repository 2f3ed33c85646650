"""Going back: to which step, and changed how."""

from dataclasses import replace
from typing import Literal

import pytest

from semraft.config import LossConfig, RunConfig, parse_term
from semraft.diagnosis.rollback import plan, remedied
from semraft.diagnosis.symptoms import Sign
from semraft.diagnosis.verdict import Verdict

CONFIG = RunConfig(loss=LossConfig(terms=(parse_term("matching:0.5"), parse_term("semantic-v1:20"))))


def wrong(first_step: int, term: str = "") -> Verdict:
    cause = Sign(name="term-too-heavy", first_step=first_step, confidence=0.9, evidence="heavy", term=term)
    return Verdict(state="worse", first_step=first_step, causes=(cause,), signs=())


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
    after = remedied(config, [found, found])
    names = [chosen.name for chosen in after.loss.terms]
    assert names == [name for name in ("matching", "semantic-v1") if name != dropped]
    assert after.optim.learning_rate == pytest.approx(config.optim.learning_rate * rate_frac**2)
    assert "130" in found.text()


def test_a_checkpoint_of_the_first_bad_step_is_not_sound() -> None:
    assert plan(CONFIG, wrong(100), seen_at=130, sound=(100, 120)) is None
