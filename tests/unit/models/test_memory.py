"""Activations kept on an accelerator, by its free memory: mocked, with random images."""

import pytest
import torch

from semraft.config import Recompute
from semraft.models import lookup, memory
from semraft.models.memory import KEPT_BYTES_PX, KEPT_FRAC, VOLUME_FRAC, choose_recompute

THERE = torch.device("meta", 0)
"""Stands for an accelerator: torch makes tensors there, and none has numbers."""
UPDATES = 12


def free(monkeypatch: pytest.MonkeyPatch, number: float | None) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: number)


def kept(again: str, arch: str, pixels: float) -> float:
    once, refinement = KEPT_BYTES_PX[again][arch]  # type: ignore[index]
    return pixels * (once + UPDATES * refinement)


@pytest.mark.parametrize("arch", ["large", "small", "tiny"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_is_recomputed_until_memory_is_short(
    monkeypatch: pytest.MonkeyPatch, arch: str, dtype: torch.dtype
) -> None:
    """Red when: the batch is not counted, refinements or autocast are not, or the order is another."""
    monkeypatch.setattr(memory, "computed_in", lambda images: dtype)
    images = torch.empty(6, 3, 368, 768, device=THERE)
    pixels = 6 * 368 * 768 * dtype.itemsize / 4
    needed = [kept(again, arch, pixels) / KEPT_FRAC for again in ("nothing", "ends")]
    for number, expected in (
        (needed[0], "nothing"),
        (needed[0] - 1, "ends"),
        (needed[1], "ends"),
        (needed[1] - 1, "everything"),
        (None, "nothing"),
    ):
        free(monkeypatch, number)
        assert choose_recompute("auto", arch, images, UPDATES) == expected
    with torch.no_grad():
        assert choose_recompute("auto", arch, images, UPDATES) == "nothing"


@pytest.mark.parametrize("kind", ["nothing", "ends", "everything"])
def test_what_is_asked_for_is_done(monkeypatch: pytest.MonkeyPatch, kind: Recompute) -> None:
    free(monkeypatch, 0)
    for device in (THERE, "cpu"):
        assert choose_recompute(kind, "large", torch.empty(1, 3, 64, 64, device=device), 1) == kind


def test_on_the_cpu_both_ends_are_recomputed(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 1e15)
    assert choose_recompute("auto", "large", torch.empty(1, 3, 64, 64), 1) == "ends"


@pytest.mark.parametrize("trains", [False, True])
def test_volumes_are_stored_while_they_and_their_gradient_fit(
    monkeypatch: pytest.MonkeyPatch, trains: bool
) -> None:
    """Red when: the gradient of a training step, the coarser levels or the batch are forgotten."""
    height, width = 46, 96
    features = torch.empty(6, 2, height, width, device=THERE, requires_grad=trains)
    levels = sum((height * width) ** 2 / 4**level for level in range(4))
    needed = 4 * 6 * levels * (2 if trains else 1) / VOLUME_FRAC
    for number, expected in ((1.01 * needed, "all-pairs"), (0.99 * needed, "on-demand")):
        free(monkeypatch, number)
        assert lookup.choose("auto", features, 12) == expected
        assert lookup.choose("all-pairs", features, 12) == "all-pairs"


def test_memory_that_torch_holds_unused_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda device: (1000, 9000))
    monkeypatch.setattr(torch.accelerator, "memory_reserved", lambda device: 500)
    monkeypatch.setattr(torch.accelerator, "memory_allocated", lambda device: 200)
    assert memory.free_bytes(THERE) == 1300
    assert memory.free_bytes(torch.device("cpu")) is None


def test_a_device_that_does_not_tell_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(device: torch.device) -> None:
        raise RuntimeError("not implemented")

    monkeypatch.setattr(torch.accelerator, "get_memory_info", refuse)
    assert memory.free_bytes(THERE) is None
