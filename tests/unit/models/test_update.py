"""The recurrent unit and the mask head, against their formulas written out."""

import pytest
import torch

from semraft.models.convolution import prepare_all
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


def test_mask_head_is_damped() -> None:
    """Red when: the factor 0.25 is missing, which published weights rely on."""
    torch.manual_seed(0)
    head = MaskHead(6, 7)
    hidden = torch.randn(2, 6, 3, 4)
    torch.testing.assert_close(head(hidden, prepare_all(head, hidden)), head.layers(hidden) / 4)
