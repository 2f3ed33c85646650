"""Training: one loop from a configuration to a run directory.

No plotting, no argument parsing, no data set names, no metric definitions: those live in their own rooms.
"""

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from semraft import runtime, tracking
from semraft.clearml_session import ClearMLSession
from semraft.config import Precision, RunConfig, to_json
from semraft.data.loader import training_batches
from semraft.losses.objective import Objective, check_terms, needs_backward_flow, objective
from semraft.losses.reduction import mean_over_processes, refinement_sum
from semraft.losses.terms import taught_heads
from semraft.losses.weights import (
    Measured,
    NoGradient,
    changing_weights,
    measure_shares,
    settled,
    step_weights,
)
from semraft.models.build import build_model, settle_batch_norm
from semraft.models.heads import given_by, is_of_head
from semraft.sample import FlowBatch
from semraft.training import sources
from semraft.training.checkpoint import link_checkpoint, load_checkpoint, save_checkpoint
from semraft.training.fingerprints import fingerprints
from semraft.training.optim import learning_rate, make_optimizer, set_learning_rate
from semraft.training.validate import training_metrics, validate


class TrainingStopped(RuntimeError):
    """Training can't or shouldn't go on; the message says why and what to do. Nothing saved is lost."""


def train(config: RunConfig, run: Path, resume: bool = False) -> Path:
    """Trains one run to its end and returns its folder.

    Args:
        config: The whole run; with `resume`, what is in its config.json.
        run: The run's folder.
        resume: Go on exactly where checkpoints/last.pt left off.

    Raises:
        ValueError: The configuration, data or folder do not fit together (nothing was trained).
        DamagedFile: A training pair is damaged and `data.damaged` is "refuse".
        TrainingStopped: Loss or gradient became non-finite, or the process was asked to stop.
    """
    device = runtime.choose_device(config.device)
    runtime.keep_freed_memory()
    processes = runtime.join_processes(device)
    precision = runtime.choose_precision(config.precision, device)
    config = replace(config, precision=precision, model=settle_batch_norm(config.model))
    training, weights = sources.training_data(config.data)
    given = given_by(config.model.heads)
    check_terms(config.loss, {dataset.name: dataset.provides for dataset in training}, given)
    validation, left_out = sources.validation_data(config.data)
    # A resumed run has weights of its own: those it started from may be gone.
    start = replace(config.model, weights="") if resume else config.model
    model = build_model(start, config.seed)
    model.train_heads({field for chosen in config.loss.terms for field in taught_heads(chosen)})
    if processes.leads and not resume:
        record = runtime.environment_record(device, precision, processes)
        # Without heads: variants of one seed with and without them share the rest.
        shared = {name: value for name, value in model.state_dict().items() if not is_of_head(name)}
        record["fingerprints"] = fingerprints(config, shared, training, weights)
        _begin(run, config, record | sources.data_record(training, validation, left_out))
    model = model.to(device)
    optimizer = make_optimizer(model, config.optim)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
    window: dict[str, Tensor] = {}
    measured: Measured = {}
    first, best = 0, float("inf")
    if resume:
        state = load_checkpoint(run / tracking.CHECKPOINTS / "last.pt", device)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        first, window, best = state["step"], state["window"], state["best"]
        measured = {name: known.cpu() for name, known in state.get("measured", {}).items()}
        if processes.leads:
            tracking.forget_after(run / tracking.METRICS, first)
            tracking.forget_after(run / tracking.SKIPPED, first)
            tracking.forget_after(run / tracking.WEIGHTS, first)
    network: nn.Module = model
    if processes.count > 1:
        network = DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)
    tracker: tracking.Tracker | None = None
    if processes.leads:
        sessions = [ClearMLSession(run, first + 1)] if config.tracker == "clearml" else []
        tracker = tracking.Tracker(run, first + 1, sessions)
    batches = training_batches(
        training, weights, config.data, config.seed, config.optim, first, processes.rank, processes.count
    )

    def save(step: int, name: str) -> Path:
        path = run / tracking.CHECKPOINTS / name
        save_checkpoint(
            path,
            arch=config.model.arch,
            validation_updates=config.validation_updates,
            step=step,
            model=model,
            optimizer=optimizer,
            scaler=scaler,
            window=window,
            measured=measured,
            best=best,
        )
        return path

    wants_backward = needs_backward_flow(config.loss)
    steps = range(first + 1, config.optim.steps + 1)
    progress = tqdm(total=config.optim.steps, initial=first, unit="step", disable=not processes.leads)
    model.train()
    with progress, _asked_to_stop() as asked_to_stop, tracker or nullcontext():
        for step, (batch, skipped) in zip(steps, batches, strict=True):
            # ---- one step --------------------------------------------------------------------------------
            batch = sources.to_device(batch, device)
            rate = learning_rate(step - 1, config.optim)
            set_learning_rate(optimizer, rate)
            with runtime.autocast(device, precision):
                prediction = network(batch.image1, batch.image2, config.num_updates)
            if wants_backward:
                prediction.backward_flow = _backward_flow(model, batch, config.num_updates, precision)
            rate_frac = rate / config.optim.learning_rate
            loss_weights = step_weights(config.loss, step, config.optim.steps, rate_frac, measured)
            losses = objective(prediction, batch, config.loss, loss_weights)
            before, measured = measured, _measure(losses, model, config, step, measured, scaler)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(scaler.scale(losses.total))
            scaler.unscale_(optimizer)
            gradient_norm = _clip(model, config.optim.clip_norm)
            _refuse_non_finite(step, batch, losses, None if scaler.is_enabled() else gradient_norm, run)
            scaler.step(optimizer)
            scaler.update()
            # ---- what is written of it -------------------------------------------------------------------
            _add(window, losses, gradient_norm, config.loss.gamma)
            if tracker is not None:
                _record_weights(run, step, settled(before, measured))
            for problem in skipped:  # Every process writes its own.
                tracking.append_line(run / tracking.SKIPPED, {"step": step, **problem})
            if step % config.log_every == 0 or step == config.optim.steps:
                values = _means(window, config)
                values |= training_metrics(prediction, batch)
                values |= {"learning_rate": rate} | changing_weights(config.loss, loss_weights)
                window.clear()
                if tracker is not None:
                    tracker.log(step, "train", values)
                    progress.set_postfix(loss=f"{values['total_loss']:.3f}", epe=f"{values['epe']:.2f}")
            if step % config.validate_every == 0 or step == config.optim.steps:
                if tracker is not None:
                    last = step == config.optim.steps
                    score = validate(model, validation, config, run, step, tracker, keep_pairs=last)
                    improved, best = score < best, min(score, best)
                    path = save(step, f"step-{step:06d}.pt")
                    # Studies take a run for done when last.pt is its last checkpoint: it comes last.
                    for name in ("best.pt", "last.pt") if improved else ("last.pt",):
                        link_checkpoint(path, name)
                model.train()
            elif processes.leads and (step % config.checkpoint_every == 0 or asked_to_stop()):
                save(step, "last.pt")
            progress.update()
            if asked_to_stop():
                raise TrainingStopped(f"stopped after step {step}: go on with `semraft train --resume {run}`")
    runtime.leave_processes()
    return run


def _begin(run: Path, config: RunConfig, record: dict[str, Any]) -> None:
    """Writes what a new run is, and tells the person what of it may surprise."""
    if config.model.arch != "tiny" and not config.model.weights:
        record["warnings"].append("starts from random weights; --model.weights FILE fine-tunes a checkpoint")
    tracking.create_run(run)
    tracking.write_text(run / tracking.CONFIG, to_json(config))
    tracking.write_text(run / tracking.ENVIRONMENT, json.dumps(record, indent=2))
    for warning in (
        *record["warnings"],
        *(f"not validated on {name}" for name in record["data"]["left_out"]),
    ):
        print(f"! {warning}", file=sys.stderr)


def _clip(model: nn.Module, clip_norm: float) -> Tensor:
    """Clips the gradient to `clip_norm` (0: not at all) and returns its norm before."""
    return torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm if clip_norm > 0 else float("inf"))


@torch.no_grad()
def _backward_flow(
    model: nn.Module, batch: FlowBatch, num_updates: int, precision: Precision
) -> Float[Tensor, "B 2 H W"]:
    """The flow from frame 2 to frame 1, for checks: without gradient, and batch norm learns nothing of it."""
    model.eval()
    with runtime.autocast(batch.image1.device, precision):
        flow: Tensor = model(batch.image2, batch.image1, num_updates, keep="last").flow
    model.train()
    return flow


def _measure(
    losses: Objective,
    model: nn.Module,
    config: RunConfig,
    step: int,
    measured: Measured,
    scaler: torch.amp.GradScaler,
) -> Measured:
    """The shares of the loss terms as known after this step."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        return measure_shares(losses, trained, config.loss, step, measured, scaler.get_scale())
    except NoGradient as error:
        raise TrainingStopped(str(error)) from error


def _record_weights(run: Path, step: int, weights: dict[str, float]) -> None:
    """Writes down the weights that were found at this step, and says them."""
    for name, weight in weights.items():
        tracking.append_line(run / tracking.WEIGHTS, {"step": step, "term": name, "weight": weight})
        tqdm.write(f"loss term {name}: weight {weight:.4g}, measured up to step {step}", file=sys.stderr)


def _refuse_non_finite(
    step: int, batch: FlowBatch, losses: Objective, gradient_norm: Tensor | None, run: Path
) -> None:
    """A non-finite loss or gradient never moves the weights; None: a scaler looks after the gradient."""
    finite = losses.total.isfinite() if gradient_norm is None else (losses.total + gradient_norm).isfinite()
    if finite:
        return
    broken = [name for name, values in losses.values.items() if not torch.isfinite(values).all()]
    where = f"loss {' and '.join(broken)}" if broken else "gradient"
    raise TrainingStopped(
        f"{where} not finite at step {step}, samples {', '.join(batch.ids)}: the weights were not moved. "
        f"The last checkpoint is in {run / tracking.CHECKPOINTS}; try a lower --optim.learning-rate"
    )


def _add(window: dict[str, Tensor], losses: Objective, gradient_norm: Tensor, gamma: float) -> None:
    """Adds one step's losses to the sums of the logging window, without waiting for the device."""
    values = {"total_loss": losses.total, "gradient_norm": gradient_norm, **losses.values}
    for name, value in values.items():
        window[name] = window.get(name, 0) + value.detach().float()
    window["steps"] = window.get("steps", torch.zeros(())) + 1


def _means(window: dict[str, Tensor], config: RunConfig) -> dict[str, float]:
    """Means over the logging window and all processes; per refinement where a loss has refinements."""
    means: dict[str, float] = {}
    for name, summed in window.items():
        if name == "steps":
            continue
        value = mean_over_processes(summed) / float(window["steps"])
        if value.ndim == 0:
            means[name] = float(value)
            continue
        means[name] = float(refinement_sum(value, config.loss.gamma))
        if len(value) > 1:
            means |= {f"{name}_iter_{t:03d}": float(part) for t, part in enumerate(value)}
    return means


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Turns SIGINT and SIGTERM into a question the loop asks after each step; a second one is Ctrl-C."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
