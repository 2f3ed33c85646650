"""The pages of a diagnosis: one for the terminal, and one of HTML with curves."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from semraft.diagnosis.causes import CAUSES
from semraft.diagnosis.diagnose import Diagnosis
from semraft.diagnosis.ranking import RankedCause
from semraft.diagnosis.record import Record, Series, Values
from semraft.diagnosis.run_diff import Comparison
from semraft.report.figures import Chart, Curve, Mark, make_chart
from semraft.report.page import write_html

WIDTH = 96
"""Characters of a line of the terminal's page; commands are never broken."""
OWN, OTHER, THIRD = 0, 1, 2
"""Colours: this run, the one beside it, and the first of what only this run has."""
NOTHING = Series(steps=np.empty(0, np.int64), values={})
MOST_DIFFERENCES = 8
"""Of quantities that differed before errors parted, so many are listed."""


def as_text(diagnosis: Diagnosis) -> str:
    """The page of the terminal: state, likeliest cause, a command to settle it, and all other causes."""
    blocks = [_head(diagnosis), *(_cause(cause) for cause in diagnosis.likely)]
    if diagnosis.against:
        title, *lines = beside(diagnosis.against)
        blocks.append("\n".join([title, *(_wrapped(line, "  ") for line in lines)]))
    passed = [f"{cause.title}: {'; '.join(cause.evidence_against)}" for cause in diagnosis.ruled_out]
    if passed:
        blocks.append("\n".join(["Ruled out", *(_wrapped(line, "  ") for line in passed)]))
    if diagnosis.not_judged:
        names = ", ".join(cause.title for cause in diagnosis.not_judged)
        blocks.append(_wrapped(f"Not judged, as its files lack the numbers: {names}", ""))
    return "\n\n".join(blocks)


def state_of(diagnosis: Diagnosis) -> str:
    """The run's state in one sentence."""
    record, verdict = diagnosis.record, diagnosis.verdict
    since = f" since step {verdict.first_step}" if verdict.first_step is not None else ""
    return f"{verdict.state}{since} (step {record.last_step} of {record.config.optim.steps})"


def beside(against: Comparison) -> Iterator[str]:
    """Differences from the run that went well, a sentence each."""
    yield f"Beside {against.name}"
    if not against.shared_lines:
        yield "no line of pulse.jsonl of both is of the same step: nothing to compare"
    elif against.other_batches_from is None:
        yield f"the same batches at all {against.shared_lines} lines of both: steps are compared in pairs"
    else:
        yield f"other batches from step {against.other_batches_from} on"
    for field, (own, other) in against.settings.items():
        yield f"{field}: {own}, there {other}"
    if against.parted:
        yield (
            f"errors part at step {against.parted.step} (p {against.parted.p:.1g}) and are "
            f"{against.parted.rise_frac:+.0%} from there"
        )
    else:
        yield "its errors do not credibly rise above the other's"
    for found in against.earlier[:MOST_DIFFERENCES]:
        yield f"{found.quantity} differs from step {found.step}: {found.own:.3g}, there {found.other:.3g}"
    if (more := len(against.earlier) - MOST_DIFFERENCES) > 0:
        yield f"and {more} more"


def _head(diagnosis: Diagnosis) -> str:
    lines = [f"{diagnosis.run.resolve().name}: {state_of(diagnosis)}"]
    lines += [_wrapped(f"! {text}", "") for text in diagnosis.notes]
    if symptom := diagnosis.first_symptom:
        text = f"{symptom.name.replace('-', ' ')} at step {symptom.first_step}: {symptom.evidence}"
        lines.append(_wrapped(f"First symptom {text}", ""))
    elif diagnosis.likely:
        lines.append("First symptom none so far: no error shows it")
    if diagnosis.likely:
        likeliest = diagnosis.likely[0]
        text = f"{likeliest.title}, {likeliest.weight}: {likeliest.evidence_for[0]}"
        lines.append(_wrapped(f"Likely cause  {text}", ""))
        lines.append(f"To settle it  {likeliest.experiment}")
        lines.append(_wrapped(f"              {likeliest.settles}", ""))
    elif diagnosis.verdict.state == "healthy":
        lines.append("Nothing speaks against it so far.")
    return "\n".join(lines)


def _cause(cause: RankedCause) -> str:
    lines = [f"{cause.title} - {cause.weight}", _wrapped(cause.means, "  ")]
    lines += [_wrapped(f"+ {text}", "  ") for text in cause.evidence_for]
    lines += [_wrapped(f"- {text}", "  ") for text in cause.evidence_against]
    return "\n".join([*lines, f"  $ {cause.experiment}"])


def _wrapped(text: str, indent: str) -> str:
    further = indent + "  " if text[:1] in "+-!" or indent else " " * 14
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=further)


def write_page(diagnosis: Diagnosis, out: Path) -> None:
    """Writes the page of HTML."""
    other = [diagnosis.against.name] if diagnosis.against else []
    name = diagnosis.run.resolve().name
    values = {
        "title": f"diagnosis of {name}",
        "name": name,
        "state": state_of(diagnosis),
        "diagnosis": diagnosis,
        "names": [name, *other],
        "charts": list(charts(diagnosis)),
        "beside": list(beside(diagnosis.against)) if diagnosis.against else [],
    }
    write_html(out, "diagnosis.html.jinja", values, extra=("diagnosis.css",))


def charts(diagnosis: Diagnosis) -> Iterator[Chart]:
    """The curves that the diagnosis goes by, with the first symptom marked in each."""
    record, other = diagnosis.record, diagnosis.other
    names = [diagnosis.run.resolve().name, *([diagnosis.against.name] if diagnosis.against else [])]
    records = [record, *([other] if other else [])]
    series = [found.pulse for found in records]
    likeliest = next(iter(diagnosis.likely), None)
    quantity = CAUSES[likeliest.name].quantities[0] if likeliest and likeliest.is_broken else ""
    modules = [part for part in record.health.values if part.startswith("moved_")]
    shares = [part for part in record.health.values if part.startswith("share_pct_")]
    wanted = [
        (quantity.replace("_", " "), "", "", _by_run(names, series, quantity)),
        ("error on training batches", "epe", "", _by_run(names, series, "epe_px")),
        ("length of flow over the truth's", "", "1 is right", _lengths(names, series)),
        ("last refinement's error over the first's", "", "below 1 is better", _refined(names, series)),
        ("part of the gradient", "", "per cent", _of_health(record.health, shares, "share_pct_")),
        ("length of a step over the weights'", "", "", _of_health(record.health, modules, "moved_")),
        *(
            (f"validation on {split}", "epe", "", _validation(names, records, split))
            for split in record.validation
        ),
    ]
    for title, metric, unit, curves in wanted:
        drawn = [curve for curve in curves if curve.x.size]
        if chart := make_chart(title, "step", metric, drawn, _marks(diagnosis)) if drawn else None:
            yield replace(chart, unit=unit or chart.unit)


def _marks(diagnosis: Diagnosis) -> list[Mark]:
    """The first symptom; of a cause without symptoms, its first step."""
    if symptom := diagnosis.first_symptom:
        label = f"first symptom: {symptom.name.replace('-', ' ')}"
        return [Mark(step=symptom.first_step, label=label, color=OWN)]
    first = diagnosis.verdict.first_step
    return [] if first is None else [Mark(step=first, label=diagnosis.verdict.causes[0].name, color=OWN)]


def _curve(label: str, color: int, steps: np.ndarray, values: Values) -> Curve:
    return Curve(
        label=label,
        color=color,
        kind="variant",
        x=steps.astype(np.float64),
        y=values,
        spread=np.zeros_like(values),
    )


def _by_run(names: Sequence[str], series: Sequence[Series], quantity: str) -> list[Curve]:
    pairs = zip(names, series, strict=True)
    return [_curve(name, color, *part.known(quantity)) for color, (name, part) in enumerate(pairs)]


def _lengths(names: Sequence[str], series: Sequence[Series]) -> list[Curve]:
    # Without pulse.jsonl both lengths stand in as 1: nothing to draw.
    known = [part if (part.get("length_px") != 1).any() else NOTHING for part in series]
    return _quotients(names, known, "length_px", "true_length_px")


def _refined(names: Sequence[str], series: Sequence[Series]) -> list[Curve]:
    return _quotients(names, series, "epe_px", "first_epe_px")


def _quotients(names: Sequence[str], series: Sequence[Series], over: str, under: str) -> list[Curve]:
    """One quantity over another, for each run."""
    curves = []
    for color, (name, part) in enumerate(zip(names, series, strict=True)):
        above, below = part.get(over), part.get(under)
        known = np.isfinite(above) & np.isfinite(below) & (below > 0)
        curves.append(_curve(name, color, part.steps[known], above[known] / below[known]))
    return curves


def _of_health(health: Series, names: Sequence[str], prefix: str) -> list[Curve]:
    return [
        _curve(name.removeprefix(prefix), THIRD + number, *health.known(name))
        for number, name in enumerate(names)
    ]


def _validation(names: Sequence[str], records: Sequence[Record], split: str) -> list[Curve]:
    return _by_run(names, [record.validation.get(split, NOTHING) for record in records], "epe")
