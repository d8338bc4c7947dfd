"""The one file a method author imports: base classes, the values they exchange, and the registries.

A method is a frozen, keyword-only dataclass whose fields are its hyper-parameters. What an author overrides is small;
the outer calls, which check shapes, ranges and state, belong to the framework and are final.

    from mnp_plugin.contracts import Attack, attacks, param
"""

from __future__ import annotations

from mnp_plugin.core.attack import Attack
from mnp_plugin.core.component import Component
from mnp_plugin.core.context import Asset, AttackContext, DefenderView, DefenseContext, Requires, TrainingView
from mnp_plugin.core.dataset import Dataset
from mnp_plugin.core.defense import Defense, Purified, TrainingSetDefense
from mnp_plugin.core.detector import Detector, Verdict
from mnp_plugin.core.errors import MethodError
from mnp_plugin.core.images import ImageData, Images, State, Triggered, concat, to_bytes
from mnp_plugin.core.net import Net
from mnp_plugin.core.params import param
from mnp_plugin.core.recipe import Recipe
from mnp_plugin.core.registries import (
    all_registries,
    attacks,
    datasets,
    defenses,
    detectors,
    nets,
    sample_detectors,
    victim_sources,
)
from mnp_plugin.core.sample_detector import InputDetector, SampleDetector, Screened, TrainingSetDetector
from mnp_plugin.core.training_hook import BatchShare, TrainingHook
from mnp_plugin.core.victim import GivenVictim, VictimOffer, VictimSource

__all__ = [
    "Asset",
    "Attack",
    "AttackContext",
    "BatchShare",
    "Component",
    "Dataset",
    "DefenderView",
    "Defense",
    "DefenseContext",
    "Detector",
    "GivenVictim",
    "ImageData",
    "Images",
    "InputDetector",
    "MethodError",
    "Net",
    "Purified",
    "Recipe",
    "Requires",
    "SampleDetector",
    "Screened",
    "State",
    "TrainingHook",
    "TrainingSetDefense",
    "TrainingSetDetector",
    "TrainingView",
    "Triggered",
    "Verdict",
    "VictimOffer",
    "VictimSource",
    "all_registries",
    "attacks",
    "concat",
    "datasets",
    "defenses",
    "detectors",
    "nets",
    "param",
    "sample_detectors",
    "to_bytes",
    "victim_sources",
]
