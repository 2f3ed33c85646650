"""Records that outlive a process: JSON, lines of JSON, tables and text, each read and checked here alone.

Whoever reads a file gives the shape that its content must have, as a type: a dataclass, a TypedDict. Content
of another shape is a DamagedFile, whose message has the file and the place in it. Imports no numpy.
"""

import csv
import dataclasses
import io
import json
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

T = TypeVar("T")
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
"""A whole number that is not negative; larger ones have no float of their own."""
_LONE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""Half of a character, which no text can be written with; a whole pair of them matches too."""


class DamagedFile(ValueError):
    """A file that does not hold what it should (truncated, wrong type, wrong size) or can't be read."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.reason)  # Raised in loader workers: must survive pickling.


class Lines(NamedTuple):
    """The records of a .jsonl file."""

    records: list[Any]
    torn: tuple[int, ...]
    """Numbers, from 1, of lines that are no JSON: a killed process leaves one."""


def read_bytes(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        DamagedFile: It has none.
    """
    content = path.read_bytes()
    if not content:
        raise DamagedFile(path, "is empty (0 bytes)")
    return content


def read_text(path: Path) -> str:
    """A text in UTF-8.

    Raises:
        DamagedFile: Other bytes.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DamagedFile(path, f"is no text in UTF-8: {error.reason} at byte {error.start}") from error


def read_json(path: Path, shape: type[T]) -> T:
    """The content of a JSON file, of this shape.

    Raises:
        DamagedFile: No JSON, or of another shape.
    """
    return shaped(path, parsed(path, path.read_bytes()), shape)


def read_lines(path: Path, shape: type) -> Lines:
    """The records of a .jsonl file, each of this shape; none without a file.

    Raises:
        DamagedFile: A line that is JSON, but of another shape.
    """
    return lines_of(path, path.read_bytes() if path.exists() else b"", shape)


def lines_of(path: Path, content: bytes, shape: type) -> Lines:
    """The records in a part of a .jsonl file that begins and ends with whole lines; as `read_lines`."""
    records: list[Any] = []
    torn: list[int] = []
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = parsed(path, line)
        except DamagedFile:
            torn.append(number)
        else:
            records.append(shaped(path, value, shape, f"line {number}: "))
    return Lines(records, tuple(torn))


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a .csv file by the names in its first row.

    Raises:
        DamagedFile: No table: a row of another length, a name twice, quotes that do not close.
    """
    rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        names, *values = [row for row in rows if row] or [[]]
    except csv.Error as error:
        raise DamagedFile(path, f"is no table: {error} in line {rows.line_num}") from error
    if len(set(names)) != len(names):
        raise DamagedFile(path, "is no table: a column's name stands twice in its first row")
    for number, row in enumerate(values, start=1):
        if len(row) != len(names):
            raise DamagedFile(path, f"row {number} has {len(row)} values, the first row {len(names)} names")
    return [dict(zip(names, row, strict=True)) for row in values]


def parsed(path: Path, content: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        DamagedFile: No JSON, nested too deep, a number of more than 64 bits, or half of a character.
    """
    try:
        value = json.loads(content, parse_int=_whole_number)
        if _LONE_SURROGATE.search(content):
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise DamagedFile(path, f"is no JSON: {error}") from error
    return value


def shaped(path: Path, value: Any, shape: type[T], where: str = "") -> T:
    """A value as this type; of a TypedDict the value itself, which may have more keys than the type names.

    Raises:
        DamagedFile: Another shape, or a name that a dataclass lacks.
    """
    try:
        made = msgspec.convert(value, shape)
    except (msgspec.ValidationError, RecursionError) as error:
        raise DamagedFile(path, f"{where}{error}") from error
    if dataclasses.is_dataclass(made):
        # msgspec passes over names that a dataclass lacks.
        for name in _unknown(value, dataclasses.asdict(made)):  # type: ignore[arg-type]
            raise DamagedFile(path, f"{where}{name.lstrip('.')} is unknown to this semraft")
    return typing.cast(T, value) if typing.is_typeddict(shape) else made


def _whole_number(text: str) -> int:
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"a number of more than 64 bits: {text[:30]}")
    return number


def _unknown(given: Any, known: Any, path: str = "") -> Iterator[str]:
    """Paths of names that only the first of two trees has."""
    if isinstance(given, dict) and isinstance(known, dict):
        for name, part in given.items():
            if name not in known:
                yield f"{path}.{name}"
            else:
                yield from _unknown(part, known[name], f"{path}.{name}")
    elif isinstance(given, list) and isinstance(known, list | tuple):
        for part, other in zip(given, known, strict=False):
            yield from _unknown(part, other, path)
