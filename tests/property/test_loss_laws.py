"""Laws of every loss term, on any scene: each law over all of them, through the objective."""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from typing import TypeVar

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from semraft.config import LossConfig, TermConfig
from semraft.losses.objective import Objective, objective
from semraft.losses.terms import TERMS
from semraft.ops.classes import PLANAR, THINGS
from semraft.sample import FlowBatch, Prediction, View, Viewed

BATCH, HEIGHT, WIDTH, UPDATES, CLASSES = 2, 32, 40, 2, 12
NEED_TRUTH = {"semantic-v1", "gradient-matching", "boundary-weight", "matching"}
VARIANTS = [
    *(TermConfig(name=name, weight=0.7) for name in TERMS),
    TermConfig(
        name="smoothness", weight=2.0, boundary="instance", options={"order": 1, "penalty": "charbonnier"}
    ),
    TermConfig(name="signed-distance", weight=2.0, boundary="instance", where="things"),
    TermConfig(name="label-warp", weight=2.0, mask="forward-backward", where="static"),
    TermConfig(name="census", weight=2.0, mask="predicted", where="car+person+road"),
    TermConfig(
        name="motion-model", weight=0.7, options={"plane_model": "quadratic", "fit_gradient": "stopped"}
    ),
    TermConfig(
        name="label-distance", weight=0.7, where="unsupervised", mask="same-label", options={"radius_px": 5}
    ),
    TermConfig(name="transform-consistency", weight=0.7, where="things", mask="exact"),
]
VIEW = View(size=(24, 32), top_px=3.5, left_px=2.0, scale=1.25, left_to_right=True)
Whole = TypeVar("Whole", Prediction, FlowBatch)
seeds = st.integers(0, 2**32 - 1)


def each_term(holds_of: Callable[[TermConfig], bool] = lambda term: True) -> pytest.MarkDecorator:
    """The law is one of every variant, or of those that `holds_of` says it holds of."""
    variants = [term for term in VARIANTS if holds_of(term)]
    return pytest.mark.parametrize("term", variants, ids=lambda term: f"{term.name}-{term.where}")


every_term = each_term()
examples = settings(
    max_examples=1 if settings.default.derandomize else 3,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
)
"""One scene in `make test`, others in `make test-all`. A scene is not made clearer by shrinking its seed."""


def smooth(rng: np.random.Generator, channels: int, size: float) -> Tensor:
    """A field that changes slowly and is nowhere a whole number."""
    coarse = rng.normal(0, size, (BATCH, channels, 4, 5))
    field = torch.from_numpy(coarse).float()
    return torch.nn.functional.interpolate(field, (HEIGHT, WIDTH), mode="bilinear", align_corners=True)


def rough(rng: np.random.Generator, size: float) -> Tensor:
    """Noise, so that no second difference is zero but for rounding."""
    return torch.from_numpy(rng.normal(0, size, (BATCH, 2, HEIGHT, WIDTH)).astype(np.float32))


def make(seed: int) -> tuple[Prediction, FlowBatch]:
    """A batch with every optional field and a prediction with every head; flows and heads need gradients."""
    rng = np.random.default_rng(seed)

    def blocks(values: tuple[int, ...]) -> Tensor:
        small = rng.choice(values, (BATCH, 4, 5))
        return torch.from_numpy(np.kron(small, np.ones((8, 8), np.int64)))

    def some(share: float) -> Tensor:
        return torch.from_numpy(rng.random((BATCH, HEIGHT, WIDTH)) < share)

    labels1 = blocks((0, 0, 3, 6, 8, 10, 10, 255))
    flow = smooth(rng, 2, 3.0)
    batch = FlowBatch(
        ids=("a", "b"),
        image1=(128 + smooth(rng, 3, 40)).clamp(0, 255),
        image2=(128 + smooth(rng, 3, 40)).clamp(0, 255),
        flow=flow,
        valid=some(0.7),
        labels1=labels1,
        labels2=torch.where(some(0.9), labels1.roll(2, 2), 255),
        instances1=blocks((0, 1, 2)),
        instances2=blocks((0, 1, 2)),
        occluded1=some(0.2),
    )
    prediction = Prediction(
        flows=[(flow + smooth(rng, 2, 1.5) + rough(rng, 0.3)).requires_grad_() for _ in range(UPDATES)],
        features1=smooth(rng, 6, 1.0)[..., ::8, ::8].clone().requires_grad_(),
        features2=smooth(rng, 6, 1.0)[..., ::8, ::8].clone().requires_grad_(),
        occlusion=smooth(rng, 1, 1.0)[:, 0].clone().requires_grad_(),
        segmentation1=smooth(rng, CLASSES, 1.0).requires_grad_(),
        segmentation2=smooth(rng, CLASSES, 1.0).requires_grad_(),
        backward_flow=-flow.roll(1, 3),
    )
    still, viewed = (
        [rough(rng, size)[..., :24, :32].clone().requires_grad_() for _ in range(UPDATES)]
        for size in (0.5, 2.0)
    )
    logits = smooth(rng, 1, 1.0)[:, 0, :24, :32].clone().requires_grad_()
    features = prediction.features1
    prediction.still = Prediction(flows=still, features1=features, features2=features, occlusion=logits)
    prediction.viewed = Viewed(VIEW, viewed)
    return prediction, batch


def inputs(prediction: Prediction) -> list[Tensor]:
    heads = (prediction.occlusion, prediction.segmentation1, prediction.segmentation2)
    assert prediction.still is not None
    assert prediction.viewed is not None
    return [
        *prediction.flows,
        prediction.features1,
        prediction.features2,
        *(h for h in heads if h is not None),
        *prediction.viewed.flows,
        *prediction.still.flows,
    ]


def learn(prediction: Prediction, batch: FlowBatch, *terms: TermConfig) -> tuple[Objective, list[Tensor]]:
    """The objective and the gradient of its total in all the network gives; zero where there is none."""
    result = objective(prediction, batch, LossConfig(terms=terms))
    given = inputs(prediction)
    gradients = torch.autograd.grad(result.total, given, allow_unused=True)
    return result, [
        torch.zeros_like(tensor) if gradient is None else gradient
        for tensor, gradient in zip(given, gradients, strict=True)
    ]


def value(result: Objective, term: TermConfig) -> Tensor:
    return result.values[TERMS[term.name].scalar].detach()


def assert_same(found: list[Tensor], expected: list[Tensor], tolerance: float = 0.0) -> None:
    for one, other in zip(found, expected, strict=True):
        if tolerance:
            scale = float(other.abs().max()) or 1.0
            torch.testing.assert_close(one, other, atol=tolerance * scale, rtol=0)
        else:
            assert torch.equal(one, other)


@every_term
@given(seed=seeds)
@examples
def test_weight_zero_equals_no_term(term: TermConfig, seed: int) -> None:
    """Red when: a zero is multiplied with a gradient that is not finite, or the graph is kept."""
    prediction, batch = make(seed)
    without, expected = learn(prediction, batch)
    idle, found = learn(prediction, batch, replace(term, weight=0.0))
    assert torch.equal(idle.total, without.total)
    assert_same(found, expected)
    assert not idle.values[TERMS[term.name].scalar].requires_grad
    active, _ = learn(prediction, batch, term)
    assert torch.equal(value(active, term), value(idle, term))


@every_term
@given(seed=seeds)
@examples
def test_what_is_not_known_never_leaks(term: TermConfig, seed: int) -> None:
    """NaN and wrong numbers where truth is invalid. Red when: a mask multiplies."""
    prediction, batch = make(seed)
    result, expected = learn(prediction, batch, term)
    poison = torch.where(batch.valid, 0, torch.nan)
    poisoned, found = learn(prediction, replace(batch, flow=batch.flow + poison[:, None]), term)
    assert result.total.isfinite()
    assert torch.equal(poisoned.total, result.total)
    assert_same(found, expected)


@each_term(lambda term: "labels1" in TERMS[term.name].needs)
@given(seed=seeds)
@examples
def test_ignored_pixels_teach_the_flow_nothing(term: TermConfig, seed: int) -> None:
    """Not of census, whose patches show anything. Red when: 255 is a class, or a difference reaches into an
    ignored region."""
    prediction, batch = make(seed)
    batch = replace(batch, valid=torch.zeros_like(batch.valid))  # No flow loss: the term alone.
    _, gradients = learn(prediction, batch, term)
    assert batch.labels1 is not None
    ignored = (batch.labels1 == 255)[:, None].expand(-1, 2, -1, -1)
    assert all(not gradient[ignored].any() for gradient in gradients[:UPDATES])


@each_term(lambda term: term.where in ("all", "things", "static", "unsupervised"))
@given(seed=seeds)
@examples
def test_classes_may_change_names(term: TermConfig, seed: int) -> None:
    """Within planes and within things. Red when: the number of a class is a quantity somewhere."""
    prediction, batch = make(seed)
    names = torch.arange(256)
    for group in (PLANAR, THINGS):
        names[torch.tensor(group)] = torch.tensor(group).roll(1)
    assert batch.labels1 is not None
    assert batch.labels2 is not None
    renamed = replace(batch, labels1=names[batch.labels1], labels2=names[batch.labels2])
    result, expected = learn(prediction, batch, term)
    heads = {
        name: getattr(prediction, name)[:, names[:CLASSES].argsort()]
        for name in ("segmentation1", "segmentation2")
    }
    other, found = learn(replace(prediction, **heads), renamed, term)
    torch.testing.assert_close(value(other, term), value(result, term), rtol=1e-5, atol=1e-7)
    assert_same(found[:UPDATES], expected[:UPDATES], 1e-4)


def changed(whole: Whole, change: Callable[[str, Tensor], Tensor]) -> Whole:
    """With every tensor of it changed by its field's name; what needed a gradient is a leaf that does."""

    def part(name: str, value: object) -> object:
        if isinstance(value, list):
            return [part(name, entry) for entry in value]
        if isinstance(value, Prediction):
            return changed(value, change)
        if isinstance(value, Viewed):
            return value._replace(flows=part("flows", value.flows))
        if not isinstance(value, Tensor):
            return value
        return change(name, value.detach()).requires_grad_(value.requires_grad)

    return replace(
        whole,
        **{field.name: part(field.name, getattr(whole, field.name)) for field in fields(whole) if field.init},
    )


def mirror(name: str, tensor: Tensor, axis: int) -> Tensor:
    """A field seen in a mirror: flow's component across it turns around."""
    turn = torch.ones(1, 2, 1, 1)
    turn[:, 0 if axis == -1 else 1] = -1
    return tensor.flip(axis) * turn if "flow" in name else tensor.flip(axis)


@each_term(
    lambda term: (
        not (
            term.name in ("matching", "transform-consistency")
            or term.mask in ("forward-backward", "predicted")
            or term.where == "unsupervised"
        )
    )
)
@pytest.mark.parametrize("axis", [-1, -2])
@given(seed=seeds)
@examples
def test_a_mirrored_scene_has_the_mirrored_gradient(term: TermConfig, axis: int, seed: int) -> None:
    """Red when: a shift goes one way only. Away from the image's edge, where first differences are backward
    ones by definition; not of `matching`, whose cells have their centre right below the middle, nor where one
    view of both is not one view of the mirrored scene."""
    prediction, batch = make(seed)
    assert batch.labels1 is not None
    ring = torch.ones_like(batch.valid)
    ring[:, 3:-3, 3:-3] = False
    labels1 = batch.labels1.masked_fill(ring, 255)
    # Whether p or its neighbour is trusted must not matter either.
    batch = replace(batch, labels1=labels1, labels2=labels1, valid=~ring, occluded1=torch.zeros_like(ring))
    _, expected = learn(prediction, batch, term)
    mirrored = partial(mirror, axis=axis)
    _, found = learn(changed(prediction, mirrored), changed(batch, mirrored), term)
    for one, other in zip(found[:UPDATES], expected[:UPDATES], strict=True):
        apart = (mirrored("flow", one) - other).abs() > 1e-3 * other.abs().max()
        # |x| has a kink: a residual that is 0 but for rounding may have either sign, at a pixel in thousands.
        assert apart.float().mean() < 1e-3


@every_term
@given(seed=seeds)
@examples
def test_samples_may_change_places(term: TermConfig, seed: int) -> None:
    """Red when: a sample's labels, segments or fits reach another's."""
    prediction, batch = make(seed)
    result, expected = learn(prediction, batch, term)
    other, found = learn(
        *(changed(whole, lambda _, tensor: tensor.flip(0)) for whole in (prediction, batch)), term
    )
    torch.testing.assert_close(value(other, term), value(result, term), rtol=1e-5, atol=1e-7)
    assert_same([gradient.flip(0) for gradient in found], expected, 1e-4)


@every_term
@given(seed=seeds)
@examples
def test_arithmetic_is_float32_under_autocast(term: TermConfig, seed: int) -> None:
    """Red when: a product or a solve runs in half precision because the network does."""
    prediction, batch = make(seed)
    rounded = changed(prediction, lambda _, tensor: tensor.bfloat16())
    half = replace(rounded, backward_flow=prediction.backward_flow)
    full = changed(half, lambda _, tensor: tensor.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = objective(half, batch, LossConfig(terms=(term,)))
    expected = objective(full, batch, LossConfig(terms=(term,)))
    assert value(found, term).dtype == torch.float32
    assert torch.equal(value(found, term), value(expected, term))
    assert found.total.dtype == torch.float32


@every_term
def test_terms_that_need_no_truth_teach_without_it(term: TermConfig) -> None:
    """Pairs with labels and no flow truth. Red when: V masks a term that has no use for it."""
    prediction, batch = make(3)
    batch = replace(batch, valid=torch.zeros_like(batch.valid), flow=torch.zeros_like(batch.flow))
    result, gradients = learn(prediction, batch, term)
    assert all(tensor.isfinite().all() for tensor in (result.total, *gradients))
    taught = any(gradient.any() for gradient in gradients)
    assert taught == (term.name not in NEED_TRUTH)
    assert bool((value(result, term) > 0).all()) == (term.name not in NEED_TRUTH)
