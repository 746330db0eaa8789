"""The inspection page: one template, one script, one style sheet, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import jinja2
from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

import changenet

_FOLDER = Path(__file__).parent


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string((_FOLDER / "index.html").read_text(encoding="utf-8"))


def render_page(models: Sequence[str], *, asks_for_key: bool = False) -> str:
    """Return the page; it asks `/v1/models/NAME` for everything else.

    Args:
        models: Their names.
        asks_for_key: The service wants a key that the page has to ask the user for.
    """
    return _template().render(models=models, asks_for_key=asks_for_key, version=changenet.__version__)


def mount_assets(app: FastAPI) -> None:
    """Serve the script and the style sheet under `/page/`."""
    app.mount("/page", StaticFiles(directory=_FOLDER / "assets"), name="page")
