"""Rows of a table that a user writes: CSV with a header, or JSON lines with the same names."""

import csv
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from semraft.records import parsed


class Row(NamedTuple):
    """A row of a table: its place for messages, and its text by column; an empty cell is not there."""

    place: str
    values: dict[str, str]

    def fault(self, what: str) -> ValueError:
        """The error about this row."""
        return ValueError(f"{self.place}: {what}")


def read_rows(path: Path, columns: Collection[str], needed: Collection[str]) -> list[Row]:
    """Reads the rows of a .csv file (commas, semicolons or tabs) or of a .jsonl file.

    Raises:
        ValueError: Not text, a column that is not among `columns`, or one of `needed` that is not there or
            empty in a row; one line with the file and the line of it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # Spreadsheets begin a file with a mark.
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no UTF-8 text ({error.reason}): save it as CSV in UTF-8") from error
    try:
        found = list(_json_rows(path, text) if path.suffix == ".jsonl" else _csv_rows(path, text))
    except csv.Error as error:
        raise ValueError(f"{path}: is no table: {error}") from error
    if not found:
        raise ValueError(f"{path}: has no row")
    for row in found:
        if unknown := [name for name in row.values if name not in columns]:
            raise row.fault(f"no column is called {unknown[0]!r}: there are {', '.join(columns)}")
        if missing := [name for name in needed if name not in row.values]:
            raise row.fault(f"has no {missing[0]}, which every row needs")
    return found


def _csv_rows(path: Path, text: str) -> Iterator[Row]:
    lines = text.splitlines()
    header = lines[0] if lines else ""
    reader = csv.reader(lines, delimiter=max(",;\t", key=header.count))
    columns: list[str] = []
    for cells in reader:
        place = f"{path} line {reader.line_num}"
        stripped = [cell.strip() for cell in cells]
        if not any(stripped):
            continue
        if not columns:
            columns = stripped
            if twice := [name for name in columns if name and columns.count(name) > 1]:
                raise ValueError(f"{place}: the column {twice[0]!r} is there twice")
            continue
        if len(stripped) > len(columns):
            raise ValueError(f"{place}: has {len(stripped)} cells, the header has {len(columns)} columns")
        yield Row(place, {name: cell for name, cell in zip(columns, stripped, strict=False) if cell})


def _json_rows(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        place = f"{path} line {number}"
        found = parsed(Path(place), line.encode())
        if not isinstance(found, dict):
            raise ValueError(f'{place}: expected an object such as {{"image1": "a.png"}}')
        yield Row(place, {name: _text(value) for name, value in found.items() if value not in (None, "")})


def _text(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
