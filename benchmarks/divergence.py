"""Tables of docs/divergence.md, from the folder of a divergence study.

    python -m benchmarks.divergence FOLDER

Runs of one seed see the same batches, so that their errors are compared batch by batch: several times finer
than 200 held-out scenes, where two runs part by chance. Differences are means over seeds with their 95 %
interval (t over seeds).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from jaxtyping import Float64

from semraft.analysis.statistics import paired_t
from semraft.diagnosis.record import Record, read_record

HARMED = "v1-5"
"""The harmful variant that suspected causes and cures are compared with."""
WINDOW = 50
"""Batches that a mean is over: at the end, and for each place of the course."""
STRATA = {
    "epe": "all pixels",
    "epe_visible": "visible",
    "epe_occluded": "occluded",
    "epe_static": "what stands still",
    "epe_moving": "what moves",
    "epe_boundary": "near boundaries",
    "epe_interior": "inside",
    "epe_speed_0_10": "slower than 10 px",
    "epe_speed_10_40": "10 to 40 px",
    "epe_speed_40": "faster than 40 px",
    "epe_road": "road",
    "epe_building": "buildings",
    "epe_vegetation": "vegetation",
    "epe_car": "cars",
    "epe_person": "people",
    "fl": "Fl, points",
    "fl_moving": "Fl on what moves",
}
"""Held-out metrics whose rows are told, and what they are of."""
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


def interval(mean: float, low: float, high: float) -> str:
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"


def over_seeds(differences: Over) -> str:
    mean, low, high, _ = map(float, paired_t(differences))
    return interval(mean, low, high)


def compared(row: Mapping[str, Any]) -> str:
    """A comparison of summary.json; bold if its interval, of itself, says which way."""
    text = interval(row["difference"], row["low"], row["high"])
    return f"**{text}**" if row["low"] > 0 or row["high"] < 0 else text


def print_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    cells = [list(header), *map(list, rows)]
    cells.insert(1, ["---"] * len(cells[0]))
    print("\n".join(f"| {' | '.join(line)} |" for line in cells), end="\n\n")


def main(folder: Annotated[Path, tyro.conf.Positional]) -> None:
    study = json.loads((folder / "summary.json").read_text())
    (split,) = study["splits"]
    base, seeds = study["base"], sorted({row["seed"] for row in study["runs"]})
    against = {name: study["against"].get(name, base) for name in study["variants"] if name != base}
    means = {row["variant"]: row["metrics"] for row in study["means"] if row["split"] == split}
    held_out = {
        name: {
            row["metric"]: row
            for row in study["comparisons"]
            if (row["variant"], row["split"]) == (name, split)
        }
        for name in against
    }
    lates = {
        name: late([read_record(folder / "runs" / f"{name}-seed{seed}") for seed in seeds])
        for name in (base, *against)
    }
    harm = {name: lates[name].windows_px - lates[other].windows_px for name, other in against.items()}
    short = {name: lates[name].length - lates[other].length for name, other in against.items()}

    print_table(
        (
            "variant",
            "EPE of its base",
            "EPE, last batches",
            "held out",
            "occluded",
            "moving",
            "length (base's)",
        ),
        (
            (
                f"`{name}`",
                f"{means[other]['epe']:.3f}",
                over_seeds(harm[name][:, -1]),
                *(compared(held_out[name][metric]) for metric in ("epe", "epe_occluded", "epe_moving")),
                f"{lates[name].length.mean():.2f} ({lates[other].length.mean():.2f})",
            )
            for name, other in against.items()
        ),
    )
    if HARMED in against:
        print_table(
            (f"harm less that of `{HARMED}`", "EPE, last batches", "length"),
            (
                (
                    f"`{name}`",
                    over_seeds(harm[name][:, -1] - harm[HARMED][:, -1]),
                    over_seeds(short[name] - short[HARMED]),
                )
                for name in against
                if name != HARMED and "base" not in name
            ),
        )
    print_table(
        ("EPE", *(f"to step {WINDOW * (place + 1)}" for place in range(lates[base].windows_px.shape[1]))),
        ((f"`{name}`", *map(over_seeds, course.T)) for name, course in harm.items()),
    )
    print_table(
        ("held out", f"`{base}`", *(f"`{name}`" for name in against)),
        (
            (words, f"{means[base][metric]:.3f}", *(compared(held_out[name][metric]) for name in against))
            for metric, words in STRATA.items()
        ),
    )
    print_table(
        ("variant", "of metrics", "better", "worse", "p of EPE", "corrected for the variants"),
        (
            (
                f"`{name}`",
                str(len(rows)),
                *(str(sum(row["state"] == state for row in rows.values())) for state in ("better", "worse")),
                f"{rows['epe']['p']:.3f}",
                f"{rows['epe']['p_holm']:.3f}",
            )
            for name, rows in held_out.items()
        ),
    )


if __name__ == "__main__":
    tyro.cli(main)
