"""Who may be guilty of a run's state: every suspect with what speaks for it and against it.

A contradiction (`diagnosis.contradictions`) brings the confidence it was found with. Anything else is weighed
by counting facts, n of which support it and m refute it: n / (n + m + 1), which orders suspects and is no
probability.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from semraft.config.data import parse_mixture
from semraft.diagnosis import evidence
from semraft.diagnosis.causes import (
    BATCHES,
    CONTRADICTORY,
    DEAD_TERM,
    OVERFITTING,
    PRECISION,
    RATE,
    TERM,
    VALIDATION,
    Kind,
)
from semraft.diagnosis.evidence import Fact
from semraft.diagnosis.passed_checks import cleared
from semraft.diagnosis.record import Record
from semraft.diagnosis.run_diff import Comparison
from semraft.diagnosis.symptoms import MIN_LINES, Sign
from semraft.diagnosis.verdict import Verdict

TERM_CAUSES = ("term-too-heavy", "term-biased")
SHAKEN = ("spike", "worsening", "refinement-collapse", "non-finite")
"""Signs of steps that go too far."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Suspect:
    """Something that may be wrong. One without evidence for it is cleared, without any it can't be judged."""

    name: str
    means: str
    confidence: float
    evidence_for: tuple[str, ...]
    evidence_against: tuple[str, ...]
    experiment: str
    """A command to paste that would settle it."""
    settles: str
    """What its outcome says."""
    contradicts: bool = False
    """The run contradicts itself there; its confidence is then a measured one."""
    term: str = ""
    """The loss term it is about."""

    @property
    def title(self) -> str:
        """What it is called in a sentence."""
        return self.name.replace("-", " ") + (f" ({self.term})" if self.term else "")

    @property
    def weight(self) -> str:
        """How sure it is, in words."""
        if self.contradicts:
            return f"{self.confidence:.0%} sure"
        return f"{len(self.evidence_for)} for, {len(self.evidence_against)} against"


def suspects(
    record: Record, verdict: Verdict, run: Path, against: Comparison | None = None
) -> tuple[Suspect, ...]:
    """Everyone who was looked at, the likeliest first, those that can't be judged last.

    Args:
        run: The run's folder, for commands.
        against: What it shows beside a run that went well.
    """
    found = [*_contradictions(record, verdict, run, against), *_terms(record, verdict, run, against)]
    found += [
        _weighed(name, kind, told, record, run, against) for name, kind, told in _plain(record, verdict)
    ]
    return tuple(sorted(found, key=_guilt, reverse=True))


def _guilt(suspect: Suspect) -> tuple[float, bool]:
    return suspect.confidence, bool(suspect.evidence_against)


def _contradictions(
    record: Record, verdict: Verdict, run: Path, against: Comparison | None
) -> Iterator[Suspect]:
    causes = {cause.name: cause for cause in verdict.causes}
    for name, kind in CONTRADICTORY.items():
        if cause := causes.get(name):
            told = [Fact(text=cause.evidence, supports=True), *_in_time(record, cause, verdict)]
            weighed = _weighed(name, kind, told, record, run, against)
            yield replace(weighed, confidence=cause.confidence, contradicts=True)
        else:
            why = cleared(record, name)
            told = [Fact(text=why, supports=False)] if why else []
            yield _weighed(name, kind, told, record, run, None)


def _in_time(record: Record, cause: Sign, verdict: Verdict) -> Iterator[Fact]:
    """Whether what a run suffers from came with what is said to be its cause, or after it."""
    if not verdict.signs:
        yield Fact(text="no error shows it so far", supports=False)
        return
    first = verdict.signs[0]
    # Windows of a sign reach back: only what is clearly earlier speaks against a cause.
    between = (record.pulse.steps >= first.first_step) & (record.pulse.steps < cause.first_step)
    early = int(between.sum()) > MIN_LINES
    yield Fact(
        text=f"the first sign, {first.name.replace('-', ' ')}, is of step {first.first_step}: "
        f"{'long before' if early else 'with'} it (step {cause.first_step})",
        supports=not early,
    )


def _terms(record: Record, verdict: Verdict, run: Path, against: Comparison | None) -> Iterator[Suspect]:
    """Each term: too heavy for what it wants, or without any effect."""
    told_of = [sign for sign in (*verdict.causes, *verdict.signs) if sign.term]
    names = dict.fromkeys([term.name for term in record.config.loss.terms] + [sign.term for sign in told_of])
    for term in names:
        about = {sign.name: sign for sign in told_of if sign.term == term}
        if "dead-term" in about:
            dead = [Fact(text=about["dead-term"].evidence, supports=True)]
            yield _weighed("dead-term", DEAD_TERM, dead, record, run, against, term)
            continue
        cause = next((about[name] for name in TERM_CAUSES if name in about), None)
        name = cause.name if cause else "term-too-heavy"
        if cause:  # Its evidence has share and floor.
            told = [Fact(text=cause.evidence, supports=True), *_in_time(record, cause, verdict)]
            told += [*evidence.agreement(record, term), *evidence.lengths(record, cause.first_step)]
        else:
            conflict, heavy = about.get("gradient-conflict"), list(evidence.share(record, term))
            told = [Fact(text=conflict.evidence, supports=True)] if conflict else []
            told += [*heavy, *evidence.floor(record, term), *evidence.agreement(record, term)]
            rules = bool(verdict.signs) and any(fact.supports for fact in heavy)
            told = _if(conflict is not None or rules, told)
        weighed = _weighed(name, TERM, told, record, run, against, term)
        yield replace(weighed, confidence=cause.confidence, contradicts=True) if cause else weighed


def _plain(record: Record, verdict: Verdict) -> Iterator[tuple[str, Kind, list[Fact]]]:
    """Suspects that nothing contradicts: a name, its kind, and the facts. Without a sign nobody is guilty."""
    onset = verdict.first_step
    shaken = [sign for sign in verdict.signs if sign.name in SHAKEN]
    calm = [Fact(text="no error jumps, rises and stays, or grows by refinement", supports=False)]
    steps = [
        *([Fact(text=_said(sign), supports=True) for sign in shaken] or calm),
        *evidence.moves(record, onset),
        *evidence.gradients(record, onset),
        *evidence.refinements(record, onset),
        *evidence.schedule(record, onset),
    ]
    yield "rate-too-high", RATE, _if(bool(shaken), steps)
    batches = evidence.comes_back(record, shaken[0].first_step if shaken else None)
    yield "hard-batches", BATCHES, list(batches)
    yield "half-precision", PRECISION, _if(bool(shaken), evidence.numbers(record))
    worse = [sign for sign in verdict.signs if sign.name == "validation-worsening"]
    yield "overfitting", OVERFITTING, list(_overfitting(record, worse))
    yield "validation-differs", VALIDATION, list(_differs(record, worse))


def _overfitting(record: Record, worse: list[Sign]) -> Iterator[Fact]:
    if not worse:
        if record.validation:
            yield Fact(text="no validation left its best by more than validations differ", supports=False)
        return
    yield Fact(text=worse[0].evidence, supports=True)
    yield from evidence.training_since(record, worse[0].first_step)
    data, optim = record.config.data, record.config.optim
    pairs = data.train_pairs or (data.world.scenes if data.train == "world" else None)
    if pairs:
        often = record.last_step * optim.batch / pairs
        yield Fact(text=f"{pairs} training pairs were seen {often:.3g} times each", supports=often > OFTEN)


OFTEN = 30.0
"""Fewer passes over the training pairs than these teach none by heart."""


def _differs(record: Record, worse: list[Sign]) -> Iterator[Fact]:
    if not worse:
        yield from _overfitting(record, worse)
        return
    bad = {sign.evidence.partition(":")[0] for sign in worse}
    well = [split for split in record.validation if split not in bad]
    trained = {name for name, _ in parse_mixture(record.config.data.train)}
    own = sorted(split for split in bad if split.removesuffix("-val") in trained)
    if own:
        yield Fact(text=f"{', '.join(own)} is of the data that is trained on", supports=False)
    if other := sorted(bad.difference(own)):
        yield Fact(text=f"{', '.join(other)} is of other data than is trained on", supports=True)
    if well:
        yield Fact(text=f"{', '.join(well)} does not get worse", supports=True)
    yield from evidence.training_since(record, worse[0].first_step)


def _if(suspected: bool, told: Iterable[Fact]) -> list[Fact]:
    """All facts of somebody who is suspected; of others those that clear them."""
    return [fact for fact in told if suspected or not fact.supports]


def _said(sign: Sign) -> str:
    return f"{sign.name.replace('-', ' ')} at step {sign.first_step}: {sign.evidence}"


def _weighed(
    name: str,
    kind: Kind,
    told: list[Fact],
    record: Record,
    run: Path,
    against: Comparison | None,
    term: str = "",
) -> Suspect:
    """A suspect of its facts, and of what a run that went well has otherwise."""
    if against and any(fact.supports for fact in told):
        told = [*told, *_beside(kind, against, term)]
    supporting = tuple(fact.text for fact in told if fact.supports)
    refuting = tuple(fact.text for fact in told if not fact.supports)
    return Suspect(
        name=name,
        means=kind.means,
        confidence=len(supporting) / (len(supporting) + len(refuting) + 1),
        evidence_for=supporting,
        evidence_against=refuting,
        experiment=kind.experiment(record, run, term),
        settles=kind.settles,
        term=term,
    )


def _beside(kind: Kind, against: Comparison, term: str) -> Iterator[Fact]:
    """What the comparison with a run that went well says of a suspect."""
    for field, (own, other) in against.settings.items():
        if field.startswith(kind.settings or ("-",)):
            yield Fact(text=f"{field} is {own}, and {other} in {against.name}", supports=True)
    found = [
        f"{earlier.quantity} (step {earlier.step})"
        for earlier in against.earlier
        if earlier.quantity.startswith(kind.quantities or ("-",))
        and (not term or not earlier.of_a_term or term in earlier.quantity)
    ]
    if found:
        when = f" before errors part at step {against.parted.step}" if against.parted else ""
        yield Fact(text=f"other than in {against.name}{when}: {', '.join(found)}", supports=True)
