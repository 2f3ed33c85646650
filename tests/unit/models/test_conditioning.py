"""Classes in the context: nothing changes without, nor at first; then they are read, those of both frames."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from semraft.config import Conditioning, Head, ModelConfig
from semraft.models.conditioning import classes_of_labels, classes_of_logits, conditioning_of
from semraft.models.heads import is_of_head
from semraft.models.raft import RAFT
from semraft.models.weights import build_model, heads_of, load_model
from semraft.ops.classes import CLASSES

TINY = ModelConfig(arch="tiny")


def tiny(conditioning: Conditioning, *heads: Head, seed: int = 3) -> RAFT:
    return build_model(replace(TINY, conditioning=conditioning, heads=heads), seed)


def learnt(model: RAFT) -> RAFT:
    """The network with a conditioning that is no longer zero."""
    generator = torch.Generator().manual_seed(11)
    for parameter in model.label_conditioning.parameters():
        parameter.data.normal_(0, 0.2, generator=generator)
    return model


def images(height: int = 66, width: int = 93) -> tuple[Tensor, Tensor]:
    image1, image2 = 255 * torch.rand(2, 2, 3, height, width, generator=torch.Generator().manual_seed(5))
    return image1, image2


def labels(height: int = 66, width: int = 93) -> tuple[Tensor, Tensor]:
    """Blobs of three classes, and some pixels that are ignored."""
    draws = torch.rand(2, 2, 1, 9, 12, generator=torch.Generator().manual_seed(6))
    drawn = [torch.nn.functional.interpolate(draw, (height, width), mode="nearest")[:, 0] for draw in draws]
    first, second = (torch.tensor([0, 7, 10, 255])[(4 * draw).long()] for draw in drawn)
    return first, second


@pytest.mark.parametrize(("conditioning", "heads"), [("truth", ()), ("decoder", ("decoder",))])
def test_at_first_it_changes_nothing(conditioning: Conditioning, heads: tuple[Head, ...]) -> None:
    """Order, first weights and flow. Red when: it does not start at 0, draws from the rest's generator, or
    comes before the rest."""
    plain, conditioned = tiny("none", *heads), tiny(conditioning, *heads)
    state = conditioned.state_dict()
    assert list(state)[: len(plain.state_dict())] == list(plain.state_dict())
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())
    added = [name for name in state if name not in plain.state_dict()]
    assert added == [f"label_conditioning.layers.{conditioning}.{part}" for part in ("weight", "bias")]
    assert all(map(is_of_head, added))
    first, second = labels()
    expected, found = plain(*images(), 2), conditioned(*images(), 2, labels1=first, labels2=second)
    assert all(torch.equal(one, other) for one, other in zip(expected.flows, found.flows, strict=True))


@pytest.mark.parametrize(("conditioning", "heads"), [("truth", ()), ("decoder", ("decoder",))])
def test_it_learns_from_the_flow(conditioning: Conditioning, heads: tuple[Head, ...]) -> None:
    """Red when: no gradient reaches it, or one passes through the classes to the decoder."""
    model = tiny(conditioning, *heads)
    first, second = labels()
    model(*images(), 2, labels1=first, labels2=second).flow.square().mean().backward()
    gradient = model.label_conditioning.layers[conditioning].weight.grad
    of_frame = gradient.abs().amax((0, 2, 3)).view(2, len(CLASSES))
    assert (of_frame.amax(1) > 0).all()
    if conditioning == "truth":
        there = [entry.id in (0, 7, 10) for entry in CLASSES]
        assert (of_frame > 0).tolist() == [there, there]
    assert all(parameter.grad is None for parameter in (model.decoder.parameters() if heads else ()))


def test_which_labels_are_read() -> None:
    """Red when: only frame 1's are, frames change places, or a network without conditioning reads any."""
    model, (first, second) = learnt(tiny("truth")), labels()
    with torch.no_grad():
        flow = model(*images(), 1, labels1=first, labels2=second).flow
        exchanged = model(*images(), 1, labels1=second, labels2=first).flow
        one = model(*images(), 1, labels1=first, labels2=first).flow
        assert min((flow - exchanged).abs().max(), (flow - one).abs().max()) > 1e-3
        plain = tiny("none")
        assert torch.equal(plain(*images(), 1, labels1=first, labels2=second).flow, plain(*images(), 1).flow)


def test_classes_by_other_names_are_the_same() -> None:
    """Road and car change names in labels and weights alike. Red when: an id is read as a number."""
    model, (first, second) = learnt(tiny("truth")), labels()
    order = torch.arange(len(CLASSES))
    order[0], order[10] = 10, 0
    with torch.no_grad():
        expected = model(*images(), 1, labels1=first, labels2=second).flow
        weight = model.label_conditioning.layers["truth"].weight
        weight.copy_(weight[:, torch.cat([order, len(CLASSES) + order])])
        named = [torch.where(each == 255, 255, order[each.clamp(max=11)]) for each in (first, second)]
        found = model(*images(), 1, labels1=named[0], labels2=named[1]).flow
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_classes_of_cells() -> None:
    """Shares of a cell, mirrored where the frame is. Red when: ignored pixels count as a class, the mean is a
    sample, or padding shifts the cells."""
    first, _ = labels(64, 96)
    cells = classes_of_labels(first)
    assert cells.shape == (2, len(CLASSES), 8, 12)
    for y, x in ((0, 0), (3, 7), (7, 11)):
        cell = first[1, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
        for k in range(len(CLASSES)):
            assert float(cells[1, k, y, x]) == pytest.approx(float((cell == k).float().mean()))
    assert torch.equal(classes_of_labels(first.flip(-1)), cells.flip(-1))
    assert float(classes_of_labels(torch.full((2, 66, 93), 255)).abs().max()) == 0
    certain = 100.0 * torch.nn.functional.one_hot(first.clamp(max=11), 12).permute(0, 3, 1, 2)
    torch.testing.assert_close(classes_of_logits(certain), classes_of_labels(first.clamp(max=11)))
    assert classes_of_labels(first[:, :57, :91]).shape == (2, len(CLASSES), 8, 12)


def test_no_flow_without_the_labels_it_needs() -> None:
    with pytest.raises(ValueError, match="gives no flow without those of both"):
        tiny("truth")(*images(), 1, labels1=labels()[0])
    with pytest.raises(ValueError, match=r"model\.conditioning is decoder: expected a decoder among"):
        ModelConfig(conditioning="decoder", heads=("occlusion",))


@pytest.mark.parametrize(("conditioning", "heads"), [("truth", ()), ("decoder", ("occlusion", "decoder"))])
def test_weights_tell_their_conditioning(
    conditioning: Conditioning, heads: tuple[Head, ...], tmp_path: Path
) -> None:
    """Red when: it is lost on the way, or dropped unsaid, or taken for a head."""
    model = learnt(tiny(conditioning, *heads))
    state = model.state_dict()
    assert (conditioning_of(state), heads_of(state)) == (conditioning, heads)
    loaded = load_model({"semraft": 1, "arch": "tiny", "model": state})
    assert (loaded.conditioning, loaded.heads) == (conditioning, heads)
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    torch.save(state, tmp_path / "conditioned.pth")
    again = replace(TINY, weights=str(tmp_path / "conditioned.pth"), heads=heads, conditioning=conditioning)
    assert all(torch.equal(value, state[name]) for name, value in build_model(again, 9).state_dict().items())
    with pytest.raises(ValueError, match=f"is conditioned on classes of {conditioning}: give"):
        build_model(replace(again, conditioning="none"), 9)
    torch.save(tiny("none", seed=1).state_dict(), tmp_path / "plain.pth")
    added = build_model(replace(again, weights=str(tmp_path / "plain.pth")), 9)
    assert added.conditioning == conditioning


@pytest.mark.parametrize("conditioning", ["none", "truth", "decoder"])
def test_backward_flow_is_that_of_the_frames_exchanged(conditioning: Conditioning) -> None:
    """By the features of the forward pass. Red when: features, labels or classes do not change places, or
    the frames are encoded again."""
    model = tiny(conditioning, "occlusion", "decoder").eval()
    model = learnt(model) if conditioning != "none" else model
    (image1, image2), (labels1, labels2) = images(), labels()
    prediction = model(image1, image2, 2, labels1=labels1, labels2=labels2)
    expected = model(image2, image1, 2, labels1=labels2, labels2=labels1).flow.detach()
    calls: list[int] = []
    handle = model.feature_encoder.register_forward_hook(lambda *_: calls.append(1))
    found = model.backward_flow(image2, prediction, 2, labels1=labels1, labels2=labels2)
    handle.remove()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found - prediction.flow).abs().max() > 0.1
    assert not calls
    assert not found.requires_grad


def test_batch_norm_learns_nothing_of_backward_flow() -> None:
    """The context encoder of a small RAFT with batch norm: its own statistics, which stay. Red when: the
    mode in which it was called is not the mode it runs in."""
    model = build_model(replace(TINY, batch_norm="train"), 0)
    norm = torch.nn.BatchNorm2d(96)
    norm.running_mean.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    model.context_encoder.project = torch.nn.Sequential(model.context_encoder.project, norm)
    image1, image2 = images()
    with torch.no_grad():
        prediction = model.train()(image1, image2, 1)
        model.eval()
        before = norm.running_mean.clone()
        expected = model(image2, image1, 1).flow
        found = model.backward_flow(image2, prediction, 1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(norm.running_mean, before)
