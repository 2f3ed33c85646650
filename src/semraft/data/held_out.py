"""Held-out pairs: a data set parted into pairs to train on and pairs to validate on."""

import dataclasses
import hashlib
from collections import defaultdict
from pathlib import Path
from typing import Literal

from semraft.records import read_text
from semraft.sample import FlowDataset


def part_of_split(
    dataset: FlowDataset, rule: str, draw_seed: int, part: Literal["train", "val"]
) -> FlowDataset:
    """The pairs of a data set that a rule holds out (`val`), or all others (`train`).

    The rule is a share of the pairs, such as `0.2`, or the path of a file with the id of a pair or the name
    of a scene on each line. A share is drawn by whole scenes, since pairs of one scene are not independent:
    the scenes with the smallest SHA-256 of seed and name, the same on every machine.

    Raises:
        ValueError: No share and no file; a line that is no pair and no scene; nothing held out, or nothing
            left.
    """
    held_out = _held_out(dataset, rule, draw_seed)
    kept = tuple(pair for pair in dataset.pairs if (pair.id in held_out) == (part == "val"))
    if not kept:
        left = "held out" if part == "val" else "left to train on"
        scenes = {pair.scene for pair in dataset.pairs}
        why = f": all {len(dataset)} are of one scene, {scenes.pop()}" if len(scenes) == 1 else ""
        raise ValueError(f"{dataset.name}: --data.split {rule}: no pair is {left}{why}")
    return dataclasses.replace(dataset, pairs=kept, split=part)


def _held_out(dataset: FlowDataset, rule: str, draw_seed: int) -> set[str]:
    try:
        share = float(rule)
    except ValueError:
        return _listed(dataset, Path(rule).expanduser())
    if not 0 < share < 1:
        raise ValueError(f"{dataset.name}: --data.split {rule}: expected a share between 0 and 1, or a file")
    scenes: dict[str, list[str]] = defaultdict(list)
    for pair in dataset.pairs:
        scenes[pair.scene].append(pair.id)
    held_out: set[str] = set()
    for scene in sorted(scenes, key=lambda name: hashlib.sha256(f"{draw_seed} {name}".encode()).digest()):
        if len(held_out) >= max(1, round(share * len(dataset))):
            break
        held_out.update(scenes[scene])
    return held_out


def _listed(dataset: FlowDataset, path: Path) -> set[str]:
    if not path.is_file():
        raise ValueError(f"{dataset.name}: --data.split {path}: expected a share such as 0.2, or a file")
    scenes = defaultdict(set)
    for pair in dataset.pairs:
        scenes[pair.scene].add(pair.id)
        scenes[pair.id].add(pair.id)
    unusable = {problem.pair_id for problem in dataset.problems}
    held_out: set[str] = set()
    for line in filter(None, map(str.strip, read_text(path).splitlines())):
        if line not in scenes and line not in unusable:
            example = dataset.pairs[0]
            raise ValueError(
                f"{path}: {line!r} is no pair and no scene of {dataset.name}; expected such as "
                f"{example.id} or {example.scene}"
            )
        held_out |= scenes[line]
    return held_out
