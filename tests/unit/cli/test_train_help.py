"""Help of `semraft train RECIPE`: few options first, every one of them, values as one types them."""

import re
from typing import Any

import pytest
import tyro

from semraft.cli import main
from semraft.cli.options import terms_as_text
from semraft.cli.train_help import USUAL, options_of
from semraft.config import RunConfig
from semraft.config.recipes import RECIPES
from semraft.faults.altered_recipes import ALTERED_RECIPES


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """The options of a help, in its order."""
    assert main.run(["train", *arguments]) == 0
    return re.findall(r"(?m)^  --([a-z][\w.-]*)", capsys.readouterr().out)


def test_help_lists_at_most_fifty_options_and_no_bug(capsys: pytest.CaptureFixture[str]) -> None:
    """Red when: the help grows too long to read, groups lose their order, or an alteration is offered."""
    found = listed(capsys, "world-base", "--help")
    assert len(found) <= 50
    assert found == [name for names in USUAL.values() for name in names]
    assert found[:2] == ["data.root", "data.train"]
    assert "altered" not in found


def test_help_all_lists_every_option_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Red when: a field of the configuration is in no help, or in two groups."""
    found = listed(capsys, "fault-v1-weight", "--help-all")
    every = [option.name for option in options_of(ALTERED_RECIPES["fault-v1-weight"].config)]
    assert sorted(found) == sorted(every)
    assert len(set(found)) == len(found) > 70


@pytest.mark.parametrize("name", ["world-signed-distance", "viper-baseline", "fault-v1-weight"])
def test_values_are_those_that_are_typed(name: str) -> None:
    """Red when: a value is shown in a form that the command line refuses, or an option has no text."""
    config = (RECIPES | ALTERED_RECIPES)[name].config
    words: list[str] = []
    for option in options_of(config):
        assert option.about
        if option.value:
            words += [f"--{option.name}", *option.value.split()]
    found: Any = tyro.cli(RunConfig, default=RunConfig(), args=words, registry=terms_as_text())
    assert found == config
