"""The resize of the original study, applied to targets and labels, against loops."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from semraft.config import AugmentConfig, DataConfig
from semraft.config.recipes import RECIPES
from semraft.data.augment import augment, resize
from semraft.data.loader import training_batches, training_sample
from semraft.data.taxonomy import CLASSES, VIPER_CLASSES
from semraft.sample import FlowSample
from semraft.training.run_data import training_data
from tests.helpers import make_sample

SIZE, CROPS = (13, 19), [(24, 31), (11, 40), (9, 12)]
ZEROS, HUGE = AugmentConfig(invalid_targets="as-zero"), AugmentConfig(invalid_targets="as-65504")
GREYS = AugmentConfig(labels="grey-blended")


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
@pytest.mark.parametrize(("config", "nothing_px"), [(ZEROS, 0.0), (HUGE, 65504.0)])
def test_targets_blended_with_what_is_not_known_by_loops(
    config: AugmentConfig, nothing_px: float, crop: tuple[int, int], rng: np.random.Generator
) -> None:
    """Red when: the mask comes from the nearest pixel, a blend is left out, or NaN is multiplied."""
    sample = make_sample(rng, *SIZE)
    sample = replace(sample, flow=np.where(sample.valid[..., None], sample.flow, np.float32(np.nan)))
    result = resize(sample, crop, config)
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
    for config in (ZEROS, HUGE):
        same = resize(sample, SIZE, config)
        np.testing.assert_array_equal(same.valid, sample.valid)
        np.testing.assert_array_equal(same.flow, sample.flow)
        sparse = replace(sample, sparse=True)
        one, two = resize(sparse, (24, 31), config), resize(sparse, (24, 31))
        np.testing.assert_array_equal(one.flow, two.flow)
        np.testing.assert_array_equal(one.valid, two.valid)


def test_the_defaults_blend_nothing(rng: np.random.Generator) -> None:
    """Red when: a default of the configuration is one of the original's faults."""
    sample = make_sample(rng, *SIZE)
    clean, plain = resize(sample, (24, 31), AugmentConfig()), resize(sample, (24, 31))
    assert np.array_equal(clean.flow, plain.flow)
    assert np.array_equal(clean.labels1, plain.labels1)
    assert clean.valid.mean() < resize(sample, (24, 31), ZEROS).valid.mean()


@pytest.mark.parametrize("crop", CROPS)
def test_labels_blended_as_greys_by_loops(crop: tuple[int, int], rng: np.random.Generator) -> None:
    """Red when: ids are blended instead of greys, a level of a class is not that class, or a new level is
    ignored, or one with another."""
    sample = make_sample(rng, *SIZE)
    grey_of = {c.id: 0.299 * c.color[0] + 0.587 * c.color[1] + 0.114 * c.color[2] for c in CLASSES}
    class_at = {round(level): number for number, level in grey_of.items()} | {0: 255}
    grey_of = {number: float(round(level)) for number, level in grey_of.items()} | {255: 0.0}
    result = resize(sample, crop, GREYS)
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


def test_the_options_reach_the_samples_that_are_trained_on() -> None:
    """Red when: `augment` or the loader resizes as it always did. Truth is missing in the world's sky."""
    made = np.random.default_rng(3)
    sample = make_sample(made, 40, 60)
    for config in (ZEROS, HUGE, GREYS):
        results = [
            augment(sample, each, (24, 31), np.random.default_rng(1)) for each in (config, AugmentConfig())
        ]
        assert not same(*results)
    data = RECIPES["world-as-it-was"].config.data
    data = replace(data, crop=(64, 72), world=replace(data.world, size=(72, 96), scenes=4))
    datasets, weights = training_data(data)
    left_out = replace(data, augment=replace(data.augment, invalid_targets="left-out"))
    pairs = [
        [training_sample(number, 0, datasets, weights, each).sample for each in (data, left_out)]
        for number in range(6)
    ]
    assert sum(int((bad.valid & ~clean.valid).sum()) for bad, clean in pairs) > 10
    assert all(np.array_equal(bad.image1, clean.image1) for bad, clean in pairs)


def same(one: FlowSample, two: FlowSample) -> bool:
    return np.array_equal(one.flow, two.flow) and np.array_equal(one.labels1, two.labels1)


def test_fixed_draws_are_those_of_seed_0() -> None:
    """Red when: the order or the augmentation of fixed draws still moves with the seed."""
    config = RECIPES["world-as-it-was"].config
    world = replace(config.data.world, size=(72, 96), scenes=5)
    data = replace(config.data, crop=(64, 72), world=world, workers=0)
    datasets, weights = training_data(data)
    optim = replace(config.optim, steps=2, batch=2)

    def first(seed: int, draws: DataConfig) -> list[np.ndarray]:
        return [b.image1.numpy() for b, _ in training_batches(datasets, weights, draws, seed, optim)]

    by_seed = replace(data, draws="by-seed")
    np.testing.assert_array_equal(first(0, by_seed), first(0, data))
    np.testing.assert_array_equal(first(42, data), first(0, data))
    assert not np.array_equal(first(42, by_seed), first(0, by_seed))
