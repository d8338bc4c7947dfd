"""HTML from data: a template, the style and the script of this package, and the data as JSON, all in one file."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SCRIPTS = ("base", "points", "charts", "table", "neurons", "drawer", "sweeps", "suite", "model", "start")
"""The script in its parts, in this order."""


def render(data: Mapping[str, Any], *, live: int = 0) -> str:
    """The page.

    Args:
        data: what :func:`~mnp_plugin.report.page.data.suite_data` or
            :func:`~mnp_plugin.report.page.model.model_data` gives.
        live: milliseconds after which it asks its own server for newer data, where it is served; 0: it asks nobody for
            anything.
    """
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    style, script = _style(), _script()
    policy = [
        "default-src 'none'",
        "img-src data:",
        f"style-src '{_hash(style)}'",
        f"script-src '{_hash(script)}'",
        *(["connect-src 'self'"] if live else []),
        "base-uri 'none'",
        "form-action 'none'",
    ]
    template = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return template.get_template("page.html").render(
        data=data,
        policy=Markup("; ".join(policy)),  # our own words and hashes: quotes in it stay quotes
        style=Markup(style),
        script=Markup(script),
        json=Markup(embedded(data)),
        live=live,
    )


def embedded(data: Mapping[str, Any]) -> str:
    """``data`` as JSON that cannot end the element it stands in: no ``<``, ``>`` or ``&`` occurs in it."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@cache
def _style() -> str:
    return (HERE / "page.css").read_text(encoding="utf-8")


@cache
def _script() -> str:
    parts = [(HERE / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    return '"use strict";\n' + "\n".join(parts)
