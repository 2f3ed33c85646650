"""Caveats of a comparison, in sentences: different data, unfinished runs, too few seeds, skipped samples.

They stand at the top of the page and decide nothing: analysis leaves out runs that can't be compared.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from semraft.analysis.runs import Run, broken_losses, health_of
from semraft.analysis.variants import variants


@dataclass(frozen=True, kw_only=True, slots=True)
class Caveat:
    """A sentence on the limits of a comparison; `stop`: the runs are not comparable."""

    level: Literal["stop", "warning", "note"]
    text: str


def caveats(runs: Sequence[Run]) -> list[Caveat]:
    """All caveats of runs, worst first."""
    found = [*_data_caveats(runs), *_step_caveats(runs), *_seed_caveats(runs), *_version_caveats(runs)]
    said: dict[str, list[str]] = {}
    for run in runs:
        for text in _about_one(run):
            said.setdefault(text, []).append(run.name)
    for text, names in said.items():
        who = "Every run" if len(names) == len(runs) > 1 else ", ".join(names)
        found.append(Caveat(level="warning", text=f"{who}: {text}"))
    return in_order(found)


def in_order(found: Sequence[Caveat]) -> list[Caveat]:
    """The same caveats, worst first."""
    order = ("stop", "warning", "note")
    return sorted(found, key=lambda caveat: order.index(caveat.level))


def replicate_caveats(numbers: dict[str, Any]) -> list[Caveat]:
    """Caveats on runs that are not counted, lack fingerprints or are missing from the study."""
    found = [
        f"{run['variant']} seed {run['seed']} is seed {run['of']} again (same {', '.join(run['same'])}): "
        "it is not counted."
        for run in numbers["duplicate_seeds"]
    ]
    found += [
        f"{run['variant']} seed {run['seed']} does not share {', '.join(run['differs'])} with "
        f"{numbers['against'][run['variant']]}, though their settings agree: the two are not compared."
        for run in numbers["unpaired_runs"]
    ]
    if missing := numbers.get("missing"):
        found.append(f"Not finished, and in no number: {', '.join(missing)}.")
    warnings = [Caveat(level="warning", text=text) for text in found]
    if unproven := numbers["without_fingerprints"]:
        who = "No run" if len(unproven) == len(numbers["runs"]) else f"Not every run ({', '.join(unproven)})"
        text = f"{who} has fingerprints: seeds may be identical runs."
        warnings.append(Caveat(level="note", text=text))
    return warnings


def _about_one(run: Run) -> Iterable[str]:
    if run.last_step < run.steps:
        yield f"stopped or still running at step {run.last_step} of {run.steps}."
    if run.verdict and (health := health_of(run)).state != "healthy":
        since = "" if health.first_step is None else f" since step {health.first_step}"
        likely = f": {health.causes[0].name}" if health.causes else ""
        yield f"health {health.state}{since}{likely} (see `semraft diagnose`)."
    yield from (f"{text}." for text in run.verdict.get("rollbacks", []))
    if not run.splits:
        yield "no validation yet."
    yield from (f"{note}." for note in run.notes)
    for metric, first, often in broken_losses(run):
        yield f"{metric} was not finite at {_count(often, 'logged step')}, first at step {first}."
    for split in run.splits:
        metrics = run.final(split)[1]
        if metrics.get("skipped"):
            yield f"{_count(int(metrics['skipped']), 'pair')} of {split} could not be read: in no number."
        if metrics.get("non_finite"):
            yield f"the flow of {split} is NaN or infinite at {_count(int(metrics['non_finite']), 'pixel')}."
    if run.skipped:
        ids = ", ".join(sorted({str(entry.get("id")) for entry in run.skipped})[:5])
        yield f"{_count(len(run.skipped), 'damaged sample')} skipped (such as {ids})."
    data = run.environment.get("data", {})
    yield from (f"not validated on {text}" for text in data.get("left_out", []))
    yield from (str(text) for text in run.environment.get("warnings", []))


def _data_caveats(runs: Sequence[Run]) -> Iterable[Caveat]:
    for split in dict.fromkeys(split for run in runs for split in run.splits):
        draws = [run.validation(split) for run in runs if split in run.splits]
        if any(draw.get("ids") != draws[0].get("ids") for draw in draws):
            text = f"{split}: the runs were validated on different pairs. Their numbers are not comparable."
            yield Caveat(level="stop", text=text)
        elif any(draw.get("fingerprint") != draws[0].get("fingerprint") for draw in draws):
            text = f"{split}: the validation data differs between runs. Their numbers are not comparable."
            yield Caveat(level="stop", text=text)
    fingerprints: dict[str, set[Any]] = {}
    for run in runs:
        for entry in run.environment.get("data", {}).get("train", []):
            fingerprints.setdefault(str(entry.get("name")), set()).add(entry.get("fingerprint"))
    for name, found in fingerprints.items():
        if len(found) > 1:
            text = (
                f"The training data called {name} differs between runs: differences may come from the data."
            )
            yield Caveat(level="stop", text=text)


def _step_caveats(runs: Sequence[Run]) -> Iterable[Caveat]:
    for split in dict.fromkeys(split for run in runs for split in run.splits):
        last = sorted({run.final(split)[0] for run in runs if split in run.splits})
        if len(last) > 1:
            text = f"{split}: the last validations are of different steps ({', '.join(map(str, last))})."
            yield Caveat(level="warning", text=f"{text} No best value is marked.")


def _seed_caveats(runs: Sequence[Run]) -> Iterable[Caveat]:
    groups = variants(runs)
    seeds = {name: sorted(run.seed for run in group) for name, group in groups.items()}
    for name, found in seeds.items():
        if len(set(found)) < len(found):
            yield Caveat(
                level="warning", text=f"{name}: one seed appears more than once among seeds {found}."
            )
    if len({tuple(found) for found in seeds.values()}) > 1:
        listed = "; ".join(f"{name}: {', '.join(map(str, found))}" for name, found in seeds.items())
        text = f"The variants were not run with the same seeds ({listed}). Differences use common seeds only."
        yield Caveat(level="warning", text=text)
    single = [name for name, found in seeds.items() if len(set(found)) == 1]
    if len(groups) > 1 and single:
        text = (
            f"One seed each for {', '.join(single)}: a single seed proves nothing. Runs that differ in "
            "nothing but the seed differ too, often by as much as variants do."
        )
        yield Caveat(level="warning", text=text)


def _version_caveats(runs: Sequence[Run]) -> Iterable[Caveat]:
    for field in ("semraft", "commit", "torch", "device"):
        found = list(dict.fromkeys(str(run.environment.get(field)) for run in runs))
        if len(found) > 1:
            yield Caveat(level="note", text=f"The runs differ in {field}: {', '.join(found)}.")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
