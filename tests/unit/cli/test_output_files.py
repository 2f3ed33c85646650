"""Output files: a file that can't be written is refused before the work, not after it."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from semraft.cli.main import run
from semraft.cli.options import require_writable


def test_a_file_that_can_be_written_leaves_no_trace(tmp_path: Path) -> None:
    """Red when: the test of an output leaves an empty file behind, or empties one that is there."""
    (tmp_path / "old.json").write_text("kept")
    for name in ("new.json", "old.json"):
        require_writable(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]
    assert (tmp_path / "old.json").read_text() == "kept"


@pytest.mark.parametrize(
    ("name", "says"),
    [("gone/a.json", "gone is not there"), ("file/a.json", "file is no folder"), ("", "is a folder")],
)
def test_a_file_that_can_not_be_written_is_refused(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=says):
        require_writable(tmp_path / name)


COMMANDS = [
    ("evaluate", "zero", "--dataset", "world", "--json", "OUT"),
    ("evaluate", "zero", "--dataset", "world", "--per-sample", "OUT"),
    ("data", "check", "--dataset", "world", "--list-bad", "OUT"),
    ("diagnose", "nowhere", "--out", "OUT"),
    ("report", "nowhere", "--out", "OUT"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_refuse_their_output_first(
    command: Sequence[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Red when: hours of work end with "No such file or directory"; to score the world takes minutes."""
    out = str(tmp_path / "gone" / "out")
    assert run([out if word == "OUT" else word for word in command]) == 2
    assert f"{tmp_path}/gone is not there: make it first" in capsys.readouterr().err
