"""Check of a data set: usable and damaged files, statistics of flow and classes, and the alignment test."""

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from semraft.data import alignment
from semraft.data.alignment import NO_PAIRS, Alignment, Neighbours, PairErrors, Sums
from semraft.data.datasets.pairs import WrongSize
from semraft.data.label_tables import contradiction, count_ids, label_files
from semraft.data.taxonomy import CLASSES, classes_of, read_source_ids, table_name
from semraft.sample import (
    IGNORE_LABEL,
    AnyTable,
    DamagedFile,
    FlowDataset,
    FlowSample,
    Pair,
    Problem,
    unreadable_is_damaged,
)

LABEL_FILES = 50
"""Label files, spread evenly, that tell label tables apart."""
_BINS_PER_PX = 32
_BINS = 2048 * _BINS_PER_PX


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowStatistics:
    """Over all valid pixels of all pairs read; median and percentiles to 1/64 px."""

    valid_frac: float
    u_mean_px: float
    v_mean_px: float
    magnitude_mean_px: float
    magnitude_median_px: float
    magnitude_90_px: float
    magnitude_99_px: float
    magnitude_max_px: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Result of `check_dataset`. None: no pair, or none with labels, could be read."""

    dataset: str
    split: str
    pairs: int
    pairs_read: int
    provides: tuple[str, ...]
    problems: tuple[Problem, ...]
    image_sizes: dict[str, int]
    class_frac: dict[str, float] | None
    source_class_frac: dict[str, float] | None
    """Shares by the names of the data set's own label table; None of a pack, which holds common classes."""
    label_table: AnyTable | None
    """The table by which label files were read."""
    doubtful_table: str
    """A line where label files clearly hold the ids of another table; else empty."""
    flow: FlowStatistics | None
    alignment: Alignment | None

    @property
    def sound(self) -> bool:
        """Every file is usable, some flow is valid, and neither flow nor labels contradict the images."""
        return not self.contradictions

    @property
    def contradictions(self) -> tuple[str, ...]:
        """A line for each reason why the data is not sound; of several unusable files the first by name."""
        found = [line for line in (self.doubtful_table,) if line]
        if self.problems:
            first = self.problems[0]
            found.append(f"{len(self.problems)} unusable files, the first {first.path}: {first.detail}")
        if not self.pairs:
            found.append("nothing found: no pair with all its files")
        elif self.flow is None:
            found.append("no valid pixel: no pair that could be read has flow truth")
        return (*found, *(self.alignment.contradictions if self.alignment is not None else ()))

    @property
    def bad_ids(self) -> tuple[str, ...]:
        """The ids of the pairs that can't be used, each once."""
        return tuple(dict.fromkeys(problem.pair_id for problem in self.problems))

    def to_json(self) -> dict[str, Any]:
        """The report as values that `json` can write; `sound`, `bad_ids` and the criterion with it."""
        found = dataclasses.asdict(dataclasses.replace(self, problems=()))
        found["problems"] = [bad._asdict() | {"path": str(bad.path)} for bad in self.problems]
        return found | {"bad_ids": self.bad_ids, "sound": self.sound, "criterion": alignment.CRITERION}


@dataclass(kw_only=True, slots=True)
class _Totals:
    """Sums over pairs, which is all that is kept of them; at first, over none."""

    sums: Sums = field(default_factory=dict)
    sizes: Counter[str] = field(default_factory=Counter)
    magnitudes: Int64[np.ndarray, " bins"] = field(default_factory=lambda: np.zeros(_BINS, np.int64))
    magnitude_max_px: float = 0.0
    labels: Int64[np.ndarray, " 256"] = field(default_factory=lambda: np.zeros(256, np.int64))
    source_ids: Int64[np.ndarray, " 256"] = field(default_factory=lambda: np.zeros(256, np.int64))
    alignment: PairErrors = NO_PAIRS

    def add(self, other: "_Totals") -> None:
        self.sizes.update(other.sizes)
        self.magnitudes += other.magnitudes
        self.magnitude_max_px = max(self.magnitude_max_px, other.magnitude_max_px)
        self.labels += other.labels
        self.source_ids += other.source_ids
        self.alignment += other.alignment
        for name, value in other.sums.items():
            self.sums[name] = self.sums.get(name, 0) + value


def check_dataset(
    dataset: FlowDataset,
    *,
    alignment_pairs: int = 50,
    read_pairs: int | None = None,
    progress: Callable[..., Iterable[Any]] = lambda results, total: results,
) -> Report:
    """Reads all pairs (or `read_pairs` of them, evenly spread) and tests alignment on some of these.

    `progress(results, total=n)` passes the results on as they come, as tqdm does.
    """
    pairs = _spread(dataset.pairs, len(dataset) if read_pairs is None else read_pairs)
    tested = {pair.id for pair in _spread(pairs, alignment_pairs)}
    totals, problems = _Totals(), list(dataset.problems)
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))  # Decoding releases the interpreter's lock.
    try:
        results = pool.map(lambda pair: _measure(dataset, pair, pair.id in tested), pairs)
        for result in progress(results, total=len(pairs)):
            if isinstance(result, Problem):
                problems.append(result)
            else:
                totals.add(result)
    finally:
        pool.shutdown(cancel_futures=True)  # An interrupted check does not read on to the end.
    return Report(
        dataset=dataset.name,
        split=dataset.split,
        pairs=len(dataset),
        pairs_read=totals.sizes.total(),
        provides=tuple(sorted(dataset.provides)),
        problems=tuple(problems),
        image_sizes=dict(totals.sizes.most_common()),
        class_frac=_class_shares(totals.labels),
        source_class_frac=_source_class_shares(totals.source_ids, dataset.label_table),
        label_table=dataset.label_table,
        doubtful_table=contradiction(count_ids(label_files(dataset, LABEL_FILES)), dataset.label_table),
        flow=_flow_statistics(totals),
        alignment=alignment.judge(totals.alignment),
    )


def _spread(pairs: tuple[Pair, ...], count: int) -> tuple[Pair, ...]:
    """So many of the pairs, or all, evenly spread."""
    count = min(count, len(pairs))
    return tuple(pairs[index * len(pairs) // count] for index in range(count))


def _measure(dataset: FlowDataset, pair: Pair, test_alignment: bool) -> _Totals | Problem:
    try:
        with unreadable_is_damaged(pair):
            sample = dataset.read(pair)
    except WrongSize as error:
        return Problem(pair.id, error.path, "size", error.reason)
    except DamagedFile as error:
        return Problem(pair.id, error.path, "damaged", error.reason)
    flow = sample.flow[sample.valid]
    magnitude = np.hypot(flow[:, 0], flow[:, 1])
    bins = np.minimum(magnitude * _BINS_PER_PX, _BINS - 1).astype(np.int64)
    height, width = sample.valid.shape
    totals = _Totals(
        sums={
            "pixels": height * width,
            "valid": len(flow),
            "u_px": float(flow[:, 0].sum(dtype=np.float64)),
            "v_px": float(flow[:, 1].sum(dtype=np.float64)),
            "magnitude_px": float(magnitude.sum(dtype=np.float64)),
        },
        sizes=Counter({f"{width}x{height}": 1}),
        magnitudes=np.bincount(bins, minlength=_BINS),
        magnitude_max_px=float(magnitude.max(initial=0)),
    )
    if sample.labels1 is not None:
        totals.labels = np.bincount(sample.labels1.ravel(), minlength=256)
    if dataset.label_table is not None and dataset.origin is None and "labels1" in pair.files:
        ids = read_source_ids(pair.files["labels1"], dataset.label_table)
        totals.source_ids = np.bincount(ids.ravel(), minlength=256)
    if test_alignment:
        png_flow = "flow" in pair.files and ".png" in pair.files["flow"].suffixes
        totals.alignment = alignment.measure(sample, png_flow, _neighbours(dataset, pair))
    return totals


def _neighbours(dataset: FlowDataset, pair: Pair) -> Neighbours:
    """The pairs before and after a pair in the data set, as far as they can be read."""
    place = dataset.pairs.index(pair)
    neighbours: dict[Literal["before", "after"], FlowSample] = {}
    with suppress(DamagedFile, OSError):
        if place > 0:
            neighbours["before"] = dataset[place - 1]
    with suppress(DamagedFile, OSError):
        if place + 1 < len(dataset):
            neighbours["after"] = dataset[place + 1]
    return neighbours


def _class_shares(labels: Int64[np.ndarray, " 256"]) -> dict[str, float] | None:
    total = int(labels.sum())
    if not total:
        return None
    names = {entry.name: entry.id for entry in CLASSES} | {"ignored": IGNORE_LABEL}
    return {name: int(labels[label]) / total for name, label in names.items()}


def _source_class_shares(
    counts: Int64[np.ndarray, " 256"], table: AnyTable | None
) -> dict[str, float] | None:
    total = int(counts.sum())
    if not total or table is None:
        return None
    return {entry.name: int(counts[entry.id]) / total for entry in classes_of(table)}


def _flow_statistics(totals: _Totals) -> FlowStatistics | None:
    sums, valid = totals.sums, totals.sums.get("valid")
    if not valid:
        return None
    places = np.searchsorted(np.cumsum(totals.magnitudes), valid * np.array([0.5, 0.9, 0.99]))
    median_px, at_90_px, at_99_px = ((places + 0.5) / _BINS_PER_PX).tolist()
    return FlowStatistics(
        valid_frac=valid / sums["pixels"],
        u_mean_px=sums["u_px"] / valid,
        v_mean_px=sums["v_px"] / valid,
        magnitude_mean_px=sums["magnitude_px"] / valid,
        magnitude_median_px=median_px,
        magnitude_90_px=at_90_px,
        magnitude_99_px=at_99_px,
        magnitude_max_px=totals.magnitude_max_px,
    )


def as_text(report: Report, max_problems: int = 20) -> str:
    """The report for a person to read, with the first `max_problems` problems by name."""
    return "\n".join(_lines(report, max_problems))


def _lines(report: Report, max_problems: int) -> Iterator[str]:
    kinds = Counter(problem.kind for problem in report.problems)
    yield f"{report.dataset} {report.split}: {report.pairs} pairs found, {report.pairs_read} read and sound"
    yield f"provides: {', '.join(report.provides) or 'flow only'}"
    yield "sizes: " + (", ".join(f"{size} ({count})" for size, count in report.image_sizes.items()) or "none")
    yield f"problems: {', '.join(f'{count} {kind}' for kind, count in kinds.items()) or 'none'}"
    for problem in report.problems[:max_problems]:
        yield f"  {problem.kind:8} {problem.pair_id}: {problem.path}: {problem.detail}"
    if len(report.problems) > max_problems:
        yield f"  and {len(report.problems) - max_problems} more"
    if (flow := report.flow) is not None:
        yield f"flow: valid {flow.valid_frac:.1%}, mean u {flow.u_mean_px:.2f} px, v {flow.v_mean_px:.2f} px"
        yield (
            f"  length: mean {flow.magnitude_mean_px:.2f} px, median {flow.magnitude_median_px:.2f}, "
            f"90 % {flow.magnitude_90_px:.2f}, 99 % {flow.magnitude_99_px:.2f}, "
            f"max {flow.magnitude_max_px:.2f}"
        )
    yield from _class_lines(report)
    if report.alignment is not None:
        yield from _alignment_lines(report.alignment)
    yield f"NOT SOUND: {'; '.join(report.contradictions)}" if report.contradictions else "sound"


def _alignment_lines(test: Alignment) -> Iterator[str]:
    yield f"alignment ({test.pairs} pairs): flow {test.verdict}: {test.reason}"
    if test.labels_verdict is not None:
        yield f"  labels {test.labels_verdict}: {test.labels_reason}"
    if test.occlusion_verdict is not None:
        yield f"  occlusion {test.occlusion_verdict}: {test.occlusion_reason}"
    yield f"  photometric error {test.photometric_flow:.2f}, with zero flow {test.photometric_zero:.2f}"
    yield f"  error on the {test.moving_frac:.1%} of the pixels that move, by how the flow is read:"
    by_error = sorted(test.readings.items(), key=lambda reading: reading[1])
    yield from (f"    {error:7.2f}  {name}" for name, error in by_error)
    yield f"  ({alignment.CRITERION})"


def _class_lines(report: Report) -> Iterator[str]:
    """Shares of the classes by the data set's own names, each with its common class; else by common names."""
    if report.label_table is not None and report.source_class_frac is not None:
        yield f"classes of frame 1 by {table_name(report.label_table)}, and the common class of each:"
        for entry in classes_of(report.label_table):
            if share := report.source_class_frac[entry.name]:
                common = "ignored" if entry.common == IGNORE_LABEL else CLASSES[entry.common].name
                yield f"  {entry.name:20} {share:7.2%}  {common}"
    elif report.class_frac is not None:
        yield "common classes of frame 1:"
        yield from (f"  {name:20} {share:7.2%}" for name, share in report.class_frac.items() if share)
