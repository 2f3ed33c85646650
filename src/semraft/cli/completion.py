"""Completion of `semraft` in a shell: a script that knows the commands, their options and their names."""

import inspect
from collections.abc import Callable, Mapping

SCRIPT = """_semraft() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" words=""
  case " ${{COMP_WORDS[*]:1:COMP_CWORD-1}} " in
{cases}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _semraft semraft
"""
"""For bash; zsh reads it after bashcompinit. Where no word fits, file names are completed."""


def completion_script(commands: Mapping[str, Callable[..., object]]) -> str:
    """The script for a shell: options of every command, names of recipes, studies and data sets."""
    words = {command: words_of(command, function) for command, function in commands.items()}
    first = sorted({command.split()[0] for command in commands})
    groups = {
        group: [name.split()[1] for name in commands if name.startswith(f"{group} ")]
        for group in first
        if group not in commands
    }
    cases = [(f'" {command} "*', values) for command, values in words.items()]
    cases += [(f'" {group} "', values) for group, values in groups.items()] + [('"  "', first)]
    return SCRIPT.format(
        cases="\n".join(f'    {case}) words="{" ".join(values)}" ;;' for case, values in cases)
    )


def words_of(command: str, function: Callable[..., object]) -> list[str]:
    """The words that may follow a command: names first, then options."""
    if command in ("train", "study run"):
        from semraft.cli.train_help import options_of
        from semraft.config import RunConfig
        from semraft.config.recipes import RECIPES
        from semraft.studies.catalog import STUDIES

        if command == "train":
            names, own = list(RECIPES), ["resume", "from", "profile", "max-minutes"]
        else:
            names, own = list(STUDIES), ["out", "jobs", "first-seed", "ray", "launcher"]
        options = [*own, *(option.name for option in options_of(RunConfig()))]
        return [*names, *(f"--{option}" for option in options)]
    parameters = inspect.signature(function).parameters.values()
    return [
        f"--{parameter.name.replace('_', '-')}"
        for parameter in parameters
        if parameter.kind is not inspect.Parameter.POSITIONAL_ONLY
    ]
