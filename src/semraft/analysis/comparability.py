"""Comparable runs: one protocol, seeds that really differ, variants that share their data.

The study this project started from had three seeds that were one. A run's environment.json has fingerprints
of its weights, sample order and first batches; runs without them are compared all the same, and named.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from semraft.analysis.runs import Run
from semraft.analysis.variants import comparable

FINGERPRINTS = {
    "initial_weights": "initial weights",
    "sample_order": "sample order",
    "first_batches": "first batches",
}
"""Name of a fingerprint in environment.json -> its name in the report."""


class DuplicateSeed(NamedTuple):
    """A run that is no replicate: it shares the fingerprints `same` with the run of an earlier seed, `of`."""

    variant: str
    seed: int
    of: int
    same: tuple[str, ...]


class UnpairedRun(NamedTuple):
    """A run that is not paired with the run of its seed: the fingerprints `differs` should be the same."""

    variant: str
    seed: int
    differs: tuple[str, ...]


def find_duplicate_seeds(groups: Mapping[str, Sequence[Run]]) -> list[DuplicateSeed]:
    """Seeds of a variant that repeat an earlier seed, in whole or in part.

    Weights that come from a file are the same for every seed, and no sign of a duplicate.
    """
    found = []
    for variant, runs in groups.items():
        counted: list[Run] = []
        for run in runs:
            for earlier in counted:
                if same := tuple(_shared_between_seeds(run, earlier)):
                    found.append(DuplicateSeed(variant, run.seed, earlier.seed, same))
                    break
            else:
                counted.append(run)
    return found


def find_unpaired_runs(
    groups: Mapping[str, Sequence[Run]], base: str, against: Mapping[str, str] | None = None
) -> list[UnpairedRun]:
    """Runs whose partner saw other batches or began elsewhere though their settings agree.

    The partner is the run of the same seed of `base`, or of the variant that `against` names.
    """
    found = []
    for variant, runs in groups.items():
        reference = (against or {}).get(variant, base)
        partners = {run.seed: run for run in groups.get(reference, ()) if variant != base}
        found += [
            UnpairedRun(variant, run.seed, differs)
            for run in runs
            if run.seed in partners and (differs := tuple(_unshared(run, partners[run.seed])))
        ]
    return found


def without_fingerprints(runs: Sequence[Run]) -> list[str]:
    """The names of runs that did not record what they started from."""
    return [run.name for run in runs if not FINGERPRINTS.keys() <= _fingerprints(run).keys()]


def require_one_protocol(runs: Sequence[Run], protocol: Mapping[str, Any]) -> None:
    """Refuses runs that differ in a field or in data that all should share.

    Args:
        runs: The runs to compare.
        protocol: Configuration fields ("optim.steps") and the values that every run must have.

    Raises:
        ValueError: A field differs, or the data trained or validated on, or the step of the last validation.
    """
    for run in runs:
        for field, expected in protocol.items():
            # A run records the value that `auto` was resolved to.
            if field in run.config and expected != "auto" and run.config[field] != expected:
                raise ValueError(
                    f"{run.path} is of another protocol: {field} is {run.config[field]}, expected {expected}"
                )
    for split in dict.fromkeys(split for run in runs for split in run.splits):
        if not comparable(runs, split):
            raise ValueError(
                f"the runs differ in pairs, data or step of their last validation on {split}: not comparable"
            )
    for name in dict.fromkeys(name for run in runs for name in _training_data(run)):
        found: dict[str, str] = {}
        for run in runs:
            if name in _training_data(run):
                found.setdefault(_training_data(run)[name], run.name)
        if len(found) > 1:
            raise ValueError(
                f"the training data called {name} is not the same in {' and '.join(found.values())}"
            )


def _shared_between_seeds(run: Run, earlier: Run) -> Iterator[str]:
    if run.seed == earlier.seed:
        yield "seed"
    mine, other = _fingerprints(run), _fingerprints(earlier)
    for name, meaning in FINGERPRINTS.items():
        given = name == "initial_weights" and run.config.get("model.weights")
        if name in mine and mine[name] == other.get(name) and not given:
            yield meaning


def _unshared(run: Run, partner: Run) -> Iterator[str]:
    mine, other = _fingerprints(run), _fingerprints(partner)
    for name, meaning in FINGERPRINTS.items():
        group = "model." if name == "initial_weights" else "data."
        if name in mine and name in other and mine[name] != other[name] and _agree(run, partner, group):
            yield meaning


def _agree(run: Run, partner: Run, group: str) -> bool:
    """Whether all settings of a group agree, but for those that do not change what is trained on."""
    aside = ("data.root", "data.workers", "data.validation", "data.validation_pairs")
    fields = [name for name in {*run.config, *partner.config} if name.startswith(group) and name not in aside]
    return all(run.config.get(name) == partner.config.get(name) for name in fields)


def _fingerprints(run: Run) -> dict[str, str]:
    return dict(run.environment.get("fingerprints", {}))


def _training_data(run: Run) -> dict[str, str]:
    entries = run.environment.get("data", {}).get("train", [])
    return {str(entry.get("name")): str(entry.get("fingerprint")) for entry in entries}
