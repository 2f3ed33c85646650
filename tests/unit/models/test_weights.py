"""Networks with weights: loaded from three layouts, strictly, or drawn by the seed.

official_layout.json holds the names and shapes of the official code's state dicts, aliases included.
"""

import json
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from semraft.config import ModelConfig
from semraft.models.raft import ARCHITECTURES, raft_large
from semraft.models.weights import aliases, build_model, convert, load_model, load_state, names, revert
from semraft.sample import DamagedFile

OFFICIAL = json.loads((Path(__file__).parent / "official_layout.json").read_text())
PUBLIC = [(layout, arch) for layout in ("princeton", "torchvision") for arch in ("large", "small")]


def make_state(arch: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        name: torch.randn(value.shape) if value.is_floating_point() else value + 3
        for name, value in ARCHITECTURES[arch]().state_dict().items()
    }


@pytest.mark.parametrize("arch", ["large", "small"])
def test_official_names_and_shapes(arch: str) -> None:
    """Red when: a gate of the recurrent unit, or the shortcut's second name, is called otherwise."""
    official = revert(make_state(arch), "princeton", arch)
    assert {name: list(value.shape) for name, value in official.items()} == OFFICIAL[arch]


@pytest.mark.parametrize(("layout", "arch"), PUBLIC)
def test_names_are_one_to_one_and_there_and_back(layout: str, arch: str) -> None:
    mapping = names(layout, arch)
    assert len(set(mapping.values())) == len(mapping) == len(ARCHITECTURES[arch]().state_dict())
    state = make_state(arch)
    for prefix in ("", "module."):
        foreign = {prefix + name: value for name, value in revert(state, layout, arch).items()}
        found, ours = load_state(foreign)
        assert found == arch
        assert ours.keys() == state.keys()
        assert all(ours[name] is state[name] for name in state)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_our_own_layout(arch: str) -> None:
    state = make_state(arch)
    found, ours = convert(state)
    assert found == arch
    assert ours.keys() == state.keys()


def test_gates_go_where_they_belong() -> None:
    """By hand, for names that could change places unseen: z is update, r is reset, q the candidate."""
    mapping = names("princeton", "large")
    assert mapping["update_block.recurrent_units.0.update_gate.weight"] == "update_block.gru.convz1.weight"
    assert mapping["update_block.recurrent_units.1.reset_gate.bias"] == "update_block.gru.convr2.bias"
    assert names("princeton", "small")["update_block.recurrent_units.0.candidate.weight"] == (
        "update_block.gru.convq.weight"
    )
    mapping = names("torchvision", "small")
    assert mapping["update_block.recurrent_units.0.update_gate.bias"] == (
        "update_block.recurrent_block.convgru1.convz.bias"
    )


@pytest.mark.parametrize(("layout", "arch"), PUBLIC)
def test_missing_and_unexpected_are_named(layout: str, arch: str) -> None:
    """Strict both ways. Red when: `strict=False`, or only our names are gathered."""
    state = revert(make_state(arch), layout, arch)
    gone = next(name for name in state if "flow_head.conv2.bias" in name)
    with pytest.raises(ValueError, match=rf"RAFT {arch} in the {layout} layout: missing {gone}$"):
        convert({name: value for name, value in state.items() if name != gone})
    with pytest.raises(ValueError, match=r"unexpected extra$"):
        convert(state | {"extra": torch.zeros(2)})
    with pytest.raises(ValueError, match=rf"{gone} is \(3,\), expected \(2,\)$"):
        convert(state | {gone: torch.zeros(3)})


def test_the_two_names_of_a_shortcut_norm_must_agree() -> None:
    state = revert(make_state("large"), "princeton", "large")
    assert len(aliases("princeton", "large")) == 10
    state["cnet.layer2.0.norm3.bias"] = state["cnet.layer2.0.norm3.bias"] + 1
    with pytest.raises(
        ValueError, match=r"norm3\.bias and cnet\.layer2\.0\.downsample\.1\.bias are one tensor"
    ):
        convert(state)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"conv1.weight": torch.zeros(64, 3, 7, 7)}, "not the weights of a RAFT .* conv1.weight$"),
        ({}, "not the weights of a RAFT"),
        ({"weights": {}, "epoch": 3}, "its keys are epoch, weights$"),
        ({"semraft": 2, "arch": "tiny", "model": {}}, "is of version 2, this semraft reads 1"),
    ],
)
def test_other_dictionaries_are_refused(state: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_state(state)


def test_files(tmp_path: Path) -> None:
    """A public file, an own checkpoint with what training adds, and damaged ones."""
    state = make_state("small")
    public = {"module." + name: value for name, value in revert(state, "princeton", "small").items()}
    torch.save(public, tmp_path / "raft-small.pth")
    model = load_model(tmp_path / "raft-small.pth")
    assert model.arch == "small"
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())

    tiny = make_state("tiny")
    torch.save({"semraft": 1, "arch": "tiny", "model": tiny, "step": 7}, tmp_path / "last.pt")
    arch, ours = load_state(str(tmp_path / "last.pt"))
    assert arch == "tiny"
    assert all(torch.equal(ours[name], tiny[name]) for name in tiny)
    with pytest.raises(ValueError, match="are of RAFT tiny, asked for was large"):
        load_model(tmp_path / "last.pt", arch="large")

    whole = (tmp_path / "last.pt").read_bytes()
    for name, content in (("empty", b""), ("half", whole[: len(whole) // 2]), ("text", b"not weights\n")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DamagedFile, match=f"{name}: not a file of tensors"):
            load_state(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        load_state(tmp_path / "absent.pth")
    with pytest.raises(ValueError, match=r"is a folder, give a file of weights: \S+last\.pt"):
        load_state(tmp_path)


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    state = make_state("tiny")
    state.pop("feature_encoder.stem.bias")
    with pytest.raises(ValueError, match=r"missing feature_encoder\.stem\.bias"):
        load_state({"semraft": 1, "arch": "tiny", "model": state})


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("weights") / "large.pth"
    torch.save(raft_large().state_dict(), path)
    return str(path)


@pytest.mark.parametrize(
    ("batch_norm", "given", "frozen"),
    [
        ("auto", True, True),
        ("auto", False, False),
        ("train", True, False),
        ("freeze", False, True),
    ],
)
def test_batch_norm_is_frozen_in_fine_tuning(
    weights: str, batch_norm: Literal["auto", "train", "freeze"], given: bool, frozen: bool
) -> None:
    """Red when: `auto` does not look at the weights, or `train()` in the loop wakes the statistics."""
    config = ModelConfig(arch="large", weights=weights if given else "", batch_norm=batch_norm)
    model = build_model(config, seed=0)
    model.eval().train()
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) == 15
    assert {norm.training for norm in norms} == {not frozen}


def test_the_seed_decides_the_first_weights() -> None:
    """The study's seeds changed nothing. Red when: the seed is ignored, or left in torch's own generator."""
    state = torch.get_rng_state()
    first, again, other = (build_model(ModelConfig(arch="tiny"), seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    kernels = [name for name, value in first.items() if value.ndim == 4]
    assert len(kernels) > 10
    assert not any(torch.equal(first[name], other[name]) for name in kernels)
