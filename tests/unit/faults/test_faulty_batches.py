"""Planted faults of samples: each does what it is called, from its step on, and nothing before it."""

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
import torch

from semraft.config import DataConfig, OptimConfig, WorldConfig
from semraft.data.augment import resize
from semraft.data.loader import TrainingBatch
from semraft.faults import faulty_batches as faults
from semraft.faults.fault_config import SOUND, Fault, FaultConfig
from semraft.faults.faulty_batches import faulty_batches, flow_not_scaled
from semraft.monitor.data_checks import between_frac
from semraft.sample import FlowSample
from semraft.training.run_data import training_data

DATA = DataConfig(
    crop=(64, 104), workers=0, truth="static", world=WorldConfig(size=(72, 120), scenes=6), damaged="refuse"
)


def batches(fault: FaultConfig, steps: int = 4, batch: int = 3) -> list[TrainingBatch]:
    datasets, weights = training_data(DATA)
    return list(faulty_batches(fault, datasets, weights, DATA, 5, OptimConfig(steps=steps, batch=batch)))


@pytest.fixture(scope="module")
def sound() -> list[TrainingBatch]:
    return batches(SOUND)


def changed(one: TrainingBatch, two: TrainingBatch) -> set[str]:
    names = [field.name for field in dataclasses.fields(one.batch) if field.name != "ids"]
    pairs = {name: (getattr(one.batch, name), getattr(two.batch, name)) for name in names}
    return {
        name
        for name, (a, b) in pairs.items()
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and not torch.equal(a, b)
    }


@pytest.mark.parametrize(
    ("kind", "touches"),
    [
        ("label-resize", {"labels1", "labels2"}),
        ("flow-scale", {"flow", "occluded1", "valid_noc"}),
        ("invalid-zeros", {"valid"}),
    ],
)
def test_it_begins_at_its_step_and_touches_what_it_should(
    kind: Fault, touches: set[str], sound: list[TrainingBatch]
) -> None:
    """Red when: a fault begins a step off, or spoils more than it says."""
    fault = replace(SOUND, kind=kind, step=3)
    found = batches(fault)
    assert [changed(one, two) for one, two in zip(sound[:2], found[:2], strict=True)] == [set()] * 2
    seen = [changed(one, two) for one, two in zip(sound[2:], found[2:], strict=True)]
    assert set().union(*seen) <= touches
    assert set().union(*seen) >= touches - {"occluded1", "valid_noc"}


def test_flow_stays_in_pixels_of_the_old_size() -> None:
    """40x60 pixels become 80x90. Red when: the factor is taken the wrong way round, or is that of the other
    axis, or the sound resize is spoiled too."""
    grey = np.full((40, 60, 3), 90, np.uint8)
    flow = np.broadcast_to(np.array([3, 5], np.float32), (40, 60, 2)).copy()
    sample = FlowSample(
        id="a", scene="a", dataset="world", image1=grey, image2=grey, flow=flow, valid=np.ones((40, 60), bool)
    )
    found = [resized(sample, (80, 90)).flow for resized in (resize, flow_not_scaled)]
    np.testing.assert_allclose(found[0], np.broadcast_to([4.5, 10], (80, 90, 2)), rtol=1e-6)
    np.testing.assert_allclose(found[1], np.broadcast_to([3, 5], (80, 90, 2)), rtol=1e-6)


def test_labels_become_classes_between_two(sound: list[TrainingBatch]) -> None:
    fault = FaultConfig(kind="label-resize", step=1)
    one, two = sound[0].batch.labels1, batches(fault, steps=1)[0].batch.labels1
    assert one is not None
    assert two is not None
    assert float(between_frac(two)) > 3 * float(between_frac(one))


def test_one_in_a_hundred_is_swapped_and_the_first_of_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted with one in twelve. Red when: the rate, the step, or the first sample is another."""
    assert faults.SWAPPED_ONE_IN == 100
    monkeypatch.setattr(faults, "SWAPPED_ONE_IN", 12)
    steps = 12 // 4 + 3
    fault = FaultConfig(kind="swapped-flow", step=2)
    good, bad = batches(SOUND, steps, 4), batches(fault, steps, 4)
    differs = [
        4 * step + number
        for step, (one, two) in enumerate(zip(good, bad, strict=True))
        for number in range(4)
        if not torch.equal(one.batch.flow[number], two.batch.flow[number])
    ]
    assert differs == [4, 4 + 12]
    assert torch.equal(good[1].batch.flow[0].flip(0), bad[1].batch.flow[0])


def test_invalid_pixels_are_zeros_that_count(sound: list[TrainingBatch]) -> None:
    bad = batches(FaultConfig(kind="invalid-zeros", step=1), steps=1)[0].batch
    hidden = ~sound[0].batch.valid
    assert hidden.any()
    assert bad.valid.all()
    assert not bad.flow.permute(0, 2, 3, 1)[hidden].numpy().any()


def test_workers_plant_the_same(sound: list[TrainingBatch]) -> None:
    datasets, weights = training_data(DATA)
    fault = FaultConfig(kind="flow-scale", step=2)
    options = replace(DATA, workers=1)
    loaded = faulty_batches(fault, datasets, weights, options, 5, OptimConfig(steps=3, batch=3))
    for one, two in zip(batches(fault, 3), loaded, strict=True):
        assert np.array_equal(one.batch.flow.numpy(), two.batch.flow.numpy())


def test_a_step_before_the_first_is_refused() -> None:
    with pytest.raises(ValueError, match="a fault begins at step 0"):
        FaultConfig(kind="flow-scale", step=0)
