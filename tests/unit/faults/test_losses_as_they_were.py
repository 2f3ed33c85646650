"""The original study's masks and means, each an alteration, against loops written from its code."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from semraft.config import LossConfig, parse_term
from semraft.faults.as_it_was import objective_as_it_was
from semraft.losses import sequence_loss
from semraft.losses.objective import check_terms, objective
from semraft.sample import OPTIONAL_FIELDS, FlowBatch, Prediction

BATCH, HEIGHT, WIDTH, UPDATES, GAMMA = 3, 9, 14, 2, 0.85


@pytest.fixture
def batch(rng: np.random.Generator) -> FlowBatch:
    """Every mask different in every sample, so that none can stand in for another."""
    flow = rng.normal(0, 3, (BATCH, 2, HEIGHT, WIDTH)).astype(np.float32)
    flow[0, :, 2, 3] = 300  # 424 px long: not trusted although valid.
    shape = (BATCH, HEIGHT, WIDTH)
    return FlowBatch(
        ids=("a", "b", "c"),
        image1=torch.zeros(BATCH, 3, HEIGHT, WIDTH),
        image2=torch.zeros(BATCH, 3, HEIGHT, WIDTH),
        flow=torch.from_numpy(flow),
        valid=torch.from_numpy(rng.random(shape) > np.array([0.1, 0.4, 0.7])[:, None, None]),
        labels1=torch.from_numpy(rng.choice([0, 4, 255], shape)),
        labels2=torch.from_numpy(rng.choice([0, 4, 255], shape)),
        occluded1=torch.from_numpy(rng.random(shape) > 0.7),
    )


@pytest.fixture
def flows(rng: np.random.Generator) -> list[Tensor]:
    shape = (BATCH, 2, HEIGHT, WIDTH)
    return [torch.from_numpy(rng.normal(0, 3, shape).astype(np.float32)) for _ in range(UPDATES)]


def trusted(batch: FlowBatch, b: int, y: int, x: int) -> bool:
    return bool(batch.valid[b, y, x]) and np.hypot(*batch.flow[b, :, y, x].tolist()) < 400


def repaired_by_loops(flows: list[Tensor], batch: FlowBatch) -> float:
    """sum(valid[:, None] * |F_t - F|.sum(1)) / sum(valid): B 1 H W times B H W is B B H W."""
    total = 0.0
    for t, flow in enumerate(flows):
        summed, count = 0.0, 0
        for y in range(HEIGHT):
            for x in range(WIDTH):
                for mask in range(BATCH):
                    if not trusted(batch, mask, y, x):
                        continue
                    count += 1
                    for b in range(BATCH):
                        target = batch.flow[b, :, y, x] if trusted(batch, b, y, x) else torch.zeros(2)
                        summed += float((flow[b, :, y, x] - target).abs().sum())
        total += GAMMA ** (len(flows) - 1 - t) * summed / count
    return total


def v1_by_loops(flows: list[Tensor], batch: FlowBatch, mean: str, masked_by: str, mask: str) -> float:
    """V1 under the hidden pixels of its own sample, or of every sample in turn."""
    assert batch.labels1 is not None
    assert batch.labels2 is not None
    assert batch.occluded1 is not None
    labels = batch.labels1
    hidden = {
        "same-label": labels != batch.labels2,
        "exact": batch.occluded1,
        "none": torch.zeros_like(batch.valid),
    }[mask]
    # The other sample's ignored pixels are hidden by its own same-label mask.
    hidden = hidden | ((labels == 255) & (mask == "same-label"))
    total = 0.0
    for t, flow in enumerate(flows):
        summed, count, everything = 0.0, 0, 0
        for b in range(BATCH):
            for other in range(BATCH) if masked_by == "broadcast" else (b,):
                for y in range(1, HEIGHT):
                    for x in range(1, WIDTH):
                        everything += 1
                        here = labels[b, y, x]
                        if hidden[other, y, x] or not trusted(batch, b, y, x) or here == 255:
                            continue
                        count += 1
                        for dy, dx in ((0, 1), (1, 0)):
                            if labels[b, y - dy, x - dx] == here:
                                step = flow[b, :, y, x] - flow[b, :, y - dy, x - dx]
                                summed += float(step.abs().sum())
        total += GAMMA ** (len(flows) - 1 - t) * summed / (count if mean == "mask" else everything)
    return total


def total_of(flows: list[Tensor], batch: FlowBatch, term: str, *altered: str) -> float:
    """The term's part of an objective."""
    prediction = Prediction(flows=flows, features1=flows[0], features2=flows[0])
    config = LossConfig(gamma=GAMMA, terms=(parse_term(term),))
    check_terms(config, {"some": frozenset(OPTIONAL_FIELDS)})
    weights = {chosen.name: chosen.weight for chosen in config.terms}
    without = objective(prediction, batch, replace(config, terms=())).total
    return float(objective_as_it_was(frozenset(altered), prediction, batch, config, weights).total - without)


def repaired(flows: list[Tensor], batch: FlowBatch) -> float:
    prediction = Prediction(flows=flows, features1=flows[0], features2=flows[0])
    config, altered = LossConfig(gamma=GAMMA), frozenset({"broadcast-flow-mask"})
    return float(objective_as_it_was(altered, prediction, batch, config, {}).total)


def test_the_repaired_flow_loss_by_loops(flows: list[Tensor], batch: FlowBatch) -> None:
    """Red when: a sample is masked by its own mask alone, or the sum is divided by pairs of samples."""
    assert repaired(flows, batch) == pytest.approx(repaired_by_loops(flows, batch), rel=1e-6)


def test_the_repaired_flow_loss_grows_with_the_batch(flows: list[Tensor], batch: FlowBatch) -> None:
    """Facts of the original study, finding 4: "grew more than expected". Red when: it does not."""
    still = replace(batch, valid=torch.ones_like(batch.valid), flow=torch.zeros_like(batch.flow))
    right = sequence_loss(flows, still.flow, still.valid, GAMMA)
    assert repaired(flows, still) == pytest.approx(BATCH * float(right))


@pytest.mark.parametrize("mask", ["same-label", "exact", "none"])
@pytest.mark.parametrize("masked_by", ["own", "broadcast"])
@pytest.mark.parametrize("mean", ["mask", "all"])
def test_v1_by_loops(flows: list[Tensor], batch: FlowBatch, mean: str, masked_by: str, mask: str) -> None:
    """Red when: validity is broadcast too, no mask has an axis less, or an alteration is not read."""
    altered = ["v1-mean-all"] * (mean == "all") + ["v1-broadcast-mask"] * (masked_by == "broadcast")
    found = total_of(flows, batch, f"semantic-v1:1,mask={mask}", *altered)
    assert found == pytest.approx(v1_by_loops(flows, batch, mean, masked_by, mask), rel=1e-5)


def test_an_alteration_changes_its_own_loss_alone(flows: list[Tensor], batch: FlowBatch) -> None:
    """Red when: an alteration of resizing reaches the losses, V1's own reaches the flow loss, or a weight of
    0 counts."""
    plain = total_of(flows, batch, "semantic-v1:1", "as-zero", "fixed-draws")
    assert plain == pytest.approx(v1_by_loops(flows, batch, "mask", "own", "same-label"), rel=1e-5)
    assert total_of(flows, batch, "semantic-v1:0", "v1-mean-all") == 0
    prediction = Prediction(flows=flows, features1=flows[0], features2=flows[0])
    config = LossConfig(gamma=GAMMA, terms=(parse_term("semantic-v1:2"),))
    weights = {"semantic-v1": 2.0}
    found = objective_as_it_was(frozenset({"v1-mean-all"}), prediction, batch, config, weights)
    sound = objective(prediction, batch, config, weights)
    assert torch.equal(found.values["flow_loss"], sound.values["flow_loss"])
    assert not torch.equal(found.values["semantic_loss"], sound.values["semantic_loss"])


@pytest.mark.parametrize(
    "altered", [("v1-mean-all",), ("v1-broadcast-mask",), ("v1-mean-all", "v1-broadcast-mask")]
)
def test_a_batch_without_truth_is_zero_under_every_alteration(
    flows: list[Tensor], batch: FlowBatch, altered: tuple[str, ...]
) -> None:
    """The original's sum / sum(mask) would be NaN here. Red when: an alteration divides by nothing."""
    nothing = replace(batch, valid=torch.zeros_like(batch.valid))
    assert total_of(flows, nothing, "semantic-v1:1", *altered) == 0
    assert repaired(flows, nothing) == 0


@pytest.mark.parametrize("option", ["mean=all", "masked-by=broadcast"])
def test_no_term_has_such_an_option(option: str) -> None:
    config = LossConfig(terms=(parse_term(f"semantic-v1:1,{option}"),))
    with pytest.raises(ValueError, match=f"'semantic-v1' has no option {option.partition('=')[0]}; it has"):
        check_terms(config, {"some": frozenset(OPTIONAL_FIELDS)})


def test_v1_needs_what_its_mask_reads() -> None:
    """Red when: V1 with mask=exact is refused for lack of frame 2's labels, or taken without occlusion."""
    exact = LossConfig(terms=(parse_term("semantic-v1:5,mask=exact"),))
    check_terms(exact, {"some": frozenset({"labels1", "occluded1"})})
    with pytest.raises(ValueError, match="needs occluded1, which data set 'viper' does not have"):
        check_terms(exact, {"viper": frozenset({"labels1", "labels2"})})
