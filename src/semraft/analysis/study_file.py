"""The file that describes a study, read without numpy: `semraft --help` imports this module."""

import json
from pathlib import Path
from typing import Any

STUDY, RUNS = "study.json", "runs"
"""In the folder of a study: its description, and the folder of its run directories."""


def read_study(folder: Path) -> dict[str, Any]:
    """The contents of FOLDER/study.json: `name`, `base`, `protocol`, `variants`, `seeds`, `against` and more.

    Raises:
        ValueError: The file is missing or damaged, or lacks one of these.
    """
    try:
        contents = json.loads((folder / STUDY).read_text(encoding="utf-8"))
        if absent := {"name", "base", "protocol", "variants", "seeds"} - contents.keys():
            raise ValueError(f"it lacks {sorted(absent)}")
        return {"against": {}, **contents}
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{folder} is no study: {STUDY}: {error}") from error
