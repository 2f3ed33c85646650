"""How networks do on real frames: EPE and Fl after 6, 12 and 24 refinements, beside OpenCV's DIS.

    python benchmarks/real_frames.py --data FOLDER [--pairs TEXT,...] [--json FILE] [WEIGHTS ...]

Looks below FOLDER for KITTI 2015 (flow_occ), Middlebury (frame10.png, frame11.png, flow10.flo) and
FlyingChairs (NUMBER_img1.ppm, NUMBER_img2.ppm, NUMBER_flow.flo); a pair that is there twice counts once. With
--pairs only those whose name (kitti/000010, middlebury/Urban3, chairs/00001) contains one of the texts. Means
are over pairs: of EPE in pixels, and of Fl in per cent.
"""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

import semraft
from semraft.data.datasets import kitti
from semraft.data.files.formats import read_flow
from semraft.data.files.pictures import read_image
from semraft.evaluation.baselines import opencv_flow
from semraft.evaluation.validate import PADDED_BELOW
from semraft.inference import on_device
from semraft.metrics import evaluate_flow
from semraft.sample import FlowSample

REFINEMENTS = (6, 12, 24)
Scores = dict[str, dict[str, tuple[float, float]]]
"""Pair -> what scored (dis, or a number of refinements) -> EPE and Fl."""


def real_pairs(folder: Path, wanted: Sequence[str]) -> list[FlowSample]:
    """Every pair with flow truth below the folder whose name contains one of the wanted texts."""
    found: dict[str, FlowSample] = {}
    for sample in (*_kitti(folder), *_middlebury(folder), *_chairs(folder)):
        if any(text in sample.id for text in wanted):
            found.setdefault(sample.id, sample)
    return [found[name] for name in sorted(found)]


def _kitti(folder: Path) -> Iterator[FlowSample]:
    for flow_occ in sorted(folder.rglob("flow_occ")):
        dataset = kitti.index(flow_occ.parent, "val")
        for pair in dataset.pairs:
            sample = dataset.read(pair)
            yield _sample("kitti", pair.id, sample.image1, sample.image2, sample.flow, sample.valid)


def _middlebury(folder: Path) -> Iterator[FlowSample]:
    for path in sorted(folder.rglob("flow10.flo")):
        images = (read_image(path.with_name(name)) for name in ("frame10.png", "frame11.png"))
        yield _sample("middlebury", path.parent.name, *images, *read_flow(path))


def _chairs(folder: Path) -> Iterator[FlowSample]:
    for path in sorted(folder.rglob("*_flow.flo")):
        number = path.name.removesuffix("_flow.flo")
        images = (read_image(path.with_name(f"{number}_img{frame}.ppm")) for frame in (1, 2))
        yield _sample("chairs", number, *images, *read_flow(path))


def _sample(dataset: str, name: str, *arrays: np.ndarray) -> FlowSample:
    image1, image2, flow, valid = arrays
    return FlowSample(
        id=f"{dataset}/{name}",
        scene=name,
        dataset=dataset,
        image1=image1,
        image2=image2,
        flow=flow,
        valid=valid,
    )


def scores_of(weights: str | Path, samples: Sequence[FlowSample]) -> Scores:
    """A network's scores, in float32 on the CPU."""
    model = semraft.load(weights)
    scores: Scores = {}
    for sample in samples:
        padding = "none" if sample.dataset in PADDED_BELOW else "half"
        images = sample.image1, sample.image2
        flows = on_device(model, *images, max(REFINEMENTS), top_padding=padding).flows
        chosen = {count: flows[count - 1][0].permute(1, 2, 0).numpy() for count in REFINEMENTS}
        scores[sample.id] = {str(count): _epe_and_fl(flow, sample) for count, flow in chosen.items()}
    return scores


def _epe_and_fl(flow: np.ndarray, sample: FlowSample) -> tuple[float, float]:
    metrics = evaluate_flow(flow, sample.flow, sample.valid)
    return round(metrics["epe"], 4), round(metrics["fl"], 3)


def with_means(scores: Scores) -> Scores:
    """The same, and the means over the pairs of each data set and over all."""
    groups = {"mean": list(scores)}
    for name in scores:
        groups.setdefault(f"mean {name.split('/')[0]}", []).append(name)
    means: Scores = {}
    for group, names in groups.items():
        means[group] = {}
        for column in scores[names[0]]:
            epe, fl = np.mean([scores[name][column] for name in names], axis=0)
            means[group][column] = (round(float(epe), 4), round(float(fl), 3))
    return scores | means


def table(all_scores: dict[str, Scores]) -> str:
    """Rows of a Markdown table: EPE / Fl of every pair and mean."""
    columns = [
        (name, column) for name, scores in all_scores.items() for column in next(iter(scores.values()))
    ]
    lines = [
        "| pair | "
        + " | ".join(name if name == column else f"{name} {column}" for name, column in columns)
        + " |"
    ]
    lines.append("| --- " * (len(columns) + 1) + "|")
    for pair in next(iter(all_scores.values())):
        cells = ("{:.2f} / {:.1f}".format(*all_scores[name][pair][column]) for name, column in columns)
        lines.append(f"| {pair} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("weights", nargs="*")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pairs", default="")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    samples = real_pairs(options.data, options.pairs.split(","))
    if not samples:
        parser.error(f"no pair with flow truth below {options.data}")
    dis = {
        sample.id: {"dis": _epe_and_fl(opencv_flow(sample.image1, sample.image2), sample)}
        for sample in samples
    }
    found = {"dis": with_means(dis)} | {
        weights: with_means(scores_of(weights, samples)) for weights in options.weights
    }
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
