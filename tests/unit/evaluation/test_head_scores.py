"""Scores of heads against loops over pixels written from the definitions, pooled over pairs."""

from collections import Counter

import numpy as np
import pytest

from semraft.data.taxonomy import CLASSES
from semraft.evaluation.evaluate import evaluate
from semraft.metrics import METRICS, split_metric_name
from semraft.sample import Estimate, FlowSample
from tests.helpers import make_sample
from tests.unit.evaluation.test_evaluate import make_dataset


def guess(sample: FlowSample) -> Estimate:
    """Right more often than not, sometimes a class that no pixel has; the same for the same sample."""
    rng = np.random.default_rng(sample.valid.shape[0])
    shape = sample.valid.shape
    labels = [
        np.where(rng.random(shape) < 0.7, np.where(truth == 255, 1, truth), rng.integers(0, 11, shape))
        for truth in (sample.labels1, sample.labels2)
    ]
    assert sample.occluded1 is not None
    return Estimate(
        flows=[sample.flow],
        occluded1=np.where(rng.random(shape) < 0.7, sample.occluded1, rng.random(shape) < 0.5),
        labels1=labels[0].astype(np.uint8),
        labels2=labels[1].astype(np.uint8),
    )


def by_hand(samples: list[FlowSample]) -> dict[str, float]:
    same: Counter[int] = Counter()
    either: Counter[int] = Counter()
    kinds = {"": Counter(), "_out_of_frame": Counter(), "_covered": Counter()}
    kept, seen = 0, 0
    for sample in samples:
        found = guess(sample)
        height, width = sample.valid.shape
        for y, x in np.ndindex(height, width):
            for truth, label in ((sample.labels1, found.labels1), (sample.labels2, found.labels2)):
                if truth[y, x] != 255:
                    either.update({int(truth[y, x]), int(label[y, x])})
                    same.update({int(truth[y, x])} & {int(label[y, x])})
            right, down = x + sample.flow[y, x, 0], y + sample.flow[y, x, 1]
            inside = 0 <= right <= width - 1 and 0 <= down <= height - 1
            occluded, called = bool(sample.occluded1[y, x]), bool(found.occluded1[y, x])
            if sample.valid[y, x] and inside and not occluded:
                seen += 1
                kept += found.labels1[y, x] == found.labels2[round(float(down)), round(float(right))]
            own = "_covered" if inside else "_out_of_frame"
            for kind, counts in kinds.items():
                if not occluded or kind == "" or (sample.valid[y, x] and kind == own):
                    counts[occluded, called] += 1
    scores = {f"iou_pct_{CLASSES[k].name}": 100 * same[k] / either[k] for k in either}
    scores |= {"miou_pct": np.mean(list(scores.values())), "temporal_consistency_pct": 100 * kept / seen}
    for kind, counts in kinds.items():
        hits = 2 * counts[True, True]
        scores[f"occlusion_f1_pct{kind}"] = 100 * hits / (hits + counts[True, False] + counts[False, True])
    return scores


def test_scores_of_heads_are_pooled_over_pixels(rng: np.random.Generator) -> None:
    """Red when: ignored pixels count, frame 2 does not, a mean is over pairs, a class that is decoded but
    nowhere labelled is left out of mIoU, or visible pixels called occluded are no fault of a kind."""
    samples = [make_sample(rng, 37 + i, 53 - i) for i in range(3)]
    scored = evaluate(guess, make_dataset(samples))
    expected = by_hand(samples)
    found = {name: value for name, value in scored.metrics.items() if name in expected or "iou" in name}
    assert found == pytest.approx(expected)
    assert len(expected) == 11 + 2 + 3
    assert all(split_metric_name(name)[0] in METRICS for name in expected)
    alone = evaluate(guess, make_dataset(samples[1:2]))
    assert {name: scored.per_sample[1][name] for name in by_hand(samples[1:2])} == pytest.approx(
        {name: alone.metrics[name] for name in by_hand(samples[1:2])}
    )


def test_a_perfect_head_and_one_without(rng: np.random.Generator) -> None:
    """Red when: a network without heads gets scores of some, or all that is right is not 100."""
    dataset = make_dataset([make_sample(rng)])
    plain = evaluate(lambda given: [given.flow], dataset).metrics
    assert not [name for name in plain if "iou" in name or "occlusion" in name or "consistency" in name]
    whole = evaluate(perfect, dataset).metrics
    for name in ("miou_pct", "occlusion_f1_pct", "occlusion_f1_pct_covered"):
        assert whole[name] == 100


def perfect(sample: FlowSample) -> Estimate:
    """Ignored pixels may be decoded as any class."""
    labels = [np.where(truth == 255, 3, truth).astype(np.uint8) for truth in (sample.labels1, sample.labels2)]
    return Estimate(flows=[sample.flow], occluded1=sample.occluded1, labels1=labels[0], labels2=labels[1])
