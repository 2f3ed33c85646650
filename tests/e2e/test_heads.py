"""Networks with heads as a person uses them: trained on the world, scored, and at work."""

import json
from pathlib import Path

import pytest

from tests.e2e.test_training import SMALL, lines, semraft

TERMS = (
    "segmentation:1",
    "temporal-consistency:0.5",
    "occlusion:1",
    "label-warp:0.5,mask=predicted",
)
SCORES = {
    "miou_pct",
    "iou_pct_road",
    "temporal_consistency_pct",
    "occlusion_f1_pct",
    "occlusion_f1_pct_out_of_frame",
    "occlusion_f1_pct_covered",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "heads"
    options = ("--model.heads", "occlusion", "decoder-down", "--loss.terms", *TERMS, "--optim.steps", "6")
    semraft("train", "world-base", *SMALL, *options, "--output", str(run))
    return run


def test_heads_are_trained_and_scored(run: Path, tmp_path: Path) -> None:
    """6 steps with every term that reads a head. Red when: a term or a head is left out, a head does not
    learn, or what it says is not scored."""
    *_, last = [line for line in lines(run) if line["split"] == "train"]
    scalars = {"segmentation_loss", "temporal_consistency_loss", "occlusion_loss", "label_warp_loss"}
    assert scalars <= last.keys()
    *_, scored = [line for line in lines(run) if line["split"] == "world-val"]
    assert scored.keys() >= SCORES
    checkpoint = str(run / "checkpoints" / "last.pt")
    world = ("--dataset", "world", "--size", "64", "96", "--pairs", "8")
    printed = semraft("evaluate", checkpoint, *world, "--json", str(tmp_path / "scores.json")).stdout
    assert all(f"{name} " in printed.partition("heads of ")[2] for name in SCORES - {"iou_pct_road"})
    assert json.loads((tmp_path / "scores.json").read_text())["metrics"].keys() >= SCORES
