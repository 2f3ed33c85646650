"""The file that describes a study, read without numpy: `semraft --help` imports this module."""

import re
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from semraft.records import DamagedFile, read_json

STUDY, RUNS = "study.json", "runs"
"""In the folder of a study: its description, and the folder of its run directories."""

VARIANT = r"[A-Za-z0-9][\w.+-]*"
"""Pattern of the name of a study or variant: a file may be called so."""


class StudyFile(TypedDict):
    """The content of study.json."""

    name: str
    about: NotRequired[str]
    base: str
    against: NotRequired[dict[str, str]]
    protocol: dict[str, Any]
    variants: list[str]
    seeds: list[int]
    differences: NotRequired[dict[str, dict[str, Any]]]


def read_study(folder: Path) -> dict[str, Any]:
    """The contents of FOLDER/study.json: `name`, `base`, `protocol`, `variants`, `seeds`, `against` and more.

    Raises:
        ValueError: The file is missing.
        DamagedFile: It is of another shape.
    """
    if not (folder / STUDY).is_file():
        raise ValueError(f"{folder} is no study: it has no {STUDY}")
    study = read_json(folder / STUDY, StudyFile)
    for name in study["variants"]:
        if not re.fullmatch(VARIANT, name):
            raise DamagedFile(folder / STUDY, f"{name!r} is no name of a variant")
    return {"against": {}, **study}
