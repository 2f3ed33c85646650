"""How values of a configuration are written on the command line, where tyro does not know by itself."""

import tyro

from semraft.config import TermConfig


def terms_as_text() -> tyro.constructors.ConstructorRegistry:
    """Lets tyro read a loss term as NAME:WEIGHT."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def term_rule(
        info: tyro.constructors.PrimitiveTypeInfo,
    ) -> tyro.constructors.PrimitiveConstructorSpec[TermConfig] | None:
        if info.type is not TermConfig:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="NAME:WEIGHT",
            instance_from_str=lambda text: parse_term(text[0]),
            is_instance=lambda value: isinstance(value, TermConfig),
            str_from_instance=lambda term: [f"{term.name}:{term.weight:g}"],
        )

    return registry


def parse_term(text: str) -> TermConfig:
    """NAME:WEIGHT -> a loss term."""
    name, _, weight = text.rpartition(":")
    if not name:
        raise ValueError(f"a loss term is written NAME:WEIGHT, for example semantic-v1:0.5; got {text!r}")
    return TermConfig(name=name, weight=float(weight))
