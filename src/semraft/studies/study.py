"""A study as one value, and as the study.json that outlives it. Running one is the business of runner.py."""

import dataclasses
import json
import re
import runpy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from traceback import extract_tb
from typing import Any

from semraft.analysis.study_file import STUDY, VARIANT, read_study
from semraft.config import RunConfig, flat, load_config, to_json
from semraft.tracking import write_text

JOBS = "jobs"
START = "start"
"""In a folder: the study that another one starts from. As `model.weights`: its run of the same seed."""
NAMES = ("recipe", "seed", "output")
"""Fields that tell runs apart and change nothing else, but for the seed, which is the job's."""
PLACES = ("data.root", "data.workers", "tracker")
"""Fields that say where or how fast, not what: they may differ between the machines of one study. That the
data are the same is told by their fingerprints."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """Variants x seeds. Fields that all variants share are the protocol, the same for every run.

    Each training sample is a function of (seed, sample number), so variants of one seed see the same batches
    in the same order; validation pairs are drawn by `data.draw_seed`, the same in every run.
    """

    name: str
    """Also the folder studies/NAME."""
    about: str
    """Its purpose, in one line."""
    variants: Mapping[str, RunConfig]
    """Variant -> its configuration; seed and output are set by the study."""
    base: str
    """The variant that the others are compared with."""
    seeds: tuple[int, ...]
    """One run of every variant each."""
    may_differ: tuple[str, ...] = ("loss", "model")
    """Fields or groups of fields that variants may differ in, as options of the command line name them."""
    against: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Variant -> what it is compared with, where that is another one than `base`."""
    start: "Study | None" = None
    """A study of one variant that is run first. Each run starts from its last checkpoint of the same seed, so
    that variants differ by what they do and not by where chance led them before: `model.weights` is START."""

    def __post_init__(self) -> None:
        for name in (self.name, *self.variants):
            if not re.fullmatch(VARIANT, name):
                raise ValueError(f"study or variant {name!r}: expected letters, digits, - _ . + in a name")
        if self.base not in self.variants:
            raise ValueError(f"study {self.name}: base {self.base!r} is none of {', '.join(self.variants)}")
        if unknown := [name for pair in self.against.items() for name in pair if name not in self.variants]:
            raise ValueError(f"study {self.name}: `against` names {unknown[0]!r}, which is no variant of it")
        if self.start and (len(self.start.variants) > 1 or not set(self.seeds) <= set(self.start.seeds)):
            raise ValueError(f"study {self.name}: its start must be one variant with all of its seeds")
        if any((config.model.weights == START) != bool(self.start) for config in self.variants.values()):
            raise ValueError(
                f"study {self.name}: model.weights is {START!r} if there is a start, and only then"
            )
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"study {self.name}: seeds {self.seeds}: expected one or more, each once")
        tables = {variant: settings_of(config) for variant, config in self.variants.items()}
        for one, two in combinations(tables, 2):
            fields = differing_fields(tables[one], tables[two])
            if not fields:
                raise ValueError(f"study {self.name}: {one} and {two} are the same configuration")
            if foreign := [field for field in fields if not _within(field, self.may_differ)]:
                raise ValueError(
                    f"study {self.name}: {one} and {two} also differ in {', '.join(foreign)}: make them "
                    f"the same there, or name the field in `may_differ`"
                )

    def job_config(self, variant: str, seed: int) -> RunConfig:
        """The configuration of one run."""
        return replace(self.variants[variant], seed=seed, output="")

    def to_json(self) -> dict[str, Any]:
        """The content of study.json: the protocol that all runs share, and each variant's own fields."""
        tables = {variant: settings_of(config) for variant, config in self.variants.items()}
        left_out = (*NAMES, *PLACES, *(["model.weights"] if self.start else []))
        left = {
            name: [table.get(name) for table in tables.values()]
            for name in dict.fromkeys(name for table in tables.values() for name in table)
            if name not in left_out
        }
        shared = {name for name, values in left.items() if all(value == values[0] for value in values)}
        return {
            "name": self.name,
            "about": self.about,
            "base": self.base,
            "against": dict(self.against),
            **({"start": self.start.to_json()} if self.start else {}),
            "protocol": {name: values[0] for name, values in left.items() if name in shared},
            "variants": list(self.variants),
            "seeds": list(self.seeds),
            "differences": {
                variant: {name: table[name] for name in left if name not in shared}
                for variant, table in tables.items()
            },
        }


def _within(field: str, groups: tuple[str, ...]) -> bool:
    return any(field == group or field.startswith(f"{group}.") for group in groups)


def settings_of(config: RunConfig) -> dict[str, Any]:
    """The fields of a configuration as its config.json has them, by name: "optim.batch" -> 6."""
    return flat(json.loads(to_json(config)))


def differing_fields(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[str]:
    """Fields in which the settings of two configurations differ as experiments, names and places aside."""
    return [name for name in one if name not in (*NAMES, *PLACES) and one[name] != two[name]]


def override(study: Study, change: Callable[[RunConfig], RunConfig]) -> Study:
    """The study with every variant's configuration changed in the same way."""
    variants = {variant: change(config) for variant, config in study.variants.items()}
    for variant, config in study.variants.items():
        for field in NAMES:
            if getattr(config, field) != getattr(variants[variant], field):
                raise ValueError(f"--{field} is set by the study for each run: take it out")
    return replace(study, variants=variants, start=study.start and override(study.start, change))


def load_study(path: Path) -> Study:
    """The value `study` of a Python file of the user's own.

    Raises:
        ValueError: No such file, or it fails, or it defines no study.
    """
    if not path.is_file():
        raise ValueError(f"no study is called {str(path)!r}, and no file: `semraft study list` lists them")
    try:
        found = runpy.run_path(str(path)).get("study")
    # Their code, run: it may raise anything, a SyntaxError as well as what a library of theirs throws, and no
    # narrower class is true of it. Ctrl-C and their own sys.exit("why not") are no Exception and pass.
    except Exception as error:
        where = f"{path}{_line_of(error, path)}"
        raise ValueError(f"{where} can't be read: {type(error).__name__}: {error}") from error
    if not isinstance(found, Study):
        raise ValueError(f"{path} defines no `study = Study(...)` (from semraft.studies import Study)")
    return found


def _line_of(error: Exception, path: Path) -> str:
    """The last line of a file that an error passed, as ":7"; empty where it passed none."""
    passed = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == str(path)]
    lineno = error.lineno if isinstance(error, SyntaxError) else passed[-1] if passed else None
    return f":{lineno}" if lineno else ""


def settle(folder: Path, study: Study) -> None:
    """Writes study.json, unless the folder holds another study's runs.

    Seeds and variants may be added to a study, never changed or taken away: what was run is reported.

    Raises:
        ValueError: The folder's protocol, or a variant of it, is another one.
    """
    found, new = folder / STUDY, study.to_json()
    if found.exists():
        old = read_study(folder)
        for variant in (name for name in study.variants if name in old["variants"]):
            for job in (folder / JOBS / f"{variant}-seed{seed}.json" for seed in old["seeds"]):
                if job.exists():
                    _refuse_changes(folder, variant, load_config(job), study.variants[variant])
        if old["name"] != study.name or old["base"] != study.base:
            raise ValueError(
                f"{folder} holds study {old['name']} with base {old['base']}: choose another --out"
            )
        gone = [f"variant {name}" for name in old["variants"] if name not in study.variants]
        gone += [f"seed {seed}" for seed in old["seeds"] if seed not in study.seeds]
        if gone:
            raise ValueError(
                f"{folder} holds runs of {', '.join(gone)}, which the study no longer has: what was run is "
                f"reported; choose another --out"
            )
    folder.mkdir(parents=True, exist_ok=True)
    write_text(found, json.dumps(new, indent=2) + "\n")


def _refuse_changes(folder: Path, variant: str, old: RunConfig, new: RunConfig) -> None:
    """As whole configurations: a field that semraft has gained since has its default in the old one."""
    was, now = settings_of(old), settings_of(new)
    for field in differing_fields(was, now):
        raise ValueError(
            f"{folder} holds runs of another protocol ({variant} had {field} {was[field]}, now "
            f"{now[field]}): choose another --out"
        )
