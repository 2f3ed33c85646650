"""The rooms import one way only, and what must be light stays light."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import semraft
from tests.helpers import PATIENCE_S

SOURCE = Path(semraft.__file__).parent
FLOORS = [
    ["records", "writing"],
    ["npz", "run_records", "shipped"],
    ["kernels", "sample"],
    ["config"],
    ["ops"],
    ["data", "models", "losses", "metrics"],
    ["runtime", "tracking", "frames", "run_lock", "overlay"],
    ["inference", "clearml_session", "diagnosis", "agreement", "describe"],
    ["prediction", "step_result"],
    ["evaluation", "products"],
    ["monitor"],
    ["training"],
    ["faults"],
    ["analysis"],
    ["report"],
    ["studies"],
    ["cli"],
]
"""Bottom to top. A room imports from floors below; rooms of one floor don't know each other."""
READS_FILES_ONLY = {
    "analysis": {"analysis", "config", "metrics", "npz", "records", "run_records", "tracking", "writing"},
    "report": {"report", "analysis", "diagnosis", "config", "metrics", "ops", "tracking", "writing"},
}
"""Rooms that may not import what trains or evaluates."""


def room_of(module: str) -> str:
    return module.removeprefix("semraft.").split(".")[0]


def imports_of(file: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names = [node.module or ""]
            if node.module == "semraft":
                names = [f"semraft.{alias.name}" for alias in node.names]
        else:
            continue
        rooms |= {room_of(name) for name in names if name.startswith("semraft.")}
    return rooms


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda f: str(f.relative_to(SOURCE)))
def test_imports_go_down(file: Path) -> None:
    """Red when: a loss imports a model, or analysis imports training."""
    room = file.relative_to(SOURCE).parts[0].removesuffix(".py")
    if room in ("__init__", "__main__", "py"):
        return
    floor = next(index for index, rooms in enumerate(FLOORS) if room in rooms)
    below = {name for rooms in FLOORS[:floor] for name in rooms} | {room}
    assert imports_of(file) <= READS_FILES_ONLY.get(room, below)


def run_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=PATIENCE_S
    ).stdout


@pytest.mark.parametrize(
    "module", ["semraft", "semraft.cli.main", "semraft.config.recipes", "semraft.report.report"]
)
def test_light_modules_do_not_import_torch(module: str) -> None:
    """`semraft --help` has a second; importing torch alone takes longer."""
    assert run_python(f"import sys, {module}; print('torch' in sys.modules)").strip() == "False"


def test_what_is_optional_is_not_imported() -> None:
    """Each takes a second, and may be missing. Red when: Triton's kernels are imported at the top of a module
    that chooses among kernels, or ClearML before a run asks for it."""
    modules = "semraft.cli.main, semraft.models.raft, semraft.training.loop"
    optional = run_python(f"import sys, {modules}; print({{'triton', 'clearml', 'ray'}} & {{*sys.modules}})")
    assert optional.strip() == "set()"


def test_no_file_has_grown_into_two_things() -> None:
    """Past 400 lines a module is asked to split; the report's page is data."""
    sizes = {file.name: len(file.read_text().splitlines()) for file in SOURCE.rglob("*.py")}
    assert {name: size for name, size in sizes.items() if size > 400} == {}


def test_no_two_files_have_one_name() -> None:
    """Red when: a second file gets a name that another room has: which of them is meant has to be guessed."""
    names = Counter(file.name for file in SOURCE.rglob("*.py") if not file.name.startswith("__"))
    assert {name: count for name, count in names.items() if count > 1} == {}


def test_the_changelog_is_alive() -> None:
    changelog = Path(__file__).parents[1] / "CHANGELOG.md"
    assert f"## {semraft.__version__}" in changelog.read_text()
