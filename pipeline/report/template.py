"""Templates to pages: one environment, escaping whatever it is given, with the style inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.report.scores import metric_name, metric_unit
from pipeline.report.wording import humanise, is_table, scalar_text

_HERE = Path(__file__).parent


def write_page(out: Path, template: str, context: dict[str, Any]) -> Path:
    """Write the page a template makes of a context, its folder too if need be; return its path."""
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(
        humanise=humanise, metric_name=metric_name, metric_unit=metric_unit, scalar=scalar_text
    )
    environment.tests["table"] = is_table
    style = Markup((_HERE / "style.css").read_text(encoding="utf-8"))  # ours, trusted
    out.parent.mkdir(parents=True, exist_ok=True)
    page = environment.get_template(template).render(style=style, **context)
    out.write_text(page, encoding="utf-8")
    return out
