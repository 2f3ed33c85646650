"""Auxiliary loss terms as they are configured, and as they are typed on the command line."""

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any, Literal

from semraft.config.data import require


@dataclass(frozen=True, kw_only=True, slots=True)
class TermConfig:
    """One auxiliary loss term, written NAME:WEIGHT,OPTION=VALUE,... on the command line.

    A term has those of the options below that `semraft losses --json` lists for it.
    """

    name: str
    """A name that `semraft losses` lists."""
    weight: float = 1.0
    """What its value is multiplied with in the total."""
    share: float | None = None
    """Instead of a weight: the part of the flow loss's gradient norm, on the parameters both act on, that the
    term's is to have. Measured over the first batches, then fixed, printed, and recorded in weights.jsonl."""
    measure_after: int = 0
    """The step after which the share is measured; until then the term has weight 0."""
    measure_again: int = 0
    """A later step after which it is measured once more; 0: never."""
    ramp: int = 0
    """Steps over which the weight rises from 0, once it is known."""
    schedule: Literal["constant", "decay", "learning-rate", "flow-loss"] = "constant"
    """What becomes of the weight: it stays, falls linearly to 0 at the last step, follows the learning rate,
    whose peak is the weight itself, or falls with the flow loss, whose start is the weight itself."""
    modulation: Literal["none", "uncertainty"] = "none"
    """`uncertainty`: the weight is divided by a learnt variance, 1 at first (Kendall et al. 2018)."""
    where: str = "all"
    """The pixels it acts on: all, things, static, unsupervised (no flow truth), or classes: car+person."""
    mask: Literal["auto", "none", "exact", "forward-backward", "predicted", "same-label"] = "auto"
    """What tells occluded pixels: the data, forward and backward flow, the network's head, or a label that is
    the same at the same place. `auto`: exact for terms that look into frame 2, same-label for V1, none for
    others."""
    labels: Literal["truth", "decoder"] = "truth"
    """Whose classes it goes by: the data's, or those that the network's decoder gives both frames."""
    boundary: Literal["class", "instance"] = "class"
    """Where a segment ends: where the class does, or where the thing does."""
    order: Literal[1, 2] = 2
    """First or second differences."""
    penalty: Literal["l1", "charbonnier"] = "l1"
    """What is made of a difference."""
    mean: Literal["mask", "all"] = "mask"
    """What the sum over its pixels is divided by: their number, or that of all pixels."""
    masked_by: Literal["own", "broadcast"] = "own"
    """Whether a sample is masked by its own mask, or by the mask of every sample of the batch: the original
    study's had an axis less than what it masked."""
    radius_px: int = 16
    """Where distances are cut."""
    gain: float = 2.0
    """How much more an error at a boundary weighs."""
    falloff_px: float = 8.0
    """The distance from a boundary over which that falls to 1/e."""
    plane_model: Literal["homography", "quadratic"] = "homography"
    """How planes move."""
    fit_gradient: Literal["through", "stopped"] = "through"
    """Whether the gradient passes through the fit of a motion model."""
    gradient: Literal["both", "segmentation", "flow"] = "both"
    """What learns from the consistency of flow and segmentation."""
    prior: float = 0.05
    """What it costs to call a pixel occluded, in nats."""

    def __post_init__(self) -> None:
        option = f"loss.terms {self.name}"
        require(self.share is None or self.share > 0, f"{option} share", self.share, "above 0")
        for name, default in (("weight", 1), ("modulation", "none")):
            value = getattr(self, name)
            require(self.share is None or value == default, f"{option} {name}", value, "none beside a share")
        for name in ("measure_after", "measure_again", "ramp"):
            value = getattr(self, name)
            require(value >= 0, f"{option} {name.replace('_', '-')}", value, "0 or more")


def parse_term(text: str) -> TermConfig:
    """A term as one types it: NAME:WEIGHT, NAME:share=0.4, NAME:WEIGHT,OPTION=VALUE,...

    Raises:
        ValueError: Not written so, an option that no term has, or a value that it can't take.
    """
    name, colon, rest = text.partition(":")
    if not (name and colon and rest):
        raise ValueError(
            f"a loss term is written NAME:WEIGHT or NAME:OPTION=VALUE,..., for example semantic-v1:0.5 or "
            f"signed-distance:share=0.4,where=things; got {text!r}"
        )
    hints = typing.get_type_hints(TermConfig)
    options: dict[str, Any] = {}
    for number, part in enumerate(rest.split(",")):
        option, equals, value = part.partition("=")
        if not equals and number == 0:
            option, value = "weight", part
        field = option.replace("-", "_")
        if field not in hints or field == "name" or field in options:
            raise ValueError(f"loss term {text!r}: {option!r} is no option, or given twice")
        options[field] = _from_text(hints[field], value, f"loss term {text!r}: {option}")
    return TermConfig(name=name, **options)


def term_text(term: TermConfig) -> str:
    """What `parse_term` reads as this term; options that have their default are left out."""
    changed = [
        f"{field.name.replace('_', '-')}={_to_text(getattr(term, field.name))}"
        for field in dataclasses.fields(TermConfig)
        if field.name not in ("name", "weight") and getattr(term, field.name) != field.default
    ]
    weight = [] if term.share is not None else [_to_text(term.weight)]
    return f"{term.name}:{','.join(weight + changed)}"


def _to_text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def _from_text(kind: Any, text: str, what: str) -> Any:
    """A value of one of the kinds of TermConfig's fields."""
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
