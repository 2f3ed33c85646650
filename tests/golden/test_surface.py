"""The public surface, frozen: options, commands, public names, the first steps of training.

`make golden` writes the files anew; a commit that does so says why.
"""

import json
import re
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import semraft
from semraft.cli.main import COMMANDS
from semraft.config import ModelConfig, OptimConfig
from semraft.config.recipes import RECIPES
from semraft.data.loader import training_batches
from semraft.faults.altered_recipes import ALTERED_RECIPES
from semraft.losses.objective import objective
from semraft.models.weights import build_model
from semraft.sample import FlowDataset, FlowSample, Pair
from semraft.training.optim import make_optimizer
from semraft.training.run_data import training_data
from tests.e2e.test_training import semraft as called
from tests.helpers import PATIENCE_S

HERE = Path(__file__).parent


def compare(name: str, found: Any, request: pytest.FixtureRequest) -> Any:
    """Compares with tests/golden/NAME, or writes it under --update-golden."""
    path = HERE / name
    if request.config.getoption("--update-golden"):
        path.write_text(json.dumps(found, indent=1) + "\n")
    return json.loads(path.read_text())


def test_options_are_frozen(request: pytest.FixtureRequest) -> None:
    """An option more is a decision, not an accident."""
    options = {
        command: sorted(set(re.findall(r"--[a-z][\w.-]*", called(*command.split(), "--help").stdout)))
        for command in COMMANDS
        if command != "train"
    }
    every = called("train", "world-base", "--help-all").stdout
    options["train RECIPE"] = sorted(set(re.findall(r"(?m)^  (--[a-z][\w.-]*)", every)))
    assert compare("cli_options.json", options, request) == options


def test_public_names_are_frozen(request: pytest.FixtureRequest) -> None:
    from semraft import losses, metrics

    names = {
        "semraft": sorted(semraft.__all__),
        "semraft.losses": sorted(losses.__all__),
        "metrics": list(metrics.METRICS),
        "recipes": sorted(RECIPES | ALTERED_RECIPES),
    }
    assert compare("public_names.json", names, request) == names
    for name in semraft.__all__:
        assert getattr(semraft, name) is not None


def test_the_samples_of_training(request: pytest.FixtureRequest) -> None:
    """The first samples of a run, augmented: whatever changes the world, the draws or the order of them.

    Coarse on purpose. OpenCV and NumPy choose their loops by the processor, and round a pixel up or down by
    them: no mean over pixels moves by more than one grey level, and a label or a mask only where a border
    touches a pixel's centre. Red when: two draws of the augmentation change places, such as those of the
    colours and of the flips.
    """
    config = RECIPES["world-semantic-v1"].config
    world = replace(config.data.world, size=(80, 120), scenes=6)
    data = replace(config.data, crop=(64, 96), world=world, workers=0)
    batches = training_batches(*training_data(data), data, 7, OptimConfig(steps=4, batch=2))
    samples = [
        {
            "id": identity,
            "image1": quarters(batch.image1[i]),
            "image2": quarters(batch.image2[i]),
            "flow_px": quarters(batch.flow[i]),
            "valid_pct": quarters(100 * batch.valid[i, None].float()),
            "labels": {
                str(label): int((batch.labels1[i] == label).sum()) for label in batch.labels1[i].unique()
            },
        }
        for batch, _ in batches
        for i, identity in enumerate(batch.ids)
    ]
    golden = compare("samples.json", samples, request)
    assert [sample["id"] for sample in golden] == [sample["id"] for sample in samples]
    pixels_at_borders = 20  # Of 6144.
    for expected, found in zip(golden, samples, strict=True):
        for image in ("image1", "image2"):
            assert found[image] == pytest.approx(expected[image], abs=1), found["id"]
        assert found["flow_px"] == pytest.approx(expected["flow_px"], abs=0.1), found["id"]
        assert found["valid_pct"] == pytest.approx(expected["valid_pct"], abs=1), found["id"]
        assert found["labels"] == pytest.approx(expected["labels"], abs=pixels_at_borders), found["id"]


def quarters(picture: torch.Tensor) -> list[float]:
    """The mean of each channel of a picture `C H W` over each quarter of it."""
    means = torch.nn.functional.adaptive_avg_pool2d(picture.double(), 2)
    return [round(mean, 2) for mean in means.flatten().tolist()]


def test_the_first_steps_of_training(request: pytest.FixtureRequest) -> None:
    """12 steps of the small network: whatever changes the network, the losses, the optimiser or the loader.

    In float64, on samples that are integers, from weights drawn in float64: processors then differ by 1e-16
    a step, and 12 steps enlarge a difference less than 1e5 times. Float32, with kernels of its own, is held
    to the same numbers where nothing is enlarged yet: losses and gradient of the first step. A sum of n
    products is off by at most n 2^-24 of the sum of their sizes: 9e-5 for the largest convolution (9 x 160).
    Red when: the weight decay is 1.1 times as large (4e-8 of the losses).
    """
    curve = first_steps(torch.float64, 12)
    golden = compare("loss_curve_cpu.json", curve, request)
    assert len(golden) == len(curve)
    for step, (expected, found) in enumerate(zip(golden, curve, strict=True)):
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert found[name] == pytest.approx(values, rel=1e-9), (step, name)
    (first,) = first_steps(torch.float32, 1)
    for name, values in golden[0].items():
        assert first[name] == pytest.approx(values, rel=1e-4), name


def first_steps(dtype: torch.dtype, steps: int) -> list[dict[str, list[float]]]:
    """The losses after each refinement and the gradient's length, step by step."""
    config = RECIPES["world-semantic-v1"].config
    augment = replace(config.data.augment, enabled=False)
    data = replace(config.data, crop=(64, 96), augment=augment, workers=0)
    optim = OptimConfig(steps=12, batch=2, learning_rate=1e-3)
    pairs = tuple(Pair(id=f"pair-{number}", scene="exact", files={}) for number in range(6))
    dataset = FlowDataset(
        name="exact",
        split="train",
        pairs=pairs,
        read=exact_sample,
        provides=frozenset({"labels1", "labels2"}),
    )
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # Float32's normal numbers are others with other vectors.
    try:
        model = build_model(ModelConfig(arch="tiny"), seed=1).to(dtype).train()
    finally:
        torch.set_default_dtype(usual)
    optimizer = make_optimizer(model, optim)
    curve = []
    batches = training_batches([dataset], [1.0], data, 7, optim)
    for step, (batch, _) in enumerate(islice(batches, steps)):
        images = (image.to(dtype) for image in (batch.image1, batch.image2))
        for group in optimizer.param_groups:
            group["lr"] = optim.rate_at(step)
        losses = objective(model(*images, 3), batch, config.loss)
        optimizer.zero_grad()
        losses.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        curve.append(
            {name: values.tolist() for name, values in losses.values.items()} | {"gradient": [norm.item()]}
        )
    return curve


def exact_sample(pair: Pair) -> FlowSample:
    """A box that moves across a background that moves, by whole pixels: integers, the same everywhere."""
    rng = np.random.default_rng(int(pair.id.removeprefix("pair-")))
    background, box = (
        np.kron(rng.integers(0, 256, (24, 32, 3), np.uint8), np.ones((4, 4, 1), np.uint8)) for _ in range(2)
    )
    height, width, margin = 80, 112, 8
    rows, columns = np.mgrid[:height, :width]
    images, labels = [], []
    motions = rng.integers(-4, 5, (2, 2))
    top, left = rng.integers(10, 40, 2)
    for time in (0, 1):
        (x, y), (box_x, box_y) = margin - time * motions[0], margin - time * motions[1]
        inside_rows = (rows + box_y - margin >= top) & (rows + box_y - margin < top + 30)
        inside = inside_rows & (columns + box_x - margin >= left) & (columns + box_x - margin < left + 50)
        images.append(
            np.where(inside[..., None], box[rows + box_y, columns + box_x], background[rows + y, columns + x])
        )
        labels.append(np.where(inside, 13, 0).astype(np.uint8))
    return FlowSample(
        id=pair.id,
        scene=pair.scene,
        dataset="exact",
        image1=images[0],
        image2=images[1],
        flow=np.where((labels[0] == 13)[..., None], motions[1], motions[0]).astype(np.float32),
        valid=rng.integers(0, 10, (height, width)) > 0,
        labels1=labels[0],
        labels2=labels[1],
    )


def test_help_is_quick() -> None:
    """Nothing that takes long to import is imported for `semraft --help`."""
    code = "import sys; import semraft.cli.main as cli; cli.run(['--help']); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    imported = set(done.stdout.splitlines()[-1].split())
    assert "semraft.cli.main" in imported
    assert not imported & {"torch", "numpy", "numba", "cv2", "scipy"}
