"""Checkpoints: their second names, and where what they hold comes back to."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from semraft import tracking
from semraft.config import LossConfig, ModelConfig, OptimConfig, RunConfig, TermConfig
from semraft.training.state import initial_state, link_checkpoint, load_checkpoint

CONFIG = RunConfig(
    model=ModelConfig(arch="tiny"),
    optim=OptimConfig(steps=4, batch=1, ema=0.9),
    loss=LossConfig(terms=(TermConfig(name="semantic-v1", weight=1.0, modulation="uncertainty"),)),
    precision="float32",
)
CPU, ELSEWHERE = torch.device("cpu"), torch.device("meta")
"""Tensors of `meta` hold no numbers, but are on a device that is not the CPU."""


@pytest.mark.parametrize("hard_links", [True, False])
def test_a_second_name_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hard_links: bool
) -> None:
    """Red when: a run ends at its first validation on gcsfuse, SMB or exFAT; a name is for a moment that of
    half a file; the old file of the name is changed; or something is left beside it."""
    if not hard_links:

        def refused(source: Path, name: Path) -> None:
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(os, "link", refused)
    path, last = tmp_path / "step-000002.pt", tmp_path / "last.pt"
    path.write_bytes(b"new")
    last.write_bytes(b"old")
    with open(last, "rb") as old:
        for _ in range(2):
            link_checkpoint(path, "last.pt")
            assert last.read_bytes() == b"new"
            assert old.read() in (b"old", b"")
        assert os.fstat(old.fileno()).st_nlink == 0
    assert last.samefile(path) == hard_links
    assert tracking.is_same_file(last, path)
    assert not tracking.is_same_file(last, Path(__file__))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last.pt", "step-000002.pt"]
    with pytest.raises(FileNotFoundError):
        link_checkpoint(tmp_path / "gone.pt", "last.pt")
    assert last.read_bytes() == b"new"


def devices(tree: Any) -> Any:
    """The tree with the device of each tensor in its place."""
    if isinstance(tree, torch.Tensor):
        return tree.device.type
    if isinstance(tree, dict):
        return {name: devices(value) for name, value in tree.items()}
    return [devices(value) for value in tree] if isinstance(tree, list) else None


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter:UserWarning")
def test_what_a_checkpoint_holds_comes_back_where_it_belongs(tmp_path: Path) -> None:
    """On a device that is not the CPU, where AdamW is fused and counts steps beside its weights. Red when: a
    checkpoint is read to the device, and sums of the CPU then meet those of the device; or AdamW's moments or
    counters stay on the CPU."""
    (tmp_path / tracking.CHECKPOINTS).mkdir()
    saved = initial_state(CONFIG, CPU)
    for group in saved.optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    saved.optimizer.step()
    saved.step = 1
    saved.window = {"flow_loss": torch.ones(12), "steps": torch.ones(())}
    saved.term_weights.shares = {"semantic-v1": torch.ones(4, dtype=torch.float64)}
    saved.statistics = [{"epe_px": torch.ones(())}]
    saved.save(tmp_path / tracking.CHECKPOINTS / "last.pt", CONFIG)
    state = initial_state(CONFIG, ELSEWHERE)
    state.restore(tmp_path, ELSEWHERE, leads=True)
    *of_network, of_log_variance = devices(state.optimizer.state_dict()["state"]).values()
    assert all(set(of.values()) == {"meta"} for of in of_network)
    assert set(of_log_variance.values()) == {"cpu"}
    for of in ("model", "average"):
        assert set(devices(getattr(state, of).state_dict()).values()) == {"meta"}
    weights = state.term_weights
    assert devices(state.window) == {"flow_loss": "meta", "steps": "cpu"}
    assert devices(state.term_weights.shares) == {"semantic-v1": "cpu"}
    assert (weights.flow_level.device, weights.log_variances["semantic-v1"].device) == (CPU, CPU)
    assert state.step == 1


def test_a_checkpoint_is_read_to_the_cpu_and_another_file_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    replaced = replace(CONFIG, optim=replace(CONFIG.optim, ema=0.0))
    initial_state(replaced, CPU).save(path, replaced)
    assert set(devices(load_checkpoint(path)["model"]).values()) == {"cpu"}
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ValueError, match="is no semraft checkpoint"):
        load_checkpoint(path)
