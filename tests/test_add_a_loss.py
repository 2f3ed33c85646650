"""The page docs/how-to/add-a-loss.md, followed line by line in a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import PATIENCE_S

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/how-to/add-a-loss.md"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's package and tests with the changes of the page."""
    root = tmp_path_factory.mktemp("copy")
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in ("src", "tests"):
        shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", root)
    term, line, test = blocks()
    (root / "src/semraft/losses/divergence.py").write_text(term)
    added_import, entry = line.splitlines(keepends=True)
    name, function = test.split("\n", 1)
    for path, place, text in (
        ("src/semraft/losses/terms.py", "from semraft.losses.label_consistency", added_import),
        ("src/semraft/losses/terms.py", '    "smoothness": ', entry),
        ("tests/unit/losses/test_smoothness.py", "    weighted,\n", f"{name}\n"),
    ):
        before = (root / path).read_text()
        assert before.count(place) == 1
        (root / path).write_text(before.replace(place, text + place))
    with (root / "tests/unit/losses/test_smoothness.py").open("a") as file:
        file.write(function)
    return root


def run(copy: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy / "src")},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def test_the_page_keeps_its_promise_of_fewer_than_40_lines() -> None:
    """Red when: a term needs more of a stranger than the page says."""
    lines = [block.count("\n") for block in blocks()]
    assert len(lines) == 3
    assert sum(lines) < 40
    assert f"{sum(lines)} lines in three files" in PAGE.read_text()


def test_the_term_of_the_page_passes_its_test_and_the_laws(copy: Path) -> None:
    """Red when: an import, a name or a field of the page is not the package's, or the term breaks a law."""
    tests = ("tests/unit/losses/test_smoothness.py", "tests/property/test_loss_laws.py")
    done = run(copy, "pytest", "-q", "-rA", *tests, "-k", "divergence")
    assert done.returncode == 0, done.stdout[-3000:]
    assert all(f"PASSED {name}::" in done.stdout for name in tests), done.stdout[-3000:]


def test_the_command_line_knows_the_term_of_the_page(copy: Path) -> None:
    """Red when: the list of losses is not made from TERMS, or ruff would format the page's code anew."""
    assert "divergence in a class" in run(copy, "semraft", "losses").stdout
    for check in (("format", "--check"), ("check",)):
        done = run(copy, "ruff", *check, "src/semraft/losses", "tests/unit/losses")
        assert done.returncode == 0, done.stdout
