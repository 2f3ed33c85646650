"""Training metrics of a logging window: a line of metrics.jsonl for the steps since the last one."""

import math

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from semraft.config import LossConfig, RunConfig
from semraft.losses.auxiliary_term import option_values, term_inputs
from semraft.losses.motion import motion_model_by_class
from semraft.losses.reduction import gathered, mean_over_processes, refinement_sum
from semraft.losses.term_weights import changing_weights
from semraft.losses.terms import TERMS
from semraft.metrics import measure, metric_name, pool
from semraft.ops.classes import CLASSES
from semraft.ops.endpoint import endpoint_error_sums
from semraft.ops.fetch import fetched
from semraft.sample import FlowBatch, Prediction
from semraft.step_result import StepResult
from semraft.training.state import TrainingState


def add_step(window: dict[str, Tensor], result: StepResult, config: LossConfig) -> None:
    """Adds the losses of a step, means over all processes, to the sums of a window.

    Beside them the gradient norm, the log variances of learnt weights and, with gradient surgery, the part of
    each term's gradient that was kept. Does not wait for the device. After every step the sums are those of
    all processes: a checkpoint that one of them writes has the whole window, whatever became of the others.
    """
    losses, gradients = result.losses, result.gradients
    values = {"total_loss": losses.total, "gradient_norm": gradients.norm, **losses.values}
    for name, value in result.log_variances.items():
        values[f"{TERMS[name].scalar}_log_variance"] = torch.tensor(value, device=losses.total.device)
    if config.has_surgery:
        for chosen in config.terms:
            whole = torch.ones((), device=losses.total.device)  # Of a term that surgery left alone.
            values[f"{TERMS[chosen.name].scalar}_kept_frac"] = gradients.kept_frac.get(chosen.name, whole)
    flat = mean_over_processes(torch.cat([number.float().view(-1) for number in values.values()]))
    parts = torch.split(flat, [number.numel() for number in values.values()])
    for (name, number), part in zip(values.items(), parts, strict=True):
        window[name] = window.get(name, 0) + part.view(number.shape)
    window["steps"] = window.get("steps", torch.zeros(())) + 1


def window_means(window: dict[str, Tensor], gamma: float) -> dict[str, float]:
    """Means over a window, per refinement where a loss has them; empties the window."""
    steps = float(window.pop("steps"))
    means: dict[str, float] = {}
    sums = fetched(list(window.values()))
    for name, summed in zip(window, sums, strict=True):
        value = summed / steps
        if value.ndim == 0:
            means[name] = float(value)
            continue
        means[name] = float(refinement_sum(value, gamma))
        if len(value) > 1:
            means |= {f"{name}_iter_{t:03d}": float(part) for t, part in enumerate(value)}
    window.clear()
    return means


def window_metrics(
    state: TrainingState, result: StepResult, batch: FlowBatch, config: RunConfig
) -> dict[str, float]:
    """The metrics of the window that ends with a step; all processes call it together."""
    values = window_means(state.window, config.loss.gamma) | batch_metrics(result.prediction, batch)
    values |= motion_by_class(result.prediction, batch, config.loss)
    values |= {"learning_rate": state.optimizer.param_groups[0]["lr"]}
    return values | changing_weights(config.loss, result.weights)


def batch_metrics(prediction: Prediction, batch: FlowBatch) -> dict[str, float]:
    """The metrics of the batch just trained on, pooled over all processes; `epe_iter_000` per refinement."""
    *before, last = prediction.flows
    arrays = _to_numpy(last), _to_numpy(batch.flow), batch.valid.cpu().numpy()
    records = [measure(*pair) for pair in zip(*arrays, strict=True)]
    parts = gathered((records, endpoint_error_sums(before, batch.flow, batch.valid)))
    pooled = pool([record for records, _ in parts for record in records])
    valid_pixels = pooled["valid"] or math.nan
    sums_px = zip(*(errors_px for _, errors_px in parts), strict=True)
    epes = [math.fsum(refinement) / valid_pixels for refinement in sums_px]
    metrics = {name: pooled[name] for name in ("epe", "1px", "3px", "5px", "fl")}
    return metrics | {f"epe_iter_{t:03d}": epe for t, epe in enumerate((*epes, pooled["epe"]))}


def motion_by_class(prediction: Prediction, batch: FlowBatch, config: LossConfig) -> dict[str, float]:
    """`motion_model_loss_road`, ...: the motion-model term by class, in pixels, over all processes.

    Empty without that term in the configuration.
    """
    values: dict[str, float] = {}
    for chosen in config.terms:
        if chosen.name == "motion-model":
            flow = prediction.flow.detach()
            term = TERMS[chosen.name]
            inputs = term_inputs(term, chosen, prediction, batch, batch.trusted(config.max_flow_px))
            model = option_values(term, chosen)["plane_model"]
            found = motion_model_by_class(flow, inputs.segments1, inputs.acting, model)
            values |= {
                metric_name(term.scalar, CLASSES[number].name): value for number, value in found.items()
            }
    return values


def _to_numpy(flow: Tensor) -> Float32[np.ndarray, "B H W 2"]:
    return np.asarray(flow.detach().float().permute(0, 2, 3, 1).cpu().numpy())
