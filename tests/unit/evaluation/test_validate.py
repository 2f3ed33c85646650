"""Scoring a network under way: which frame comes first, and which of its flows is scored."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from semraft import inference, predict, raft_tiny
from semraft.analysis.runs import load_pair
from semraft.evaluation.evaluate import evaluate
from semraft.evaluation.validate import keep_pair, network_predictor
from semraft.sample import Estimate, FlowSample
from tests.helpers import make_sample
from tests.unit.evaluation.test_evaluate import make_dataset


@pytest.mark.parametrize("way", ["validation", "prediction"])
def test_the_network_gets_frame_1_first_and_red_first(rng: np.random.Generator, way: str) -> None:
    """Red when: the frames, or red and blue, change places on the way to the network, or 0..255 is scaled."""
    colors = np.array([[10, 60, 110], [160, 210, 250]], dtype=np.uint8)
    images = [np.broadcast_to(color, (64, 72, 3)).copy() for color in colors]
    sample = dataclasses.replace(make_sample(rng, 64, 72), image1=images[0], image2=images[1])
    model = raft_tiny().eval()
    seen: list[torch.Tensor] = []
    model.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[:2]))
    if way == "validation":
        network_predictor(model, num_updates=1)(sample)
    else:
        predict(model, sample.image1, sample.image2, num_updates=1)
    assert [image.mean((0, 2, 3)).tolist() for image in seen] == colors.tolist()


def test_a_network_is_scored_as_its_flows_are(rng: np.random.Generator) -> None:
    """The errors taken on the device, against all flows scored as arrays. Red when: a refinement is left out
    or shifted by one, padding is scored, or another flow than the last comes back."""
    samples = [make_sample(rng, 68, 75) for _ in range(2)]
    dataset = make_dataset(samples)
    model = raft_tiny().eval()

    def all_flows(sample: FlowSample) -> Estimate:
        return inference.estimate(model, sample.image1, sample.image2, 3)

    found, expected = evaluate(network_predictor(model, 3), dataset), evaluate(all_flows, dataset)
    assert found.metrics == pytest.approx(expected.metrics, rel=1e-6, nan_ok=True)
    assert [row.keys() for row in found.per_sample] == [row.keys() for row in expected.per_sample]
    assert {"epe_iter_000", "epe_iter_001", "epe_iter_002"} < found.metrics.keys()
    assert found.metrics["epe_iter_002"] == found.metrics["epe"]


def test_a_pair_is_kept_with_what_heads_say(rng: np.random.Generator, tmp_path: Path) -> None:
    """Red when: the truth's labels are kept as the decoder's, or the first refinement as the flow."""
    sample = dataclasses.replace(make_sample(rng), occluded1=None)
    assert sample.labels1 is not None
    found = Estimate(
        flows=[0 * sample.flow, sample.flow + 1], labels1=sample.labels1 // 2, occluded1=~sample.valid
    )
    keep_pair(tmp_path, sample, found)
    (path,) = tmp_path.iterdir()
    kept = load_pair(path)
    np.testing.assert_array_equal(kept.flow, (sample.flow + 1).astype(np.float16))
    np.testing.assert_array_equal(kept.labels1, sample.labels1)
    np.testing.assert_array_equal(kept.found_labels1, sample.labels1 // 2)
    np.testing.assert_array_equal(kept.found_occluded1, ~sample.valid)
    assert kept.occluded1 is None
    keep_pair(tmp_path, sample, Estimate(flows=[sample.flow]))
    assert load_pair(path).found_labels1 is None
