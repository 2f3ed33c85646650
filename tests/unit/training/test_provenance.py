"""Fingerprints of what a run starts from: different where seeds must differ, equal where variants must."""

from dataclasses import replace

import pytest

from semraft.config import AugmentConfig, RunConfig, TermConfig
from semraft.config.recipes import RECIPES
from semraft.models.weights import build_model
from semraft.training.provenance import fingerprints
from semraft.training.run_data import training_data

WORLD = RECIPES["world-base"].config
CONFIG = replace(
    WORLD, data=replace(WORLD.data, crop=(64, 72), world=replace(WORLD.data.world, size=(72, 96), scenes=5))
)


def of(config: RunConfig) -> dict[str, str]:
    datasets, shares = training_data(config.data)
    weights = build_model(config.model, config.seed).state_dict()
    return fingerprints(config, weights, datasets, shares, config.seed)


@pytest.fixture(scope="module")
def expected() -> dict[str, str]:
    return of(CONFIG)


def test_a_seed_reaches_weights_order_and_augmentation(expected: dict[str, str]) -> None:
    """The study's three seeds were one. Red when: any of the three is drawn without the seed."""
    other = of(replace(CONFIG, seed=1))
    assert expected.keys() == {"initial_weights", "sample_order", "first_batches"}
    assert all(other[name] != expected[name] for name in expected)


def test_what_variants_of_one_seed_share_has_equal_digests(expected: dict[str, str]) -> None:
    """Red when: the digest sees the loss, the number of workers, of steps or of samples a step."""
    loss = replace(CONFIG.loss, terms=(TermConfig(name="semantic-v1", weight=0.5),))
    data = replace(CONFIG.data, workers=1)
    optim = replace(CONFIG.optim, steps=7, batch=6, learning_rate=1e-5)
    assert of(replace(CONFIG, loss=loss, data=data, optim=optim, num_updates=3)) == expected


def test_a_colour_alone_changes_the_batches_only(expected: dict[str, str]) -> None:
    """Red when: `first_batches` digests addresses instead of augmented pixels."""
    augment = replace(CONFIG.data.augment, brightness=AugmentConfig().brightness / 2)
    found = of(replace(CONFIG, data=replace(CONFIG.data, augment=augment)))
    assert [name for name in expected if found[name] != expected[name]] == ["first_batches"]
