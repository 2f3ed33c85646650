"""A report page as a test sees it: parsed, never matched as text."""

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

UPLOT = "/*! https://github.com/leeoniya/uPlot (v1.6.32) */"
"""The head of the chart library's file: the one address in a page, in a comment."""
VOID = frozenset({"meta", "img", "br", "line", "path", "circle", "rect", "link", "input"})


@dataclass
class Cell:
    """A number in a table: the table's split, the metric, the row's heading, the exact value and its text."""

    split: str
    strata: str | None
    metric: str
    row: tuple[str, str]
    value: float
    text: str
    best: bool


@dataclass
class Page(HTMLParser):
    """Headings, table cells, attributes by tag, and the text of the page.

    `numbers` is every number that the page marks as one: its exact value and its text.
    """

    html: str
    outline: list[tuple[str, str]] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    numbers: list[tuple[float, str]] = field(default_factory=list)
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    text: str = ""
    summary: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._open: list[tuple[str, dict[str, str | None], str]] = []
        self._table: dict[str, str | None] = {}
        self._row: list[str] = []
        self.feed(self.html)
        self.close()
        assert not self._open, f"not closed: {[tag for tag, _, _ in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag == "table":
            self._table = attributes
        if tag == "tr":
            self._row = []
        if tag not in VOID:
            self._open.append((tag, attributes, ""))

    def handle_data(self, data: str) -> None:
        inside = [tag for tag, _, _ in self._open]
        if "script" not in inside and "style" not in inside:
            self.text += data
        self._open = [(tag, attributes, text + data) for tag, attributes, text in self._open]

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        opened, attributes, text = self._open.pop()
        assert opened == tag, f"{tag} closes {opened}"
        text = " ".join(text.split())
        if tag in ("h1", "h2", "h3"):
            self.outline.append((tag, text))
        if tag in ("th", "td"):
            self._row.append(text)
        if tag == "data":
            self.numbers.append((float(str(attributes["value"])), text))
            _, cell, _ = self._open[-1]
        if tag == "data" and "data-metric" in cell:
            self.cells.append(
                Cell(
                    split=str(self._table["data-split"]),
                    strata=self._table.get("data-strata"),
                    metric=str(cell["data-metric"]),
                    row=(self._row[0], self._row[1] if len(self._row) > 1 else ""),
                    value=float(str(attributes["value"])),
                    text=text,
                    best="best" in str(cell["class"]).split(),
                )
            )
        if tag == "script" and attributes.get("id") == "summary":
            self.summary = json.loads(text)
