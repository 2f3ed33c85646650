"""Definition of an auxiliary loss term: its function, its options, and the inputs that it needs."""

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from semraft.config import TermConfig
from semraft.losses.masks import occluded_pixels, region
from semraft.losses.reduction import Flows, quickest
from semraft.ops.labels import segment_ids
from semraft.sample import FlowBatch, Prediction

DECODED = ("segmentation1", "segmentation2")
"""Fields of a prediction that the segmentation decoder fills."""
PASSES = frozenset({"backward_flow", "still", "viewed"})
"""Fields of a prediction that an auxiliary pass of the network fills (`training.auxiliary_passes`)."""
PLACE = ("where", "mask", "labels")
"""Options of a term that acts on chosen pixels."""
SEGMENTS = (*PLACE, "boundary")
"""Options of a term that acts inside segments."""

Field = TypeVar("Field")


@dataclass(frozen=True, kw_only=True, slots=True)
class TermInputs:
    """Inputs of a term at one step. `check_terms` has made sure of the optional fields that a term needs."""

    prediction: Prediction
    batch: FlowBatch
    config: TermConfig
    mask: str
    """The method that finds occluded pixels, a name of TermConfig.mask other than `auto`."""
    trusted: Bool[Tensor, "B H W"]
    """V: pixels with trusted flow truth."""
    flows: Flows
    """The prediction's; on a GPU all terms share one stack of them."""

    @property
    def region(self) -> Bool[Tensor, "B H W"]:
        """The pixels chosen by the option `where`."""
        return region(self.config.where, self.batch.labels1, self.trusted)

    @property
    def acting(self) -> Bool[Tensor, "B H W"]:
        """The region without the pixels that `mask` finds occluded."""
        hidden = occluded_pixels(self.mask, self.prediction, self.batch)
        return self.region if hidden is None else self.region & ~hidden

    @property
    def labels1(self) -> Int64[Tensor, "B H W"]:
        """Classes of frame 1."""
        return required(self.batch.labels1)

    @property
    def labels2(self) -> Int64[Tensor, "B H W"]:
        """Classes of frame 2."""
        return required(self.batch.labels2)

    @property
    def segments1(self) -> Int64[Tensor, "B H W"]:
        """Segment ids of frame 1, by class or by instance (option `boundary`)."""
        by_instance = self.config.boundary == "instance"
        return segment_ids(self.labels1, required(self.batch.instances1) if by_instance else None)

    @property
    def segments2(self) -> Int64[Tensor, "B H W"]:
        """Segment ids of frame 2."""
        by_instance = self.config.boundary == "instance"
        return segment_ids(self.labels2, required(self.batch.instances2) if by_instance else None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """An auxiliary loss term."""

    values: Callable[..., Float[Tensor, " N"]]
    """Function of TermInputs: one value for each refinement, or a single one. Its keyword-only parameters are
    the term's own options, with their types and defaults."""
    scalar: str
    """The name of its value in metrics."""
    about: str
    source: str = ""
    """The publication or notes that define it."""
    needs: tuple[str, ...] = ()
    """Optional fields of a batch; options add to them (`terms.needed_fields`)."""
    heads: tuple[str, ...] = ()
    """Optional fields of a prediction; options add to them (`terms.needed_heads`)."""
    place: tuple[str, ...] = ()
    """The options of TermConfig that choose its pixels, of those it has: PLACE, SEGMENTS, or some."""
    mask: str = "none"
    """The meaning of `mask=auto`."""
    refused_masks: tuple[str, ...] = ()
    """Values of `mask` that make no sense for it."""
    acts_on: Literal["flow", "features", "heads", "further pass"] = "flow"
    """The output of the network that it evaluates: only a term on the flow has a value on the true flow, and
    one for each refinement."""

    @property
    def options(self) -> tuple[str, ...]:
        """Names of its options, beside those of every term (COMMON_OPTIONS)."""
        return (*self.place, *own_options(self))

    def mask_of(self, config: TermConfig) -> str:
        """The method that finds occluded pixels, `auto` resolved."""
        return self.mask if config.mask == "auto" else config.mask


COMMON_OPTIONS = frozenset(
    {"name", "weight", "share", "measure_after", "measure_again", "ramp", "schedule", "modulation", "options"}
)
"""The fields of TermConfig that every term has."""


def required(field: Field | None) -> Field:
    """An optional field that was checked to be there before the first step."""
    assert field is not None
    return field


def term_inputs(
    term: Term,
    config: TermConfig,
    prediction: Prediction,
    batch: FlowBatch,
    trusted: Bool[Tensor, "B H W"],
    flows: Flows | None = None,
) -> TermInputs:
    """The inputs of a term, with labels of the data or of the network's decoder (option `labels`).

    Args:
        flows: `quickest(prediction.flows)`, if it is known already.
    """
    return TermInputs(
        prediction=prediction,
        batch=batch if config.labels == "truth" else _with_decoded_labels(batch, prediction),
        config=config,
        mask=term.mask_of(config),
        trusted=trusted,
        flows=quickest(prediction.flows) if flows is None else flows,
    )


def _with_decoded_labels(batch: FlowBatch, prediction: Prediction) -> FlowBatch:
    """The batch with the classes decoded by the network in both frames; no gradient reaches the decoder."""
    logits1, logits2 = required(prediction.segmentation1), required(prediction.segmentation2)
    return replace(
        batch,
        labels1=logits1.detach().argmax(dim=1),
        labels2=logits2.detach().argmax(dim=1),
        instances1=None,
        instances2=None,
    )


def own_options(term: Term) -> Mapping[str, inspect.Parameter]:
    """The keyword-only parameters of a term's function."""
    parameters = inspect.signature(term.values).parameters
    return {name: entry for name, entry in parameters.items() if entry.kind is entry.KEYWORD_ONLY}


def option_values(term: Term, config: TermConfig) -> dict[str, Any]:
    """The values of a term's own options, defaults included.

    Raises:
        ValueError: An option that the term does not have, or a value that the option does not take.
    """
    own, hints = own_options(term), typing.get_type_hints(term.values)
    values = {name: parameter.default for name, parameter in own.items()}
    for name, value in config.options.items():
        if name not in own:
            raise _no_such_option(term, config.name, name)
        values[name] = _of_type(hints[name], value, f"loss term {config.name!r}: {name.replace('_', '-')}")
    return values


def check_options(term: Term, config: TermConfig) -> None:
    """Checks the options of a term.

    Raises:
        ValueError: An option or a value that the term does not have, or two options that exclude each other.
    """
    for field in fields(TermConfig):
        if field.name in COMMON_OPTIONS or field.name in term.place:
            continue
        if getattr(config, field.name) != field.default:
            raise _no_such_option(term, config.name, field.name)
    option_values(term, config)
    nothing = torch.zeros(1, 1, 1, dtype=torch.int64)
    region(config.where, nothing, nothing == 0)  # Refuses a class that does not exist.
    if config.labels == "decoder" and config.boundary == "instance":
        raise ValueError(f"loss term {config.name!r}: labels=decoder has no instances: choose boundary=class")
    if config.mask in term.refused_masks:
        raise ValueError(f"loss term {config.name!r} can't learn from mask={config.mask}: choose exact")


def _no_such_option(term: Term, name: str, option: str) -> ValueError:
    known = ", ".join(option.replace("_", "-") for option in term.options) or "none of its own"
    return ValueError(f"loss term {name!r} has no option {option.replace('_', '-')}; it has {known}")


def _of_type(kind: Any, value: object, what: str) -> Any:
    """A value as an option's type; `kind` is a Literal, int, float or str."""
    if typing.get_origin(kind) is Literal:
        if value not in typing.get_args(kind):
            known = ", ".join(map(str, typing.get_args(kind)))
            raise ValueError(f"{what} is {str(value)!r}: choose from {known}")
    elif kind in (int, float):
        if not isinstance(value, (int, kind)):
            raise ValueError(f"{what} is {str(value)!r}: expected a {'whole ' * (kind is int)}number")
        return kind(value)
    return value
