"""Training, resuming and scoring on a device that is not the CPU: `tests.stand_in`, for want of a GPU."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from semraft.data.pictures import write_image
from tests.e2e.test_training import called, lines, semraft, weights

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed: it exists for Linux alone"
)
SMALL = (
    *("--data.world.size", "64", "96", "--data.world.scenes", "12", "--data.crop", "64", "64"),
    *("--data.validation-pairs", "1", "--validation-updates", "2"),
    *("--num-updates", "2", "--optim.batch", "2"),
    *("--log-every", "1", "--validate-every", "2", "--checkpoint-every", "2", "--saved-pairs", "1"),
)
TERMS = (
    *("semantic-v1:0.5", "smoothness:0.1", "gradient-matching:0.1", "motion-model:0.1", "census:0.1"),
    *("label-warp:0.5,mask=predicted", "label-distance:0.1", "signed-distance:0.1", "boundary-weight:0.1"),
    *("matching:0.5", "segmentation:1", "temporal-consistency:0.5", "occlusion:1", "zero-forcing:0.2"),
    "transform-consistency:0.2,where=things",
)


def on_the_stand_in(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return called([sys.executable, "-m", "tests.stand_in", *arguments, "--device", "standin"], check)


def test_every_term_and_head_says_the_same_on_another_device(tmp_path: Path) -> None:
    """Red when: a term, a head, augmentation, scoring or a kernel makes a tensor on the CPU among the
    device's, or the kernels' gradients are not the CPU loops'."""
    heads_and_terms = ("--model.heads", "occlusion", "decoder", "--loss.terms", *TERMS)
    options = (*SMALL, *heads_and_terms, "--optim.steps", "2", "--health-every", "9")
    options += ("--precision", "float32", "--optim.ema", "0.9", "--loss.occluded", "leave-out")
    semraft("train", "world-base", *options, "--device", "cpu", "--output", str(tmp_path / "here"))
    on_the_stand_in("train", "world-base", *options, "--output", str(tmp_path / "there"))
    here, there = lines(tmp_path / "here"), lines(tmp_path / "there")
    assert [line["step"] for line in there] == [1, 2, 2]
    for one, other in zip(here, there, strict=True):
        assert other.pop("split") == one.pop("split")
        assert other == pytest.approx(one, rel=1e-4, abs=1e-6)


def test_float16_scales_its_gradients_and_resumes_exactly(tmp_path: Path) -> None:
    """Red when: the scaler's factor is not lowered, not saved or not restored, or a checkpoint of that device
    can't be read where it was written or on a CPU."""
    run, resumed = tmp_path / "run", tmp_path / "resumed"
    options = (*SMALL, "--optim.steps", "4", "--health-every", "4", "--precision", "float16")
    options += ("--optim.ema", "0.9")
    on_the_stand_in("train", "world-semantic-v1", *options, "--output", str(run))
    last = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    assert last["scaler"]["scale"] < 2**16
    shutil.copytree(run, resumed)
    shutil.copy(run / "checkpoints" / "step-000002.pt", resumed / "checkpoints" / "last.pt")
    called([sys.executable, "-m", "tests.stand_in", "train", "--resume", str(resumed)], check=True)
    assert all(torch.equal(weights(resumed)[name], value) for name, value in last["model"].items())
    assert lines(resumed) == lines(run)

    checkpoint = str(run / "checkpoints" / "last.pt")
    of_world = ("evaluate", checkpoint, "--dataset", "world", "--size", "64", "96", "--pairs", "1")
    scores = tmp_path / "there.json", tmp_path / "here.json"
    on_the_stand_in(*of_world, "--precision", "float16", "--json", str(scores[0]))
    semraft(*of_world, "--device", "cpu", "--precision", "float32", "--json", str(scores[1]))
    there, here = (json.loads(path.read_text())["metrics"]["epe"] for path in scores)
    assert there == pytest.approx(here, rel=0.01)
    assert there != here
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name, np.zeros((64, 72, 3), dtype=np.uint8))
    images = str(tmp_path / "a.png"), str(tmp_path / "b.png")
    on_the_stand_in("predict", checkpoint, *images, "--out", str(tmp_path / "flow"), "--precision", "float16")
    assert list((tmp_path / "flow").iterdir())


def test_a_tensor_of_the_cpu_is_refused_among_the_devices() -> None:
    """What the tests above rest on."""
    meeting = (
        "from tests import stand_in\n"
        "import torch\n"
        "kept = stand_in.register()\n"
        "with stand_in.MadeThere():\n"
        "    there = torch.ones(3, device='standin')\n"
        "    print((there * 2.0 + torch.tensor(1.0)).tolist())\n"
        "    there + torch.ones(3)\n"
    )
    refused = called([sys.executable, "-c", meeting], check=False)
    assert refused.stdout == "[3.0, 3.0, 3.0]\n"
    assert refused.returncode == 1
    assert "a tensor of the CPU, (3,), among the stand-in's" in refused.stderr
