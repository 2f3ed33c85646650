"""Help of `semraft train RECIPE`: the options with the recipe's values, the most used ones first."""

import ast
import dataclasses
import inspect
import itertools
import textwrap
import typing
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from semraft.config import RunConfig, TermConfig, term_text

USUAL = {
    "data": (
        *("data.root", "data.train", "data.validation", "data.split", "data.crop", "data.validation-pairs"),
        *("data.train-pairs", "data.truth", "data.truth-frac", "data.label-table", "data.damaged"),
        *("data.missing", "data.small-frames", "data.workers"),
    ),
    "run": (
        *("seed", "output", "device", "precision", "log-every", "validate-every", "checkpoint-every"),
        *("when-worse", "tracker"),
    ),
    "optimisation": (
        *("optim.steps", "optim.batch", "optim.learning-rate", "optim.weight-decay", "optim.warm-up-frac"),
        *("optim.clip-norm", "optim.ema", "num-updates", "validation-updates"),
    ),
    "losses": (
        *("loss.terms", "loss.gamma", "loss.normalize", "loss.occluded", "loss.combine", "loss.share-cap"),
    ),
    "network": (
        *("model.weights", "model.arch", "model.heads", "model.conditioning", "model.batch-norm"),
        "model.recompute",
    ),
}
"""Group -> options that `--help` lists; `--help-all` lists the others too."""
WIDTH = 100


class Option(NamedTuple):
    """An option of the command line."""

    name: str
    """Without the two dashes."""
    value: str
    """The recipe's value, as one types it."""
    about: str


def train_help(recipe: str, config: RunConfig, everything: bool = False) -> str:
    """The usual options in groups, or all of them."""
    options = {option.name: option for option in options_of(config)}
    groups = {group: [options.pop(name) for name in names] for group, names in USUAL.items()}
    others: dict[str, list[Option]] = {}
    for option in options.values() if everything else ():
        others.setdefault(option.name.rpartition(".")[0] or "other", []).append(option)
    lines = [f"usage: semraft train {recipe} [--OPTION VALUE ...]", "", "Options with the recipe's values."]
    for title, members in (groups | {f"{group}, further": found for group, found in others.items()}).items():
        lines += ["", f"{title}:", *(line for option in members for line in _lines(option))]
    if not everything:
        lines += ["", f"{len(options)} further options: semraft train {recipe} --help-all"]
    return "\n".join(lines)


def options_of(config: Any, prefix: str = "") -> Iterator[Option]:
    """The options of a configuration, with its values."""
    hints, abouts = typing.get_type_hints(type(config)), docstrings(type(config))
    for field in dataclasses.fields(config):
        name, value = prefix + field.name.replace("_", "-"), getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from options_of(value, f"{name}.")
            continue
        about, hint = abouts[field.name], hints[field.name]
        of_item = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else hint
        if typing.get_origin(of_item) is Literal:
            about += f" One of {', '.join(map(str, typing.get_args(of_item)))}."
        elif hint is bool:
            about += f" Off: --{prefix}no-{field.name}."
        yield Option(name, _typed(value), about)


def docstrings(kind: type) -> dict[str, str]:
    """Field of a class -> the docstring under it."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    return {
        field.target.id: " ".join(str(text.value.value).split())
        for field, text in itertools.pairwise(definition.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }


def _typed(value: Any) -> str:
    """A value as one types it; empty for one that is the default by being left out."""
    if isinstance(value, tuple):
        return " ".join(map(_typed, value))
    if isinstance(value, TermConfig):
        return term_text(value)
    return "" if value is None or value is True or value is False else str(value)


def _lines(option: Option) -> list[str]:
    head = f"  --{option.name} {option.value}".rstrip()
    about = textwrap.wrap(option.about, WIDTH - 8)
    return [head, *(f"        {line}" for line in about)]
