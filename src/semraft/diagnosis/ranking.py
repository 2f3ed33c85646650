"""The ranking of causes: every cause that was looked at, with the facts for it and against it.

A broken invariant comes first. Other causes are ordered by the number of facts for them less that of facts
against them: an order, no probability.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from semraft.config.data import parse_mixture
from semraft.diagnosis import evidence
from semraft.diagnosis.causes import CAUSES
from semraft.diagnosis.evidence import Fact
from semraft.diagnosis.record import Record
from semraft.diagnosis.run_diff import Comparison
from semraft.diagnosis.symptoms import MIN_LINES, Finding
from semraft.diagnosis.verdict import Verdict

TERM_CAUSES = ("term-too-heavy", "term-biased")
SHAKEN = ("spike", "worsening", "refinement-collapse", "non-finite")
"""Symptoms of steps that go too far."""
WORSE_VALIDATION = ("validation-worsening", "worse-than-start")


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedCause:
    """A cause with its facts. One without facts for it is ruled out, one without any can't be judged."""

    name: str
    means: str
    evidence_for: tuple[str, ...]
    evidence_against: tuple[str, ...]
    experiment: str
    """A command to paste that would settle it."""
    settles: str
    """The reading of its outcome."""
    is_broken: bool = False
    """The run breaks the invariant that finds this cause."""
    term: str = ""
    """The loss term it is about."""

    @property
    def title(self) -> str:
        """The name in a sentence."""
        return self.name.replace("-", " ") + (f" ({self.term})" if self.term else "")

    @property
    def weight(self) -> str:
        """The strength of the case, in words."""
        if self.is_broken:
            return "found by a check"
        return f"{len(self.evidence_for)} for, {len(self.evidence_against)} against"


def ranked_causes(
    record: Record, verdict: Verdict, run: Path, against: Comparison | None = None
) -> tuple[RankedCause, ...]:
    """Every cause that was looked at, the likeliest first, those that can't be judged last.

    Args:
        run: The run's folder, for commands.
        against: The comparison with a run that went well.
    """

    def ranked(name: str, facts: Iterable[Fact], term: str = "", is_broken: bool = False) -> RankedCause:
        told, cause = list(facts), CAUSES[name]
        if against and any(fact.supports for fact in told):
            told += _beside(name, against, term)
        return RankedCause(
            name=name,
            means=cause.means,
            evidence_for=tuple(fact.text for fact in told if fact.supports),
            evidence_against=tuple(fact.text for fact in told if not fact.supports),
            experiment=cause.experiment(record, run, term),
            settles=cause.settles,
            is_broken=is_broken,
            term=term,
        )

    found = [
        ranked(name, facts, is_broken=is_broken) for name, facts, is_broken in _invariants(record, verdict)
    ]
    found += [
        ranked(name, facts, term, is_broken) for name, facts, term, is_broken in _terms(record, verdict)
    ]
    found += [ranked(name, facts) for name, facts in _plain(record, verdict)]
    return tuple(sorted(found, key=_likelihood, reverse=True))


def _likelihood(cause: RankedCause) -> tuple[bool, bool, bool, int]:
    pro, contra = len(cause.evidence_for), len(cause.evidence_against)
    return cause.is_broken, pro > 0, contra > 0, pro - contra


def _invariants(record: Record, verdict: Verdict) -> Iterator[tuple[str, list[Fact], bool]]:
    broken = {found.name: found for found in verdict.causes}
    for name, cause in CAUSES.items():
        if cause.check is None:
            continue
        if found := broken.get(name):
            yield name, [Fact(text=found.evidence, supports=True), *_in_time(record, found, verdict)], True
        else:
            check = cause.check(record)
            yield name, [Fact(text=check.text, supports=False)] if check else [], False


def _in_time(record: Record, cause: Finding, verdict: Verdict) -> Iterator[Fact]:
    """Whether the first symptom came with a cause, or long before it."""
    if not verdict.symptoms:
        yield Fact(text="no error shows it so far", supports=False)
        return
    first = verdict.symptoms[0]
    # Windows of a symptom reach back: only a much earlier one speaks against a cause.
    between = (record.pulse.steps >= first.first_step) & (record.pulse.steps < cause.first_step)
    early = int(between.sum()) > MIN_LINES
    yield Fact(
        text=f"the first symptom, {first.name.replace('-', ' ')}, is of step {first.first_step}: "
        f"{'long before' if early else 'with'} it (step {cause.first_step})",
        supports=not early,
    )


def _terms(record: Record, verdict: Verdict) -> Iterator[tuple[str, list[Fact], str, bool]]:
    """Each term: too heavy, biased, or without effect."""
    told_of = [found for found in (*verdict.causes, *verdict.symptoms) if found.term]
    names = dict.fromkeys(
        [term.name for term in record.config.loss.terms] + [found.term for found in told_of]
    )
    for term in names:
        about = {found.name: found for found in told_of if found.term == term}
        if "dead-term" in about:
            yield "dead-term", [Fact(text=about["dead-term"].evidence, supports=True)], term, False
            continue
        cause = next((about[name] for name in TERM_CAUSES if name in about), None)
        if cause:  # Its evidence has share and floor.
            facts = [Fact(text=cause.evidence, supports=True), *_in_time(record, cause, verdict)]
            facts += [*evidence.agreement(record, term), *evidence.lengths(record, cause.first_step)]
            yield cause.name, facts, term, True
            continue
        conflict, heavy = about.get("gradient-conflict"), list(evidence.share(record, term))
        facts = [Fact(text=conflict.evidence, supports=True)] if conflict else []
        facts += [*heavy, *evidence.floor(record, term), *evidence.agreement(record, term)]
        rules = bool(verdict.symptoms) and any(fact.supports for fact in heavy)
        yield "term-too-heavy", _if(conflict is not None or rules, facts), term, False


def _plain(record: Record, verdict: Verdict) -> Iterator[tuple[str, list[Fact]]]:
    """Causes without an invariant. Without a symptom nothing speaks for any of them."""
    onset = verdict.first_step
    shaken = [found for found in verdict.symptoms if found.name in SHAKEN]
    calm = [Fact(text="no error jumps, rises and stays, or grows by refinement", supports=False)]
    steps = [
        *([_fact_of(found) for found in shaken] or calm),
        *evidence.moves(record, onset),
        *evidence.gradients(record, onset),
        *evidence.refinements(record, onset),
        *evidence.schedule(record, onset),
    ]
    yield "rate-too-high", _if(bool(shaken), steps)
    inactive = [found for found in verdict.symptoms if found.name == "inactive-context"]
    yield "hasty-start", list(map(_fact_of, inactive)) or list(evidence.active_context(record))
    yield "hard-batches", list(evidence.comes_back(record, shaken[0].first_step if shaken else None))
    yield "half-precision", _if(bool(shaken), evidence.numbers(record))
    worse = [found for found in verdict.symptoms if found.name in WORSE_VALIDATION]
    yield "overfitting", list(_overfitting(record, worse))
    yield "validation-differs", list(_differs(record, worse))
    undone = [found for found in verdict.symptoms if found.name == "refinements-undone"]
    yield "too-few-refinements", list(_refinements(record, undone))


def _refinements(record: Record, undone: list[Finding]) -> Iterator[Fact]:
    trained, validated = record.config.num_updates, record.config.validation_updates
    if undone:
        yield from map(_fact_of, undone)
        yield Fact(
            text=f"training refines {trained} times, validation {validated} times",
            supports=validated > trained,
        )
    elif record.validation:
        yield Fact(text="no validation has an earlier refinement that is much better", supports=False)


def _overfitting(record: Record, worse: list[Finding]) -> Iterator[Fact]:
    if not worse:
        if record.validation:
            yield Fact(
                text="no validation left its best, or its start, by more than they differ", supports=False
            )
        return
    yield from map(_fact_of, worse)
    yield from evidence.training_since(record, worse[0].first_step)
    data, optim = record.config.data, record.config.optim
    pairs = data.train_pairs or (data.world.scenes if data.train == "world" else None)
    if pairs:
        often = record.last_step * optim.batch / pairs
        yield Fact(text=f"{pairs} training pairs were seen {often:.3g} times each", supports=often > OFTEN)


OFTEN = 30.0
"""Least number of passes over the training pairs that may teach them by heart."""


def _differs(record: Record, worse: list[Finding]) -> Iterator[Fact]:
    if not worse:
        yield from _overfitting(record, worse)
        return
    bad = {found.evidence.partition(":")[0] for found in worse}
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


def _if(suspected: bool, facts: Iterable[Fact]) -> list[Fact]:
    """All facts of a cause that a symptom points to; of other causes those against it."""
    return [fact for fact in facts if suspected or not fact.supports]


def _fact_of(found: Finding) -> Fact:
    text = f"{found.name.replace('-', ' ')} since step {found.first_step}: {found.evidence}"
    return Fact(text=text, supports=True)


def _beside(name: str, against: Comparison, term: str) -> Iterator[Fact]:
    """Facts of the comparison with a run that went well that bear on a cause."""
    cause = CAUSES[name]
    for field, (own, other) in against.settings.items():
        if field.startswith(cause.settings or ("-",)):
            yield Fact(text=f"{field} is {own}, and {other} in {against.name}", supports=True)
    found = [
        f"{earlier.quantity} (step {earlier.step})"
        for earlier in against.earlier
        if earlier.quantity.startswith(cause.quantities or ("-",))
        and (not term or not earlier.of_a_term or term in earlier.quantity)
    ]
    if found:
        when = f" before errors part at step {against.parted.step}" if against.parted else ""
        yield Fact(text=f"other than in {against.name}{when}: {', '.join(found)}", supports=True)
