"""What commands have in common: values that tyro can't read by itself, and tables."""

from collections.abc import Sequence
from json import dumps
from typing import Annotated, Any

import tyro

from semraft.config import TermConfig, parse_term, term_text

Json = Annotated[bool, tyro.conf.arg(help="Print JSON instead of text.")]
"""The option --json of a command that lists something."""


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
        ValueError: What follows `--loss.terms` is no term.
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
