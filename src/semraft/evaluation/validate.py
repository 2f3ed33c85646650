"""Validation of a network during its training, on the validation draws of its run."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch.distributed
from torch import nn

from semraft import tracking
from semraft.agreement import by_all
from semraft.config import Precision, RunConfig
from semraft.evaluation.evaluate import Evaluation, Scores, pooled, score_pairs, write_per_sample
from semraft.inference import decided, on_device
from semraft.losses.reduction import gathered, process_count
from semraft.models.raft import RAFT
from semraft.ops.endpoint import endpoint_error_sums
from semraft.runtime import Processes
from semraft.sample import Estimate, FlowDataset, FlowSample

PADDED_BELOW = ("kitti", "kitti-2012")
"""Data sets whose published figures were made with all padding below the image."""


def network_predictor(
    model: RAFT, num_updates: int, precision: Precision = "float32"
) -> Callable[[FlowSample], Estimate]:
    """A network as something that can be scored: its flow, the error of every refinement, what heads say.

    Only the last flow leaves the device: of the others the sum of the error alone does.
    """

    def predict(sample: FlowSample) -> Estimate:
        prediction = on_device(
            model,
            sample.image1,
            sample.image2,
            num_updates,
            precision=precision,
            top_padding="none" if sample.dataset in PADDED_BELOW else "half",
            labels1=sample.labels1,
            labels2=sample.labels2,
        )
        *before, last = prediction.flows
        flow_gt = torch.from_numpy(sample.flow).to(last.device).permute(2, 0, 1)[None]
        valid = torch.from_numpy(sample.valid).to(last.device)[None]
        errors_px = endpoint_error_sums(before, flow_gt, valid)
        return replace(decided(replace(prediction, flows=[last])), errors_px=errors_px)

    return predict


Validation = Mapping[str, tuple[FlowDataset, tuple[int, ...]]]
"""Split name -> a data set, and which of its pairs are scored."""


def validate(
    model: RAFT,
    validation: Validation,
    config: RunConfig,
    run: Path,
    processes: Processes,
    keep_pairs: bool,
    before_pair: Callable[[], None] = lambda: None,
) -> dict[str, Evaluation]:
    """Scores every validation draw; all processes call it, share the pairs, and get the scores of all.

    The scores are those of one process, row by row. With `keep_pairs` the first process keeps the first pairs
    of each draw with the run's flow for the report. `before_pair` is called before each pair and may raise.

    Raises:
        DamagedFile: A pair can't be read and `data.damaged` is "refuse".
        TrainingStopped: That, or another failure, in another process.
        ValueError: None of a draw's pairs could be scored.
    """
    share_statistics(model)
    with by_all(processes):
        own = _score_share(model, validation, config, run, processes, keep_pairs, before_pair)
    shares = gathered(own, processes.patient)
    return {
        split: pooled(dataset, [share[split] for share in shares])
        for split, (dataset, _) in validation.items()
    }


def write_validation(
    evaluations: Mapping[str, Evaluation], run: Path, step: int, tracker: tracking.Tracker
) -> float:
    """Writes metrics and per_sample.csv, and returns the first draw's EPE; Inf without any.

    Pairs that were skipped are counted in the metrics and named in skipped.jsonl.
    """
    for split, evaluation in evaluations.items():
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


def _score_share(
    model: RAFT,
    validation: Validation,
    config: RunConfig,
    run: Path,
    processes: Processes,
    keep_pairs: bool,
    before_pair: Callable[[], None],
) -> dict[str, Scores]:
    """Scores this process's share of every draw. Nothing is exchanged."""
    assert config.precision != "auto"
    predict = network_predictor(model, config.validation_updates, config.precision)
    scores = {}
    for split, (dataset, indices) in validation.items():
        first = indices[: config.saved_pairs] if keep_pairs else ()
        kept = {dataset.pairs[index].id for index in first}

        def predict_and_keep(sample: FlowSample, split: str = split, kept: set[str] = kept) -> Estimate:
            before_pair()
            found = predict(sample)
            if sample.id in kept:
                keep_pair(run / tracking.PAIRS / split, sample, found)
            return found

        scores[split] = score_pairs(
            predict_and_keep,
            dataset,
            share_of(indices, processes.rank, processes.count, len(first)),
            damaged=config.data.damaged,
            progress=processes.leads,
        )
    return scores


def share_of(indices: tuple[int, ...], rank: int, count: int, least: int) -> tuple[int, ...]:
    """The part of `indices`, in their order, that process `rank` of `count` scores: the first one's at least
    the first `least`."""
    head = max(least, -(-len(indices) // count))
    if rank == 0:
        return indices[:head]
    rest, others = indices[head:], count - 1
    return rest[len(rest) * (rank - 1) // others : len(rest) * rank // others]


@torch.no_grad()
def share_statistics(model: nn.Module) -> None:
    """Gives all processes the first one's statistics of batch norm: each has learnt its own part's."""
    for buffer in model.buffers() if process_count() > 1 else ():
        torch.distributed.broadcast(buffer, 0)


def keep_pair(folder: Path, sample: FlowSample, found: Estimate) -> None:
    """Keeps a pair with what a run says of it as FOLDER/ID.npz, so that a page shows it without the data."""
    folder.mkdir(parents=True, exist_ok=True)
    optional = {
        f"{prefix}{name}": array
        for prefix, of in (("", sample), ("found_", found))
        for name in ("labels1", "occluded1")
        if (array := getattr(of, name)) is not None
    }
    with tracking.whole_file(folder / f"{sample.id.replace('/', '_')}.npz") as file:
        np.savez_compressed(
            file,
            id=np.array(sample.id),
            image1=sample.image1,
            image2=sample.image2,
            flow_gt=sample.flow.astype(np.float16),
            valid=sample.valid,
            flow=found.flows[-1].astype(np.float16),
            **optional,
        )
