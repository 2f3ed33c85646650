"""RAFT: recurrent all-pairs field transforms for optical flow (Teed and Deng, ECCV 2020)."""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Literal, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from semraft.config import Conditioning, CorrelationKind, Head, Recompute
from semraft.kernels.conv2d import in_fast_format
from semraft.models import correlation
from semraft.models.conditioning import LabelConditioning, classes_of_labels, classes_of_logits
from semraft.models.convolution import prepare_all
from semraft.models.encoder import STRIDE, BottleneckBlock, Encoder, ResidualBlock
from semraft.models.heads import OcclusionHead, SegmentationDecoder, make_head
from semraft.models.lookup import make_lookup
from semraft.models.memory import Again, choose_recompute
from semraft.models.recompute import recomputed
from semraft.models.update import Kernels, MaskHead, MotionEncoder, UpdateBlock
from semraft.models.upsampling import upsample_bilinear, upsample_convex
from semraft.ops.padding import pad_to_multiple
from semraft.sample import Prediction

MIN_SIZE_PX = 64
"""Smallest height and width: with a row or column of cells less, the coarsest of four levels is empty."""


class RAFT(nn.Module):
    """RAFT of any size: two encoders, a correlation lookup, a recurrent update block, an upsampling.

    Flow, coordinates and correlation are float32 under autocast. `unit_features` scales every feature vector
    to the length sqrt(C): a correlation is then sqrt(C) times a cosine, bounded, and soft enough to train on.
    Without a `mask_head` flow is upsampled bilinearly. Heads (`add_heads`) and classes for the context
    (`condition_on`) are made after all other weights.
    `validation_updates` and `validation_precision` are those of the weights' validation: with more
    refinements a network may drift.
    `correlation` (`lookup.make_lookup`) and `recompute` (`memory.choose_recompute`) may be changed at any
    time and change no number beyond rounding.
    """

    def __init__(
        self,
        *,
        arch: str,
        feature_encoder: Encoder,
        context_encoder: Encoder,
        update_block: UpdateBlock,
        mask_head: MaskHead | None,
        levels: int,
        radius: int,
        unit_features: bool = False,
        correlation: CorrelationKind = "auto",
        recompute: Recompute = "nothing",
    ) -> None:
        super().__init__()
        self.arch = arch
        self.feature_encoder = feature_encoder
        self.context_encoder = context_encoder
        self.update_block = update_block
        self.mask_head = mask_head
        self.occlusion_head: OcclusionHead | None = None
        self.decoder: SegmentationDecoder | None = None
        self.label_conditioning: LabelConditioning | None = None
        self.levels = levels
        self.radius = radius
        self.unit_features = unit_features
        self.correlation = correlation
        self.recompute = recompute
        self.batch_norm_is_frozen = False
        self.validation_updates, self.validation_precision = 24, "float32"  # RAFT's own.

    def forward(
        self,
        image1: Float[Tensor, "B 3 H W"],
        image2: Float[Tensor, "B 3 H W"],
        num_updates: int = 12,
        flow_init: Float[Tensor, "B 2 h w"] | None = None,
        labels1: Int64[Tensor, "B H W"] | None = None,
        labels2: Int64[Tensor, "B H W"] | None = None,
        keep: Literal["all", "last"] = "all",
    ) -> Prediction:
        """The flow from image1 to image2 after each of `num_updates` refinements.

        Args:
            image1: RGB, 0..255, of any size from 64 x 64, as is image2.
            flow_init: Start of the recurrence at 1/8 of the size, rounded up, in units of 8 pixels.
            labels1: Read only by a network that is conditioned on true labels, as are labels2.
            keep: "last" upsamples and returns the last refinement alone: the same numbers for less work.

        Raises:
            ValueError: Sizes that differ or are too small, no refinement, or no labels where they are read.
        """
        check_inputs(image1, image2, num_updates, flow_init)
        height, width = image1.shape[-2:]
        image1, image2 = _prepared(image1), _prepared(image2)
        again = choose_recompute(self.recompute, self.arch, image1, num_updates)
        features1, features2 = self.features_of_both(image1, image2, again)
        prediction = Prediction(flows=[], features1=features1, features2=features2)
        if self.decoder is not None:
            logits = self.decoder(torch.cat([features1, features2]))[..., :height, :width]
            prediction.segmentation1, prediction.segmentation2 = logits.chunk(2)
        classes = self.classes(prediction, labels1, labels2)
        for pixels in self.refinements(
            image1, features1, features2, classes, num_updates, flow_init, keep, again
        ):
            prediction.flows.append(pixels[:, :2, :height, :width])
        if self.occlusion_head is not None:
            prediction.occlusion = pixels[:, 2, :height, :width]
        return prediction

    def refinements(
        self,
        image1: Float[Tensor, "B 3 P Q"],
        features1: Float[Tensor, "B C h w"],
        features2: Float[Tensor, "B C h w"],
        classes: Sequence[Float[Tensor, "B K h w"]],
        num_updates: int,
        flow_init: Float[Tensor, "B 2 h w"] | None,
        keep: Literal["all", "last"],
        again: Again,
    ) -> Iterator[Float[Tensor, "B D P Q"]]:
        """The flow of the padded frames after each refinement; a third channel of the last is occlusion."""
        lookup = make_lookup(features1, features2, self.levels, self.radius, num_updates, self.correlation)
        at_ends = partial(recomputed, self, again != "nothing")
        between = partial(recomputed, self, again == "everything")
        context = at_ends(self.context_encoder, image1)
        if self.label_conditioning is not None:
            context = context + self.label_conditioning(*classes)
        hidden, context = context.split(self.update_block.channels, dim=1)
        hidden, constants = torch.tanh(hidden), self.update_block.prepare(F.relu(context))
        mask_kernels = {} if self.mask_head is None else prepare_all(self.mask_head, hidden)
        cells = cell_positions(features1)
        flow = in_fast_format(torch.zeros_like(cells) if flow_init is None else flow_init.to(cells.dtype))

        def refine(hidden: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
            hidden, change = self.update_block(hidden, constants, lookup(cells + flow), flow)
            return hidden, flow + change

        for updates_left in reversed(range(num_updates)):
            # Detach the flow: no gradient through the lookup coordinates (as in RAFT).
            hidden, flow = between(refine, hidden, flow.detach())
            if keep == "all" or updates_left == 0:
                values = STRIDE * flow
                if updates_left == 0 and self.occlusion_head is not None:
                    values = torch.cat([values, self.occlusion_head(hidden).to(flow.dtype)], dim=1)
                yield at_ends(self.upsample, values, hidden, mask_kernels)

    @torch.no_grad()
    def backward_flow(
        self,
        image2: Float[Tensor, "B 3 H W"],
        prediction: Prediction,
        num_updates: int,
        labels1: Int64[Tensor, "B H W"] | None = None,
        labels2: Int64[Tensor, "B H W"] | None = None,
    ) -> Float[Tensor, "B 2 H W"]:
        """The last flow from image2 to image1, without gradient, after `prediction` was made of both.

        Equal to that of the exchanged frames, but features are taken from the prediction: only frame 2's
        context is encoded.
        """
        height, width = image2.shape[-2:]
        features1, features2 = prediction.features1.detach(), prediction.features2.detach()
        classes = self.classes(prediction, labels1, labels2)[::-1]
        (pixels,) = self.refinements(
            _prepared(image2), features2, features1, classes, num_updates, None, "last", "nothing"
        )
        return pixels[:, :2, :height, :width]

    def features_of_both(
        self, image1: Float[Tensor, "B 3 P Q"], image2: Float[Tensor, "B 3 P Q"], again: Again
    ) -> Sequence[Float[Tensor, "B C h w"]]:
        """The features of both frames: in two passes on the CPU, whose caches hold the activations of one
        frame; else in one, because small kernels leave a GPU idle and an exported graph is smaller."""
        at_ends = partial(recomputed, self, again != "nothing")
        if image1.device.type == "cpu" and not torch.compiler.is_exporting():
            return at_ends(self.features, image1), at_ends(self.features, image2)
        features: Tensor = at_ends(self.features, torch.cat([image1, image2]))
        return features.chunk(2)

    def features(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """The features that the correlation compares, in full precision."""
        features = correlation.in_full_precision(self.feature_encoder(image))
        return F.normalize(features) * features.shape[1] ** 0.5 if self.unit_features else features

    def upsample(
        self, cells: Float[Tensor, "B C h w"], hidden: Float[Tensor, "B D h w"], kernels: Kernels
    ) -> Float[Tensor, "B C 8*h 8*w"]:
        """Values of cells to values of pixels, all channels by the same mask."""
        if self.mask_head is None:
            return upsample_bilinear(cells)
        return upsample_convex(cells, self.mask_head(hidden, kernels))

    def classes(
        self,
        prediction: Prediction,
        labels1: Int64[Tensor, "B H W"] | None,
        labels2: Int64[Tensor, "B H W"] | None,
    ) -> list[Float[Tensor, "B K h w"]]:
        """The classes of both frames for the context; empty without conditioning.

        Raises:
            ValueError: It is conditioned on true labels, and there are none.
        """
        if self.conditioning == "none":
            return []
        if self.conditioning == "decoder":
            decoded = prediction.segmentation1, prediction.segmentation2
            return [classes_of_logits(logits) for logits in decoded if logits is not None]
        if labels1 is None or labels2 is None:
            raise ValueError(
                "the network is conditioned on true labels (--model.conditioning truth) and gives no flow "
                "without those of both frames: take data that has them, or train with conditioning decoder"
            )
        return [classes_of_labels(labels1), classes_of_labels(labels2)]

    @property
    def heads(self) -> tuple[Head, ...]:
        """The names of its heads."""
        heads: list[Head] = [] if self.occlusion_head is None else ["occlusion"]
        if self.decoder is not None:
            heads.append("decoder-down" if len(self.decoder.down) else "decoder")
        return tuple(heads)

    def add_heads(self, heads: Sequence[Head], seed: int) -> "RAFT":
        """Adds the heads that it lacks, with weights that `seed` determines."""
        features = self.feature_encoder.project.out_channels
        for head in heads:
            if head in self.heads:
                continue
            made = make_head(head, self.update_block.channels[0], features, seed)
            if isinstance(made, OcclusionHead):
                self.occlusion_head = made
            else:
                self.decoder = cast(SegmentationDecoder, made)
        return self

    @property
    def conditioning(self) -> Conditioning:
        """Source of the classes in its context."""
        return "none" if self.label_conditioning is None else self.label_conditioning.conditioning

    def condition_on(self, conditioning: Conditioning) -> "RAFT":
        """Adds classes to its context, if there are none; with their first weights they change nothing."""
        if conditioning not in ("none", self.conditioning):
            self.label_conditioning = LabelConditioning(conditioning, sum(self.update_block.channels))
        return self

    def train_heads(self, fields: Collection[str]) -> None:
        """Trains the heads that fill one of these fields of a prediction, and no other: processes that train
        together would wait for the gradients of heads without a loss."""
        for head, gives in ((self.occlusion_head, "occlusion"), (self.decoder, "segmentation1")):
            if head is not None:
                head.requires_grad_(gives in fields)

    def freeze_batch_norm(self) -> "RAFT":
        """Freezes batch norm's running statistics, now and under every later `train()`.

        Its scale and shift still learn, as in RAFT's fine-tuning.
        """
        self.batch_norm_is_frozen = True
        return self.train(self.training)

    def train(self, mode: bool = True) -> "RAFT":
        super().train(mode)
        if self.batch_norm_is_frozen:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self


def _prepared(image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 P Q"]:
    """An image for the encoders: -1..1, padded to whole cells."""
    return in_fast_format(pad_to_multiple(2 * (image / 255) - 1, STRIDE))


def check_inputs(image1: Tensor, image2: Tensor, num_updates: int, flow_init: Tensor | None) -> None:
    height, width = image1.shape[-2:]
    if image1.shape != image2.shape:
        raise ValueError(
            f"image1 and image2 differ in shape: {tuple(image1.shape)} and {tuple(image2.shape)}; "
            "resize or crop them to one size"
        )
    if min(height, width) < MIN_SIZE_PX:
        raise ValueError(
            f"images are {height} x {width} px, the smallest is {MIN_SIZE_PX} x {MIN_SIZE_PX}: enlarge them"
        )
    if num_updates < 1:
        raise ValueError(f"num_updates is {num_updates}, at least one refinement is needed")
    cells = (image1.shape[0], 2, -(-height // STRIDE), -(-width // STRIDE))
    if flow_init is not None and flow_init.shape != cells:
        raise ValueError(
            f"flow_init is {tuple(flow_init.shape)}, expected {cells}: 1/8 of the size, rounded up"
        )


def cell_positions(features: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 2 h w"]:
    """The (x, y) of every cell of the features, integers."""
    batch, _, height, width = features.shape
    y = torch.arange(height, device=features.device, dtype=features.dtype)
    x = torch.arange(width, device=features.device, dtype=features.dtype)
    return torch.stack(torch.meshgrid(x, y, indexing="xy")).expand(batch, -1, -1, -1)


def raft_large(correlation: CorrelationKind = "auto") -> RAFT:
    """RAFT as published, 5.3 million parameters."""
    hidden, context = 128, 128
    levels, radius = 4, 4
    return RAFT(
        arch="large",
        correlation=correlation,
        feature_encoder=Encoder(ResidualBlock, (64, 64, 96, 128), 256, "instance"),
        context_encoder=Encoder(ResidualBlock, (64, 64, 96, 128), hidden + context, "batch"),
        update_block=UpdateBlock(
            MotionEncoder(levels * (2 * radius + 1) ** 2, (256, 192), (128, 64), 128),
            hidden,
            context,
            kernels=((1, 5), (5, 1)),
            head_width=256,
        ),
        mask_head=MaskHead(hidden, 256),
        levels=levels,
        radius=radius,
    )


def raft_small(correlation: CorrelationKind = "auto") -> RAFT:
    """RAFT small as published, 1.0 million parameters."""
    hidden, context = 96, 64
    levels, radius = 4, 3
    return RAFT(
        arch="small",
        correlation=correlation,
        feature_encoder=Encoder(BottleneckBlock, (32, 32, 64, 96), 128, "instance"),
        context_encoder=Encoder(BottleneckBlock, (32, 32, 64, 96), hidden + context, "none"),
        update_block=UpdateBlock(
            MotionEncoder(levels * (2 * radius + 1) ** 2, (96,), (64, 32), 82),
            hidden,
            context,
            kernels=((3, 3),),
            head_width=128,
        ),
        mask_head=None,
        levels=levels,
        radius=radius,
    )


def raft_tiny(correlation: CorrelationKind = "auto") -> RAFT:
    """A RAFT for studies on a CPU, 0.55 million parameters; no norm that depends on the batch.

    Only the stem works at 1/2 of the size, where the published networks spend most of their time: half the
    time of a step for the same error (docs/experiments.md).
    """
    hidden, context = 48, 48
    levels, radius = 3, 3
    return RAFT(
        arch="tiny",
        correlation=correlation,
        feature_encoder=Encoder(ResidualBlock, (16, 32, 48), 64, "instance"),
        context_encoder=Encoder(ResidualBlock, (16, 32, 48), hidden + context, "none"),
        update_block=UpdateBlock(
            MotionEncoder(levels * (2 * radius + 1) ** 2, (64,), (32, 16), 48),
            hidden,
            context,
            kernels=((3, 3),),
            head_width=64,
        ),
        mask_head=MaskHead(hidden, 48),
        levels=levels,
        radius=radius,
        unit_features=True,
    )


ARCHITECTURES: dict[str, Callable[..., RAFT]] = {"large": raft_large, "small": raft_small, "tiny": raft_tiny}
