"""The original study's resize of targets and labels, each an alteration, against loops."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semraft.config import RunConfig
from semraft.data.augment import Resize, resize
from semraft.data.taxonomy import CLASSES, VIPER_CLASSES
from semraft.faults import altered_training
from semraft.faults.altered_recipes import ALTERED_RECIPES
from semraft.faults.altered_training import altered_step
from semraft.faults.as_it_was import resize_as_it_was
from semraft.sample import FlowBatch, FlowSample
from semraft.step_result import StepResult
from semraft.training.state import TrainingState
from tests.helpers import make_sample

SIZE, CROPS = (13, 19), [(24, 31), (11, 40), (9, 12)]
ZEROS, HUGE, GREYS = (
    partial(resize_as_it_was, frozenset({name})) for name in ("as-zero", "as-65504", "grey-labels")
)


def shares(crop: tuple[int, int]) -> Iterator[tuple[int, int, list[tuple[int, int, float]]]]:
    """Each pixel of the crop, and the pixels it comes from with their bilinear shares; centres at + 1/2."""
    for i in range(crop[0]):
        for j in range(crop[1]):
            y = min(max((i + 0.5) * SIZE[0] / crop[0] - 0.5, 0), SIZE[0] - 1)
            x = min(max((j + 0.5) * SIZE[1] / crop[1] - 0.5, 0), SIZE[1] - 1)
            top, left = int(y), int(x)
            corners = [
                (row, column, (1 - abs(y - row)) * (1 - abs(x - column)))
                for row in (top, top + 1)
                for column in (left, left + 1)
            ]
            yield i, j, [(row, column, share) for row, column, share in corners if share > 1e-9]


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize(("resized", "nothing_px"), [(ZEROS, 0.0), (HUGE, 65504.0)])
def test_targets_blended_with_what_is_not_known_by_loops(
    resized: Resize, nothing_px: float, crop: tuple[int, int], rng: np.random.Generator
) -> None:
    """Red when: the mask comes from the nearest pixel, a blend is left out, or NaN is multiplied."""
    sample = make_sample(rng, *SIZE)
    sample = replace(sample, flow=np.where(sample.valid[..., None], sample.flow, np.float32(np.nan)))
    result = resized(sample, crop)
    for i, j, corners in shares(crop):
        assert result.valid[i, j] == any(sample.valid[row, column] for row, column, _ in corners)
        if not result.valid[i, j]:
            assert not result.flow[i, j].any()
            continue
        mixed = np.zeros(2)
        for row, column, share in corners:
            known = sample.valid[row, column]
            mixed += share * (sample.flow[row, column].astype(float) if known else nothing_px)
        expected = mixed * [crop[1] / SIZE[1], crop[0] / SIZE[0]]
        np.testing.assert_allclose(result.flow[i, j], expected, rtol=1e-4, atol=1e-4)


def test_only_a_resize_blends_and_only_dense_truth(rng: np.random.Generator) -> None:
    """Red when: a crop at its own size loses a pixel, or KITTI's measurements are spread."""
    sample = make_sample(rng, *SIZE)
    for resized in (ZEROS, HUGE):
        same = resized(sample, SIZE)
        np.testing.assert_array_equal(same.valid, sample.valid)
        np.testing.assert_array_equal(same.flow, sample.flow)
        sparse = replace(sample, sparse=True)
        one, two = resized(sparse, (24, 31)), resize(sparse, (24, 31))
        np.testing.assert_array_equal(one.flow, two.flow)
        np.testing.assert_array_equal(one.valid, two.valid)


def test_other_alterations_blend_nothing(rng: np.random.Generator) -> None:
    """Red when: an alteration of the losses reaches the resize, or one of labels the targets."""
    sample = make_sample(rng, *SIZE)
    plain = resize(sample, (24, 31))
    other = resize_as_it_was(frozenset({"fixed-draws", "v1-mean-all"}), sample, (24, 31))
    assert same(other, plain)
    assert np.array_equal(GREYS(sample, (24, 31)).flow, plain.flow)
    assert plain.valid.mean() < ZEROS(sample, (24, 31)).valid.mean()


@pytest.mark.parametrize("crop", CROPS)
def test_labels_blended_as_greys_by_loops(crop: tuple[int, int], rng: np.random.Generator) -> None:
    """Red when: ids are blended instead of greys, a level of a class is not that class, or a new level is
    ignored, or one with another."""
    sample = make_sample(rng, *SIZE)
    grey_of = {c.id: 0.299 * c.color[0] + 0.587 * c.color[1] + 0.114 * c.color[2] for c in CLASSES}
    class_at = {round(level): number for number, level in grey_of.items()} | {0: 255}
    grey_of = {number: float(round(level)) for number, level in grey_of.items()} | {255: 0.0}
    result = GREYS(sample, crop)
    for source, found in ((sample.labels1, result.labels1), (sample.labels2, result.labels2)):
        assert source is not None
        assert found is not None
        assert found.dtype == np.uint8
        levels: dict[int, list[float]] = {}
        for i, j, corners in shares(crop):
            level = sum(share * grey_of[int(source[row, column])] for row, column, share in corners)
            levels.setdefault(int(found[i, j]), []).append(level)
            near = {class_at.get(round(level + by)) for by in (-1, 0, 1)}
            if near == {None}:
                assert 12 <= found[i, j] < 255
            if len({int(source[row, column]) for row, column, _ in corners}) == 1:
                assert found[i, j] == source[corners[0][:2]]
        assert max(max(found) - min(found) for found in levels.values()) < 2.1  # OpenCV's fixed point.
        assert len(levels) > 12


def test_which_classes_have_one_grey() -> None:
    """The effect of grey levels alone: nothing to the common classes, next to nothing to VIPER's.

    Red when: a colour or the rounding changes so that more of them collide.
    """
    by_level: dict[int, list[str]] = {}
    for entry in VIPER_CLASSES:
        by_level.setdefault(round(float(np.dot([0.299, 0.587, 0.114], entry.color))), []).append(entry.name)
    assert sorted(names for names in by_level.values() if len(names) > 1) == [
        ["building", "plane"],
        ["van", "train"],
    ]
    common = {round(float(np.dot([0.299, 0.587, 0.114], entry.color))) for entry in CLASSES}
    assert len(common) == len(CLASSES)


def same(one: FlowSample, two: FlowSample) -> bool:
    return np.array_equal(one.flow, two.flow) and np.array_equal(one.labels1, two.labels1)


def trained_on(
    config: RunConfig, run: Path, monkeypatch: pytest.MonkeyPatch, steps: int = 1
) -> list[FlowBatch]:
    """The batches of the first steps of an altered training."""
    world = replace(config.data.world, size=(72, 96), scenes=5)
    data = replace(config.data, crop=(64, 72), world=world, workers=0, validation_pairs=1)
    optim = replace(config.optim, steps=steps, batch=2)
    batches: list[FlowBatch] = []

    def kept(altered: Any, fault: Any, state: TrainingState, batch: FlowBatch, *arguments: Any) -> StepResult:
        batches.append(batch)
        return altered_step(altered, fault, state, batch, *arguments)

    monkeypatch.setattr(altered_training, "altered_step", kept)
    config = replace(config, data=data, optim=optim, num_updates=1, validation_updates=1, saved_pairs=0)
    altered_training.train(replace(config, device="cpu", precision="float32"), run)
    return batches


def test_alterations_reach_the_batches_that_are_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Order, augmentation and targets. Red when: the loader resizes as it always does, or fixed draws still
    move with the seed. Truth is missing in the world's sky."""
    config = ALTERED_RECIPES["world-as-it-was"].config
    one, two, sound, other = (
        trained_on(replace(config, seed=seed, altered=altered), tmp_path / name, monkeypatch)
        for name, seed, altered in (
            ("one", 0, config.altered),
            ("two", 42, config.altered),
            ("sound", 0, ()),
            ("other", 42, ()),
        )
    )
    assert [batch.ids for batch in one] == [batch.ids for batch in two] == [batch.ids for batch in sound]
    assert [batch.ids for batch in other] != [batch.ids for batch in sound]
    for first, second, clean in zip(one, two, sound, strict=True):
        assert torch.equal(first.image1, second.image1)
        assert torch.equal(first.flow, second.flow)
        assert torch.equal(first.image1, clean.image1)
    new = sum(int((bad.valid & ~clean.valid).sum()) for bad, clean in zip(one, sound, strict=True))
    assert new > 5
