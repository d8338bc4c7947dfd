"""The registries. Importing them imports no base class and no method, and so no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mnp_plugin.core.registry import Registry

if TYPE_CHECKING:
    from mnp_plugin.core.attack import Attack
    from mnp_plugin.core.dataset import Dataset
    from mnp_plugin.core.defense import Defense
    from mnp_plugin.core.detector import Detector
    from mnp_plugin.core.net import Net
    from mnp_plugin.core.sample_detector import SampleDetector
    from mnp_plugin.core.victim import VictimSource

attacks: Registry[Attack] = Registry("attack", "mnp_plugin.core.attack:Attack")
defenses: Registry[Defense] = Registry("defense", "mnp_plugin.core.defense:Defense")
detectors: Registry[Detector] = Registry("detector", "mnp_plugin.core.detector:Detector")
sample_detectors: Registry[SampleDetector] = Registry("sample detector", "mnp_plugin.core.sample_detector:SampleDetector")
datasets: Registry[Dataset] = Registry("dataset", "mnp_plugin.core.dataset:Dataset")
nets: Registry[Net] = Registry("net", "mnp_plugin.core.net:Net")
victim_sources: Registry[VictimSource] = Registry("victim source", "mnp_plugin.core.victim:VictimSource")
engines: Registry[Any] = Registry("engine", "mnp_plugin.benchmark.engines.engine:Engine")
observers: Registry[Any] = Registry("observer", "mnp_plugin.benchmark.observers.plugin:ObserverPlugin")
all_registries: tuple[Registry[Any], ...] = (
    attacks, defenses, detectors, sample_detectors, datasets, nets, victim_sources, engines, observers,
)  # fmt: skip
