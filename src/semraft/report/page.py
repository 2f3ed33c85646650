"""A page that opens offline and holds all it shows: a template, with our own script and style put in.

Names come from people and folders: everything is escaped, and the page's policy lets no script run but ours.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from semraft.analysis.variants import definition, format_value
from semraft.report import figures
from semraft.report.figures import Chart
from semraft.tracking import write_text


def write_html(
    out: Path, template: str, scripts: Sequence[str], styles: Sequence[str], values: Mapping[str, Any]
) -> None:
    """Writes a page, whole or not at all.

    Args:
        template: A file beside this one.
        scripts: Files beside this one that become the page's one script.
        styles: And its one style.
        values: What the template and its macros read.
    """
    script = "\n".join(_beside(name) for name in scripts)
    page = (
        _templates()
        .get_template(template)
        .render(
            {
                **values,
                "script": Markup(script),
                "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
                "style": Markup("\n".join(_beside(name) for name in styles)),
            }
        )
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)


def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        definition=definition, format_value=format_value, figure=figures, chart_data=_chart_data
    )
    return environment


def _beside(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _chart_data(chart: Chart) -> str:
    """What the readout of a chart needs, as JSON for an attribute."""
    fields = ("label", "color", "kind", "x", "y", "spread")
    lines = [{name: getattr(line, name) for name in fields} for line in chart.lines]
    contents = {"lines": lines, "marks": [{"step": mark.step} for mark in chart.marks]}
    return json.dumps(contents | {"logarithmic": chart.logarithmic}, separators=(",", ":"))
