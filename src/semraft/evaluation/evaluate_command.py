"""`semraft evaluate`: checkpoints and classical baselines, scored on a data set and written down."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from semraft import runtime
from semraft.config import DataConfig, ShapesConfig, WorldConfig
from semraft.config.data import IdTable
from semraft.data import open_dataset
from semraft.data.held_out import part_of_split
from semraft.data.loader import WORLD_MEMORY_MB, keep_in_memory, validation_draw
from semraft.data.requirements import refuse_doubtful_table, refuse_problems, require_labels
from semraft.evaluation.baselines import BASELINES, baseline
from semraft.evaluation.evaluate import Evaluation, evaluate
from semraft.evaluation.flow_files import flow_files
from semraft.evaluation.validate import network_predictor
from semraft.inference import validated_precision
from semraft.metrics import METRICS, OF_HEADS
from semraft.models.raft import RAFT
from semraft.models.weights import load_model
from semraft.writing import write_text

SHOWN = ("epe", "epe_image_mean", "1px", "3px", "5px", "fl", "wauc")
"""The columns of the printed table; the rest is in the files."""
AS_VALIDATED = "as-validated"
"""The precision of a checkpoint's own validation, so that its numbers are met again."""
FEWER_FRAC = 0.98
"""An earlier refinement is called better if its EPE is below this part of the last one's."""


def score(
    checkpoints: Sequence[str],
    dataset_name: str,
    *,
    root: Path | None,
    split: Literal["train", "val"],
    pairs: int | None,
    num_updates: int | None,
    device: str,
    precision: str,
    damaged: Literal["refuse", "skip"],
    missing: Literal["skip", "refuse"] = "skip",
    held_out: str = "",
    label_table: IdTable | None = None,
    flow: Path | None = None,
    world: WorldConfig,
    shapes: ShapesConfig,
) -> dict[str, Evaluation]:
    """Scores checkpoints, baselines and a folder of flow files on the same pairs; names every pair left out.

    With `held_out` (see `part_of_split`) those pairs of the training split.
    """
    split = "train" if held_out else split
    dataset = open_dataset(dataset_name, root, split, world, shapes, label_table)
    refuse_problems(dataset, damaged, missing)
    if label_table is None:
        refuse_doubtful_table(dataset)
    if held_out:
        dataset = part_of_split(dataset, held_out, DataConfig().draw_seed, "val")
    if dataset_name == "world" and len(checkpoints) > 1:
        dataset = keep_in_memory(dataset, WORLD_MEMORY_MB)
    indices = (
        range(len(dataset)) if pairs is None else validation_draw(dataset, pairs, DataConfig().draw_seed)
    )
    where = runtime.choose_device(device)
    runtime.keep_freed_memory()
    evaluations = {}
    for checkpoint in (*checkpoints, *([] if flow is None else [str(flow)])):
        chosen, updates, unlike = None, None, ""
        if flow is not None and checkpoint == str(flow):
            predict = flow_files(flow, dataset, indices)
        elif checkpoint in BASELINES:
            predict = baseline(checkpoint, dataset, indices, damaged)
        else:
            model = load_model(checkpoint).to(where)
            require_labels(model.conditioning, [dataset])
            if precision == AS_VALIDATED:
                chosen = validated_precision(model)
            else:
                chosen = runtime.choose_precision(precision, where)
            updates = num_updates or model.validation_updates
            unlike = unlike_validation(model, updates, chosen)
            predict = network_predictor(model, updates, chosen)
        scored = evaluate(predict, dataset, indices, damaged=damaged, progress=True)
        skipped = [*dataset.problems, *scored.skipped]
        evaluations[checkpoint] = replace(
            scored, skipped=skipped, precision=chosen, num_updates=updates, unlike_validation=unlike
        )
    return evaluations


def unlike_validation(model: RAFT, num_updates: int, precision: str) -> str:
    """A line where a network is scored in another way than its training validates it; else empty."""
    if (num_updates, precision) == (model.validation_updates, model.validation_precision):
        return ""
    return (
        f"scored with {num_updates} refinements in {precision}; its own validation takes "
        f"{model.validation_updates} in {model.validation_precision} and gives other numbers"
    )


def table(evaluations: dict[str, Evaluation]) -> str:
    """The main metrics as text, a line each checkpoint, then the strata of a single one."""
    first = next(iter(evaluations.values()))
    width = max(map(len, evaluations))
    lines = [
        f"{first.dataset} {first.split}, {len(first.per_sample)} pairs"
        + (f", {len(first.skipped)} skipped" if first.skipped else ""),
        " " * width + "".join(f"{name:>15}" for name in (*SHOWN, "precision")),
        *(
            f"{name:{width}}"
            + "".join(f"{evaluation.metrics[metric]:15.4f}" for metric in SHOWN)
            + f"{evaluation.precision or '-':>15}"
            for name, evaluation in evaluations.items()
        ),
    ]
    lines += [f"! {name}: {of.unlike_validation}" for name, of in evaluations.items() if of.unlike_validation]
    lines += [f"  {name}: {METRICS[name].formula}, {METRICS[name].unit}" for name in SHOWN]
    for problem in first.skipped:
        lines.append(f"  skipped {problem.pair_id}: {problem.path}: {problem.kind}, {problem.detail}")
    for name, evaluation in evaluations.items():
        scores = [
            f"{key} {value:.1f}" for key, value in evaluation.metrics.items() if key.startswith(OF_HEADS)
        ]
        if scores:
            lines += ["", f"heads of {name}: {', '.join(scores)}"]
    if len(evaluations) == 1:
        lines += ["", "by stratum" + " " * 14 + f"{'epe':>10}{'fl':>10}{'1px':>10}{'pixels':>12}"]
        for name in first.metrics:
            if name.startswith("valid_"):
                stratum = name.removeprefix("valid_")
                values = [first.metrics[f"{metric}_{stratum}"] for metric in ("epe", "fl", "1px")]
                row = "".join(f"{value:10.4f}" for value in values)
                lines.append(f"  {stratum:22}{row}{first.metrics[name]:12.0f}")
        steps = [name for name in first.metrics if name.startswith("epe_iter_")]
        if steps:
            lines += ["", "epe by refinement: " + " ".join(f"{first.metrics[name]:.3f}" for name in steps)]
            lines += fewer_refinements(first.metrics, steps)
    return "\n".join(lines)


def fewer_refinements(metrics: Mapping[str, float], steps: Sequence[str]) -> list[str]:
    """A line where an earlier refinement has a clearly lower EPE than the last one, else none."""
    best = min(steps, key=lambda name: metrics[name])
    if not metrics[best] < FEWER_FRAC * metrics[steps[-1]]:
        return []
    count = steps.index(best) + 1
    return [
        f"! {len(steps)} refinements are worse than {count}: {metrics[steps[-1]]:.3f} px after the last, "
        f"{metrics[best]:.3f} px with --num-updates {count}"
    ]


def write_json(path: str, evaluations: dict[str, Evaluation]) -> None:
    """One checkpoint's evaluation as an object; several as an object from checkpoint to evaluation."""
    contents = {name: {"checkpoint": name, **item.to_json()} for name, item in evaluations.items()}
    text = json.dumps(
        next(iter(contents.values())) if len(contents) == 1 else contents, indent=2, allow_nan=False
    )
    if path == "-":
        print(text)
    else:
        write_text(path, text + "\n")
