"""Data sets of a run from its configuration, and their record."""

import hashlib
from pathlib import Path
from typing import Any, Literal

from semraft.config import DataConfig, RunConfig
from semraft.config.data import by_name, is_by_name, parse_mixture, parse_roots
from semraft.data import MADE, open_dataset
from semraft.data.held_out import part_of_split
from semraft.data.hidden_truth import hide_truth
from semraft.data.loader import WORLD_MEMORY_MB, keep_in_memory, limit_pairs, validation_draw
from semraft.data.requirements import (
    doubtful_table,
    refuse_doubtful_table,
    refuse_problems,
    require_labels,
)
from semraft.data.taxonomy import CLASSES
from semraft.evaluation.validate import Validation
from semraft.losses.objective import check_terms
from semraft.models.heads import given_by
from semraft.sample import FlowDataset, OwnTable, Pair

TAKEN_WHOLE = ("kitti", "kitti-2012")
"""Validation sets that are scored on every pair."""


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
        dataset = _opened(config, name, roots[name], "train")
        if config.train_pairs is not None:
            dataset = limit_pairs(dataset, config.train_pairs, config.draw_seed)
        if name == "world":
            dataset = keep_in_memory(dataset, WORLD_MEMORY_MB)
        datasets.append(hide_truth(dataset, config.truth, config.truth_frac, config.draw_seed))
    return datasets, [weight for _, weight in mixture]


def _opened(config: DataConfig, name: str, root: Path | None, part: Literal["train", "val"]) -> FlowDataset:
    """A data set's training or validation pairs, as `split` and `label_table` have them, with sound files.

    Raises:
        ValueError: As `open_dataset` and `part_of_split`; label files of another table, and none was chosen.
        DamagedFile: Damaged or missing files that are to be refused.
    """
    trained = [trained_name for trained_name, _ in parse_mixture(config.train)]
    names = trained if not is_by_name(config.split) else [*trained, name]
    rule = by_name(config.split, names, "data.split").get(name)
    table = config.table_of(name)
    split = "train" if rule else part
    dataset = open_dataset(name, root, split, config.world, config.shapes, table)
    refuse_problems(dataset, config.damaged, config.missing, "--data.")
    if table is None:
        refuse_doubtful_table(dataset)
    return part_of_split(dataset, rule, config.draw_seed, part) if rule else dataset


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


def validation_data(config: DataConfig) -> tuple[Validation, list[str]]:
    """The validation sets by split name (`viper-val`, `kitti`), each with its draw; and those left out.

    A set without a root of its own is left out and said so: the study validated on KITTI, but not everybody
    who trains on VIPER has it. A root that is given and does not hold the set is an error.
    """
    trained = [name for name, _ in parse_mixture(config.train)]
    roots = parse_roots(config.root, [*trained, *config.validation])
    drawn, left_out = {}, []
    for name in config.validation:
        root = roots[name]
        if not is_by_name(config.root) and name not in trained and root is not None and root.name != name:
            root = None  # One folder for all is the training data's, unless it has a folder of this name.
        if root is None and name not in MADE:
            left_out.append(f"{name}: no root given (--data.root ...,{name}=FOLDER)")
            continue
        dataset = _opened(config, name, root, "val")
        whole = name in TAKEN_WHOLE
        indices = (
            tuple(range(len(dataset)))
            if whole
            else validation_draw(dataset, config.validation_pairs, config.draw_seed)
        )
        drawn[name if whole else f"{name}-val"] = (dataset, indices)
    return drawn, left_out


def checked_validation_data(config: RunConfig) -> tuple[Validation, list[str]]:
    """As `validation_data`, of sets that have the labels that the network is conditioned on.

    Raises:
        ValueError: As there; or a set lacks labels.
    """
    validation, left_out = validation_data(config.data)
    require_labels(config.model.conditioning, (dataset for dataset, _ in validation.values()))
    return validation, left_out


def data_record(
    training: list[FlowDataset],
    validation: Validation,
    left_out: list[str],
) -> dict[str, Any]:
    """Record of the training and validation data of a run, for environment.json.

    `trained_on` is the number of validation pairs that are training pairs too.
    """
    trained = {_identity(dataset, pair) for dataset in training for pair in dataset.pairs}
    trained_on = {
        split: sum(_identity(dataset, dataset.pairs[index]) in trained for index in indices)
        for split, (dataset, indices) in validation.items()
    }
    every = (*training, *(dataset for dataset, _ in validation.values()))
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
                    "trained_on": trained_on[split],
                }
                for split, (dataset, indices) in validation.items()
            },
            "left_out": left_out,
        },
        "classes": [{"id": c.id, "name": c.name, "color": list(c.color)} for c in CLASSES],
        "warnings": [
            *(
                f"{dataset.name} {dataset.split}: {len(dataset.problems)} files can't be used, for example "
                f"{dataset.problems[0].path}: {dataset.problems[0].kind} (semraft data check lists them)"
                for dataset in every
                if dataset.problems
            ),
            *(
                f"{split}: {count} of {len(validation[split][1])} validation pairs are trained on too: its "
                "numbers are those of training pairs (--data.split holds some out)"
                for split, count in trained_on.items()
                if count
            ),
            *filter(None, map(doubtful_table, every)),
        ],
    }


def _identity(dataset: FlowDataset, pair: Pair) -> str:
    """Identity of a pair: the file of frame 1, or for made scenes the set and the id."""
    return str(pair.files["image1"].resolve()) if pair.files else f"{dataset.name} {pair.id}"


def fingerprint(dataset: FlowDataset) -> str:
    """A digest of a data set: ids and file sizes of all pairs, and the first frame's file.

    Of a pack it is that of the files that were packed. Of a data set without files it includes the first
    frame itself. Nothing is decoded that may be damaged.
    """
    digest = hashlib.sha256()
    for pair in dataset.pairs:
        sizes = dataset.origin(pair).sizes if dataset.origin else pair.sizes()
        digest.update(repr((pair.id, sorted(sizes.items()))).encode())
    if isinstance(dataset.label_table, OwnTable):  # Runs with other classes have other data.
        digest.update(repr(dataset.label_table[1:]).encode())
    first = dataset.pairs[0]
    if dataset.origin:
        image1_sha256 = dataset.origin(first).image1_sha256
    else:
        image1 = first.files["image1"].read_bytes() if first.files else dataset[0].image1.tobytes()
        image1_sha256 = hashlib.sha256(image1).hexdigest()
    digest.update(image1_sha256.encode())
    return digest.hexdigest()[:16]
