"""From a data configuration to the data sets of a run, and the record of what they were."""

import hashlib
from collections.abc import Iterable
from typing import Any

from semraft.config import Conditioning, DataConfig, RunConfig
from semraft.config.data import parse_mixture, parse_roots
from semraft.data import MADE, open_dataset
from semraft.data.hidden_truth import hide_truth
from semraft.data.loader import keep_in_memory, limit_pairs, validation_draw
from semraft.data.taxonomy import CLASSES
from semraft.losses.objective import check_terms
from semraft.models.heads import given_by
from semraft.sample import DamagedFile, FlowDataset

TAKEN_WHOLE = ("kitti", "kitti-2012")
"""Validation sets that are scored on every pair."""
WORLD_MEMORY_MB = 4000.0
"""Scenes of the procedural world are made once and kept, up to this size."""


def training_data(config: DataConfig) -> tuple[list[FlowDataset], list[float]]:
    """The data sets of the training mixture and their weights.

    Raises:
        ValueError: A name, weight or root that does not fit; a set that is asked for and not there.
    """
    mixture = parse_mixture(config.train)
    names = [name for name, _ in mixture]
    roots = parse_roots(config.root, names)
    datasets = []
    for name in names:
        dataset = open_dataset(name, roots[name], "train", config.world, config.shapes)
        refuse_damaged(dataset, config.damaged, "--data.damaged")
        if config.train_pairs is not None:
            dataset = limit_pairs(dataset, config.train_pairs, config.draw_seed)
        if name == "world":
            dataset = keep_in_memory(dataset, WORLD_MEMORY_MB)
        datasets.append(hide_truth(dataset, config.truth, config.truth_frac, config.draw_seed))
    return datasets, [weight for _, weight in mixture]


def checked_training_data(config: RunConfig) -> tuple[list[FlowDataset], list[float]]:
    """As `training_data`, of sets that have all that the run's losses and network read.

    Raises:
        ValueError: As there; or a loss term or the network needs what a set or a head does not give.
    """
    training, weights = training_data(config.data)
    provides = {dataset.name: dataset.provides for dataset in training}
    check_terms(config.loss, provides, given_by(config.model.heads))
    require_labels(config.model.conditioning, training)
    return training, weights


def validation_data(config: DataConfig) -> tuple[dict[str, tuple[FlowDataset, tuple[int, ...]]], list[str]]:
    """The validation sets by split name (`viper-val`, `kitti`), each with its draw; and those left out.

    A set without a root of its own is left out and said so: the study validated on KITTI, but not everybody
    who trains on VIPER has it. A root that is given and does not hold the set is an error.
    """
    trained = [name for name, _ in parse_mixture(config.train)]
    roots = parse_roots(config.root, [*trained, *config.validation])
    drawn, left_out = {}, []
    for name in config.validation:
        root = roots[name]
        if "=" not in config.root and name not in trained and root is not None and root.name != name:
            root = None  # One folder for all is the training data's, unless it has a folder of this name.
        if root is None and name not in MADE:
            left_out.append(f"{name}: no root given (--data.root ...,{name}=FOLDER)")
            continue
        dataset = open_dataset(name, root, "val", config.world, config.shapes)
        refuse_damaged(dataset, config.damaged, "--data.damaged")
        whole = name in TAKEN_WHOLE
        indices = (
            tuple(range(len(dataset)))
            if whole
            else validation_draw(dataset, config.validation_pairs, config.draw_seed)
        )
        drawn[name if whole else f"{name}-val"] = (dataset, indices)
    return drawn, left_out


def data_record(
    training: list[FlowDataset],
    validation: dict[str, tuple[FlowDataset, tuple[int, ...]]],
    left_out: list[str],
) -> dict[str, Any]:
    """What a run was trained and validated on, for environment.json."""
    return {
        "data": {
            "train": [
                {
                    "name": dataset.name,
                    "pairs": len(dataset),
                    "problems": len(dataset.problems),
                    "fingerprint": fingerprint(dataset),
                }
                for dataset in training
            ],
            "validation": {
                split: {
                    "ids": [dataset.pairs[index].id for index in indices],
                    "fingerprint": fingerprint(dataset),
                }
                for split, (dataset, indices) in validation.items()
            },
            "left_out": left_out,
        },
        "classes": [{"id": c.id, "name": c.name, "color": list(c.color)} for c in CLASSES],
        "warnings": [
            f"{dataset.name} {dataset.split}: {len(dataset.problems)} files can't be used, for example "
            f"{dataset.problems[0].path}: {dataset.problems[0].kind} (semraft data check lists them)"
            for dataset in (*training, *(dataset for dataset, _ in validation.values()))
            if dataset.problems
        ],
    }


def refuse_damaged(dataset: FlowDataset, damaged: str, option: str) -> None:
    """Stops at files that are there and no good, unless `damaged` is "skip".

    A file that is missing is another matter: it is normal in VIPER, where the partner of some frames was
    never published, and is only reported.

    Raises:
        DamagedFile: The first of them, with how many there are and what to do.
    """
    bad = [problem for problem in dataset.problems if problem.kind != "missing"]
    if bad and damaged == "refuse":
        raise DamagedFile(
            bad[0].path,
            f"{bad[0].kind} {bad[0].detail} ({len(bad)} such files in {dataset.name} {dataset.split}): "
            f"`semraft data check` names them, {option} skip leaves them out",
        )


def require_labels(conditioning: Conditioning, datasets: Iterable[FlowDataset]) -> None:
    """Stops a network that is conditioned on true labels before data that have none.

    Raises:
        ValueError: One line: the data set, and what it lacks.
    """
    for dataset in datasets:
        missing = [name for name in ("labels1", "labels2") if name not in dataset.provides]
        if conditioning == "truth" and missing:
            raise ValueError(
                f"a network conditioned on true labels needs {' and '.join(missing)}, which data set "
                f"{dataset.name!r} ({dataset.split}) does not have: leave it out, or train with "
                f"--model.conditioning decoder"
            )


def fingerprint(dataset: FlowDataset) -> str:
    """A digest of a data set: ids and file sizes of all pairs, and the first frame's file.

    Of a pack it is that of the files that were packed. A data set without files is told by its first frame
    itself. Nothing is decoded that may be damaged.
    """
    digest = hashlib.sha256()
    for pair in dataset.pairs:
        sizes = dataset.origin(pair).sizes if dataset.origin else pair.sizes()
        digest.update(repr((pair.id, sorted(sizes.items()))).encode())
    first = dataset.pairs[0]
    if dataset.origin:
        image1_sha256 = dataset.origin(first).image1_sha256
    else:
        image1 = first.files["image1"].read_bytes() if first.files else dataset[0].image1.tobytes()
        image1_sha256 = hashlib.sha256(image1).hexdigest()
    digest.update(image1_sha256.encode())
    return digest.hexdigest()[:16]
