"""A page that opens offline and holds all it shows: a template, with our own script and style put in.

Names come from people and folders: everything is escaped, and the page's policy lets no script run but ours.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from semraft.analysis.variants import definition, format_value
from semraft.tracking import write_text

COMMON = (
    *("report.js", "vendor/uPlot.iife.min.js", "charts.js"),
    *("report.css", "vendor/uPlot.min.css", "charts.css"),
)
"""The scripts and styles of every page: values under the pointer, and curves by uPlot 1.6.32."""


def write_html(out: Path, template: str, values: Mapping[str, Any], extra: Sequence[str] = ()) -> None:
    """Writes a page, whole or not at all.

    Args:
        out: The page.
        template: A file beside this one.
        values: The variables of the template and its macros.
        extra: Further scripts (.js) and styles (.css) beside this file.
    """
    # The licence of uPlot wants its caveat in every copy.
    script = "\n".join([f"/*\n{_beside('vendor/LICENSE')}*/", *_contents([*COMMON, *extra], ".js")])
    page = (
        _templates()
        .get_template(template)
        .render(
            {
                **values,
                "script": Markup(script),
                "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
                "style": Markup("\n".join(_contents([*COMMON, *extra], ".css"))),
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
    environment.globals.update(definition=definition, format_value=format_value)
    return environment


def _contents(names: Sequence[str], suffix: str) -> list[str]:
    return [_beside(name) for name in names if name.endswith(suffix)]


def _beside(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
