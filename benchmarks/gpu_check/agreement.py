"""The network on the CPU in float32 against the device in each precision, on the same pairs."""

from collections.abc import Iterator

import numpy as np
import torch
from benchmarks.gpu_check.setting import Row, Setting, full_float32, guarded, precisions

from semraft.config import WorldConfig
from semraft.data import open_dataset
from semraft.evaluation.evaluate import Evaluation, evaluate
from semraft.evaluation.validate import network_predictor
from semraft.metrics import SPEEDS
from semraft.models.raft import RAFT, raft_small
from semraft.models.weights import load_model
from semraft.sample import Estimate, FlowDataset, FlowSample

Flows = dict[str, np.ndarray]
"""Pair -> flow, H W 2."""


def measure(setting: Setting) -> Iterator[Row]:
    """Endpoint errors over all pixels and by speed; what genuine weights and real pairs make meaningful."""
    full_float32()
    dataset, pairs = dataset_of(setting)
    updates = 2 if setting.small else 24
    model = network(setting)
    scored, reference = score(model, dataset, pairs, updates, "float32")
    what = f"{dataset.name}, {pairs} pairs, {'genuine' if setting.weights else 'random'} weights"
    yield {"where": "CPU", "precision": "float32", "pairs": what, **errors(scored)}
    model = model.to(setting.device)
    for precision in precisions(setting):
        where: Row = {"where": str(setting.device), "precision": precision, "pairs": what}

        def compared(precision: str = precision, where: Row = where) -> Iterator[Row]:
            found, flows = score(model, dataset, pairs, updates, precision)
            changes = {
                f"{name}, % of the CPU's": 100 * (value / before - 1)
                for name, value in errors(found).items()
                if (before := errors(scored).get(name))
            }
            distances = [np.linalg.norm(flow - reference[pair], axis=-1) for pair, flow in flows.items()]
            away = np.concatenate([distance.ravel() for distance in distances])
            yield (
                where
                | errors(found)
                | changes
                | {
                    "mean distance, px": float(away.mean()),
                    "99.9th percentile, px": float(np.quantile(away, 0.999)),
                }
            )

        yield from guarded(where, compared)


def dataset_of(setting: Setting) -> tuple[FlowDataset, int]:
    if setting.pairs is not None:
        dataset = open_dataset("kitti", setting.pairs, "val", WorldConfig())
        return dataset, min(len(dataset), 1 if setting.small else 6)
    size = (64, 96) if setting.small else (376, 1248)
    return open_dataset("world", None, "val", WorldConfig(size=size)), 1 if setting.small else 3


def network(setting: Setting) -> RAFT:
    if setting.weights is not None:
        return load_model(setting.weights).eval()
    torch.manual_seed(0)
    return raft_small().eval()


def score(
    model: RAFT, dataset: FlowDataset, pairs: int, updates: int, precision: str
) -> tuple[Evaluation, Flows]:
    predict = network_predictor(model, updates, precision)
    flows: Flows = {}

    def last(sample: FlowSample) -> Estimate:
        found = predict(sample)
        flows[sample.id] = found.flows[-1]
        return Estimate(flows=found.flows[-1:])

    return evaluate(last, dataset, range(pairs)), flows


def errors(scored: Evaluation) -> dict[str, float]:
    """EPE in pixels of all pixels, then by the length of the true flow."""
    names = {"EPE": "epe"} | {f"EPE {speed}": f"epe_{speed}" for speed in SPEEDS}
    return {shown: scored.metrics[name] for shown, name in names.items() if name in scored.metrics}
