"""`semraft study ...`: run a study, say how far it is, list the shipped ones."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from semraft.cli.options import Json, terms_as_text
from semraft.config import RunConfig
from semraft.studies.study import START, Study, load_study, override


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """Run what is missing of a study, then write its summary.json and report.html.

    Further options are those of `semraft train`, for every run of the study, as far as they are no variant's
    own.
    """

    study: Positional[str]
    """A name that `semraft study list` shows, or a Python file that defines `study = Study(...)`."""
    out: str = ""
    """The study's folder; studies/NAME without it."""
    jobs: int | None = None
    """Runs at a time; one a GPU without it, or as many as the cores carry."""
    first_seed: bool = False
    """Run the first seed of each variant and write the report, before the rest."""
    ray: Annotated[str, tyro.conf.arg(metavar="ADDRESS")] = ""
    """Run on this Ray cluster, which shares the study's folder (`auto`: the one this machine belongs to)."""
    launcher: Annotated[str, tyro.conf.arg(metavar="COMMAND")] = ""
    """The launcher of each run, where a run is several processes: a torchrun or srun (docs/slurm.md)."""


def run(arguments: Sequence[str]) -> int:
    """Run what is missing of a study: variants x seeds under one protocol, then a report."""
    options, overrides = tyro.cli(
        RunOptions, args=list(arguments), prog="semraft study run", return_unknown_args=True
    )
    from semraft.studies.catalog import STUDIES

    found = STUDIES.get(options.study) or load_study(Path(options.study))
    study = override(
        found,
        lambda config: tyro.cli(
            RunConfig,
            default=config,
            args=overrides,
            prog=f"semraft study run {found.name}",
            registry=terms_as_text(),
        ),
    )
    failed = _run(study, Path(options.out or f"studies/{study.name}"), options)
    return 1 if failed else 0


def _run(study: Study, folder: Path, options: RunOptions) -> dict[str, str]:
    """Runs a study, what it starts from first; returns the runs that failed and what they said."""
    from semraft.studies import runner

    if study.start and (failed := _run(study.start, folder / START, options)):
        return failed
    jobs = runner.prepare(study, folder)
    launcher = shlex.split(options.launcher)
    engine = runner.engine(study, jobs=options.jobs, ray=options.ray, launcher=launcher)
    failed = {}
    for part in (jobs[: len(study.variants)], jobs) if options.first_seed else (jobs,):
        failed = runner.run_jobs(part, study.base, engine)
        print(runner.report(folder, part, study.base))
    for name, why in failed.items():
        print(f"! {name} failed: {why} ({folder / 'jobs' / name}.log)")
    return failed


def status(
    folders: Positional[tuple[Path, ...]] = (),
    /,
    json: Json = False,
) -> None:
    """Say how far studies are, run by run.

    Args:
        folders: Folders of studies; all in studies/ without one.
    """
    from semraft.analysis.study_file import STUDY
    from semraft.studies.runner import states

    found = {
        str(folder): states(folder)
        for folder in folders or sorted(path.parent for path in Path("studies").glob(f"*/{STUDY}"))
    }
    if json:
        print(dumps(found, indent=2))
        return
    if not found:
        print("no studies in studies/: `semraft study run NAME` begins one")
    for folder, rows in found.items():
        done = sum(row["state"] == "done" for row in rows.values())
        print(f"{folder}: {done} of {len(rows)} runs done")
        width = max(map(len, rows))
        for name, row in rows.items():
            steps = f"{row['step']:>7} of {row['steps']} steps"
            print(f"  {name:{width}}  {row['state']:8} {steps}  {row['said']}".rstrip())


def shipped(json: Json = False) -> None:
    """List the studies that come with semraft."""
    from semraft.studies.catalog import SMOKE, STUDIES

    if json:
        rows = {
            name: {
                "about": study.about,
                "smoke": name == SMOKE,
                "base": study.base,
                "variants": list(study.variants),
                "seeds": list(study.seeds),
                "runs": len(study.variants) * len(study.seeds),
                "steps": max(config.optim.steps for config in study.variants.values()),
            }
            for name, study in STUDIES.items()
        }
        print(dumps(rows, indent=2))
        return
    width = max(map(len, STUDIES))
    for name, study in STUDIES.items():
        print(f"{name:{width}} {len(study.variants)} x {len(study.seeds)} runs: {study.about}")
