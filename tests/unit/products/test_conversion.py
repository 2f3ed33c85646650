"""Weights in another layout: the same flow, read by whoever owns the layout; wrapped files of others."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

import semraft
from semraft.cli.main import run
from semraft.config import ModelConfig
from semraft.models.weights import build_model, load_state, revert
from tests.parity.torchvision_shim import raft_small


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of RAFT small that was validated with 3 refinements."""
    path = tmp_path_factory.mktemp("weights") / "small.pt"
    state = build_model(ModelConfig(arch="small"), 1).state_dict()
    notes = {"semraft": 1, "arch": "small", "validation_updates": 3, "precision": "float32"}
    torch.save({**notes, "model": state}, path)
    return path


@pytest.mark.parametrize("layout", ["semraft", "princeton", "torchvision"])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_layouts_and_formats(
    small: Path, tmp_path: Path, layout: str, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Red when: a layout's names are written without what its code expects, or refinements get lost."""
    out = tmp_path / f"out.{ending}"
    assert run(["convert", str(small), str(out), "--layout", layout]) == 0
    printed = capsys.readouterr()
    assert "differs by 0 px" in printed.out
    assert ("validated with 3 refinements" in printed.err) == (layout != "semraft")
    model = semraft.load(out)
    assert model.validation_updates == (3 if layout == "semraft" else 24)
    expected = torch.load(small, weights_only=True)["model"]
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    if ending == "pth" and layout == "princeton":
        assert all(name.startswith("module.") for name in torch.load(out, weights_only=True))
    if ending == "pth" and layout == "torchvision":
        raft_small().load_state_dict(torch.load(out, weights_only=True))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"heads": ("occlusion",), "arch": "small"}, "no names for the head occlusion"),
        ({"arch": "tiny"}, "no names for RAFT tiny"),
        ({"arch": "small", "conditioning": "truth"}, "no names for conditioning on classes of truth"),
    ],
)
def test_parts_that_only_semraft_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], says: str
) -> None:
    """Red when: a head is left out without a word."""
    torch.save(build_model(ModelConfig(**change), 1).state_dict(), tmp_path / "in.pt")
    out = tmp_path / "out.pth"
    assert run(["convert", str(tmp_path / "in.pt"), str(out), "--layout", "princeton"]) == 2
    assert says in capsys.readouterr().err
    assert not out.exists()


def test_a_copy_that_differs_is_removed(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Red when: the written file is not read back."""

    def broken(state: dict[str, torch.Tensor], layout: Any, arch: str) -> dict[str, torch.Tensor]:
        return {name: value * 1.01 for name, value in revert(state, layout, arch).items()}

    monkeypatch.setattr("semraft.products.conversion.revert", broken)
    with pytest.raises(RuntimeError, match="differs by"):
        run(["convert", str(small), str(tmp_path / "out.pth"), "--layout", "torchvision"])
    assert list(tmp_path.iterdir()) == []


def checkpoint_of_torchvision() -> dict[str, Any]:
    """The checkpoint of torchvision's reference training: model, optimizer, scheduler, epoch, args."""
    model = raft_small()
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1e-4, epochs=2, steps_per_epoch=3, anneal_strategy="linear"
    )
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "epoch": 1,
        "args": argparse.Namespace(model="raft_small", lr=1e-4, val_dataset=["kitti"]),
    }


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module.raft.", "model._orig_mod."])
@pytest.mark.parametrize("wrapper", [(), ("model",), ("state_dict",), ("model_state_dict",)])
def test_wrapped_state_dicts(small: Path, prefix: str, wrapper: tuple[str, ...]) -> None:
    """Red when: a wrapper, or a prefix inside another one, is not taken off."""
    state = torch.load(small, weights_only=True)["model"]
    found: dict[str, Any] = {
        prefix + name: value for name, value in revert(state, "princeton", "small").items()
    }
    for name in wrapper:
        found = {name: found, "epoch": 3}
    arch, ours = load_state(found)
    assert arch == "small"
    assert all(torch.equal(ours[name], value) for name, value in state.items())


def test_a_checkpoint_of_torchvisions_training(tmp_path: Path) -> None:
    """Red when: the options in it, an argparse.Namespace, make the file unreadable."""
    checkpoint = checkpoint_of_torchvision()
    torch.save(checkpoint, tmp_path / "raft_small_1.pth")
    model = semraft.load(tmp_path / "raft_small_1.pth")
    theirs = revert(model.state_dict(), "torchvision", "small")
    assert all(torch.equal(theirs[name], value) for name, value in checkpoint["model"].items())
