"""A page to read in a browser: from a template among the assets, one file, nothing fetched, all text escaped."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_ASSETS = Path(__file__).parent / "assets"


def render(template: str, values: Mapping[str, Any], filters: Mapping[str, Callable[..., Any]] | None = None) -> str:
    """Return the page that a template makes; a value that it lacks is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_ASSETS), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(filters or {})
    return environment.get_template(template).render(values)
