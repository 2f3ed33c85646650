"""The recurrent unit and the mask head, against their formulas written out."""

import pytest
import torch
from torch import Tensor

from semraft.models.convolution import prepare_all
from semraft.models.raft import raft_tiny
from semraft.models.update import ConvGRU, MaskHead


@pytest.mark.parametrize("kernel", [(3, 3), (1, 5), (5, 1)])
def test_recurrent_unit_is_the_plain_one(kernel: tuple[int, int], generator: torch.Generator) -> None:
    """z, r from [h, c, m]; q from [r h, c, m]; h' = (1 - z) h + z q. Red when: z and r change places."""
    torch.manual_seed(1)
    unit = ConvGRU(4, 3, 5, kernel).double()
    hidden, context, motion = (
        torch.randn(2, channels, 6, 7, generator=generator, dtype=torch.float64) for channels in (4, 3, 5)
    )
    everything = torch.cat([hidden, context, motion], dim=1)
    update, reset = torch.sigmoid(unit.update_gate(everything)), torch.sigmoid(unit.reset_gate(everything))
    candidate = torch.tanh(unit.candidate(torch.cat([reset * hidden, context, motion], dim=1)))
    expected = (1 - update) * hidden + update * candidate
    torch.testing.assert_close(unit(hidden, motion, unit.prepare(context)), expected)


def test_half_precision_sees_fast_motion_as_float32_does() -> None:
    """A change of 0.05 cells at a flow of 30 cells (240 px) changes the features of motion and the hidden
    state, about as much as in float32. Rounded to bfloat16, which knows steps of 0.125 there, it is none.

    Red when: the flow is rounded on its way into the motion encoder, or into the recurrent units.
    """
    torch.manual_seed(0)
    block = raft_tiny().update_block
    hidden, context = (torch.randn(1, 48, 16, 17) for _ in range(2))
    seen, flow = torch.randn(1, 3 * 49, 16, 17), torch.full((1, 2, 16, 17), 30.0)

    def answers(half: bool) -> list[Tensor]:
        encoded, states = [], []
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            constants = block.prepare(context)
            for moved in (flow, flow + 0.05):
                motion = block.motion_encoder(seen, moved, constants.kernels)
                encoded.append(motion[:, :46])
                motion = torch.cat([encoded[0], motion[:, 46:]], dim=1)
                states.append(block.recurrent_units[0](hidden.to(motion), motion, constants.units[0]))
        return [(after - before).float() for before, after in (encoded, states)]

    for found, exact in zip(answers(half=True), answers(half=False), strict=True):
        assert exact.norm() > 0
        assert found.norm() > 0.5 * exact.norm()  # Rounding elsewhere adds to it.


def test_mask_head_is_damped() -> None:
    """Red when: the factor 0.25 is missing, which published weights rely on."""
    torch.manual_seed(0)
    head = MaskHead(6, 7)
    hidden = torch.randn(2, 6, 3, 4)
    torch.testing.assert_close(head(hidden, prepare_all(head, hidden)), head.layers(hidden) / 4)
