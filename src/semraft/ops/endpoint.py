"""Endpoint error summed on the flow's device, so that whole flows need not leave it."""

from collections.abc import Sequence
from math import inf

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@torch.no_grad()
def endpoint_error_sums(
    flows: Sequence[Float[Tensor, "B 2 H W"]],
    flow_gt: Float[Tensor, "B 2 H W"],
    valid: Bool[Tensor, "B H W"],
) -> list[float]:
    """The sum of the endpoint error over the valid pixels of all samples, of each flow, in px.

    As `semraft.metrics.endpoint_error` has it: Inf where a prediction is not finite, nothing read where not
    valid. Rows are summed in the precision of the flow, as not every device has float64, and their sums in
    float64: off by some 1e-7 of the whole in float32. One transfer, of B H numbers a flow.
    """
    rows = []
    for flow in flows:
        u_px, v_px = (flow - flow_gt).unbind(1)
        error_px = torch.hypot(u_px, v_px).nan_to_num(nan=inf, posinf=inf)
        rows.append(torch.where(valid, error_px, 0).sum(dim=-1))
    return torch.stack(rows).cpu().double().sum(dim=(1, 2)).tolist() if rows else []
