"""docs/traps.md names tests that exist: a test that is renamed takes its row along."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_test_named_in_the_list_of_traps_exists() -> None:
    """Red when: a test that guards a trap is renamed, moved or dropped without a word in the list."""
    text = (ROOT / "docs" / "traps.md").read_text()
    named = set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text))
    assert len(named) > 60
    assert text.count(".py::") == len(re.findall(r"`tests/[\w/]+\.py::\w+`", text))
    defined = {
        (path, node.name)
        for path in {path for path, _ in named}
        if (ROOT / path).exists()
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert named - defined == set()
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith(("| Trap", "| --")):
            assert "::test_" in line, line
