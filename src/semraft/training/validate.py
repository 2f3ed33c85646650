"""Scores a network under way: on the batch it just saw, and on the validation draws of its run."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch.distributed
from jaxtyping import Float32

from semraft import tracking
from semraft.config import Precision, RunConfig
from semraft.inference import refinements
from semraft.losses.reduction import process_count
from semraft.metrics import endpoint_error, measure, pool
from semraft.models.raft import RAFT
from semraft.sample import FlowBatch, FlowDataset, FlowSample, Prediction
from semraft.training.evaluate import Evaluation, Predict, evaluate, write_per_sample

PADDED_BELOW = ("kitti", "kitti-2012")
"""Data sets whose published figures were made with all padding below the image."""


def network_predictor(model: RAFT, num_updates: int, precision: Precision = "float32") -> Predict:
    """A network as something that can be scored: the flow after every refinement."""

    def predict(sample: FlowSample) -> Sequence[Float32[np.ndarray, "H W 2"]]:
        return refinements(
            model,
            sample.image1,
            sample.image2,
            num_updates,
            precision=precision,
            top_padding="none" if sample.dataset in PADDED_BELOW else "half",
        )

    return predict


def validate(
    model: RAFT,
    validation: dict[str, tuple[FlowDataset, tuple[int, ...]]],
    config: RunConfig,
    run: Path,
    step: int,
    tracker: tracking.Tracker,
    keep_pairs: bool,
) -> float:
    """Scores every validation draw, writes metrics and per_sample.csv, and returns the first draw's EPE.

    With `keep_pairs` the first pairs of each draw are kept with the run's flow for the report. Damaged pairs
    follow `data.damaged`; those skipped are counted in the metrics and named in skipped.jsonl.
    """
    assert config.precision != "auto"
    predict = network_predictor(model, config.validation_updates, config.precision)
    evaluations: dict[str, Evaluation] = {}
    for split, (dataset, indices) in validation.items():
        kept = {dataset.pairs[index].id for index in indices[: config.saved_pairs]} if keep_pairs else set()

        def predict_and_keep(
            sample: FlowSample, split: str = split, kept: set[str] = kept
        ) -> Sequence[Float32[np.ndarray, "H W 2"]]:
            flows = predict(sample)
            if sample.id in kept:
                keep_pair(run / tracking.PAIRS / split, sample, flows[-1])
            return flows

        evaluation = evaluate(predict_and_keep, dataset, indices, damaged=config.data.damaged, progress=True)
        evaluations[split] = evaluation
        counts = {"pairs": float(len(evaluation.per_sample)), "skipped": float(len(evaluation.skipped))}
        tracker.log(step, split, evaluation.metrics | counts)
        for problem in evaluation.skipped:
            tracking.append_line(
                run / tracking.SKIPPED,
                {"step": step, "id": problem.pair_id, "path": str(problem.path), "reason": problem.detail},
            )
    if not evaluations:
        return math.inf
    write_per_sample(run / tracking.PER_SAMPLE, evaluations)
    return next(iter(evaluations.values())).metrics["epe"]


def keep_pair(folder: Path, sample: FlowSample, flow: Float32[np.ndarray, "H W 2"]) -> None:
    """Keeps a pair with a run's flow as FOLDER/ID.npz, so that a page can show it without the data."""
    folder.mkdir(parents=True, exist_ok=True)
    optional = {
        name: getattr(sample, name) for name in ("labels1", "occluded1") if getattr(sample, name) is not None
    }
    path = folder / f"{sample.id.replace('/', '_')}.npz"
    partial = path.with_name(f".{path.name}")
    np.savez_compressed(
        partial,
        id=np.array(sample.id),
        image1=sample.image1,
        image2=sample.image2,
        flow_gt=sample.flow.astype(np.float16),
        valid=sample.valid,
        flow=flow.astype(np.float16),
        **optional,
    )
    os.replace(partial, path)


def training_metrics(prediction: Prediction, batch: FlowBatch) -> dict[str, float]:
    """The metrics of the batch just trained on, pooled over all processes; `epe_iter_000` per refinement."""
    truths, valids = _to_numpy(batch.flow), batch.valid.cpu().numpy()
    records = [
        measure(flow, truth, valid)
        for flow, truth, valid in zip(_to_numpy(prediction.flow), truths, valids, strict=True)
    ]
    sums = [
        [float(endpoint_error(*arrays).sum()) for arrays in zip(_to_numpy(flow), truths, valids, strict=True)]
        for flow in prediction.flows
    ]
    if process_count() > 1:
        gathered: list[tuple[list[dict[str, object]], list[list[float]]]] = [([], [])] * process_count()
        torch.distributed.all_gather_object(gathered, (records, sums))
        records = [record for part, _ in gathered for record in part]  # type: ignore[misc]
        sums = [[error for _, part in gathered for error in part[t]] for t in range(len(sums))]
    pooled = pool(records)
    metrics = {name: pooled[name] for name in ("epe", "1px", "3px", "5px", "fl")}
    valid_pixels = pooled["valid"] or math.nan
    return metrics | {f"epe_iter_{t:03d}": math.fsum(errors) / valid_pixels for t, errors in enumerate(sums)}


def _to_numpy(flow: torch.Tensor) -> Float32[np.ndarray, "B H W 2"]:
    return np.asarray(flow.detach().float().permute(0, 2, 3, 1).cpu().numpy())
