"""The record of a run, read as a whole or as it grows."""

import json
from pathlib import Path

import numpy as np
import pytest

from semraft.config import RunConfig, to_json
from semraft.diagnosis.record import RecordReader, read_record, read_whole_lines
from semraft.run_records import StepLine
from semraft.tracking import append_line


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(to_json(RunConfig()))
    return tmp_path


def test_what_was_read_is_not_read_again(run: Path) -> None:
    """Red when: a line is read twice or lost, a torn one is taken, or a later name moves earlier values."""
    reader = RecordReader(run)
    assert reader.read().last_step == 0
    for step in range(1, 4):
        append_line(run / "pulse.jsonl", {"step": step, "epe_px": float(step)})
    with open(run / "pulse.jsonl", "a") as file:
        file.write('{"step": 4, "epe')
    assert reader.read().pulse.steps.tolist() == [1, 2, 3]
    with open(run / "pulse.jsonl", "a") as file:
        file.write('_px": 4.0}\n')
    append_line(run / "pulse.jsonl", {"step": 5, "epe_px": float("inf"), "later": 7.0})
    grown = reader.read().pulse
    assert grown.steps.tolist() == [1, 2, 3, 4, 5]
    assert grown.values["epe_px"].tolist() == [1, 2, 3, 4, np.inf]
    assert np.isnan(grown.values["later"][:4]).all()
    assert grown.values["later"][4] == 7
    whole = read_record(run).pulse
    assert whole.values.keys() == grown.values.keys()
    assert all(
        np.array_equal(whole.values[name], grown.values[name], equal_nan=True) for name in whole.values
    )
    first, second = grown.finite("epe_px", "later"), grown.known("epe_px", "later")
    assert [len(part) for part in first] == [0, 0, 0]
    assert [part.tolist() for part in second] == [[5], [np.inf], [7]]


def test_validations_by_split_and_no_training_lines(run: Path) -> None:
    for split, step in (("train", 1), ("world-val", 2), ("kitti", 2), ("world-val", 4)):
        append_line(run / "metrics.jsonl", {"step": step, "split": split, "epe": 1.0})
    found = read_record(run).validation
    assert {split: part.steps.tolist() for split, part in found.items()} == {
        "world-val": [2, 4],
        "kitti": [2],
    }


def test_a_torn_last_line_is_no_line(run: Path) -> None:
    (run / "health.jsonl").write_text(json.dumps({"step": 1}) + '\n{"step"')
    assert read_whole_lines(run / "health.jsonl", StepLine) == [{"step": 1}]
    assert read_whole_lines(run / "none.jsonl", StepLine) == []
    (run / "pulse.jsonl").write_text('{"step": 1}\nrubbish\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"pulse\.jsonl: line 2 is no JSON"):
        read_record(run)
