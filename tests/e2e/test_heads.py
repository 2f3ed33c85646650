"""Networks with heads as a person uses them: trained on the world, scored, and at work."""

import json
from pathlib import Path

import numpy as np
import pytest

from semraft.data.files.pictures import write_image
from tests.e2e.test_training import AS_ONE, DESCENT, SMALL, apart, lines, on_two_processes, semraft, weights

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
    options = ("--model.heads", "occlusion", "decoder-down", "--loss.terms", *TERMS, "--optim.steps", "4")
    semraft("train", "world-base", *SMALL, *options, "--output", str(run))
    return run


def test_heads_are_trained_and_scored(run: Path, tmp_path: Path) -> None:
    """4 steps with every term that reads a head. Red when: a term or a head is left out, a head does not
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


@pytest.mark.slow
def test_two_processes_train_heads_as_one(tmp_path: Path) -> None:
    """The occlusion head has weight 0 until its share is known, the decoder is read and never taught. Red
    when: processes wait for a gradient that does not come, or a head's first steps depend on their number."""
    options = [*SMALL, *DESCENT, "--optim.steps", "10", "--seed", "5", "--validate-every", "10"]
    options += ["--model.heads", "occlusion", "decoder", "--model.conditioning", "decoder"]
    options += ["--loss.terms", "occlusion:share=0.3", "temporal-consistency:0.1,gradient=flow"]
    runs = tmp_path / "one", tmp_path / "two"
    semraft("train", "world-base", *options, "--output", str(runs[0]))
    on_two_processes("train", "world-base", *options, "--output", str(runs[1]))
    shares = [json.loads((run / "weights.jsonl").read_text()) for run in runs]
    assert shares[1]["weight"] == pytest.approx(shares[0]["weight"], rel=AS_ONE)
    for part in ("", "occlusion_head."):
        assert apart(*runs, part) < AS_ONE
    for run in runs:
        assert json.loads((run / "verdict.json").read_text())["causes"] == []


def test_a_network_conditioned_on_labels(tmp_path: Path) -> None:
    """Red when: labels do not reach training, validation or scoring, or their lack is found late."""
    run, options = tmp_path / "run", ("--model.conditioning", "truth", "--optim.steps", "4")
    semraft("train", "world-base", *SMALL, *options, "--output", str(run))
    *_, validated = [line for line in lines(run) if line["split"] == "world-val"]
    checkpoint, scores = str(run / "checkpoints" / "last.pt"), tmp_path / "scores.json"
    assert weights(run)["label_conditioning.layers.truth.weight"].any()
    world = ("--dataset", "world", "--size", "64", "96", "--pairs", "3")
    semraft("evaluate", checkpoint, *world, "--json", str(scores))
    assert json.loads(scores.read_text())["metrics"]["epe"] == pytest.approx(validated["epe"], rel=1e-6)
    for path in (tmp_path / "a.png", tmp_path / "b.png"):
        write_image(path, np.zeros((64, 72, 3), dtype=np.uint8))
    images = str(tmp_path / "a.png"), str(tmp_path / "b.png")
    refused = semraft("predict", checkpoint, *images, "--out", str(tmp_path / "flow"), check=False)
    assert (refused.returncode, refused.stderr.count("Traceback")) == (2, 0)
    assert "conditioned on true labels" in refused.stderr
    assert not (tmp_path / "flow").exists()
