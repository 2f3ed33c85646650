"""Update block of RAFT: correlation and flow in, a change of flow out, and the mask for upsampling.

In half precision every convolution of the flow reads it `in_parts`: bfloat16 alone rounds 200 px to whole
pixels.
"""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from semraft.kernels.conv2d import Kernel, convolve, in_fast_format, prepare
from semraft.models.convolution import Convolution, for_parts, in_parts, prepare_all
from semraft.models.encoder import STRIDE

Kernels = Mapping[nn.Module, Kernel]
"""Convolutions with their prepared weights (`prepare_all`)."""


class MotionEncoder(nn.Module):
    """Features of the correlation window and the flow so far; the last two channels are the flow itself.

    In half precision the flow is `in_parts`, and six channels.
    """

    def __init__(
        self,
        correlation_channels: int,
        correlation_widths: tuple[int, ...],
        flow_widths: tuple[int, int],
        out_channels: int,
    ) -> None:
        super().__init__()
        self.correlation = nn.Sequential(
            Convolution(correlation_channels, correlation_widths[0], 1), nn.ReLU(inplace=True)
        )
        for widths in pairwise(correlation_widths):
            self.correlation.extend([Convolution(*widths, 3), nn.ReLU(inplace=True)])
        self.flow = nn.Sequential(
            Convolution(2, flow_widths[0], 7, reads_parts=True),
            nn.ReLU(inplace=True),
            Convolution(*flow_widths, 3),
            nn.ReLU(inplace=True),
        )
        self.merge = Convolution(correlation_widths[-1] + flow_widths[1], out_channels - 2, 3)
        self.out_channels = out_channels

    def forward(
        self, correlation: Float[Tensor, "B D h w"], flow: Float[Tensor, "B 2 h w"], kernels: Kernels
    ) -> Float[Tensor, "B M h w"]:
        flow = in_parts(flow)
        seen, moved = run(self.correlation, correlation, kernels), run(self.flow, flow, kernels)
        merged = F.relu(convolve((seen, moved), kernels[self.merge]), inplace=True)
        return torch.cat([merged, flow], dim=1)


def run(layers: nn.Module, x: Float[Tensor, "B C h w"], kernels: Kernels) -> Float[Tensor, "B D h w"]:
    """A sequence of layers, its convolutions with their prepared weights."""
    for layer in layers.children():
        x = convolve(x, kernels[layer]) if isinstance(layer, Convolution) else layer(x)
    return x


class GateConstants(NamedTuple):
    """Constants of a ConvGRU for a pair: weights of hidden state and motion, and the context's share."""

    gates: Kernel
    gates_share: Tensor
    candidate: Kernel
    candidate_share: Tensor


class ConvGRU(nn.Module):
    """A gated recurrent unit of convolutions over hidden state, context and motion features, in that order.

    A convolution is linear in its input channels and the context is the same at every refinement: its share
    of the three convolutions, biases included, is computed once (`prepare`) and added at each.
    """

    def __init__(
        self, hidden_channels: int, context_channels: int, motion_channels: int, kernel: tuple[int, int]
    ) -> None:
        super().__init__()
        self.channels = (hidden_channels, context_channels, motion_channels)
        self.update_gate = Convolution(sum(self.channels), hidden_channels, kernel)
        self.reset_gate = Convolution(sum(self.channels), hidden_channels, kernel)
        self.candidate = Convolution(sum(self.channels), hidden_channels, kernel)

    def prepare(self, context: Float[Tensor, "B C h w"]) -> GateConstants:
        convolutions = (self.update_gate, self.reset_gate, self.candidate)
        weight = torch.cat([convolution.weight for convolution in convolutions])
        bias = torch.cat([convolution.bias for convolution in convolutions if convolution.bias is not None])
        of_hidden, of_context, of_motion = torch.split(weight, list(self.channels), dim=1)
        share = convolve(context, prepare(of_context, bias, context))
        of_features, of_flow = torch.split(of_motion, [self.channels[2] - 2, 2], dim=1)
        changing = torch.cat([of_hidden, of_features, for_parts(of_flow, context)], dim=1)
        gates = 2 * self.channels[0]
        return GateConstants(
            prepare(changing[:gates], None, context),
            in_fast_format(share[:, :gates]),
            prepare(changing[gates:], None, context),
            in_fast_format(share[:, gates:]),
        )

    def forward(
        self, hidden: Float[Tensor, "B H h w"], motion: Float[Tensor, "B M h w"], constants: GateConstants
    ) -> Float[Tensor, "B H h w"]:
        gates = convolve((hidden, motion), constants.gates) + constants.gates_share
        update, reset = torch.sigmoid(gates).chunk(2, dim=1)
        candidate = convolve((reset * hidden, motion), constants.candidate) + constants.candidate_share
        return torch.lerp(hidden, torch.tanh(candidate), update)


class UpdateConstants(NamedTuple):
    """Constants of all refinements of a pair: prepared weights, and each recurrent unit's constants."""

    kernels: Kernels
    units: list[GateConstants]


class UpdateBlock(nn.Module):
    """Motion encoder, one recurrent unit per kernel, and the head that reads the change of flow."""

    def __init__(
        self,
        motion_encoder: MotionEncoder,
        hidden_channels: int,
        context_channels: int,
        kernels: tuple[tuple[int, int], ...],
        head_width: int,
    ) -> None:
        super().__init__()
        self.channels = (hidden_channels, context_channels)
        self.motion_encoder = motion_encoder
        self.recurrent_units = nn.ModuleList(
            ConvGRU(hidden_channels, context_channels, motion_encoder.out_channels, kernel)
            for kernel in kernels
        )
        self.flow_head = nn.Sequential(
            Convolution(hidden_channels, head_width, 3),
            nn.ReLU(inplace=True),
            Convolution(head_width, 2, 3),
        )

    def prepare(self, context: Float[Tensor, "B C h w"]) -> UpdateConstants:
        """The constants of a pair, from its context."""
        units = [unit.prepare(context) for unit in cast(Iterable[ConvGRU], self.recurrent_units)]
        kernels = prepare_all(self.motion_encoder, context) | prepare_all(self.flow_head, context)
        return UpdateConstants(kernels, units)

    def forward(
        self,
        hidden: Float[Tensor, "B H h w"],
        constants: UpdateConstants,
        correlation: Float[Tensor, "B D h w"],
        flow: Float[Tensor, "B 2 h w"],
    ) -> tuple[Float[Tensor, "B H h w"], Float[Tensor, "B 2 h w"]]:
        """The new hidden state, and the change of the flow, in cells."""
        motion = self.motion_encoder(correlation, flow, constants.kernels)
        for unit, unit_constants in zip(self.recurrent_units, constants.units, strict=True):
            hidden = unit(hidden, motion, unit_constants)
        return hidden, run(self.flow_head, hidden, constants.kernels)


class MaskHead(nn.Module):
    """The weights of convex upsampling from the hidden state, as logits: 9 neighbours of 8x8 pixels."""

    def __init__(self, hidden_channels: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Convolution(hidden_channels, width, 3),
            nn.ReLU(inplace=True),
            Convolution(width, 9 * STRIDE**2, 1),
        )

    def forward(self, hidden: Float[Tensor, "B H h w"], kernels: Kernels) -> Float[Tensor, "B 576 h w"]:
        # RAFT's own factor, to balance this branch's gradients; the weights rely on it.
        return 0.25 * run(self.layers, hidden, kernels)
