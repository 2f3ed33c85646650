"""The auxiliary loss terms by name, and the inputs that a configured term needs."""

from jaxtyping import Bool, Float
from torch import Tensor

from semraft.config import TermConfig
from semraft.losses.auxiliary_term import DECODED, Term, option_values, term_inputs
from semraft.losses.boundary import BOUNDARY_WEIGHT
from semraft.losses.label_consistency import LABEL_DISTANCE, LABEL_WARP, SIGNED_DISTANCE
from semraft.losses.matching import MATCHING
from semraft.losses.motion import MOTION_MODEL
from semraft.losses.occlusion_head import OCCLUSION
from semraft.losses.photometric import CENSUS
from semraft.losses.reduction import Flows
from semraft.losses.segmentation import SEGMENTATION, TEMPORAL_CONSISTENCY
from semraft.losses.self_supervised import TRANSFORM_CONSISTENCY, ZERO_FORCING
from semraft.losses.smoothness import GRADIENT_MATCHING, SEMANTIC_V1, SMOOTHNESS
from semraft.sample import FlowBatch, Prediction

TERMS: dict[str, Term] = {
    "semantic-v1": SEMANTIC_V1,
    "smoothness": SMOOTHNESS,
    "gradient-matching": GRADIENT_MATCHING,
    "motion-model": MOTION_MODEL,
    "label-warp": LABEL_WARP,
    "label-distance": LABEL_DISTANCE,
    "signed-distance": SIGNED_DISTANCE,
    "census": CENSUS,
    "boundary-weight": BOUNDARY_WEIGHT,
    "matching": MATCHING,
    "segmentation": SEGMENTATION,
    "temporal-consistency": TEMPORAL_CONSISTENCY,
    "occlusion": OCCLUSION,
    "zero-forcing": ZERO_FORCING,
    "transform-consistency": TRANSFORM_CONSISTENCY,
}


def term_values(
    chosen: TermConfig,
    prediction: Prediction,
    batch: FlowBatch,
    trusted: Bool[Tensor, "B H W"],
    flows: Flows | None = None,
) -> Float[Tensor, " N"]:
    """The values of a term before its weight, one for each refinement or a single one; see `term_inputs`."""
    term = TERMS[chosen.name]
    inputs = term_inputs(term, chosen, prediction, batch, trusted, flows)
    return term.values(inputs, **option_values(term, chosen))


def needed_fields(chosen: TermConfig) -> tuple[str, ...]:
    """The optional fields of a batch that a term with these options reads."""
    term = TERMS[chosen.name]
    needs = [*term.needs]
    if chosen.boundary == "instance":
        needs += [name.replace("labels", "instances") for name in term.needs if name.startswith("labels")]
    if chosen.where not in ("all", "unsupervised"):
        needs.append("labels1")
    needs += {"exact": ["occluded1"], "same-label": ["labels1", "labels2"]}.get(term.mask_of(chosen), [])
    if chosen.labels == "decoder":
        needs = [name for name in needs if not name.startswith("labels")]
    return tuple(dict.fromkeys(needs))


def needed_heads(chosen: TermConfig) -> tuple[str, ...]:
    """The optional fields of a prediction that a term with these options reads."""
    term = TERMS[chosen.name]
    heads = [*term.heads]
    heads += {"forward-backward": ["backward_flow"], "predicted": ["occlusion"]}.get(term.mask_of(chosen), [])
    if chosen.labels == "decoder":
        heads += DECODED
    return tuple(dict.fromkeys(heads))


def taught_heads(chosen: TermConfig) -> tuple[str, ...]:
    """The optional fields of a prediction whose heads learn from a term with these options."""
    return () if chosen.options.get("gradient") == "flow" else TERMS[chosen.name].heads
