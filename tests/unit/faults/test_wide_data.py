"""benchmarks.fault_data and the wide draws of benchmarks.faults: layouts that are what they are called."""

from pathlib import Path

import numpy as np
import pytest
from benchmarks import fault_data, faults

from semraft.config import WorldConfig
from semraft.data import open_dataset
from semraft.faults.fault_config import FAULTS, Fault, fault_of

CROP = (96, 192)


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, count in (("TRAINING_PAIRS", 2), ("VALIDATION_PAIRS", 1), ("KITTI_PAIRS", 2)):
        monkeypatch.setattr(fault_data, name, count)
    return tmp_path


def test_sparse_truth_is_as_sparse_as_asked(out: Path) -> None:
    """Red when: truth is thinned from another part, or flow_noc has pixels that flow_occ has not."""
    root = fault_data.data_root(out, "kitti", CROP, 0.03)
    dataset = open_dataset("kitti", root, "train", WorldConfig())
    samples = [dataset[index] for index in range(2)]
    assert np.mean([sample.valid.mean() for sample in samples]) == pytest.approx(0.03, abs=0.005)
    assert all(
        sample.valid_noc is not None and not (sample.valid_noc & ~sample.valid).any() for sample in samples
    )
    assert fault_data.data_root(out, "kitti", CROP, 0.03) == root


def test_a_standing_camera_stands(out: Path) -> None:
    """Red when: its background moves, nothing moves before it, or both frames are exposed alike."""
    root = fault_data.data_root(out, "standing", CROP, 1.0)
    dataset = open_dataset("flying-chairs", root, "train", WorldConfig())
    samples = [dataset[index] for index in range(2)]
    still = [(sample.flow == 0).all(axis=2) for sample in samples]
    assert all(part.mean() > 0.5 for part in still)
    assert any(part.mean() < 1 for part in still)
    changes = [
        np.abs(sample.image2[part].astype(float) - sample.image1[part])
        for sample, part in zip(samples, still, strict=True)
    ]
    assert all(change.mean() > 1 for change in changes)


@pytest.mark.parametrize("fault", ["none", *FAULTS])
def test_wide_draws_are_functions_of_their_number(
    out: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    """Red when: a resumed set draws other runs, or a fault is planted where its layout can't show it."""
    monkeypatch.setattr(faults, "data_root", lambda out, layout, crop, truth_frac: out / layout)
    draws = [faults.drawn_wide(number, fault, out, "start.pt", "tiny") for number in range(20)]
    assert draws == [faults.drawn_wide(number, fault, out, "start.pt", "tiny") for number in range(20)]
    names = {"flying-chairs" if layout == "standing" else layout for layout in faults.SHOWN_IN.get(fault, ())}
    trained = {config.data.train for config in draws}
    assert trained <= names if names else len(trained) == 4
    assert len({config.seed for config in draws}) == 20
    assert {fault_of(config.altered).kind for config in draws} == {fault}
    assert all(1 <= config.optim.batch <= 6 for config in draws)
    large = sum(config.model.arch == "large" for config in draws)
    assert large == (20 if fault == "batch-norm" else 1 if fault == "none" else 0)
