"""Heads: what they give and read, and that the network is the same without them, weight for weight."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from semraft.config import HEADS, Head, ModelConfig
from semraft.models.heads import SegmentationDecoder, is_of_head
from semraft.models.raft import RAFT
from semraft.models.weights import build_model, heads_of, load_model, load_state
from semraft.ops.classes import CLASSES

TINY = ModelConfig(arch="tiny")
BOTH: tuple[Head, ...] = ("occlusion", "decoder")


def tiny(*heads: Head, seed: int = 3) -> RAFT:
    return build_model(replace(TINY, heads=heads), seed)


def images(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two pairs of 66 x 93: neither side is a multiple of 8."""
    image1, image2 = 255 * torch.rand(2, 2, 3, 66, 93, generator=generator)
    return image1, image2


@pytest.mark.parametrize("arch", ["tiny", "small"])
@pytest.mark.parametrize("decoder", ["decoder", "decoder-down"])
def test_what_heads_give(arch: Literal["tiny", "small"], decoder: Head, generator: torch.Generator) -> None:
    """Red when: padding is left on, or frame 2 is decoded from frame 1."""
    config = ModelConfig(arch=arch, heads=("occlusion", decoder))
    model = build_model(config, 0)
    assert model.heads == ("occlusion", decoder)
    image1, image2 = images(generator)
    there, back = model(image1, image2, 2), model(image2, image1, 2)
    assert there.occlusion.shape == (2, 66, 93)
    assert there.segmentation1.shape == there.segmentation2.shape == (2, len(CLASSES), 66, 93)
    torch.testing.assert_close(there.segmentation1, back.segmentation2)
    assert (there.segmentation1 - there.segmentation2).abs().max() > 1e-3


def test_the_network_is_the_same_without_heads(generator: torch.Generator) -> None:
    """Order and first weights, flow and gradients. Red when: heads are made before the rest, or draw from its
    generator, or change how flow is upsampled."""
    base, variant = tiny(), tiny(*BOTH)
    shared = [(name, value) for name, value in variant.state_dict().items() if not is_of_head(name)]
    assert [name for name, _ in shared] == list(base.state_dict())
    assert list(variant.state_dict())[: len(shared)] == list(base.state_dict())
    assert all(torch.equal(value, base.state_dict()[name]) for name, value in shared)
    predictions = [model(*images(generator.manual_seed(5)), 2) for model in (base, variant)]
    assert predictions[0].occlusion is None
    assert predictions[0].segmentation1 is None
    for one, other in zip(*(prediction.flows for prediction in predictions), strict=True):
        assert torch.equal(one, other)
    for prediction in predictions:
        prediction.flow.square().mean().backward()
    for parameter, other in zip(base.parameters(), variant.parameters(), strict=False):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-4, atol=1e-6)


def test_a_heads_first_weights_are_its_own() -> None:
    """Red when: a head's weights depend on which heads there are besides, or not on the seed."""
    alone, beside, other = tiny("decoder"), tiny(*BOTH), tiny("decoder", seed=4)
    for name, value in alone.decoder.state_dict().items():
        assert torch.equal(value, beside.decoder.state_dict()[name])
        assert not torch.equal(value, other.decoder.state_dict()[name])


def test_occlusion_is_upsampled_as_flow_is_without_the_factor(generator: torch.Generator) -> None:
    """The logit of a head that gives 1 everywhere, where flow of 1 cell is 8. Red when: times 8."""
    model = tiny("occlusion")
    model.occlusion_head.layers[2].weight.data.zero_()
    model.occlusion_head.layers[2].bias.data.fill_(1.0)
    occlusion = model(*images(generator), 1).occlusion
    torch.testing.assert_close(occlusion[:, 8:56, 8:80], torch.ones(2, 48, 72), rtol=1e-5, atol=1e-5)


def test_what_heads_read(generator: torch.Generator) -> None:
    """Red when: a head is cut off from what it should teach, or the decoder reads the context encoder."""
    model = tiny(*BOTH)
    prediction = model(*images(generator), 2)
    prediction.segmentation2.square().mean().backward(retain_graph=True)
    assert model.feature_encoder.stem.weight.grad.abs().max() > 0
    assert model.context_encoder.stem.weight.grad is None
    prediction.occlusion.square().mean().backward()
    assert model.update_block.recurrent_units[0].candidate.weight.grad.abs().max() > 0
    assert model.mask_head.layers[0].weight.grad.abs().max() > 0


def test_further_stages_see_further() -> None:
    """A cell far away matters two stages below only. Red when: the stages are not used."""
    features = torch.randn(2, 6, 13, 19, generator=torch.Generator().manual_seed(0))
    changed = features.clone()
    changed[..., -1] += 10
    for stages, matters in ((0, False), (2, True)):
        decoder = SegmentationDecoder(6, stages)
        left, other = decoder(features)[..., :64], decoder(changed)[..., :64]
        assert left.shape == (2, len(CLASSES), 104, 64)
        assert ((left - other).abs().max() > 1e-6) == matters


@pytest.mark.parametrize("heads", [(), ("occlusion",), ("decoder",), ("decoder-down", "occlusion")])
def test_checkpoints_tell_their_heads(heads: tuple[Head, ...]) -> None:
    state = tiny(*heads).state_dict()
    assert set(heads_of(state)) == set(heads)
    for source in (state, {"semraft": 1, "arch": "tiny", "model": state}):
        loaded = load_model(source).state_dict()
        assert loaded.keys() == state.keys()
        assert all(torch.equal(value, state[name]) for name, value in loaded.items())


def test_half_a_head_is_refused() -> None:
    """Red when: what is missing of a head is left as it was made."""
    state = tiny(*HEADS[:2]).state_dict()
    state.pop("decoder.classify.bias")
    with pytest.raises(ValueError, match=r"missing decoder\.classify\.bias$"):
        load_state({"semraft": 1, "arch": "tiny", "model": state})


def test_weights_with_and_without_heads(tmp_path: Path) -> None:
    """Red when: a head that weights have is dropped, made anew, or replaced by the other decoder unsaid."""
    for heads in ((), BOTH):
        torch.save(tiny(*heads, seed=1).state_dict(), tmp_path / f"{len(heads)}.pth")
    base = replace(TINY, weights=str(tmp_path / "0.pth"), heads=BOTH)
    assert all(
        torch.equal(value, tiny(*BOTH, seed=9).state_dict()[name]) == is_of_head(name)
        for name, value in build_model(base, 9).state_dict().items()
        if value.ndim == 4
    )
    whole = replace(base, weights=str(tmp_path / "2.pth"))
    assert all(
        torch.equal(value, tiny(*BOTH, seed=1).state_dict()[name])
        for name, value in build_model(whole, 9).state_dict().items()
    )
    for named in ((), ("occlusion",), ("occlusion", "decoder-down")):
        with pytest.raises(
            ValueError, match=r"has the head .*decoder, which --model\.heads .* does not name"
        ):
            build_model(replace(whole, heads=named), 9)


def test_one_decoder_at_most() -> None:
    with pytest.raises(ValueError, match=r"--model\.heads is decoder decoder-down: expected each head once"):
        ModelConfig(heads=("decoder", "decoder-down"))
