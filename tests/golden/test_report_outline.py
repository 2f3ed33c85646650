"""The outline of the report: headings, tables and charts of two variants with two seeds each."""

import json
from pathlib import Path

import pytest

from semraft.report.report import write_report
from tests.unit.analysis.fake_runs import make_run
from tests.unit.analysis.page import Page

GOLDEN = Path(__file__).with_name("report_outline.json")


def outline(page: Page) -> dict[str, list[object]]:
    """The outline of the page: headings, tables and captions, without numbers and pictures."""
    charts = [a for tag, a in page.tags if tag in ("svg", "figure") and "aria-label" in a]
    return {
        "headings": [list(heading) for heading in page.outline],
        "charts": [chart["aria-label"] for chart in charts],
        "columns": list(dict.fromkeys(cell.metric for cell in page.cells if cell.strata is None)),
        "strata": list(dict.fromkeys(cell.metric for cell in page.cells if cell.strata is not None)),
        "links": [a["href"] for tag, a in page.tags if tag == "a"],
        "pictures": list(dict.fromkeys(str(a["alt"]) for tag, a in page.tags if tag == "img")),
    }


def test_report_outline(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    runs = [
        make_run(tmp_path / f"{recipe}-seed{seed}", recipe, seed, epe)
        for recipe, epe in (("world-base", 2.0), ("world-semantic-v1", 1.5))
        for seed in (0, 42)
    ]
    write_report(runs, tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text())
    found = outline(page)
    if request.config.getoption("--update-golden", default=False):
        GOLDEN.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    assert found == json.loads(GOLDEN.read_text())
    ids = {a["id"] for _, a in page.tags if "id" in a}
    assert {str(link).removeprefix("#") for link in found["links"]} <= ids
