"""Flow truth that is hidden from the training, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from semraft.config import WorldConfig
from semraft.data import open_dataset
from semraft.data.hidden_truth import hide_truth
from semraft.data.loader import keep_in_memory
from semraft.sample import FlowDataset, FlowSample, Window

WINDOW = Window(3, 5, 40, 70)
UNTOUCHED = ("image1", "image2", "labels1", "labels2", "instances1", "instances2", "occluded1", "moving1")


@pytest.fixture(scope="module")
def world() -> FlowDataset:
    """Scenes that are rendered once for all tests."""
    scenes = open_dataset("world", None, "train", WorldConfig(size=(64, 104), scenes=12))
    return keep_in_memory(scenes, 100.0)


def same(one: FlowSample, two: FlowSample, names: tuple[str, ...]) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(two, name)) for name in names)


def test_static_hides_what_moves_and_nothing_else(world: FlowDataset) -> None:
    """Red when: parked cars lose their truth, movers keep it, or a window is not hidden like the whole."""
    hidden = hide_truth(world, "static", 1.0, draw_seed=0)
    movers = 0
    for number, pair in enumerate(world.pairs):
        whole, found = world[number], hidden[number]
        assert whole.moving1 is not None
        movers += int((whole.valid & whole.moving1).sum())
        assert np.array_equal(found.valid, whole.valid & ~whole.moving1)
        assert whole.valid_noc is not None
        assert found.valid_noc is not None
        assert np.array_equal(found.valid_noc, whole.valid_noc & ~whole.moving1)
        assert np.array_equal(found.flow, whole.flow * found.valid[..., None])
        assert found.backward_flow is None
        assert same(whole, found, UNTOUCHED)
        part, frame = hidden.read_part(pair, lambda size: WINDOW)
        assert frame == (64, 104)
        assert same(part, found.part(WINDOW), ("flow", "valid", *UNTOUCHED))
    assert movers > 100
    assert hidden.provides == world.provides - {"backward_flow", "backward_valid"}


def test_a_part_of_the_pairs_keeps_its_truth(world: FlowDataset) -> None:
    """Red when: the draw moves with the seed of a run, or is of pixels."""
    hidden = hide_truth(world, "all", 0.25, draw_seed=3)
    kept = [number for number in range(12) if hidden[number].valid.any()]
    assert len(kept) == 3
    assert all(same(world[number], hidden[number], ("flow", "valid", *UNTOUCHED)) for number in kept)
    assert [hidden[number].valid.any() for number in range(12)] == [
        hide_truth(world, "all", 0.25, draw_seed=3)[number].valid.any() for number in range(12)
    ]
    others = hide_truth(world, "all", 0.25, draw_seed=4)
    assert kept != [number for number in range(12) if others[number].valid.any()]
    assert not any(hide_truth(world, "static", 0.0, 0)[number].valid.any() for number in range(12))


def test_nothing_hidden_is_the_data_set_itself(world: FlowDataset) -> None:
    assert hide_truth(world, "all", 1.0, 0) is world


def test_a_set_that_does_not_say_what_moves_is_refused(world: FlowDataset) -> None:
    silent = replace(world, provides=world.provides - {"moving1"})
    with pytest.raises(
        ValueError, match=r"--data\.truth static: data set 'world' does not mark moving objects"
    ):
        hide_truth(silent, "static", 1.0, 0)
