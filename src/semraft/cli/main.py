"""The command line: argv -> one function. Commands import what they need when they run.

Exit codes: 0 done, 1 the work failed, 2 the call was wrong, 75 the time is up and the run is to be resumed.
An error that a user can cause is one line on standard error; SEMRAFT_TRACEBACK=1 shows where it came from.
"""

import dataclasses
import math
import os
import sys
from collections.abc import Callable, Sequence
from json import dumps
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from semraft.cli import data_commands, network_commands, product_commands, study_commands
from semraft.cli.options import Json, print_table, refuse_bad_terms, require_writable, terms_as_text
from semraft.cli.train_help import train_help
from semraft.config import RunConfig, TermConfig, load_config

OUT_OF_TIME = 75
"""The exit code of a training that --max-minutes stopped: EX_TEMPFAIL of sysexits.h, try again."""


def train(arguments: Sequence[str]) -> None:
    """Train a recipe, repeat a run (--from RUN) or go on with one (--resume RUN)."""
    from semraft.config.recipes import RECIPES
    from semraft.faults.altered_recipes import ALTERED_RECIPES

    recipes, leads = RECIPES | ALTERED_RECIPES, os.environ.get("RANK", "0") == "0"
    if not arguments or arguments[0] in ("-h", "--help"):
        print(TRAIN_HELP.format(recipes="\n".join(f"  {name}" for name in RECIPES)))
        return
    first, rest = arguments[0], list(arguments[1:])
    if first in ("--resume", "--from") and not rest:
        raise ValueError(f"{first} needs the folder of a run")
    max_minutes = _take_minutes(rest)
    profiled, as_json = "--profile" in rest, "--profile" in rest and "--json" in rest
    if profiled:
        rest = [option for option in rest if option not in ("--profile", "--json")]
        if first == "--resume":
            raise ValueError("--profile goes on with no run: take --from RUN instead of --resume RUN")
    if first == "--resume":
        if len(rest) > 1:
            raise ValueError(f"--resume goes on exactly as before: take out {' '.join(rest[1:])}")
        run = _run_folder(Path(rest[0]))
        config, resume = load_config(run / "config.json"), (run / "checkpoints" / "last.pt").exists()
        if not resume and leads:
            print(f"! {run} has no checkpoint to go on from: it begins again", file=sys.stderr)
    else:
        if first == "--from":
            source = Path(rest.pop(0))
            base = load_config(source if source.is_file() else _run_folder(source) / "config.json")
            base = dataclasses.replace(base, output="")
        elif first in recipes:
            base = recipes[first].config
        else:
            raise ValueError(f"no recipe is called {first!r}: `semraft recipes` lists them")
        if {"-h", "--help", "--help-all"} & set(rest):
            print(train_help(" ".join(arguments[: len(arguments) - len(rest)]), base, "--help-all" in rest))
            return
        refuse_bad_terms(rest)
        config = tyro.cli(
            RunConfig, default=base, args=rest, prog=f"semraft train {first}", registry=terms_as_text()
        )
        run, resume = Path(config.output or f"runs/{config.recipe}-seed{config.seed}"), False
    if profiled:
        _profile(config, as_json)
        return
    if config.altered:
        from semraft.faults import altered_training

        altered_training.train(config, run, resume, max_minutes)
    else:
        from semraft.training import loop

        loop.train(config, run, resume, max_minutes)
    if leads:
        print(f"run: {run}")


def _take_minutes(options: list[str]) -> float:
    """Takes `--max-minutes M` out of the options of a training: infinity without it.

    It is of this sitting, not of the run: a run is the same however often it was stopped and resumed.
    """
    if "--max-minutes" not in options:
        return math.inf
    place = options.index("--max-minutes")
    text = "".join(options[place + 1 : place + 2])
    try:
        minutes = float(text)
    except ValueError:
        minutes = -1.0
    if not minutes >= 0:
        raise ValueError(f"--max-minutes is {text!r}: expected minutes, 0 or more")
    del options[place : place + 2]
    return minutes


def _profile(config: RunConfig, as_json: bool) -> None:
    """Prints what a step of a run costs; leaves nothing."""
    if config.output:
        raise ValueError(f"--profile writes no run: take out --output {config.output}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("--profile measures one process: start it without torchrun")
    from semraft.training.profile import profile

    found = profile(config)
    print(dumps(found.to_json(), indent=2) if as_json else found.table())


TRAIN_HELP = """usage: semraft train RECIPE [--data.root ROOT] [--model.weights FILE] [--seed N] [OPTION ...]
       semraft train --from RUN [OPTION ...]     repeat a run, as its config.json has it (or any such file)
       semraft train --resume RUN                go on exactly where it stopped
       semraft train RECIPE --profile [--json] [OPTION ...]   what a step costs, part by part; trains nothing
       ... --max-minutes M                       stop with a checkpoint after M minutes, with exit code 75

`semraft train RECIPE --help` lists the usual options with the recipe's values, --help-all the others
too. Under torchrun the same command trains on several GPUs or machines (docs/slurm.md).

recipes (`semraft recipes` says what they are):
{recipes}"""


def report(runs: Positional[tuple[Path, ...]], /, out: Path = Path("report.html")) -> None:
    """Compare runs on one self-contained page.

    Args:
        runs: Folders of runs, or of one study.
        out: The page to write.
    """
    from semraft.report.report import write_report

    require_writable(out)
    print(write_report(list(runs), out))
    print(f"report: {out.resolve()}")


def diagnose(
    run: Positional[Path],
    /,
    against: Path | None = None,
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.html")] = None,
    json: Json = False,
) -> None:
    """Say what is wrong with a run, since when, and which command would settle why.

    Args:
        run: The run's folder, finished or not.
        against: A run that went well, best of the same seed, to be set beside it.
        out: The page to write; RUN/diagnosis.html without it.
    """
    from semraft.diagnosis import diagnose
    from semraft.report.diagnosis_section import as_text, write_page

    if out is not None:
        require_writable(out)
    found = diagnose.diagnose(run, against)
    page = out or run / "diagnosis.html"
    require_writable(page)
    write_page(found, page)
    if json:
        print(dumps(found.to_json() | {"page": str(page)}, indent=2))
    else:
        print(f"{as_text(found)}\n\npage: {page.resolve()}")


def recipes(json: Json = False) -> None:
    """List the recipes of `semraft train`."""
    from semraft.config.recipes import RECIPES
    from semraft.faults.altered_recipes import ALTERED_RECIPES

    print_table({name: recipe.about for name, recipe in (RECIPES | ALTERED_RECIPES).items()}, json)


def losses(json: Json = False) -> None:
    """List the auxiliary loss terms."""
    from semraft.losses.auxiliary_term import own_options
    from semraft.losses.terms import TERMS, needed_fields, needed_heads

    rows = {
        name: {
            "about": term.about,
            "needs": [*needed_fields(TermConfig(name=name)), *needed_heads(TermConfig(name=name))],
            "mask": term.mask,
            "options": [option.replace("_", "-") for option in term.options],
            "defaults": {option: own.default for option, own in own_options(term).items()},
            "scalar": term.scalar,
            "source": term.source,
        }
        for name, term in TERMS.items()
    }
    print_table(rows if json else {name: term.about for name, term in TERMS.items()}, json)


def datasets(json: Json = False) -> None:
    """List the data sets."""
    from semraft.data import DATASETS

    print_table({name: (index.__doc__ or "").split("\n")[0] for name, index in DATASETS.items()}, json)


def _run_folder(run: Path) -> Path:
    if not (run / "config.json").exists():
        raise ValueError(f"{run} is no run: it has no config.json")
    return run


COMMANDS: dict[str, Callable[..., int | None]] = {
    "train": train,
    "study run": study_commands.run,
    "study status": study_commands.status,
    "study list": study_commands.shipped,
    "evaluate": network_commands.evaluate,
    "predict": network_commands.predict,
    "weights": network_commands.weights,
    "convert": product_commands.convert,
    "export": product_commands.export,
    "submit": product_commands.submit,
    "report": report,
    "view": product_commands.view,
    "diagnose": diagnose,
    "data synthesize": data_commands.synthesize,
    "data describe": data_commands.describe,
    "data check": data_commands.check,
    "data pack": data_commands.pack,
    "recipes": recipes,
    "losses": losses,
    "datasets": datasets,
    "completion": product_commands.completion,
}
"""Command -> function. One that returns a number means it as the exit code."""
GROUPS = ("data", "study")
"""First words of commands that have two."""


def main() -> None:
    """Runs the command that the arguments name."""
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "10")  # A log file needs no ten lines a second.
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # A reader such as `head` has had enough; Python flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Runs a command and returns its exit code."""
    group = arguments[0] if arguments and arguments[0] in GROUPS else ""
    words = 2 if group else 1
    command = " ".join(arguments[:words])
    if command.removeprefix(group).strip() in ("", "-h", "--help"):
        print(_help(f"{group} " if group else ""))
        return 0
    if command in ("--version", "version"):
        import semraft

        print(f"semraft {semraft.__version__}")
        return 0
    if command not in COMMANDS:
        print(f"semraft: no command is called {command!r}\n\n{_help()}", file=sys.stderr)
        return 2
    try:
        return _call(command, list(arguments[words:]))
    except KeyboardInterrupt:
        print("semraft: stopped", file=sys.stderr)
        return 1
    except BrokenPipeError:
        raise
    except (ValueError, OSError, RuntimeError) as error:
        code = _exit_code(error)
        if code is None or os.environ.get("SEMRAFT_TRACEBACK"):
            raise
        print(f"semraft {command}: {error}", file=sys.stderr)
        return code


def _exit_code(error: Exception) -> int | None:
    """1 for work that failed, 2 for a wrong call, OUT_OF_TIME, None for a fault of ours."""
    names = {kind.__name__ for kind in type(error).__mro__}  # By name: their modules import torch.
    if "OutOfTime" in names:
        return OUT_OF_TIME
    if names & {"DamagedFile", "TrainingStopped", "StudyStopped", "OutOfMemoryError"}:
        return 1
    if isinstance(error, (ValueError, FileNotFoundError, NotADirectoryError)):
        return 2
    return 1 if isinstance(error, OSError) else None


def _call(command: str, arguments: list[str]) -> int:
    if command == "train":  # Its options depend on the recipe.
        train(arguments)
        return 0
    if command == "study run":  # And its on the study.
        return study_commands.run(arguments)
    return tyro.cli(COMMANDS[command], args=arguments, prog=f"semraft {command}") or 0


def _help(prefix: str = "") -> str:
    """The list of commands, each with the first line of its docstring."""
    rows = [
        f"  {name:16} {(function.__doc__ or '').splitlines()[0]}"
        for name, function in COMMANDS.items()
        if name.startswith(prefix)
    ]
    about = "RAFT optical flow with semantic supervision on driving data."
    return "\n".join(
        ["usage: semraft COMMAND ...", "", about, "", *rows, "", "`semraft COMMAND --help` explains one."]
    )


if __name__ == "__main__":
    main()
