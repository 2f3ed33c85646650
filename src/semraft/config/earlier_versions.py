"""Run configurations of earlier versions: fields that are no options any more become alterations."""

from typing import Any

RETIRED = {
    ("data", "draws"): {"fixed": "fixed-draws"},
    ("data", "augment", "invalid_targets"): {"as-zero": "as-zero", "as-65504": "as-65504"},
    ("data", "augment", "labels"): {"grey-blended": "grey-labels"},
    ("loss", "normalize"): {"valid-broadcast": "broadcast-flow-mask"},
}
"""Path of a field -> its value -> the alteration that does the same; any other value was the default."""
OF_V1 = {"mean": {"all": "v1-mean-all"}, "masked_by": {"broadcast": "v1-broadcast-mask"}}
"""The same of the options of the term semantic-v1."""


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
    return {**config, "altered": altered} if altered else config
