"""What the runs of the divergence studies show: the tables of docs/divergence.md, from their folder.

    python -m benchmarks.divergence FOLDER

Runs of one seed see the same batches, so that their errors are compared batch by batch: several times finer
than 200 held-out scenes, where two runs part by chance. Differences are means over seeds with their 95 %
interval (t over seeds).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from jaxtyping import Float64

from semraft.analysis.statistics import paired_t
from semraft.diagnosis.record import Record, read_record

HARMED = "v1-5"
"""What the suspects and the cures are to take the harm from."""
WINDOW = 50
"""Batches that a mean is over: at the end, and for each place of the course."""
HELD_OUT = ("epe", "epe_occluded", "epe_moving")
Over = Float64[np.ndarray, "S ..."]
"""A number, or one for each window, of every seed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Late:
    """The last batches of a variant's runs."""

    windows_px: Over
    """The mean error of each window of batches."""
    length: Over
    """Predicted over true flow in the last one."""


def late(records: list[Record]) -> Late:
    def windows(record: Record) -> np.ndarray:
        errors = record.pulse.get("epe_px")
        return errors[len(errors) % WINDOW :].reshape(-1, WINDOW).mean(axis=1)

    def length(record: Record) -> float:
        found, true = (record.pulse.get(name)[-WINDOW:] for name in ("length_px", "true_length_px"))
        return float(found.sum() / true.sum())

    return Late(
        windows_px=np.array([windows(record) for record in records]),
        length=np.array([length(record) for record in records]),
    )


def interval(differences: Over) -> str:
    mean, low, high, _ = paired_t(differences)
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"


def main(folder: Annotated[Path, tyro.conf.Positional]) -> None:
    study = json.loads((folder / "summary.json").read_text())
    (split,) = study["splits"]
    base, seeds = study["base"], sorted({row["seed"] for row in study["runs"]})
    against: Mapping[str, str] = {
        variant: study["against"].get(variant, base) for variant in study["variants"] if variant != base
    }
    means = {row["variant"]: row["metrics"] for row in study["means"] if row["split"] == split}
    held_out = {
        (row["variant"], row["metric"]): f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        for row in study["comparisons"]
        if row["split"] == split and row["metric"] in HELD_OUT
    }
    lates = {
        variant: late([read_record(folder / "runs" / f"{variant}-seed{seed}") for seed in seeds])
        for variant in (base, *against)
    }

    print(
        "| variant | EPE of its base | EPE, last batches | held out | occluded | moving | length (base's) |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for variant, other in against.items():
        ours, its = lates[variant], lates[other]
        cells = " | ".join(held_out[variant, metric] for metric in HELD_OUT)
        print(
            f"| `{variant}` | {means[other]['epe']:.3f} | "
            f"{interval(ours.windows_px[:, -1] - its.windows_px[:, -1])} | {cells} | "
            f"{ours.length.mean():.2f} ({its.length.mean():.2f}) |"
        )

    print(f"\n| harm less that of `{HARMED}` | EPE, last batches | length |\n| --- | --- | --- |")
    harm = {
        variant: lates[variant].windows_px - lates[other].windows_px for variant, other in against.items()
    }
    short = {variant: lates[variant].length - lates[other].length for variant, other in against.items()}
    for variant in against:
        if variant != HARMED and "base" not in variant:
            taken = interval(harm[variant][:, -1] - harm[HARMED][:, -1])
            print(f"| `{variant}` | {taken} | {interval(short[variant] - short[HARMED])} |")

    places = [f"to {WINDOW * (place + 1)}" for place in range(harm[HARMED].shape[1])]
    print(f"\n| step | {' | '.join(places)} |\n| --- |{' --- |' * len(places)}")
    for variant, course in harm.items():
        print(f"| `{variant}` | {' | '.join(interval(window) for window in course.T)} |")


if __name__ == "__main__":
    tyro.cli(main)
