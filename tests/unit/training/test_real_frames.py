"""benchmarks/real_frames.py: which pairs are found, and what their rows say, on frames made here."""

from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.real_frames import real_pairs, scores_of, table, with_means

from semraft.data.files.formats import write_flow
from semraft.data.files.pictures import write_image
from semraft.models.raft import raft_tiny


def make_middlebury(folder: Path, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    for name in ("frame10.png", "frame11.png"):
        write_image(folder / name, rng.integers(0, 256, (70, 90, 3), dtype=np.uint8))
    write_flow(folder / "flow10.flo", np.full((70, 90, 2), 3, np.float32))


def test_pairs_are_found_once_and_scored(tmp_path: Path, rng: np.random.Generator) -> None:
    """A network that says zero: EPE is the length of the truth, after every number of refinements.

    Red when: a pair that lies there twice counts twice, refinement 6 is another, or a mean is over data sets.
    """
    for name in ("a/Urban9", "b/Grove9", "copy/Urban9"):
        make_middlebury(tmp_path / name, rng)
    samples = real_pairs(tmp_path, [""])
    assert [sample.id for sample in samples] == ["middlebury/Grove9", "middlebury/Urban9"]
    assert [sample.id for sample in real_pairs(tmp_path, ["Urban", "Grove8"])] == ["middlebury/Urban9"]
    torch.manual_seed(0)
    model = raft_tiny()
    with torch.no_grad():
        for parameter in model.update_block.flow_head.parameters():
            parameter.zero_()
    torch.save({"semraft": 1, "arch": "tiny", "model": model.state_dict()}, tmp_path / "zero.pt")
    scores = with_means(scores_of(tmp_path / "zero.pt", samples))
    expected = pytest.approx((18**0.5, 100.0), abs=1e-3)
    assert list(scores["mean middlebury"]) == ["6", "12", "24"]
    assert all(score == expected for row in scores.values() for score in row.values())
    assert table({"zero.pt": scores}).splitlines()[0] == "| pair | zero.pt 6 | zero.pt 12 | zero.pt 24 |"
