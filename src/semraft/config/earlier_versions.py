"""Run configurations of earlier versions, as this one writes them.

Fields that are no options any more become alterations; fields of every loss term that are options of one term
alone become its own options.
"""

from pathlib import Path
from typing import Any

from semraft.records import DamagedFile, read_json

RETIRED = {
    ("data", "draws"): {"fixed": "fixed-draws"},
    ("data", "augment", "invalid_targets"): {"as-zero": "as-zero", "as-65504": "as-65504"},
    ("data", "augment", "labels"): {"grey-blended": "grey-labels"},
    ("loss", "normalize"): {"valid-broadcast": "broadcast-flow-mask"},
}
"""Path of a field -> its value -> the alteration that does the same; any other value was the default."""
OF_V1 = {"mean": {"all": "v1-mean-all"}, "masked_by": {"broadcast": "v1-broadcast-mask"}}
"""The same of the options of the term semantic-v1."""
OWN_OPTIONS: dict[str, str | int | float] = {
    "order": 2,
    "penalty": "l1",
    "radius_px": 16,
    "gain": 2.0,
    "falloff_px": 8.0,
    "plane_model": "homography",
    "fit_gradient": "through",
    "gradient": "both",
    "prior": 0.05,
}
"""Former fields of every loss term, which only some terms read, with their defaults."""


def read_upgraded(path: Path) -> dict[str, Any]:
    """The contents of a config.json as this version writes them; values are not checked.

    Raises:
        DamagedFile: No object of JSON, or one that no version has written.
    """
    try:
        return upgraded(read_json(path, dict))
    except (AttributeError, KeyError, TypeError) as error:
        raise DamagedFile(path, f"is no run configuration: {error}") from error


def upgraded(config: dict[str, Any]) -> dict[str, Any]:
    """The contents of a config.json as this version writes them; `config` itself may be changed."""
    altered = list(config.get("altered", ()))
    fault = config.pop("fault", None) or {"kind": "none"}
    if fault["kind"] != "none":
        altered.append(f"{fault['kind']}@{fault['step']}")
    for (*path, name), meanings in RETIRED.items():
        part = config
        for key in path:
            part = part.get(key, {})
        if name == "normalize":
            if part.get(name) in meanings:
                altered.append(meanings[part[name]])
                part[name] = "valid"
        elif (meaning := meanings.get(part.pop(name, ""))) is not None:
            altered.append(meaning)
    for term in config.get("loss", {}).get("terms", ()):
        # Earlier still, the options of one term alone were fields of every term.
        for options in (term, term.get("options", {})) if term.get("name") == "semantic-v1" else ():
            for name, meanings in OF_V1.items():
                if (meaning := meanings.get(options.pop(name, ""))) is not None:
                    altered.append(meaning)
        own = {name: term.pop(name) for name in (*OWN_OPTIONS, *OF_V1) if name in term}
        changed = {name: value for name, value in own.items() if value != OWN_OPTIONS.get(name, value)}
        if changed:
            term["options"] = term.get("options", {}) | changed
    return {**config, "altered": altered} if altered else config
