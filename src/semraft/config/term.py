"""Configuration of an auxiliary loss term, and its form on the command line."""

import dataclasses
import math
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

from semraft.config.data import require


@dataclass(frozen=True, kw_only=True, slots=True)
class TermConfig:
    """One auxiliary loss term, written NAME:WEIGHT,OPTION=VALUE,... on the command line.

    Every term has the options up to `modulation`; `semraft losses --json` lists which of the further ones.
    """

    name: str
    """A name that `semraft losses` lists."""
    weight: float = 1.0
    """Factor of its value in the total."""
    share: float | None = None
    """Instead of a weight: the term's gradient norm over the flow loss's, on the parameters that both act on.
    The weight that gives it is measured over the first batches, then fixed, printed, and recorded in
    weights.jsonl."""
    measure_after: int = 0
    """The step after which the share is measured; until then the term has weight 0."""
    measure_again: int = 0
    """A later step after which it is measured once more; 0: never."""
    ramp: int = 0
    """Steps over which the weight rises from 0, once it is known."""
    schedule: Literal["constant", "decay", "learning-rate", "flow-loss"] = "constant"
    """Course of the weight: constant, linear to 0 at the last step, or relative to the learning rate (to its
    peak) or to the flow loss (to its start)."""
    modulation: Literal["none", "uncertainty"] = "none"
    """`uncertainty`: the weight is divided by a learnt variance, 1 at first (Kendall et al. 2018)."""
    where: str = "all"
    """The pixels it acts on: all, things, static, unsupervised (no flow truth), or classes: car+person."""
    mask: Literal["auto", "none", "exact", "forward-backward", "predicted", "same-label"] = "auto"
    """Method that finds occluded pixels: the data, forward and backward flow, the network's head, or
    different labels at the same place. `auto`: exact for terms that read frame 2, same-label for V1, none for
    others."""
    labels: Literal["truth", "decoder"] = "truth"
    """Source of classes: the data, or the network's segmentation decoder."""
    boundary: Literal["class", "instance"] = "class"
    """Border of a segment: that of the class, or that of the object."""
    options: dict[str, str | int | float] = field(default_factory=dict)
    """Options of this term alone, by name, that differ from their defaults (`losses.terms`)."""

    def __post_init__(self) -> None:
        option = f"loss.terms {self.name}"
        require(self.share is None or self.share > 0, f"{option} share", self.share, "above 0")
        for name, default in (("weight", 1), ("modulation", "none")):
            value = getattr(self, name)
            require(self.share is None or value == default, f"{option} {name}", value, "none beside a share")
        require(math.isfinite(self.weight), f"{option} weight", self.weight, "a number")
        for name in ("measure_after", "measure_again", "ramp"):
            value = getattr(self, name)
            require(value >= 0, f"{option} {name.replace('_', '-')}", value, "0 or more")


def parse_term(text: str) -> TermConfig:
    """The term of a text NAME:WEIGHT, NAME:share=0.4 or NAME:WEIGHT,OPTION=VALUE,...

    Options of one term alone are checked with the losses (`losses.auxiliary_term`), before the first step.

    Raises:
        ValueError: Another form, an option given twice, or a value that an option of every term can't take.
    """
    name, colon, rest = text.partition(":")
    if not (name and colon and rest):
        raise ValueError(
            f"a loss term is written NAME:WEIGHT or NAME:OPTION=VALUE,..., for example semantic-v1:0.5 or "
            f"signed-distance:share=0.4,where=things; got {text!r}"
        )
    hints = typing.get_type_hints(TermConfig)
    fields: dict[str, Any] = {}
    own: dict[str, str | int | float] = {}
    for number, part in enumerate(rest.split(",")):
        option, equals, value = part.partition("=")
        if not equals and number == 0:
            option, value = "weight", part
        field = option.replace("-", "_")
        if not (field and value) or field in ("name", "options") or field in fields or field in own:
            raise ValueError(f"loss term {text!r}: {part!r} is not OPTION=VALUE, or given twice")
        if field in hints:
            fields[field] = _from_text(hints[field], value, f"loss term {text!r}: {option}")
        else:
            own[field] = _plain(value)
    return TermConfig(name=name, **fields, options=own)


def term_text(term: TermConfig) -> str:
    """The text that `parse_term` reads as this term, without options that have their default."""
    changed = {
        field.name: getattr(term, field.name)
        for field in dataclasses.fields(TermConfig)
        if field.name not in ("name", "weight", "options") and getattr(term, field.name) != field.default
    }
    options = [
        f"{name.replace('_', '-')}={_to_text(value)}" for name, value in (changed | term.options).items()
    ]
    weight = [] if term.share is not None else [_to_text(term.weight)]
    return f"{term.name}:{','.join(weight + options)}"


def _to_text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def _from_text(kind: Any, text: str, what: str) -> Any:
    """A text as a value of a TermConfig field's type."""
    if typing.get_origin(kind) is Literal:
        known = {str(value): value for value in typing.get_args(kind)}
        if text not in known:
            raise ValueError(f"{what} is {text!r}: choose from {', '.join(known)}")
        return known[text]
    for number in (int, float):
        if kind in (number, number | None):
            try:
                return number(text)
            except ValueError:
                raise ValueError(f"{what} is {text!r}: expected a number") from None
    return text


def _plain(text: str) -> str | int | float:
    """A text as a number if it is one."""
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
