"""Needs of terms, pixels that they act on, and refusals before the first step."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import label as connected

from semraft import losses
from semraft.config import LossConfig, TermConfig, parse_term
from semraft.data.taxonomy import CLASSES
from semraft.losses.auxiliary_term import COMMON_OPTIONS, DECODED, PASSES, own_options, term_inputs
from semraft.losses.masks import occluded_pixels, region
from semraft.losses.objective import check_terms, needed_passes, objective
from semraft.losses.terms import TERMS, needed_fields, needed_heads, taught_heads
from semraft.ops.classes import PLANAR, RIGID, THINGS
from semraft.ops.labels import largest_segments, present, segment_ids
from semraft.sample import OPTIONAL_FIELDS, FlowBatch, Prediction

EVERYTHING = frozenset(OPTIONAL_FIELDS)
HEADS = frozenset({"occlusion", "segmentation1", "segmentation2"})


def test_groups_of_classes() -> None:
    names = {entry.id: entry.name for entry in CLASSES}
    assert [names[c] for c in THINGS] == ["person", "two_wheeler", "car", "large_vehicle"]
    assert [names[c] for c in PLANAR] == ["road", "sidewalk", "terrain", "building", "barrier"]
    assert {names[c] for c in set(names) - {*PLANAR, *RIGID}} == {"vegetation", "sky"}


def test_regions() -> None:
    """Red when: ignored pixels are static, or a list of classes is read as letters."""
    labels = torch.tensor([[[0, 6, 7], [8, 10, 255]]])
    trusted = torch.tensor([[[True, False, False], [True, True, False]]])
    expected = {
        "all": [[1, 1, 1], [1, 1, 1]],
        "unsupervised": [[0, 1, 1], [0, 0, 1]],
        "things": [[0, 0, 0], [1, 1, 0]],
        "static": [[1, 1, 1], [0, 0, 0]],
        "car": [[0, 0, 0], [0, 1, 0]],
        "car+vegetation": [[0, 1, 0], [0, 1, 0]],
    }
    for where, pixels in expected.items():
        assert region(where, labels, trusted)[0].int().tolist() == pixels
    assert region("unsupervised", None, trusted)[0].int().tolist() == expected["unsupervised"]
    with pytest.raises(ValueError, match=r"no class is called cars: choose from road, .*large_vehicle"):
        region("cars", labels, trusted)


def test_segment_ids_and_present_classes() -> None:
    """Red when: an instance of stuff or of an ignored pixel counts, or two classes share an id."""
    labels = torch.tensor([[[0, 0, 10], [10, 8, 255]], [[3, 255, 10], [10, 10, 10]]])
    instances = torch.tensor([[[0, 5, 1], [2, 1, 1]], [[1, 2, 2], [1, 1, 0]]])
    ids = segment_ids(labels, instances)
    assert ids.tolist() == [[[0, 0, 266], [522, 264, 255]], [[3, 255, 522], [266, 266, 10]]]
    found, places = present(ids)
    assert found.tolist() == [0, 3, 10, 264, 266, 522]
    known = ids != 255
    assert torch.equal(found[places][known], ids[known])


def test_largest_segments(rng: np.random.Generator) -> None:
    """Red when: parts that touch at a corner are one, the order is not by size, or 255 is a segment."""
    ids = np.full((9, 14), 255)
    ids[0:3, 0:4], ids[3:5, 4:8], ids[6:9, 0:14], ids[0:2, 10:12] = 7, 7, 522, 7
    numbers, values = largest_segments(ids, min_pixels=5, max_segments=9)
    assert values.tolist() == [522, 7, 7]
    assert [(numbers == n).sum() for n in range(3)] == [42, 12, 8]
    assert (numbers == -1).sum() == 9 * 14 - 42 - 12 - 8
    maze = rng.choice([0, 7, 255], (40, 60))  # Arms that meet below, from either side.
    numbers, values = largest_segments(maze, min_pixels=1, max_segments=maze.size)
    assert (numbers == -1).tolist() == (maze == 255).tolist()
    found = 0
    for value in (0, 7):
        parts, count = connected(maze == value)
        for part in range(1, count + 1):
            assert len(set(numbers[parts == part])) == 1
        found += count
    assert len(values) == found == numbers.max() + 1
    numbers, values = largest_segments(ids, min_pixels=1, max_segments=1)
    assert (values.tolist(), (numbers == 0).sum()) == ([522], 42)


def test_needs_follow_the_options() -> None:
    """Red when: an option's need is found at step 4000."""
    needs = {
        "smoothness:1": (("labels1",), ()),
        "smoothness:1,boundary=instance": (("labels1", "instances1"), ()),
        "signed-distance:1,boundary=instance": (
            ("labels1", "labels2", "instances1", "instances2", "occluded1"),
            (),
        ),
        "label-warp:1,mask=forward-backward": (("labels1", "labels2"), ("backward_flow",)),
        "label-warp:1,mask=none": (("labels1", "labels2"), ()),
        "census:1,mask=none": ((), ()),
        "census:1,mask=predicted,where=things": (("labels1",), ("occlusion",)),
        "census:1,mask=none,where=unsupervised": ((), ()),
        "occlusion:1": (("occluded1",), ("occlusion",)),
        "occlusion:1,mask=forward-backward": ((), ("occlusion", "backward_flow")),
        "temporal-consistency:1": (("occluded1",), DECODED),
        "signed-distance:1,where=things,labels=decoder": (("occluded1",), DECODED),
        "smoothness:1,labels=decoder,mask=same-label": ((), DECODED),
        "census:1,where=car,labels=decoder,mask=forward-backward": ((), ("backward_flow", *DECODED)),
        "zero-forcing:1": ((), ("still",)),
        "transform-consistency:1": ((), ("viewed",)),
        "transform-consistency:1,where=things,mask=exact": (("labels1", "occluded1"), ("viewed",)),
    }
    for text, (fields, heads) in needs.items():
        chosen = parse_term(text)
        assert needed_fields(chosen) == fields
        assert needed_heads(chosen) == heads
        config = LossConfig(terms=(chosen,))
        check_terms(config, {"some": EVERYTHING}, HEADS)
        assert needed_passes(config) == PASSES.intersection(heads)
        for field in fields:
            with pytest.raises(ValueError, match=f"needs {field}, which data set 'some' does not have"):
                check_terms(config, {"some": EVERYTHING - {field}}, HEADS)
        for head in set(heads) - PASSES:
            with pytest.raises(ValueError, match=f"needs {head}, which the network does not give"):
                check_terms(config, {"some": EVERYTHING}, HEADS - {head})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("label-warp:1,order=1", "'label-warp' has no option order; it has where, mask, labels, boundary"),
        ("smoothness:1,sort=3", "'smoothness' has no option sort; it has .*boundary, order, penalty"),
        ("smoothness:1,order=3", "'smoothness': order is '3': choose from 1, 2"),
        ("label-distance:1,radius-px=far", "'label-distance': radius-px is 'far': expected a whole number"),
        ("boundary-weight:1,gain=high", "'boundary-weight': gain is 'high': expected a number"),
        ("matching:1,where=things", "'matching' has no option where; it has none of its own"),
        ("census:1,where=cars", "no class is called cars"),
        ("occlusion:1,mask=predicted", "can't learn from mask=predicted"),
        ("smoothness:1,labels=decoder,boundary=instance", "labels=decoder has no instances"),
        ("segmentation:1,labels=decoder", "'segmentation' has no option labels"),
        ("zero-forcing:1,where=things", "'zero-forcing' has no option where; it has none of its own"),
    ],
)
def test_options_that_make_no_sense_are_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        check_terms(LossConfig(terms=(parse_term(text),)), {"some": EVERYTHING}, HEADS)


def test_occluded_pixels_can_be_left_out_of_the_flow_loss() -> None:
    """By hand: the mean is over what is valid and visible, a wrong flow elsewhere costs nothing.

    Red when: occluded pixels count in the divisor, visible ones that are not valid are learnt, or data that
    do not say what is occluded are found out at the first step.
    """
    truth = torch.zeros(2, 2, 8, 9)
    valid, occluded = torch.ones(2, 8, 9, dtype=torch.bool), torch.zeros(2, 8, 9, dtype=torch.bool)
    valid[0, :, :2], occluded[0, :4], occluded[1, :, 3:] = False, True, True
    flow = torch.full_like(truth, 50.0)
    flow[0, 0, 4:, 2:], flow[0, 1, 4:, 2:] = 1.0, 2.0  # 28 pixels, an error of 3.
    flow[1, :, :, :3] = 0.25  # 24 pixels, an error of 0.5.
    flow.requires_grad_()
    image = torch.zeros(2, 3, 8, 9)
    batch = FlowBatch(ids=("a", "b"), image1=image, image2=image, flow=truth, valid=valid, occluded1=occluded)
    config = LossConfig(occluded="leave-out")
    prediction = Prediction(flows=[flow], features1=truth, features2=truth)
    found = objective(prediction, batch, config)
    assert found.total.item() == pytest.approx((28 * 3 + 24 * 0.5) / 52)
    (gradient,) = torch.autograd.grad(found.total, flow)
    assert torch.equal(gradient.abs().sum(dim=1) > 0, valid & ~occluded)
    kept = objective(prediction, batch, LossConfig())
    assert kept.total.item() > 10
    check_terms(config, {"world": EVERYTHING})
    with pytest.raises(ValueError, match=r"leave-out needs occluded1, which data set 'kitti' does not have"):
        check_terms(config, {"world": EVERYTHING, "kitti": EVERYTHING - {"occluded1"}})


def test_masks_by_name() -> None:
    """Red when: what left the frame is visible, or a name means another mask."""
    flow = torch.zeros(2, 2, 6, 9)
    flow[:, 0, :, 8] = 3
    labels = torch.zeros(2, 6, 9, dtype=torch.int64)
    exact = torch.rand(2, 6, 9) > 0.5
    prediction = Prediction(
        flows=[flow + 100, flow],
        features1=flow,
        features2=flow,
        occlusion=torch.where(exact, -1.0, 1.0),
        backward_flow=torch.zeros_like(flow),
    )
    batch = FlowBatch(
        ids=("a", "b"),
        image1=flow.repeat(1, 2, 1, 1)[:, :3],
        image2=flow.repeat(1, 2, 1, 1)[:, :3],
        flow=flow,
        valid=exact,
        labels1=labels,
        labels2=(~exact).long(),
        occluded1=exact,
    )
    left = torch.zeros_like(exact)
    left[:, :, 8] = True
    expected = {"exact": exact, "predicted": ~exact, "same-label": ~exact, "forward-backward": left}
    for name, hidden in expected.items():
        found = occluded_pixels(name, prediction, batch)
        assert found is not None
        assert torch.equal(found, hidden)
    assert occluded_pixels("none", prediction, batch) is None
    chosen = TermConfig(name="label-warp")
    assert torch.equal(term_inputs(TERMS["label-warp"], chosen, prediction, batch, exact).acting, ~exact)
    trustless = TermConfig(name="census", where="unsupervised", mask="forward-backward")
    inputs = term_inputs(TERMS["census"], trustless, prediction, batch, exact)
    assert torch.equal(inputs.acting, ~exact & ~left)


def test_defaults_of_the_command_line_are_those_of_the_functions() -> None:
    """Red when: `label-distance:1` and `losses.label_distance(...)` are two things."""
    for name, term in TERMS.items():
        function = getattr(losses, name.replace("-", "_"), None)
        if function is None:  # semantic-v1 has no options.
            continue
        parameters = inspect.signature(function).parameters
        for option, own in own_options(term).items():
            renamed = {"fit_gradient": "gradient"}.get(option, option)
            assert parameters[renamed].default == own.default, (name, option)


def test_every_option_belongs_to_a_term() -> None:
    """Red when: a field of TermConfig is read by no term, or an own option hides one of every term."""
    places = {option for term in TERMS.values() for option in term.place}
    fields = set(TermConfig.__dataclass_fields__)
    assert places == fields - COMMON_OPTIONS
    assert not {option for term in TERMS.values() for option in own_options(term)} & fields


@pytest.mark.parametrize("name", ["label-warp", "signed-distance", "smoothness", "census"])
def test_labels_of_the_decoder_take_the_place_of_the_data_s(name: str) -> None:
    """Red when: region, segments or mask go by the data's labels, or the decoder learns from the term."""
    torch.manual_seed(0)
    truth, seen = torch.randint(0, 12, (2, 2, 24, 40)), torch.randint(8, 12, (2, 2, 24, 40))
    flow = torch.randn(2, 2, 24, 40, requires_grad=True)
    logits = [8.0 * torch.nn.functional.one_hot(frame, 12).movedim(-1, 1).float() for frame in seen]
    for frame in logits:
        frame.requires_grad_()
    images = torch.rand(2, 2, 3, 24, 40) * 255
    prediction = Prediction(
        flows=[flow], features1=flow, features2=flow, segmentation1=logits[0], segmentation2=logits[1]
    )
    batch = FlowBatch(
        ids=("a", "b"),
        image1=images[0],
        image2=images[1],
        flow=torch.zeros_like(flow),
        valid=torch.ones(2, 24, 40, dtype=torch.bool),
    )
    scalar = TERMS[name].scalar
    plain, decoder = (
        LossConfig(terms=(parse_term(f"{name}:1,where=car+person,mask=same-label{more}"),))
        for more in ("", ",labels=decoder")
    )
    of_seen = objective(prediction, replace(batch, labels1=seen[0], labels2=seen[1]), plain)
    of_truth = objective(prediction, replace(batch, labels1=truth[0], labels2=truth[1]), plain)
    of_decoder = objective(prediction, replace(batch, labels1=truth[0], labels2=truth[1]), decoder)
    unlabelled = objective(prediction, batch, decoder)
    assert torch.equal(of_decoder.values[scalar], of_seen.values[scalar])
    assert torch.equal(of_decoder.values[scalar], unlabelled.values[scalar])
    assert not torch.allclose(of_decoder.values[scalar], of_truth.values[scalar])
    of_decoder.total.backward()
    assert flow.grad is not None
    assert all(frame.grad is None for frame in logits)


def test_a_head_is_taught_by_what_has_a_gradient_to_it() -> None:
    """Red when: a decoder that only lends its labels, or its classes to the flow, counts as learning."""
    assert taught_heads(parse_term("segmentation:1")) == DECODED
    assert taught_heads(parse_term("temporal-consistency:1")) == DECODED
    assert taught_heads(parse_term("temporal-consistency:1,gradient=flow")) == ()
    assert taught_heads(parse_term("signed-distance:1,labels=decoder")) == ()
