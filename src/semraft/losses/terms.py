"""The auxiliary terms by name: each is the call of its loss function on what a step has."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from semraft.config import TermConfig
from semraft.losses.boundary import boundary_weight_values
from semraft.losses.label_consistency import label_distance_values, label_warp_values, signed_distance_values
from semraft.losses.masks import occluded_pixels, region
from semraft.losses.matching import matching
from semraft.losses.motion import motion_model_values
from semraft.losses.occlusion_head import occlusion
from semraft.losses.photometric import census_values
from semraft.losses.reduction import Flows, at_least_float32, quickest
from semraft.losses.segmentation import segmentation, temporal_consistency_values
from semraft.losses.self_supervised import transform_consistency_values, zero_forcing_values
from semraft.losses.semantic import semantic_smoothness_v1_values
from semraft.losses.smoothness import gradient_matching_values, smoothness_values
from semraft.ops.crops import view_flow, view_mask
from semraft.ops.labels import segment_ids
from semraft.sample import FlowBatch, Prediction

DECODED = ("segmentation1", "segmentation2")
"""What the decoder gives a prediction."""
PASSES = frozenset({"backward_flow", "still", "viewed"})
"""What a further pass of the network gives a prediction (`training.passes`)."""

Field = TypeVar("Field")


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What a term looks at. Optional fields that a term `needs` are there: `check_terms` has seen to it."""

    prediction: Prediction
    batch: FlowBatch
    chosen: TermConfig
    trusted: Bool[Tensor, "B H W"]
    """V: where flow truth can be trusted."""
    flows: Flows
    """The prediction's; on a GPU all terms share one stack of them."""

    @property
    def region(self) -> Bool[Tensor, "B H W"]:
        """The pixels that `where` chooses."""
        return region(self.chosen.where, self.batch.labels1, self.trusted)

    @property
    def acting(self) -> Bool[Tensor, "B H W"]:
        """The region without what `mask` calls occluded."""
        hidden = occluded_pixels(mask_name(self.chosen), self.prediction, self.batch)
        return self.region if hidden is None else self.region & ~hidden

    @property
    def labels1(self) -> Int64[Tensor, "B H W"]:
        """Classes of frame 1."""
        return there(self.batch.labels1)

    @property
    def labels2(self) -> Int64[Tensor, "B H W"]:
        """Classes of frame 2."""
        return there(self.batch.labels2)

    @property
    def segments1(self) -> Int64[Tensor, "B H W"]:
        """Segment ids of frame 1, by class or by instance as `boundary` says."""
        by_instance = self.chosen.boundary == "instance"
        return segment_ids(self.labels1, there(self.batch.instances1) if by_instance else None)

    @property
    def segments2(self) -> Int64[Tensor, "B H W"]:
        """Segment ids of frame 2."""
        by_instance = self.chosen.boundary == "instance"
        return segment_ids(self.labels2, there(self.batch.instances2) if by_instance else None)


def there(field: Field | None) -> Field:
    """An optional field that was checked to be there before the first step."""
    assert field is not None
    return field


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """An auxiliary term. `values` gives one value per refinement of what it judges, or a single one."""

    values: Callable[[Case], Float[Tensor, " T"]]
    scalar: str
    """The name of its value in metrics."""
    about: str
    source: str
    """Where it comes from."""
    needs: tuple[str, ...] = ()
    """Optional fields of a batch; options add to them (`needed_fields`)."""
    heads: tuple[str, ...] = ()
    """Optional fields of a prediction; options add to them (`needed_heads`)."""
    options: tuple[str, ...] = ()
    """The fields of TermConfig it listens to, beside those that every term has."""
    mask: str = "none"
    """What `mask=auto` means."""
    judges: Literal["flow", "features", "heads", "further pass"] = "flow"
    """What its values are of: only those of the flow have one on the true flow, and for each refinement."""


def mask_name(chosen: TermConfig) -> str:
    """What tells occluded pixels for a term, `auto` resolved."""
    return TERMS[chosen.name].mask if chosen.mask == "auto" else chosen.mask


def needed_fields(chosen: TermConfig) -> tuple[str, ...]:
    """The optional fields of a batch that a term with these options reads."""
    term = TERMS[chosen.name]
    needs = [*term.needs]
    if chosen.boundary == "instance":
        needs += [name.replace("labels", "instances") for name in term.needs if name.startswith("labels")]
    if chosen.where not in ("all", "unsupervised"):
        needs.append("labels1")
    needs += {"exact": ["occluded1"], "same-label": ["labels1", "labels2"]}.get(mask_name(chosen), [])
    if chosen.labels == "decoder":
        needs = [name for name in needs if not name.startswith("labels")]
    return tuple(dict.fromkeys(needs))


def needed_heads(chosen: TermConfig) -> tuple[str, ...]:
    """The optional fields of a prediction that a term with these options reads."""
    heads = [*TERMS[chosen.name].heads]
    heads += {"forward-backward": ["backward_flow"], "predicted": ["occlusion"]}.get(mask_name(chosen), [])
    if chosen.labels == "decoder":
        heads += DECODED
    return tuple(dict.fromkeys(heads))


def taught_heads(chosen: TermConfig) -> tuple[str, ...]:
    """The optional fields of a prediction whose heads learn from a term with these options."""
    return () if chosen.gradient == "flow" else TERMS[chosen.name].heads


def decoded(batch: FlowBatch, prediction: Prediction) -> FlowBatch:
    """The batch with the classes that the network's decoder gives both frames; no gradient reaches it."""
    logits1, logits2 = there(prediction.segmentation1), there(prediction.segmentation2)
    return replace(
        batch,
        labels1=logits1.detach().argmax(dim=1),
        labels2=logits2.detach().argmax(dim=1),
        instances1=None,
        instances2=None,
    )


def case_of(
    chosen: TermConfig,
    prediction: Prediction,
    batch: FlowBatch,
    trusted: Bool[Tensor, "B H W"],
    flows: Flows | None = None,
) -> Case:
    """What a term looks at, with the labels that it goes by.

    Args:
        flows: `quickest(prediction.flows)`, where it is there already.
    """
    seen = batch if chosen.labels == "truth" else decoded(batch, prediction)
    flows = quickest(prediction.flows) if flows is None else flows
    return Case(prediction=prediction, batch=seen, chosen=chosen, trusted=trusted, flows=flows)


def _semantic_v1(case: Case) -> Tensor:
    broadcast = case.chosen.masked_by == "broadcast"
    seen = case.acting[:, None] if broadcast else case.acting  # Every sample's for every sample's truth.
    return semantic_smoothness_v1_values(case.flows, case.labels1, case.trusted & seen, case.chosen.mean)


def _matching(case: Case) -> Tensor:
    occluded = case.batch.occluded1
    visible = case.trusted if occluded is None else case.trusted & ~occluded
    features1, features2 = case.prediction.features1, case.prediction.features2
    return matching(features1, features2, case.batch.flow, visible)[None]


def _smoothness(case: Case) -> Tensor:
    return smoothness_values(case.flows, case.segments1, case.acting, case.chosen.order, case.chosen.penalty)


def _gradient_matching(case: Case) -> Tensor:
    return gradient_matching_values(case.flows, case.batch.flow, case.segments1, case.acting & case.trusted)


def _boundary_weight(case: Case) -> Tensor:
    return boundary_weight_values(
        case.flows,
        case.batch.flow,
        case.segments1,
        case.acting & case.trusted,
        case.chosen.gain,
        case.chosen.falloff_px,
    )


def _motion_model(case: Case) -> Tensor:
    return motion_model_values(
        case.flows, case.segments1, case.acting, case.chosen.plane_model, case.chosen.fit_gradient
    )


def _label_warp(case: Case) -> Tensor:
    return label_warp_values(case.flows, case.segments1, case.segments2, case.acting)


def _label_distance(case: Case) -> Tensor:
    return label_distance_values(
        case.flows, case.segments1, case.segments2, case.acting, case.chosen.radius_px
    )


def _signed_distance(case: Case) -> Tensor:
    return signed_distance_values(
        case.flows, case.segments1, case.segments2, case.acting, case.chosen.radius_px
    )


def _census(case: Case) -> Tensor:
    return census_values(case.flows, case.batch.image1, case.batch.image2, case.acting)


def _segmentation(case: Case) -> Tensor:
    logits1, logits2 = there(case.prediction.segmentation1), there(case.prediction.segmentation2)
    return segmentation(logits1, logits2, case.labels1, case.labels2)[None]


def _temporal_consistency(case: Case) -> Tensor:
    logits1, logits2 = there(case.prediction.segmentation1), there(case.prediction.segmentation2)
    return temporal_consistency_values(case.flows, logits1, logits2, case.acting, case.chosen.gradient)


def _occlusion(case: Case) -> Tensor:
    """Here `mask` says what is learnt, not what is left out."""
    occluded = there(occluded_pixels(mask_name(case.chosen), case.prediction, case.batch))
    return occlusion(there(case.prediction.occlusion), occluded, case.region, case.chosen.prior)[None]


def _zero_forcing(case: Case) -> Tensor:
    still = there(case.prediction.still)
    return zero_forcing_values(quickest(still.flows), still.occlusion)


def _transform_consistency(case: Case) -> Tensor:
    view, flows = there(case.prediction.viewed)
    taught = view_flow(at_least_float32(case.prediction.flow.detach()), view)
    return transform_consistency_values(quickest(flows), taught, view_mask(case.acting, view))


_FRAMES = ("labels1", "labels2")
_PLACE = ("where", "mask", "labels")

TERMS = {
    "semantic-v1": Term(
        values=_semantic_v1,
        scalar="semantic_loss",
        about="within-class first-order smoothness of the flow, the study's loss (weight 0.5 there)",
        source="the study's notes",
        needs=("labels1",),
        options=("mask", "mean", "masked_by"),
        mask="same-label",
    ),
    "smoothness": Term(
        values=_smoothness,
        scalar="smoothness_loss",
        about="first or second differences of the flow inside segments",
        source="UFlow, Jonschkowski et al., ECCV 2020",
        needs=("labels1",),
        options=(*_PLACE, "boundary", "order", "penalty"),
    ),
    "gradient-matching": Term(
        values=_gradient_matching,
        scalar="gradient_matching_loss",
        about="first differences of the flow against those of the truth, inside segments",
        source="Li and Snavely, CVPR 2018, for depth",
        needs=("labels1",),
        options=(*_PLACE, "boundary"),
    ),
    "motion-model": Term(
        values=_motion_model,
        scalar="motion_model_loss",
        about="what a fitted motion of each segment leaves: planes move as planes, things affinely",
        source="Sevilla-Lara et al., CVPR 2016; Longuet-Higgins and Prazdny, 1980",
        needs=("labels1",),
        options=(*_PLACE, "boundary", "plane_model", "fit_gradient"),
    ),
    "label-warp": Term(
        values=_label_warp,
        scalar="label_warp_loss",
        about="1 - probability of a pixel's own class where the flow leads",
        source="the study's notes",
        needs=_FRAMES,
        options=(*_PLACE, "boundary"),
        mask="exact",
    ),
    "label-distance": Term(
        values=_label_distance,
        scalar="label_distance_loss",
        about="distance of the flow's target from the nearest pixel of the own class",
        source="label-warp with a slope that reaches further",
        needs=_FRAMES,
        options=(*_PLACE, "boundary", "radius_px"),
        mask="exact",
    ),
    "signed-distance": Term(
        values=_signed_distance,
        scalar="signed_distance_loss",
        about="as deep inside its class at the flow's target as at the start",
        source="label-distance with the inside used too",
        needs=_FRAMES,
        options=(*_PLACE, "boundary", "radius_px"),
        mask="exact",
    ),
    "census": Term(
        values=_census,
        scalar="census_loss",
        about="soft 7 x 7 census difference of the pictures along the flow, where labels say",
        source="UnFlow, Meister et al., AAAI 2018",
        options=_PLACE,
        mask="exact",
    ),
    "boundary-weight": Term(
        values=_boundary_weight,
        scalar="boundary_weight_loss",
        about="the flow loss once more, heavier near segment boundaries",
        source="the study's notes",
        needs=("labels1",),
        options=(*_PLACE, "boundary", "gain", "falloff_px"),
    ),
    "matching": Term(
        values=_matching,
        scalar="matching_loss",
        about="cross-entropy of the correlation against the true target cell: features learn sooner",
        source="GMFlow, Xu et al., CVPR 2022, as an auxiliary loss",
        judges="features",
    ),
    "segmentation": Term(
        values=_segmentation,
        scalar="segmentation_loss",
        about="cross-entropy of the segmentation decoder, both frames",
        source="the study's notes",
        needs=_FRAMES,
        heads=DECODED,
        judges="heads",
    ),
    "temporal-consistency": Term(
        values=_temporal_consistency,
        scalar="temporal_consistency_loss",
        about="Jensen-Shannon divergence of the decoder's classes in frame 1 and, along the flow, frame 2",
        source="the study's notes",
        heads=DECODED,
        options=(*_PLACE, "gradient"),
        mask="exact",
    ),
    "occlusion": Term(
        values=_occlusion,
        scalar="occlusion_loss",
        about="cross-entropy of the occlusion head against what `mask` names, with a price on occlusion",
        source="UnFlow, Meister et al., AAAI 2018",
        heads=("occlusion",),
        options=(*_PLACE, "prior"),
        mask="exact",
        judges="heads",
    ),
    "zero-forcing": Term(
        values=_zero_forcing,
        scalar="zero_forcing_loss",
        about="a frame and itself have no flow and, of a network that says, no occlusion",
        source="Jeong et al., CVPR 2022",
        heads=("still",),
        judges="further pass",
    ),
    "transform-consistency": Term(
        values=_transform_consistency,
        scalar="transform_consistency_loss",
        about="the flow of a mirrored, scaled part of the pair is the pair's flow, mirrored and scaled",
        source="Jeong et al., CVPR 2022",
        heads=("viewed",),
        options=_PLACE,
        judges="further pass",
    ),
}
"""Every auxiliary term by name."""
