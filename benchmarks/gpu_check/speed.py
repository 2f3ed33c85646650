"""Inference and the gradient of the flow loss, semraft against torchvision with the same weights."""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from benchmarks.gpu_check.setting import (
    Row,
    Setting,
    Work,
    full_float32,
    guarded,
    in_turn,
    peak_mb,
    precisions,
    that_run,
)
from torch import Tensor, nn

from semraft import runtime
from semraft.losses import sequence_loss
from semraft.models.raft import ARCHITECTURES
from semraft.models.weights import convert

Flows = Callable[[Tensor, Tensor], list[Tensor]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A timed work: a prediction, or a forward and a backward pass."""

    does: Literal["inference", "training"]
    arch: str
    size: tuple[int, int]
    batch: int
    num_updates: int

    def __str__(self) -> str:
        height, width = self.size
        return f"{self.does} {self.arch}, {self.batch} x {height}x{width}, {self.num_updates} refinements"


CASES = (
    Case(does="training", arch="large", size=(288, 960), batch=6, num_updates=12),
    Case(does="inference", arch="large", size=(376, 1248), batch=1, num_updates=24),
    Case(does="training", arch="small", size=(288, 960), batch=6, num_updates=12),
    Case(does="inference", arch="small", size=(376, 1248), batch=1, num_updates=24),
    Case(does="inference", arch="large", size=(1080, 1920), batch=1, num_updates=12),
)
SMALL_CASES = tuple(
    Case(does=does, arch="small", size=(128, 128), batch=1, num_updates=1)
    for does in ("training", "inference")
)


def measure(setting: Setting) -> Iterator[Row]:
    yield from compare(setting, compiled=False)


def compare(setting: Setting, compiled: bool) -> Iterator[Row]:
    """A row for each case, precision and contestant; `compiled` adds torchvision under torch.compile."""
    full_float32()
    if importlib.util.find_spec("torchvision") is None:
        yield {"work": "torchvision", "skipped": "torchvision is not installed: semraft alone is timed"}
    kinds = precisions(setting)[:1] if compiled or setting.small else precisions(setting)
    cases = SMALL_CASES if setting.small else CASES[:2] if compiled else CASES
    for precision in kinds:
        for case in cases:
            what: Row = {"work": str(case), "precision": precision}
            if setting.seconds_left < 5:
                yield {**what, "skipped": "time is up"}
                continue
            yield from guarded(what, lambda case=case, what=what: contest(case, what, setting, compiled))


def contest(case: Case, what: Row, setting: Setting, compiled: bool) -> Iterator[Row]:
    images = pair_of_images(case, setting.device)
    works = {
        name: work_of(flows, case, what["precision"], images)
        for name, flows in contestants(case, setting.device, compiled).items()
    }
    works, broken = that_run(works, lambda name: {**what, "network": name})
    yield from broken
    seconds = in_turn(works, setting, turns=6, at_once=2 if case.does == "training" else 3)
    for name, found in seconds.items():
        others = {
            f"{other} / this": seconds[other] / found for other in seconds if other.startswith("torchv")
        }
        row = {**what, "network": name, "ms": 1e3 * found, "pairs/s": case.batch / found, **others}
        yield row | {"peak MB": peak_mb(works[name], setting)}


def contestants(case: Case, device: torch.device, compiled: bool) -> dict[str, Flows]:
    """Networks with one set of random weights, by name: images (0..255) to the flow of each refinement."""
    torch.manual_seed(0)
    ours = ARCHITECTURES[case.arch]().to(device).train(case.does == "training")
    keep: Literal["all", "last"] = "all" if case.does == "training" else "last"
    found: dict[str, Flows] = {"semraft": lambda a, b: ours(a, b, case.num_updates, keep=keep).flows}
    if importlib.util.find_spec("torchvision") is None:
        return found
    from benchmarks.torchvision_here import torchvision

    theirs = getattr(torchvision.models.optical_flow, f"raft_{case.arch}")(weights=None)
    ours.load_state_dict(convert(theirs.state_dict())[1])
    theirs = theirs.to(device).train(case.does == "training")

    def flows_of(network: nn.Module | Callable[..., list[Tensor]]) -> Flows:
        return lambda a, b: network(a / 127.5 - 1, b / 127.5 - 1, num_flow_updates=case.num_updates)

    found["torchvision"] = flows_of(theirs)
    if compiled:
        torch._dynamo.reset()
        found["torchvision compiled"] = flows_of(torch.compile(theirs, dynamic=False))
    return found


def work_of(flows: Flows, case: Case, precision: str, images: tuple[Tensor, Tensor]) -> Work:
    device = images[0].device
    truth = torch.zeros(case.batch, 2, *case.size, device=device)
    valid = torch.ones(case.batch, *case.size, dtype=torch.bool, device=device)

    def autocast() -> contextlib.AbstractContextManager[None]:
        return runtime.autocast(device, precision)

    def train() -> None:
        with autocast():
            predicted = flows(*images)
        sequence_loss(predicted, truth, valid).backward()  # The same loss for all: networks are compared.

    def predict() -> None:
        with torch.inference_mode(), autocast():
            flows(*images)

    return train if case.does == "training" else predict


def pair_of_images(case: Case, device: torch.device) -> tuple[Tensor, Tensor]:
    """Smooth random images, 0..255, and the same moved by (5, 3) pixels."""
    generator = torch.Generator().manual_seed(1)
    height, width = case.size
    coarse = torch.rand(case.batch, 3, height // 8 + 3, width // 8 + 3, generator=generator)
    image = nn.functional.interpolate(coarse, scale_factor=8, mode="bicubic").clamp(0, 1) * 255
    moved, still = image[..., 3 : 3 + height, 5 : 5 + width], image[..., :height, :width]
    return moved.contiguous().to(device), still.contiguous().to(device)
