"""A small asymmetric case for every loss: blocks of classes, some ignored, some pixels without truth."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from semraft.config import parse_term
from semraft.losses.terms import term_values
from semraft.sample import FlowBatch, Prediction

BATCH, HEIGHT, WIDTH, UPDATES = 2, 13, 18, 3
GAMMA = 0.7


class Tiny(NamedTuple):
    flows: list[Tensor]
    flow_gt: Tensor
    valid: Tensor
    labels1: Tensor
    labels2: Tensor
    instances1: Tensor
    mask: Tensor


def make(rng: np.random.Generator) -> Tiny:
    """Flows of some pixels in float64 that need gradients, all else as a batch has it."""

    def blocks(values: list[int]) -> Tensor:
        small = rng.choice(values, (BATCH, 4, 5))
        return torch.from_numpy(np.kron(small, np.ones((4, 4), np.int64))[:, :HEIGHT, :WIDTH])

    labels1 = blocks([0, 6, 10, 10, 255])
    labels2 = torch.where(torch.from_numpy(rng.random(labels1.shape)) < 0.8, labels1, labels1.roll(3, 2))
    flows = [torch.from_numpy(rng.normal(0, 2, (BATCH, 2, HEIGHT, WIDTH))) for _ in range(UPDATES)]
    return Tiny(
        flows=[flow.requires_grad_() for flow in flows],
        flow_gt=torch.from_numpy(rng.normal(0, 2, (BATCH, 2, HEIGHT, WIDTH)).astype(np.float32)),
        valid=torch.from_numpy(rng.random(labels1.shape) > 0.3),
        labels1=labels1,
        labels2=labels2,
        instances1=blocks([0, 1, 2]),
        mask=torch.from_numpy(rng.random(labels1.shape) > 0.2),
    )


def pixels() -> list[tuple[int, int, int]]:
    """Every (sample, row, column)."""
    return [(b, y, x) for b in range(BATCH) for y in range(HEIGHT) for x in range(WIDTH)]


def weighted(values: list[float]) -> float:
    """The sum over refinements, from the definition."""
    return sum(GAMMA ** (len(values) - 1 - t) * value for t, value in enumerate(values))


def mean(values: list[float]) -> float:
    return sum(values) / max(len(values), 1)


def bilinear(image: np.ndarray, x: float, y: float) -> float:
    """An image `H W` at a point in frame, by the four pixels around it."""
    total = 0.0
    for row in {int(y), min(int(y) + 1, image.shape[0] - 1)}:
        for column in {int(x), min(int(x) + 1, image.shape[1] - 1)}:
            total += max(0, 1 - abs(x - column)) * max(0, 1 - abs(y - row)) * image[row, column]
    return total


def in_frame(x: float, y: float) -> bool:
    return 0 <= x <= WIDTH - 1 and 0 <= y <= HEIGHT - 1


def arrays(flows: list[Tensor]) -> list[np.ndarray]:
    return [flow.detach().numpy() for flow in flows]


def gradient_is_right(loss: Callable[..., Tensor], *inputs: Tensor) -> bool:
    """Whether finite differences in float64 agree, along a random direction."""
    return bool(torch.autograd.gradcheck(loss, inputs, fast_mode=True))


def term_value(text: str, flow: Tensor, labels1: Tensor) -> float:
    """The value of a term, as on the command line, for one flow and the classes of frame 1."""
    images = torch.zeros(len(flow), 3, *flow.shape[2:])
    batch = FlowBatch(
        ids=tuple(map(str, range(len(flow)))),
        image1=images,
        image2=images,
        flow=torch.zeros_like(flow),
        valid=torch.ones_like(labels1, dtype=torch.bool),
        labels1=labels1,
    )
    prediction = Prediction(flows=[flow], features1=flow, features2=flow)
    return float(term_values(parse_term(text), prediction, batch, batch.valid))
