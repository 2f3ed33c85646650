"""Checks of a study's runs before their statistics: one protocol, the same data, seeds that really differ.

They are made as soon as runs have begun: a fault is found in minutes, not after days of training.
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from semraft.analysis.comparability import find_duplicate_seeds, find_unpaired_runs, without_fingerprints
from semraft.analysis.runs import Run, load_run
from semraft.config import load_config
from semraft.studies.job import Job
from semraft.studies.study import differing_fields, settings_of
from semraft.tracking import CONFIG, ENVIRONMENT

_WITHIN_STUDY = 5  # start/runs/VARIANT-seedK/checkpoints/last.pt
SETTLED = ("precision", "model.batch_norm")
"""Fields whose `auto` a run replaces by what it means on its machine."""


class StudyStopped(RuntimeError):
    """Runs of a study that may not be compared; the message names them and the reason."""


def begun(jobs: Sequence[Job]) -> list[Job]:
    """Those of the jobs whose runs have begun."""
    return [job for job in jobs if (job.run / ENVIRONMENT).exists()]


def check_comparable(jobs: Sequence[Job], base: str) -> None:
    """Checks that the runs that have begun may be compared.

    Raises:
        ValueError: A run is of another protocol, on other data, or does not say what it started from.
        StudyStopped: Two seeds are one, or variants of one seed don't share what they should.
    """
    runs = {job: load_run(job.run) for job in begun(jobs)}
    for job in runs:
        _same_protocol(job)
    for field in SETTLED:
        automatic = [job for job in runs if settings_of(load_config(job.config))[field] == "auto"]
        _settled_alike(field, [runs[job] for job in automatic])
    for one, two in combinations(runs.values(), 2):
        _same_data(one, two)
    if bare := without_fingerprints(list(runs.values())):
        raise ValueError(f"{', '.join(bare)}: no fingerprints in {ENVIRONMENT}; move them away to run again")
    groups: dict[str, list[Run]] = {}
    for job, run in runs.items():
        groups.setdefault(job.variant, []).append(run)
    for duplicate in find_duplicate_seeds(groups):
        raise StudyStopped(
            f"{duplicate.variant}: seeds {duplicate.of} and {duplicate.seed} have the same "
            f"{' and '.join(duplicate.same)}: two copies of a run are no two seeds"
        )
    pairs = ((name, found) for name in [base, *groups] for found in find_unpaired_runs(groups, name))
    for name, unpaired in pairs:
        raise StudyStopped(
            f"seed {unpaired.seed}: {unpaired.variant} and {name} differ in their "
            f"{' and '.join(unpaired.differs)}, though one seed should give both the same"
        )


def _same_protocol(job: Job) -> None:
    wanted, found = (settings_of(load_config(path)) for path in (job.config, job.run / CONFIG))
    for field in differing_fields(wanted, found):
        expected, value = wanted[field], found[field]
        if not (_is_own_start(job, field, value) or (field in SETTLED and expected == "auto")):
            raise ValueError(
                f"{job.run} was run with {field} {value}, its study has {expected}: runs of different "
                f"protocols are not compared; choose another --out"
            )


def _is_own_start(job: Job, field: str, value: object) -> bool:
    """Whether a run's weights are those of its study's start, wherever the study lay when it began."""
    if field != "model.weights" or job.start is None:
        return False
    return Path(str(value)).parts[-_WITHIN_STUDY:] == job.start.parts[-_WITHIN_STUDY:]


def _settled_alike(field: str, runs: Sequence[Run]) -> None:
    values = {run.config[field]: run.name for run in runs}
    if len(values) > 1:
        found = ", ".join(f"{name} with {value}" for value, name in values.items())
        raise ValueError(
            f"`{field}` came out differently: {found}; set it for the study and choose another --out"
        )


def _same_data(one: Run, two: Run) -> None:
    """Refuses two data sets under one name."""
    trained = [{entry["name"]: entry for entry in run.environment["data"]["train"]} for run in (one, two)]
    scored = [run.environment["data"]["validation"] for run in (one, two)]
    for first, second in (trained, scored):
        if any(first[name] != second[name] for name in first.keys() & second.keys()):
            raise ValueError(
                f"{one.name} and {two.name} found different data under one name (fingerprints in "
                f"{ENVIRONMENT}): they are not compared"
            )
