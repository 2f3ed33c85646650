"""Shared parts of commands: values that tyro can't read by itself, and tables."""

import os
from collections.abc import Sequence
from json import dumps
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any

import tyro

from semraft.config import TermConfig, parse_term, term_text

Json = Annotated[bool, tyro.conf.arg(help="Print JSON instead of text.")]
"""The option --json of a command that lists something."""


def require_writable(path: Path) -> None:
    """Refuses an output file that can't be written, before the work for it begins.

    Raises:
        ValueError: It is a folder, its folder is not there, or nothing can be written there.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder, the output is a file: give its name too")
    require_writable_folder(path.parent)
    if path.exists() and not os.access(path, os.W_OK):
        raise ValueError(f"{path} can't be overwritten: it is read-only")


def require_writable_folder(folder: Path) -> None:
    """Refuses a folder in which no file can be made.

    Raises:
        ValueError: It is not there, is a file, or nothing can be written there.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} {'is no folder' if folder.exists() else 'is not there: make it first'}")
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{folder}: nothing can be written there: {error.strerror}") from error


def print_table(rows: dict[str, Any], as_json: bool) -> None:
    """Prints a name and a line about it, or everything as JSON."""
    if as_json:
        print(dumps(rows, indent=2))
        return
    width = max(map(len, rows))
    for name, about in rows.items():
        print(f"{name:{width}}  {about}")


def refuse_bad_terms(arguments: Sequence[str]) -> None:
    """Says what is wrong with a loss term, which tyro would not: it only says that nothing fits.

    Raises:
        ValueError: A word after `--loss.terms` is no term.
    """
    option = ""
    for argument in arguments:
        if argument.startswith("--"):
            option = argument
        elif option == "--loss.terms":
            parse_term(argument)


def terms_as_text() -> tyro.constructors.ConstructorRegistry:
    """Lets tyro read a loss term as one types it."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def term_rule(
        info: tyro.constructors.PrimitiveTypeInfo,
    ) -> tyro.constructors.PrimitiveConstructorSpec[TermConfig] | None:
        if info.type is not TermConfig:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="NAME:WEIGHT[,OPTION=VALUE...]",
            instance_from_str=lambda text: parse_term(text[0]),
            is_instance=lambda value: isinstance(value, TermConfig),
            str_from_instance=lambda term: [term_text(term)],
        )

    return registry
