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
    from mnp_plugin.core.registries import attacks as attack_registry
    from mnp_plugin.core.registries import datasets as dataset_registry
    from mnp_plugin.core.registries import defenses as defense_registry
    from mnp_plugin.core.registries import detectors as detector_registry
    from mnp_plugin.core.registries import engines as engine_registry
    from mnp_plugin.core.registries import nets as net_registry
    from mnp_plugin.core.registries import observers as observer_registry
    from mnp_plugin.core.registries import sample_detectors as sample_detector_registry
    from mnp_plugin.core.registries import victim_sources as victim_source_registry
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
    "attack_registry",
    "dataset_registry",
    "defense_registry",
    "detect",
    "detect_and_repair",
    "detect_checkpoint",
    "detector_registry",
    "engine_registry",
    "load_leaderboard",
    "load_records",
    "net_registry",
    "observer_registry",
    "purify",
    "registries",
    "repair_checkpoint",
    "sample_detector_registry",
    "screen",
    "screen_checkpoint",
    "victim_source_registry",
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
    "attack_registry": "core.registries:attacks",
    "dataset_registry": "core.registries:datasets",
    "defense_registry": "core.registries:defenses",
    "detect": "api.calls",
    "detect_and_repair": "api.cure",
    "detect_checkpoint": "api.judge",
    "detector_registry": "core.registries:detectors",
    "engine_registry": "core.registries:engines",
    "load_leaderboard": "report.frames",
    "load_records": "report.frames",
    "net_registry": "core.registries:nets",
    "observer_registry": "core.registries:observers",
    "purify": "api.calls",
    "repair_checkpoint": "api.repair",
    "sample_detector_registry": "core.registries:sample_detectors",
    "screen": "api.calls",
    "screen_checkpoint": "api.screen",
    "victim_source_registry": "core.registries:victim_sources",
    "with_normalisation": "nets.normalise",
}
"""Module, and the name in it where that is another: ``attacks``, ``defenses``, ``detectors`` and ``nets`` are packages here."""


def __getattr__(name: str) -> object:
    # torch takes seconds to import, and reports do without it: public names are loaded on first use.
    if name == "registries":
        return import_module("mnp_plugin.core.registries")
    if name in _WHERE:
        module, _, own = _WHERE[name].partition(":")
        value = getattr(import_module(f"mnp_plugin.{module}"), own or name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'mnp_plugin' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
