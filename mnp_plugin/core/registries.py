"""The registries."""

from __future__ import annotations

from typing import Any

from mnp_plugin.core.attack import Attack
from mnp_plugin.core.dataset import Dataset
from mnp_plugin.core.defense import Defense
from mnp_plugin.core.detector import Detector
from mnp_plugin.core.net import Net
from mnp_plugin.core.registry import Registry
from mnp_plugin.core.victim import VictimSource

attacks: Registry[Attack] = Registry("attack", Attack)  # type: ignore[type-abstract]
defenses: Registry[Defense] = Registry("defense", Defense)  # type: ignore[type-abstract]
detectors: Registry[Detector] = Registry("detector", Detector)
datasets: Registry[Dataset] = Registry("dataset", Dataset)  # type: ignore[type-abstract]
nets: Registry[Net] = Registry("net", Net)  # type: ignore[type-abstract]
victim_sources: Registry[VictimSource] = Registry("victim source", VictimSource)  # type: ignore[type-abstract]
all_registries: tuple[Registry[Any], ...] = (attacks, defenses, detectors, datasets, nets, victim_sources)
