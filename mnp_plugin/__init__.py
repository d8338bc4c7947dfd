"""Backdoor attacks, defenses and detectors behind a registry, and a benchmark that compares them honestly.

For one model of your own::

    from mnp_plugin import detect, purify, with_normalisation

    model = with_normalisation(my_model, mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))
    verdict = detect(model, x, y)
    repaired = purify(model, x, y)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mnp_plugin.api.calls import detect, purify, screen
    from mnp_plugin.api.cure import CureReport, detect_and_repair
    from mnp_plugin.api.judge import DetectReport, detect_checkpoint
    from mnp_plugin.api.repair import RepairReport, repair_checkpoint
    from mnp_plugin.api.screen import ScreenReport, screen_checkpoint
    from mnp_plugin.core import registries
    from mnp_plugin.core.defense import Purified
    from mnp_plugin.core.detector import Verdict
    from mnp_plugin.core.errors import MethodError, UserError
    from mnp_plugin.core.recipe import Recipe
    from mnp_plugin.core.sample_detector import Screened
    from mnp_plugin.nets.normalise import with_normalisation
    from mnp_plugin.report.frames import load_leaderboard, load_records

__version__ = "0.2.0"

__all__ = [
    "CureReport",
    "DetectReport",
    "MethodError",
    "Purified",
    "Recipe",
    "RepairReport",
    "ScreenReport",
    "Screened",
    "UserError",
    "Verdict",
    "detect",
    "detect_and_repair",
    "detect_checkpoint",
    "load_leaderboard",
    "load_records",
    "purify",
    "registries",
    "repair_checkpoint",
    "screen",
    "screen_checkpoint",
    "with_normalisation",
]

_WHERE = {
    "CureReport": "api.cure",
    "DetectReport": "api.judge",
    "MethodError": "core.errors",
    "Purified": "core.defense",
    "Recipe": "core.recipe",
    "RepairReport": "api.repair",
    "ScreenReport": "api.screen",
    "Screened": "core.sample_detector",
    "UserError": "core.errors",
    "Verdict": "core.detector",
    "detect": "api.calls",
    "detect_and_repair": "api.cure",
    "detect_checkpoint": "api.judge",
    "load_leaderboard": "report.frames",
    "load_records": "report.frames",
    "purify": "api.calls",
    "repair_checkpoint": "api.repair",
    "screen": "api.calls",
    "screen_checkpoint": "api.screen",
    "with_normalisation": "nets.normalise",
}


def __getattr__(name: str) -> object:
    # torch takes seconds to import, and reports do without it: public names are loaded on first use.
    if name == "registries":
        return import_module("mnp_plugin.core.registries")
    if name in _WHERE:
        value = getattr(import_module(f"mnp_plugin.{_WHERE[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'mnp_plugin' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
