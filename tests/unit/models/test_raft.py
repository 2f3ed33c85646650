"""The network as a whole: sizes, precision, where gradients go, what freezing freezes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from semraft.config import CorrelationKind, Recompute
from semraft.models import correlation, raft
from semraft.models.raft import ARCHITECTURES, cell_positions, check_inputs, raft_large, raft_small, raft_tiny
from tests.helpers import combinations_of

ALL_ARCHS = pytest.mark.parametrize("arch", ARCHITECTURES)
HALF, DOUBLE = torch.bfloat16, torch.float64
RECOMPUTED: tuple[Recompute, ...] = ("nothing", "ends", "everything")


def make_images(height: int, width: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return tuple(255 * torch.rand(batch, 3, height, width, generator=generator) for _ in range(2))


@pytest.mark.parametrize(
    ("make", "published"), [(raft_large, 5_257_536), (raft_small, 990_162)], ids=["large", "small"]
)
def test_published_parameter_counts(make: type[nn.Module], published: int) -> None:
    assert sum(parameter.numel() for parameter in make().parameters()) == published


def test_tiny_is_tiny_and_needs_no_batch() -> None:
    """Well under a million parameters; a sample does not depend on its batch. Red when: batch norm."""
    torch.manual_seed(0)
    model = raft_tiny().train()
    assert 300_000 < sum(parameter.numel() for parameter in model.parameters()) < 700_000
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    images = make_images(64, 80, batch=3)
    whole = model(*images, num_updates=2).flow
    alone = model(*(image[1:2] for image in images), num_updates=2).flow
    torch.testing.assert_close(alone, whole[1:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arch", "size"),
    combinations_of(
        ARCHITECTURES,
        [(64, 64), (65, 71), (72, 127), (136, 64)],
        short=[("large", (64, 64)), ("small", (65, 71)), ("tiny", (72, 127)), ("tiny", (136, 64))],
    ),
)
def test_any_size_from_64(arch: str, size: tuple[int, int]) -> None:
    """Flow of the images' own size, finite below 128 px too. Red when: coordinates divided by width - 1."""
    torch.manual_seed(0)
    model = ARCHITECTURES[arch]().eval()
    height, width = size
    with torch.no_grad():
        prediction = model(*make_images(height, width), num_updates=2)
    cells = (-(-height // 8), -(-width // 8))
    assert [tuple(flow.shape) for flow in prediction.flows] == 2 * [(2, 2, height, width)]
    assert prediction.features1.shape[-2:] == prediction.features2.shape[-2:] == cells
    assert all(flow.isfinite().all() for flow in prediction.flows)


def test_padding_changes_nothing_inside() -> None:
    """An image and the same padded by hand give the same flow. Red when: the crop is taken from elsewhere."""
    torch.manual_seed(0)
    model = raft_tiny().eval()
    images = make_images(67, 90)
    by_hand = [nn.functional.pad(image, (0, 6, 0, 5), mode="replicate") for image in images]
    with torch.no_grad():
        assert torch.equal(
            model(*images, num_updates=2).flow, model(*by_hand, num_updates=2).flow[..., :67, :90]
        )


@pytest.mark.parametrize(
    ("sizes", "arguments", "message"),
    [
        (((63, 80), (63, 80)), {}, r"63 x 80 px, the smallest is 64 x 64"),
        (((64, 80), (64, 88)), {}, r"\(2, 3, 64, 80\) and \(2, 3, 64, 88\)"),
        (((64, 80), (64, 80)), {"num_updates": 0}, "num_updates is 0"),
        (((64, 80), (64, 80)), {"flow_init": torch.zeros(2, 2, 64, 80)}, r"expected \(2, 2, 8, 10\)"),
    ],
)
def test_wrong_calls_say_what_is_wrong(
    sizes: tuple[tuple[int, int], ...], arguments: dict[str, object], message: str
) -> None:
    # The function itself: the shape checks of the test run would refuse some of these first.
    images = [torch.zeros(2, 3, *size) for size in sizes]
    with pytest.raises(ValueError, match=message):
        check_inputs(*images, arguments.get("num_updates", 12), arguments.get("flow_init"))


@ALL_ARCHS
def test_keeping_the_last_is_the_last(arch: str) -> None:
    """Same numbers, one flow, and the mask head run once. Red when: the first is kept."""
    torch.manual_seed(0)
    model = ARCHITECTURES[arch]().eval()
    images = make_images(64, 80)
    calls = []
    if model.mask_head is not None:
        model.mask_head.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        everything = model(*images, num_updates=3).flows
        calls.clear()
        last = model(*images, num_updates=3, keep="last").flows
    assert len(last) == 1
    assert torch.equal(last[0], everything[-1])
    assert len(calls) == (model.mask_head is not None)


@ALL_ARCHS
def test_a_start_of_k_refinements(arch: str) -> None:
    """A refinement from `flow_init` begins there: with a flow head of zeros it is the upsampled start."""
    torch.manual_seed(0)
    model = ARCHITECTURES[arch]().eval()
    for parameter in model.update_block.flow_head[-1].parameters():
        nn.init.zeros_(parameter)
    start = torch.tensor([1.25, -0.5]).view(1, 2, 1, 1).expand(2, 2, 9, 12)
    with torch.no_grad():
        flow = model(*make_images(72, 96), num_updates=2, flow_init=start).flow
    inside = flow[..., 8:-8, 8:-8]
    torch.testing.assert_close(inside, torch.tensor([10.0, -4.0]).view(1, 2, 1, 1).expand_as(inside))


@ALL_ARCHS
def test_gradient_is_cut_where_it_looked(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when: the flow is not detached at each refinement (only the first, or not at all)."""
    seen = []
    make_lookup = raft.make_lookup

    def watched(*arguments: Any) -> Callable[[Tensor], Tensor]:
        lookup = make_lookup(*arguments)

        def look(points: Tensor) -> Tensor:
            seen.append(points.requires_grad)
            return lookup(points)

        return look

    monkeypatch.setattr(raft, "make_lookup", watched)
    model = ARCHITECTURES[arch]()
    model.update_block.motion_encoder.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[1].requires_grad)
    )
    model(*make_images(64, 72), num_updates=3, flow_init=torch.ones(2, 2, 8, 9, requires_grad=True))
    assert seen == 6 * [False]


@ALL_ARCHS
def test_every_parameter_learns_from_one_refinement(arch: str) -> None:
    """DDP needs a gradient of every parameter, even with one refinement and `keep="last"`."""
    model = ARCHITECTURES[arch]().train()
    model(*make_images(64, 72), num_updates=1, keep="last").flow.abs().sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@ALL_ARCHS
def test_autocast_keeps_flow_in_float32(arch: str) -> None:
    """bf16 where it may: flow, features and volume stay float32. Red when: the change is added in bf16."""
    torch.manual_seed(0)
    model = ARCHITECTURES[arch]().train()
    images = make_images(64, 72)
    with torch.no_grad():
        exact = model(*images, num_updates=2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            prediction = model(*images, num_updates=2)
    for flow in (*prediction.flows, prediction.features1, prediction.features2):
        assert flow.dtype == torch.float32
        assert flow.isfinite().all()
    # Close to the exact flow, yet not a bf16 number, which has 8 bits.
    assert (prediction.flow - exact.flow).abs().max() < 0.1 * exact.flow.abs().max()
    assert not torch.equal(prediction.flow, prediction.flow.bfloat16().float())


def test_autocast_gradients_are_float32_and_finite() -> None:
    torch.manual_seed(0)
    model = raft_tiny().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = model(*make_images(64, 72), num_updates=2)
    prediction.flow.abs().sum().backward()
    for parameter in model.parameters():
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()


def test_frozen_batch_norm_stays_frozen() -> None:
    """Under `train()` the statistics do not move and the result is that of `eval()`; all else trains.

    Red when: `train()` wakes the batch norm again.
    """
    torch.manual_seed(0)
    model = raft_large().freeze_batch_norm()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 15
    before = {name: value.clone() for name, value in model.named_buffers()}
    images = make_images(64, 72)
    model.eval()
    with torch.no_grad():
        evaluated = model(*images, num_updates=1).flow
    model.train()
    assert model.training
    assert model.feature_encoder.training
    assert not any(norm.training for norm in norms)
    with torch.no_grad():
        assert torch.equal(model(*images, num_updates=1).flow, evaluated)
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    awake = raft_large().train()
    assert all(module.training for module in awake.modules())


def test_unit_features_have_one_length() -> None:
    """|f| = sqrt(C): the correlation is sqrt(C) times a cosine, and the logits of `matching` as they are."""
    torch.manual_seed(0)
    prediction = raft_tiny()(*make_images(64, 80), num_updates=1)
    channels = prediction.features1.shape[1]
    for features in (prediction.features1, prediction.features2):
        length = features.norm(dim=1)
        torch.testing.assert_close(length, torch.full_like(length, channels**0.5))
    assert (
        correlation.all_pairs(prediction.features1, prediction.features2).abs().max() <= channels**0.5 + 1e-4
    )


def test_cell_positions_are_x_then_y() -> None:
    """Red when: u and v change places."""
    cells = cell_positions(torch.zeros(2, 5, 3, 4))
    assert cells.shape == (2, 2, 3, 4)
    assert cells[1, :, 2, 3].tolist() == [3, 2]
    assert cells[0, :, 1, 0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("arch", "kind"),
    combinations_of(
        ARCHITECTURES,
        ("all-pairs", "on-demand"),
        short=[("large", "on-demand"), ("small", "all-pairs"), ("tiny", "on-demand")],
    ),
)
def test_what_is_computed_again_is_the_same(arch: str, kind: CorrelationKind) -> None:
    """Gradients bit for bit, and batch norm's statistics moved once. Red when: they move at both times."""
    results = []
    for mode in RECOMPUTED:
        torch.manual_seed(0)
        model = ARCHITECTURES[arch]().train()
        model.recompute, model.correlation = mode, kind
        flows = model(*make_images(64, 72), num_updates=2).flows
        sum(flow.abs().sum() for flow in flows).backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        results.append([*flows, *gradients, *model.buffers()])
    for result in results[1:]:
        assert all(torch.equal(first, second) for first, second in zip(results[0], result, strict=True))


@pytest.mark.parametrize(
    ("arch", "dtype"),
    combinations_of(
        ARCHITECTURES, (HALF, DOUBLE), short=[("large", DOUBLE), ("small", HALF), ("tiny", DOUBLE)]
    ),
)
def test_what_is_computed_again_is_the_same_in_other_types(arch: str, dtype: torch.dtype) -> None:
    """Within rounding: in bfloat16 a weight that both frames share is rounded once or twice. Red when:
    torch's own norms, here those of float64 and else those of a GPU, keep other tensors the second time, or
    statistics move twice."""
    gradients, statistics = [], []
    for mode in RECOMPUTED:
        torch.manual_seed(0)
        model = ARCHITECTURES[arch]().train()
        model.recompute = mode
        images = make_images(64, 72)
        if dtype == DOUBLE:
            model, images = model.double(), (images[0].double(), images[1].double())
        with torch.autocast("cpu", dtype=HALF, enabled=dtype == HALF):
            flows = model(*images, num_updates=1).flows
        sum(flow.abs().sum() for flow in flows).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
        statistics.append(list(model.buffers()))
    for gradient, moved in zip(gradients[1:], statistics[1:], strict=True):
        assert (gradient - gradients[0]).norm() < 0.02 * gradients[0].norm()
        assert all(torch.equal(first, second) for first, second in zip(statistics[0], moved, strict=True))


def test_computing_again_keeps_less() -> None:
    """Bytes kept for the gradients. Red when: the option is not followed."""

    def kept_mb(mode: Recompute) -> float:
        model = raft_large().train()
        model.recompute = mode
        kept: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            prediction = model(*make_images(96, 128, batch=1), num_updates=4)
        assert prediction.flow.requires_grad
        return sum(kept.values()) / 1e6

    whole, ends, everything = (kept_mb(mode) for mode in RECOMPUTED)
    assert ends < 0.65 * whole
    assert everything < 0.35 * whole


class _Layouts(TorchDispatchMode):
    """Notes what joins, adds or convolves features into another memory format than channels_last."""

    OPERATIONS = ("convolution", "cat", "add", "mul", "sigmoid", "tanh", "lerp", "relu_")

    def __init__(self) -> None:
        super().__init__()
        self.slow: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in self.OPERATIONS and made.dim() == 4:
            features = made.shape[1] > 3 and made.shape[3] >= 17  # No pictures, no weights.
            if features and not made.is_contiguous(memory_format=torch.channels_last):
                self.slow.append(f"{func} of {tuple(made.shape)}, strides {made.stride()}")
        return made


@ALL_ARCHS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_stay_in_one_memory_format(arch: str, dtype: torch.dtype) -> None:
    """One image, whose format is told least surely, and a flow to start from in another one. Red when: a
    tensor of a refinement is laid out otherwise: what it meets is copied, or added element by element, which
    took half of the time in bfloat16."""
    model = ARCHITECTURES[arch]().eval()
    images, flow = make_images(128, 136, batch=1), torch.zeros(1, 2, 16, 17)
    half = torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
    with torch.no_grad(), half, _Layouts() as layouts:
        model(*images, num_updates=2, flow_init=flow)
    assert layouts.slow == []
