"""A check's results as Markdown."""

from collections.abc import Mapping
from typing import Any


def as_markdown(results: Mapping[str, Any]) -> str:
    """A section for each part: what it shows, how it ended, its rows."""
    lines = [f"`{results['command']}`, {results['minutes_taken']:.1f} minutes."]
    for name, part in results["parts"].items():
        ended = part["state"] + (f": {part['why']}" if part["why"] else "")
        lines += ["", f"## {name}", f"{part['about']} ({ended}; {part['seconds']:.0f} s)"]
        if part["rows"]:
            lines += ["", *table(part["rows"])]
    return "\n".join(lines) + "\n"


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Columns in the order in which rows name them first; those without any value are left out."""
    columns = dict.fromkeys(column for row in rows for column, value in row.items() if value is not None)
    head = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    return head + [f"| {' | '.join(shown(row.get(column)) for column in columns)} |" for row in rows]


def shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value).replace("|", "/").replace("\n", " ")
