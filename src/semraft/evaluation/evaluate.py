"""Scores anything that predicts flow on a data set: pooled and stratified metrics, one row a pair.

A network, or a classical baseline, is a function from a sample to its flows; reading runs ahead of it and
scoring behind it, in threads. Metrics themselves are in semraft.metrics.
"""

import csv
import io
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from tqdm import tqdm

from semraft.data.datasets.pairs import WrongSize
from semraft.data.taxonomy import CLASSES, SKY
from semraft.metrics import (
    ALL,
    Ratio,
    Record,
    endpoint_error,
    label_consistency,
    label_overlap,
    mean_over_classes,
    measure,
    metric_name,
    occlusion_overlap,
    pair_metrics,
    pixels_name,
    pool,
)
from semraft.ops.distance import boundary_distance
from semraft.ops.occlusion import forward_backward, out_of_frame
from semraft.ops.warp import warp
from semraft.runtime import own_cores
from semraft.sample import DamagedFile, Estimate, FlowDataset, FlowSample, Problem
from semraft.tracking import write_text

Predict = Callable[[FlowSample], Sequence[Float32[np.ndarray, "H W 2"]] | Estimate]
"""A sample -> the flow after each refinement, the last one being the prediction, and often only that one; an
Estimate where heads are to be scored too."""

BOUNDARY_PX = 5
"""Largest distance from a label boundary in the stratum `boundary`, in pixels."""

_CLASS_NAMES = tuple(entry.name for entry in CLASSES)
MOST_THREADS = 8
"""Threads that read, and that score: a 1080p pair with all its maps is some 100 MB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Scores of a predictor on a data set. Names are those of semraft.metrics; nothing in it needs torch."""

    dataset: str
    split: str
    metrics: dict[str, float]
    """Pooled over pixels, but where the name says `_image_mean`; `epe_iter_000` is after refinement 0."""
    per_sample: list[dict[str, Any]]
    """One row a pair: `id`, `scene`, then its metrics; a name is missing where the pair has no such pixel."""
    skipped: list[Problem]
    """Pairs that could not be read, and so are in no number."""
    precision: str | None = None
    """Arithmetic of the network; None: the predictor was none, or its arithmetic was not given."""
    num_updates: int | None = None
    """Refinements of the network; None: as for `precision`."""
    unlike_validation: str = ""
    """Difference from the way that the checkpoint's own run validates: a line, or empty."""
    derived: tuple[str, ...]
    """Strata that no data set gave: found by the forward-backward check of its two ground-truth flows."""

    def to_json(self) -> dict[str, Any]:
        """All but the rows, as values that `json` can write. NaN and Inf are null; see `non_finite`."""
        finite = {name: value if math.isfinite(value) else None for name, value in self.metrics.items()}
        return {
            "dataset": self.dataset,
            "split": self.split,
            "pairs": len(self.per_sample),
            "precision": self.precision,
            "num_updates": self.num_updates,
            "unlike_validation": self.unlike_validation,
            "metrics": finite,
            "skipped": [{**problem._asdict(), "path": str(problem.path)} for problem in self.skipped],
            "derived": list(self.derived),
        }


def write_per_sample(path: Path, evaluations: Mapping[str, Evaluation]) -> None:
    """Writes per_sample.csv, whole or not at all: one row a pair, `split` being its evaluation's key.

    Columns go split, id, scene, the metrics of all pixels, then stratum by stratum, then how many pixels the
    scores of heads are of; a pair without such a pixel has an empty cell.
    """
    rows = [{"split": split, **row} for split, scored in evaluations.items() for row in scored.per_sample]
    found = {name for row in rows for name in row}
    # The pooled metrics have every name that a row has, in an order that does not depend on the pairs.
    ordered = dict.fromkeys(name for scored in evaluations.values() for name in scored.metrics)
    columns = ["split", "id", "scene", *(name for name in ordered if name in found)]
    columns += sorted(found.difference(columns))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


class Scores(NamedTuple):
    """Scores of some pairs of a data set, in their order."""

    pairs: list["_Score"]
    skipped: list[Problem]


def evaluate(
    predict: Predict,
    dataset: FlowDataset,
    indices: Sequence[int] | None = None,
    *,
    damaged: Literal["refuse", "skip"] = "refuse",
    progress: bool = False,
) -> Evaluation:
    """Scores a predictor on the pairs at `indices`, or on all of them: `score_pairs`, pooled.

    Raises:
        DamagedFile: A pair can't be read, and `damaged` is "refuse".
        ValueError: No pair to score, or a prediction of the wrong shape.
    """
    indices = range(len(dataset)) if indices is None else indices
    return pooled(dataset, [score_pairs(predict, dataset, indices, damaged=damaged, progress=progress)])


def score_pairs(
    predict: Predict,
    dataset: FlowDataset,
    indices: Sequence[int],
    *,
    damaged: Literal["refuse", "skip"] = "refuse",
    progress: bool = False,
) -> Scores:
    """Scores a predictor on each of the pairs at `indices`.

    `predict` is called in this thread, one sample at a time and in order. Threads read pairs before it and
    score what it found behind it, as many as cores carry: as long as they keep up, a pair takes as long as
    its prediction. A non-finite prediction counts as an infinite error (`non_finite` in each row).

    Args:
        predict: The predictor.
        dataset: What to score on.
        indices: Which pairs.
        damaged: Stop at a pair that can't be read, or leave it out and name it in `skipped`.
        progress: Show a progress bar.

    Raises:
        DamagedFile: A pair can't be read, and `damaged` is "refuse".
        ValueError: A prediction of the wrong shape.
    """
    skipped: list[Problem] = []
    with tqdm(total=len(indices), desc=_label(dataset), unit="pair", disable=not progress) as bar:

        def predictions() -> Iterator[tuple[FlowSample, Estimate]]:
            for sample in readable(dataset, indices, damaged, skipped):
                found = predict(sample)
                yield sample, found if isinstance(found, Estimate) else Estimate(flows=found)
                bar.update()

        return Scores(list(_in_background(_score, predictions(), ahead=scorers())), skipped)


def readers() -> int:
    """Threads that read pairs."""
    return min(MOST_THREADS, max(2, own_cores() // 2))


def scorers() -> int:
    """Threads that score predictions."""
    return min(MOST_THREADS, max(1, own_cores() // 2))


def pooled(dataset: FlowDataset, parts: Sequence[Scores]) -> Evaluation:
    """The scores of a data set from those of its parts, in order: the same however it was parted.

    Raises:
        ValueError: None of the pairs could be scored.
    """
    scores = [score for part in parts for score in part.pairs]
    skipped = [problem for part in parts for problem in part.skipped]
    if not scores:
        reason = f"; the first: {skipped[0].path}: {skipped[0].detail}" if skipped else ""
        raise ValueError(f"{_label(dataset)}: none of {len(skipped)} pairs could be scored{reason}")
    return Evaluation(
        dataset=dataset.name,
        split=dataset.split,
        metrics=_pool(scores),
        per_sample=[score.row for score in scores],
        skipped=skipped,
        derived=("occluded", "visible") if any(score.occlusion_derived for score in scores) else (),
    )


def _label(dataset: FlowDataset) -> str:
    return f"{dataset.name} {dataset.split}"


def sample_masks(sample: FlowSample) -> dict[str, Bool[np.ndarray, "H W"]]:
    """The strata of a sample's own fields, as masks named as in `semraft.metrics.STRATA`."""
    masks = place_masks(sample.labels1, sample.moving1)
    occluded = derive_occlusion(sample) if sample.occluded1 is None else sample.occluded1
    if occluded is not None:
        masks["occluded"] = occluded
    if sample.valid_noc is not None:
        masks["noc"] = sample.valid_noc
    return masks


def place_masks(
    labels1: UInt8[np.ndarray, "H W"] | None, moving1: Bool[np.ndarray, "H W"] | None
) -> dict[str, Bool[np.ndarray, "H W"]]:
    """Near boundaries between labels, and on what moves, where it is known."""
    masks: dict[str, Bool[np.ndarray, "H W"]] = {}
    if labels1 is not None:
        distance_px = boundary_distance(torch.from_numpy(labels1.astype(np.int64))[None], BOUNDARY_PX + 1)
        masks["boundary"] = (distance_px[0] <= BOUNDARY_PX).numpy()
    if moving1 is not None:
        masks["moving"] = moving1
    return masks


def derive_occlusion(sample: FlowSample) -> Bool[np.ndarray, "H W"] | None:
    """Points that leave the frame or fail the forward-backward check; None without backward ground truth.

    Where the backward flow is not valid, nothing can be checked, and the pixel counts as visible.
    """
    if sample.backward_flow is None or sample.backward_valid is None:
        return None
    flow, backward = (
        torch.from_numpy(array).permute(2, 0, 1).unsqueeze(0) for array in (sample.flow, sample.backward_flow)
    )
    known, _ = warp(torch.from_numpy(sample.backward_valid)[None, None].float(), flow)
    covered = forward_backward(flow, backward) & (known[:, 0] > 0.999)
    occluded: Bool[np.ndarray, "H W"] = (covered | out_of_frame(flow))[0].numpy()
    return occluded


class _Score(NamedTuple):
    row: dict[str, Any]
    record: Record
    means: dict[str, Ratio]
    """Name -> number of pixels and sum over them, of what has no strata."""
    occlusion_derived: bool


def head_scores(
    sample: FlowSample, found: Estimate, masks: Mapping[str, Bool[np.ndarray, "H W"]]
) -> dict[str, Ratio]:
    """Scores of the heads where the sample has truth for them; occlusion against exact truth alone."""
    scores: dict[str, Ratio] = {}
    for labels, predicted in ((sample.labels1, found.labels1), (sample.labels2, found.labels2)):
        if labels is not None and predicted is not None:
            overlap = label_overlap(predicted, labels, _CLASS_NAMES)
            for name, (below, above) in overlap.items():
                before = scores.get(name, (0.0, 0.0))
                scores[name] = before[0] + below, before[1] + above
    if found.labels1 is not None and found.labels2 is not None and "occluded" in masks:
        visible = sample.valid & ~masks["occluded"]
        consistency = label_consistency(found.labels1, found.labels2, sample.flow, visible)
        scores["temporal_consistency_pct"] = consistency
    if found.occluded1 is not None and sample.occluded1 is not None:
        scores |= occlusion_overlap(found.occluded1, sample.occluded1, sample.flow, sample.valid)
    return scores


def _score(predicted: tuple[FlowSample, Estimate]) -> _Score:
    sample, found = predicted
    flows = found.flows
    shapes = {flow.shape for flow in flows}
    if shapes != {sample.flow.shape}:
        raise ValueError(f"{sample.id}: predicted flow {sorted(shapes)}, expected {sample.flow.shape}")
    masks = sample_masks(sample)
    record = measure(
        flows[-1], sample.flow, sample.valid, masks=masks, labels=sample.labels1, class_names=_CLASS_NAMES
    )
    if sample.dataset == "kitti" and "moving" in record:  # The devkit's own names for the object map.
        record |= {"foreground": record["moving"], "background": record["static"]}
    of_heads = head_scores(sample, found, masks)
    means = dict(of_heads)
    if sample.labels1 is not None:
        length = endpoint_error(flows[-1], np.zeros_like(sample.flow), np.isin(sample.labels1, SKY))
        means[metric_name("flow_px", "sky")] = len(length), float(length.sum())
    errors_px = found.errors_px
    if errors_px is None:
        errors_px = [float(endpoint_error(flow, sample.flow, sample.valid).sum()) for flow in flows[:-1]]
    for number, total in enumerate((*errors_px, record[ALL].error_px) if errors_px else ()):
        means[metric_name("epe", f"iter_{number:03d}")] = record[ALL].valid, total
    unpooled = {name: total / count for name, (count, total) in means.items() if count}
    row = {"id": sample.id, "scene": sample.scene, **pair_metrics(record)}
    row |= unpooled | mean_over_classes(unpooled)
    row |= {pixels_name(name): count for name, (count, _) in of_heads.items() if count}
    return _Score(row, record, means, "occluded" in masks and sample.occluded1 is None)


def _pool(scores: Sequence[_Score]) -> dict[str, float]:
    metrics = pool([score.record for score in scores])
    for name in sorted({name for score in scores for name in score.means}):
        parts = [score.means[name] for score in scores if name in score.means]
        if count := sum(part_count for part_count, _ in parts):
            metrics[name] = math.fsum(total for _, total in parts) / count
    return metrics | mean_over_classes(metrics)


def readable(
    dataset: FlowDataset, indices: Sequence[int], damaged: Literal["refuse", "skip"], skipped: list[Problem]
) -> Iterator[FlowSample]:
    """The samples in order, read ahead; a damaged one raises, or is left out and added to `skipped`."""

    def read(index: int) -> FlowSample | Problem:
        try:
            return dataset[index]
        except DamagedFile as error:
            if damaged == "refuse":
                raise
            kind: Literal["size", "damaged"] = "size" if isinstance(error, WrongSize) else "damaged"
            return Problem(dataset.pairs[index].id, error.path, kind, error.reason)

    for result in _in_background(read, indices, ahead=readers()):
        if isinstance(result, Problem):
            skipped.append(result)
        else:
            yield result


Item = TypeVar("Item")
Result = TypeVar("Result")


def _in_background(function: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Iterator[Result]:
    """The results of `function` in the order of `items`, `ahead` of them being worked on in threads."""
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(ahead) as threads:
        for item in items:
            pending.append(threads.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
