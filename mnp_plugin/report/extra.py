"""What the extra ``[report]`` adds, and whether it is installed."""

from __future__ import annotations

from importlib.util import find_spec

PACKAGES = {"matplotlib": "matplotlib", "jinja2": "jinja2"}
"""Module -> package."""

ADDS = "statistics, figures and the page index.html"


def missing() -> list[str]:
    """Packages of the extra that are not installed; looked for, not imported."""
    return [package for module, package in PACKAGES.items() if find_spec(module) is None]


def hint() -> str:
    """One line on what the extra would add; empty where it is installed."""
    lacking = missing()
    return f"pip install 'mnp_plugin[report]' adds {ADDS} (not installed: {', '.join(lacking)})" if lacking else ""
