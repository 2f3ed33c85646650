"""Flow files that exist, scored beside networks."""

from pathlib import Path

import numpy as np
import pytest

from semraft.cli import main
from semraft.config import WorldConfig
from semraft.data import open_dataset
from semraft.data.files.formats import write_flow
from semraft.data.world.export import synthesize
from semraft.evaluation.evaluate import evaluate
from semraft.evaluation.flow_files import flow_files
from semraft.sample import FlowDataset, WrongSize


@pytest.fixture
def kitti(tmp_path: Path) -> FlowDataset:
    synthesize(tmp_path / "kitti", "kitti", train=3, val=0, size=(64, 96), seed=0, progress=False)
    return open_dataset("kitti", tmp_path / "kitti", "val", WorldConfig())


@pytest.mark.parametrize("suffix", ["_10.flo", "_10.png", ".pfm"])
def test_files_are_scored_as_what_they_hold(suffix: str, tmp_path: Path, kitti: FlowDataset) -> None:
    """Each pair is off by its own distance. Red when: a pair gets the file of another, or colours."""
    (tmp_path / "flow").mkdir()
    for number, sample in enumerate(kitti):
        off = sample.flow + np.array([number + 1, 0], np.float32)
        write_flow(tmp_path / "flow" / f"{sample.id}{suffix}", off, None, "kitti")
    found = evaluate(flow_files(tmp_path / "flow", kitti, range(3)), kitti)
    assert [row["epe"] for row in found.per_sample] == pytest.approx([1, 2, 3], abs=0.02)


def test_a_pair_without_a_file_or_of_another_size_is_named(
    tmp_path: Path, kitti: FlowDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    """Red when: a pair that was not predicted leaves the mean, or ends in a traceback."""
    (tmp_path / "flow").mkdir()
    write_flow(tmp_path / "flow" / "000001_10.flo", np.zeros((8, 8, 2), np.float32))
    options = ["--dataset", "kitti", "--root", str(tmp_path / "kitti"), "--flow", str(tmp_path / "flow")]
    assert main.run(["evaluate", *options]) == 2
    assert "no flow for 2 of 3 pairs, the first 000000 (" in capsys.readouterr().err
    with pytest.raises(WrongSize, match=r"is 8x8 \(width x height\), but frame 1 of 000001 is"):
        evaluate(flow_files(tmp_path / "flow", kitti, [1]), kitti, [1])
