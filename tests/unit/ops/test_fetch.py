"""Numbers on their way to the CPU; what is waited for is counted in tests/e2e/test_another_device.py."""

import torch

from semraft.ops.fetch import fetched


def test_what_is_on_the_cpu_stays_as_it_is() -> None:
    value = torch.ones(2, requires_grad=True)
    (found,) = fetched([value])
    assert found.data_ptr() == value.data_ptr()
    assert not found.requires_grad
    assert fetched([]) == []
