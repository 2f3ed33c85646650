"""semraft.monitor.step_stats: what a step tells of itself, against numbers worked out by hand."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from semraft.config import DataConfig, LossConfig, OptimConfig, RunConfig
from semraft.data import open_dataset
from semraft.data.loader import collate, training_sample
from semraft.losses.objective import Objective
from semraft.monitor.step_stats import (
    batch_statistics,
    flow_statistics,
    line_every,
    line_of,
    update_statistics,
)
from semraft.sample import FlowBatch, Prediction
from tests.helpers import REAL_DATA, needs_real_data, result_of

CONFIG = RunConfig(loss=LossConfig(max_flow_px=50.0), optim=OptimConfig(steps=100, clip_norm=2.0))


def textured(shift: int) -> Tensor:
    """A picture with its content `shift` pixels further right, of which no part is like another."""
    noise = torch.rand(80, 160, generator=torch.Generator().manual_seed(1))
    smooth = nn.functional.avg_pool2d(noise[None], 5, 1, 2)[0]
    return 255 * smooth[:64, 40 - shift : 136 - shift].expand(3, 64, 96)


def moved(count: int, **parts: Tensor) -> FlowBatch:
    """Samples whose pictures moved by 10 pixels to the right."""
    flow = torch.tensor([10.0, 0.0])[None, :, None, None].expand(count, 2, 64, 96)
    frames = (textured(shift).expand(count, 3, 64, 96) for shift in (0, 10))
    valid = torch.ones(count, 64, 96, dtype=torch.bool)
    given = dict(zip(("image1", "image2"), frames, strict=True)) | {"flow": flow, "valid": valid} | parts
    return FlowBatch(ids=tuple(str(number) for number in range(count)), **given)


def test_samples_that_fit_better_otherwise_are_counted() -> None:
    """As given, swapped, too short, swapped where hardly a point has truth, swapped where all is hidden, and
    swapped in somewhat more than a half: by chance one reading is often a little better than the other.

    Red when: counts are mixed up, a few points decide, hidden pixels do, or any advantage is enough.
    """
    sound = moved(6)
    flow, valid = sound.flow.clone(), sound.valid.clone()
    flow[[1, 3, 4]] = flow[[1, 3, 4]].flip(1)
    flow[2] *= 0.8
    flow[5, :, :, 34:] = flow[5, :, :, 34:].flip(0)
    valid[3] = False
    valid[3, :16, 40:56] = True
    hidden = torch.zeros_like(valid)
    hidden[4] = True
    found = batch_statistics(replace(sound, flow=flow, valid=valid, occluded1=hidden), CONFIG)
    assert {name: float(value) for name, value in found.items() if name.endswith("_samples")} == {
        "seen_samples": 6,
        "swapped_samples": 1,
        "scaled_samples": 1,
        "false_still_samples": 0,
    }
    assert float(found["trusted_frac"]) == pytest.approx((5 + 16 * 16 / (64 * 96)) / 6)
    assert "between_classes_frac" not in found


@needs_real_data
def test_real_pictures_are_read_as_they_are() -> None:
    """Crops of a KITTI pair as a training of the study sees them, sparse truth and uneven colours included.

    Red when: a threshold that the world's pictures allow is none for real ones, either way.
    """
    config = RunConfig(data=DataConfig(crop=(288, 960)))
    kitti = open_dataset("kitti", REAL_DATA / "kitti2015", "train", config.data.world)
    crops = [training_sample(number, 0, [kitti], [1.0], config.data).sample for number in range(12)]
    batch = collate(crops)
    batch = replace(batch, image1=batch.image1.float(), image2=batch.image2.float())

    def found(**changed: Tensor) -> dict[str, Tensor]:
        return batch_statistics(replace(batch, **changed), config)

    sound = found()
    assert (sound["seen_samples"], sound["swapped_samples"], sound["scaled_samples"]) == (12, 0, 0)
    assert sound["false_still_samples"] == 0
    assert found(flow=batch.flow.flip(1))["swapped_samples"] >= 10
    assert found(flow=1.3 * batch.flow)["scaled_samples"] >= 10
    assert found(valid=torch.ones_like(batch.valid))["false_still_samples"] >= 8


def standing(noise: float, exposure: float, seed: int = 0, count: int = 6) -> FlowBatch:
    """A standing camera, before which the middle moves by 10 pixels; frame 2 is exposed anew."""
    generator = torch.Generator().manual_seed(seed)
    still, moving = textured(0), moved(1)
    middle = torch.zeros(64, 96, dtype=torch.bool)
    middle[16:48, 24:72] = True
    image1 = torch.where(middle, moving.image1, still).expand(count, 3, 64, 96)
    image2 = torch.where(middle, moving.image2, still).expand(count, 3, 64, 96) * exposure

    def shot(image: Tensor) -> Tensor:
        return (image + noise * torch.randn(image.shape, generator=generator)).round().clamp(0, 255)

    return moved(
        count,
        image1=shot(image1),
        image2=shot(image2),
        flow=torch.where(middle, moving.flow, 0).expand(count, 2, 64, 96),
        labels1=torch.tensor([1] * 11 + [3] + [5] * 84).expand(count, 64, 96),
    )


@pytest.mark.parametrize(("noise", "exposure"), [(0, 1.0), (3, 0.8), (15, 1.2)])
def test_a_standing_camera_is_no_fault(noise: float, exposure: float) -> None:
    """Pixels that stand still differ by noise and exposure as much as those that move along their flow.

    Red when: any difference of still pixels counts, as it did, or pixels without truth, which are somewhere
    else in frame 2, are not seen because still ones may differ.
    """
    batch = standing(noise, exposure)
    found = batch_statistics(batch, CONFIG)
    assert (found["seen_samples"], found["false_still_samples"], found["trusted_frac"]) == (6, 0, 1)
    assert float(found["between_classes_frac"]) == pytest.approx(1 / 3)
    # Everything moves, and the truth of all but the middle is missing: zeros.
    spoiled = moved(6, flow=batch.flow)
    assert batch_statistics(spoiled, CONFIG)["false_still_samples"] == 6
    hidden = replace(spoiled, occluded1=(batch.flow == 0).all(dim=1))
    assert batch_statistics(hidden, CONFIG)["false_still_samples"] == 0
    assert (
        batch_statistics(replace(batch, flow=torch.zeros_like(batch.flow)), CONFIG)["false_still_samples"]
        == 0
    )


def flowing(flow: tuple[float, float]) -> Tensor:
    """The same flow everywhere, of two samples of six pixels."""
    return torch.tensor(flow)[None, :, None, None].expand(2, 2, 2, 3).clone()


def test_errors_lengths_and_losses() -> None:
    """12 pixels, of which one has no truth and one moves too far; one is predicted as it is.

    Red when: refinements, lengths or kinds of distance are mixed up, or what has no truth counts.
    """
    truth, last = flowing((3.0, 4.0)), flowing((6.0, 0.0))
    valid = torch.ones(2, 2, 3, dtype=torch.bool)
    truth[0, :, 0, 0], valid[0, 0, 0] = math.nan, False
    truth[1, :, 1, 2] = 60.0
    last[0, :, 1, 1] = truth[0, :, 1, 1]
    batch = FlowBatch(
        ids=("a", "b"),
        image1=torch.zeros(2, 3, 2, 3),
        image2=torch.zeros(2, 3, 2, 3),
        flow=truth,
        valid=valid,
    )
    features = torch.zeros(2, 5, 1, 2)
    prediction = Prediction(flows=[flowing((9.0, 12.0)), last], features1=features, features2=features)
    values = {"flow_loss": torch.tensor([3.0, 2.0]), "matching_loss": torch.tensor([0.5, 0.25])}
    losses = Objective(total=torch.tensor(9.0), values=values)
    result = result_of(prediction=prediction, losses=losses, weights={"matching": 0.3})
    found = flow_statistics(result, batch, CONFIG)
    expected = {
        "first_epe_px": 10.0,
        "epe_px": 5 * 0.9,
        "length_px": 6 * 0.9 + 5 * 0.1,
        "true_length_px": 5.0,
        "l1_px": 7 * 0.9,
        "total_loss": 9.0,
        "flow_loss": 2.0,
        "value_matching": 0.25,
        "weight_matching": 0.3,
    }
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected)
    over_all = replace(CONFIG, loss=replace(CONFIG.loss, normalize="all"))
    found = flow_statistics(replace(result, weights={}), batch, over_all)
    assert float(found["l1_px"]) == pytest.approx(7 * 9 / 12)
    assert float(found["epe_px"]) == pytest.approx(4.5)


def test_what_a_step_did_with_its_gradient() -> None:
    """Red when: the rate is that of another step, the optimiser's steps are taken for the missing ones, or
    the norm after clipping is not over what it may be."""
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.BatchNorm2d(3))
    model[1].running_mean, model[2].running_mean = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0, 5.0])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2 * CONFIG.optim.rate_at(4))
    norm = torch.tensor(7.0)
    before = update_statistics(model, optimizer, norm, CONFIG, 4)
    assert float(before["optimizer_steps_missing"]) == 4
    assert "clipped_ratio_max" not in before
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    weight = model[0].weight
    assert isinstance(weight.grad, Tensor)
    weight.grad[0, 0], weight.grad[1, 2] = 3.0, 4.0
    for _ in range(2):
        optimizer.step()
    found = update_statistics(model, optimizer, norm, CONFIG, 5)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {
            "gradient_norm": 7,
            "rate_ratio": 2,
            "optimizer_steps_missing": 3,
            "clipped_ratio_max": 2.5,
            "batch_norm_sum": 15,
        }
    )
    free = replace(CONFIG, optim=replace(CONFIG.optim, clip_norm=0.0))
    assert "clipped_ratio_max" not in update_statistics(model, optimizer, norm, free, 5)


def test_a_line_of_several_steps() -> None:
    """Red when: a largest number is averaged away, counts are, or a number that steps lack counts as 0."""
    told = [
        {"a_px": 1.0, "b_max": 2.0, "c_samples": 3.0},
        {"a_px": 4.0, "b_max": 1.0, "c_samples": 4.0},
        {"a_px": 4.0, "c_samples": 0.0, "late": 5.0},
    ]
    pulses = [{name: torch.tensor(value) for name, value in pulse.items()} for pulse in told]
    assert line_of(pulses) == {"a_px": 3.0, "b_max": 2.0, "c_samples": 7.0, "late": 5.0}


def test_numbers_from_a_checkpoint_meet_those_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line half of which was before a resume. Red when: numbers of the CPU meet a GPU's."""
    met: list[str] = []

    def cat(values: list[Tensor]) -> Tensor:  # Tensors of `meta` are not the CPU's, and hold nothing.
        met.extend(value.device.type for value in values)
        return torch.full((len(values),), 3.0)

    monkeypatch.setattr(torch, "cat", cat)
    assert line_of([{"epe_px": torch.ones(())}, {"epe_px": torch.ones((), device="meta")}]) == {"epe_px": 2.0}
    assert met == ["meta"]


def test_a_run_has_a_thousand_lines_or_one_a_step() -> None:
    of = [line_every(replace(CONFIG, optim=OptimConfig(steps=steps))) for steps in (1, 1999, 2000, 100_000)]
    assert of == [1, 1, 2, 100]
