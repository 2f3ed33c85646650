"""Are the runs of a study what its statistics take them for? One protocol, one data, seeds that are seeds.

Asked as soon as runs have begun, so that days are not spent on what will not count.
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from semraft.analysis.comparability import find_strangers, find_twins, without_fingerprints
from semraft.analysis.runs import Run, load_run
from semraft.config import load_config
from semraft.studies.job import Cell
from semraft.studies.study import differing_fields, flat
from semraft.tracking import CONFIG, ENVIRONMENT

_WITHIN_STUDY = 5  # start/runs/VARIANT-seedK/checkpoints/last.pt
SETTLED = ("precision", "model.batch_norm")
"""Fields whose `auto` a run replaces by what it means on its machine."""


class StudyStopped(RuntimeError):
    """The runs of a study are not what they should be; the message says which and how."""


def begun(cells: Sequence[Cell]) -> list[Cell]:
    """Those of the cells whose runs have begun."""
    return [cell for cell in cells if (cell.run / ENVIRONMENT).exists()]


def prove(cells: Sequence[Cell], base: str) -> None:
    """Proves that the runs of cells that have begun may be compared.

    Raises:
        ValueError: A run is of another protocol, on other data, or does not say what it started from.
        StudyStopped: Two seeds are one, or variants of one seed don't share what they should.
    """
    runs = {cell: load_run(cell.run) for cell in begun(cells)}
    for cell in runs:
        _same_protocol(cell)
    for field in SETTLED:
        automatic = [cell for cell in runs if flat(load_config(cell.config))[field] == "auto"]
        _settled_alike(field, [runs[cell] for cell in automatic])
    for one, two in combinations(runs.values(), 2):
        _same_data(one, two)
    if bare := without_fingerprints(list(runs.values())):
        raise ValueError(f"{', '.join(bare)}: no fingerprints in {ENVIRONMENT}; move them away to run again")
    groups: dict[str, list[Run]] = {}
    for cell, run in runs.items():
        groups.setdefault(cell.variant, []).append(run)
    for twin in find_twins(groups):
        raise StudyStopped(
            f"{twin.variant}: seeds {twin.of} and {twin.seed} have the same {' and '.join(twin.same)}: two "
            f"copies of a run are no two seeds"
        )
    pairs = ((name, found) for name in [base, *groups] for found in find_strangers(groups, name))
    for name, stranger in pairs:
        raise StudyStopped(
            f"seed {stranger.seed}: {stranger.variant} and {name} differ in their "
            f"{' and '.join(stranger.differs)}, though one seed should give both the same"
        )


def _same_protocol(cell: Cell) -> None:
    wanted, found = load_config(cell.config), load_config(cell.run / CONFIG)
    for field in differing_fields(wanted, found):
        expected, value = flat(wanted)[field], flat(found)[field]
        if not (_is_own_start(cell, field, value) or (field in SETTLED and expected == "auto")):
            raise ValueError(
                f"{cell.run} was run with {field} {value}, its study has {expected}: runs of different "
                f"protocols are not compared; choose another --out"
            )


def _is_own_start(cell: Cell, field: str, value: object) -> bool:
    """Whether a run's weights are those of its study's start, wherever the study lay when it began."""
    if field != "model.weights" or cell.start is None:
        return False
    return Path(str(value)).parts[-_WITHIN_STUDY:] == cell.start.parts[-_WITHIN_STUDY:]


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
