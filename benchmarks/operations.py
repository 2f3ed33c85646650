"""Counts the operations that a device is asked for in a training step: forward, losses, backward.

    python benchmarks/operations.py [--terms-only] [--markdown FILE]

Each costs a GPU some microseconds, however small its tensors. Counted on the pretended device of the tests,
so that no GPU is needed: what torch's dispatcher is asked for, without views and uninitialised memory, and
each of semraft's own kernels as one. The counts do not depend on the machine or on the size of the frames.

Steps are of RAFT large in float32 with twelve refinements, semraft's as `semraft train` has it by default,
torchvision's with the plain L1 loss. A term's count is what it adds to the flow loss; heads and further
passes of the network come on top.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).parents[1]))  # The pretended device is the tests'.

import torch
from tests import stand_in
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torchvision_here import torchvision

from semraft.config import LossConfig, ModelConfig, TermConfig, parse_term
from semraft.kernels.cpu import correlation_numba
from semraft.losses.objective import objective
from semraft.losses.terms import TERMS
from semraft.models.weights import build_model
from semraft.sample import FlowBatch, Prediction, View, Viewed

BATCH, HEIGHT, WIDTH, UPDATES, CLASSES = 2, 64, 64, 12, 12
VARIANTS = (
    *("smoothness:1,order=1,penalty=charbonnier", "signed-distance:1,boundary=instance"),
    "motion-model:1,plane-model=quadratic,boundary=instance",
    "label-warp:1,mask=predicted,where=things",
)
"""Terms with other options than their defaults."""

Whole = TypeVar("Whole", FlowBatch, Prediction)


def operations(work: Callable[[], object]) -> int:
    """The operations that the work gives the device."""
    with stand_in.tallied() as tally:
        work()
    return tally.operations.total()


def batch_and_prediction(side_px: int = 16) -> tuple[FlowBatch, Prediction]:
    """All that a term can read, with segments of so many pixels squared; on the device."""
    torch.manual_seed(0)

    def blocks(classes: int) -> Tensor:
        small = torch.randint(classes, (BATCH, HEIGHT // side_px, WIDTH // side_px))
        return small.repeat_interleave(side_px, 1).repeat_interleave(side_px, 2)

    def some(*shape: int) -> Tensor:
        return torch.randn(BATCH, *shape, HEIGHT, WIDTH)

    images = torch.rand(2, BATCH, 3, HEIGHT, WIDTH) * 255
    batch = FlowBatch(
        ids=("a", "b"),
        image1=images[0],
        image2=images[1],
        flow=some(2),
        valid=some() > -1,
        labels1=blocks(CLASSES),
        labels2=blocks(CLASSES),
        instances1=blocks(9),
        instances2=blocks(9),
        occluded1=some() > 1,
    )
    features = torch.randn(2, BATCH, 8, HEIGHT // 8, WIDTH // 8)
    prediction = Prediction(
        flows=[some(2) for _ in range(UPDATES)],
        features1=features[0],
        features2=features[1],
        occlusion=some(),
        segmentation1=some(CLASSES),
        segmentation2=some(CLASSES),
    )
    view = View(size=(HEIGHT, WIDTH), top_px=0.0, left_px=0.0, scale=1.0)
    prediction.still = replace(prediction, flows=prediction.flows[:4])
    prediction.viewed = Viewed(view, prediction.flows[4:8])
    return moved(batch), moved(prediction)


def moved(whole: Whole) -> Whole:
    """On the device; floating-point tensors are leaves that need gradients."""

    def there(tensor: Tensor) -> Tensor:
        return tensor.to(stand_in.NAME).requires_grad_(tensor.is_floating_point() and learns)

    learns = isinstance(whole, Prediction)
    parts = {field.name: getattr(whole, field.name) for field in fields(whole) if field.init}
    parts = {
        name: moved(part) if isinstance(part, Prediction) else tree_map_only(Tensor, there, part)
        for name, part in parts.items()
    }
    return replace(whole, **parts)


def of_losses(terms: tuple[TermConfig, ...], side_px: int = 16) -> int:
    """Operations of an objective, forward and backward."""
    batch, prediction = batch_and_prediction(side_px)
    config = LossConfig(terms=terms)
    return operations(lambda: objective(prediction, batch, config).total.backward())


def of_semraft(model: ModelConfig) -> int:
    """Operations of a step."""
    batch, _ = batch_and_prediction()
    network = build_model(model, seed=0).to(stand_in.NAME).train()

    def step() -> None:
        objective(network(batch.image1, batch.image2, UPDATES), batch, LossConfig()).total.backward()

    return operations(step)


def of_torchvision() -> int:
    """Operations of a step of torchvision's RAFT with the plain sequence loss over all pixels."""
    images = torch.rand(2, BATCH, 3, 128, 128).to(stand_in.NAME)  # Smaller ones it refuses.
    truth = torch.rand(BATCH, 2, 128, 128).to(stand_in.NAME)
    model = torchvision.models.optical_flow.raft_large(weights=None).to(stand_in.NAME).train()

    def step() -> None:
        flows = model(*(2 * (image / 255) - 1 for image in images), num_flow_updates=UPDATES)
        shares = [0.8 ** (UPDATES - 1 - t) * (flow - truth).abs().mean() for t, flow in enumerate(flows)]
        torch.stack(shares).sum().backward()

    return operations(step)


def counts(terms_only: bool) -> Iterator[tuple[str, int]]:
    """Counted works, one after another; terms by the operations that they add."""
    if not terms_only:
        yield "torchvision", of_torchvision()
        yield "semraft, defaults", of_semraft(ModelConfig())
        yield "semraft, both ends computed again", of_semraft(ModelConfig(recompute="ends"))
    plain = of_losses(())
    yield "flow loss alone", plain
    for text in (*(f"{name}:1" for name in TERMS), *VARIANTS):
        yield f"+ {text.replace(':1', '', 1)}", of_losses((parse_term(text),)) - plain
    for side_px in (64, 8):
        added = of_losses((parse_term("motion-model:1"),), side_px) - plain
        yield f"+ motion-model, segments of {side_px} x {side_px} px", added


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--terms-only", action="store_true", help="without the two networks")
    parser.add_argument("--markdown", type=Path, help="a file for the table")
    asked = parser.parse_args()
    lines = ["| what | operations |", "| --- | --- |"]
    print(*lines, sep="\n", flush=True)
    with stand_in.pretended(correlation_numba):  # Quicker than Triton's interpreter.
        for name, count in counts(asked.terms_only):
            lines.append(f"| {name} | {count} |")
            print(lines[-1], flush=True)
    if asked.markdown:
        asked.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
