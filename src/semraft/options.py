"""How values of a configuration are written on the command line, where tyro does not know by itself."""

from collections.abc import Sequence

import tyro

from semraft.config import TermConfig, parse_term, term_text


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
