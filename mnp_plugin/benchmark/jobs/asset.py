"""Something an attack requires: a robust net, an encoder, a mask net."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mnp_plugin.benchmark import stages
from mnp_plugin.benchmark.jobs.job import Inputs, Job
from mnp_plugin.benchmark.store import Kept
from mnp_plugin.benchmark.suite import VictimSpec, clean_twin
from mnp_plugin.contracts import Asset

if TYPE_CHECKING:
    from mnp_plugin.benchmark.bench import Bench


@dataclass(frozen=True, eq=False)
class AssetJob(Job):
    """An asset of the data, net, recipe and seed of ``victim``, shared by all victims that have these in common."""

    victim: VictimSpec
    name: str
    kind = "assets"

    @cached_property
    def asset(self) -> Asset:
        """What the attack requires under that name."""
        return next(asset for asset in self.victim.attack.component.requires().assets if asset.name == self.name)

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        about = {"asset": self.name, "settings": dict(self.asset.settings)}
        return {**about, **clean_twin(self.victim).plain()}

    @property
    def images_of(self) -> VictimSpec:
        return self.victim

    @property
    def title(self) -> str:
        return f"{self.victim.title}: {self.name}"

    def make(self, inputs: Inputs, bench: Bench) -> Kept:
        bench.busy(self.title)
        source = bench.source(self.victim)
        own = stages.attack_context(self.identity, self.victim, source.data, bench.device, bench.busy_for(self.victim.title))
        return Kept(self.asset.make(bench.split(self.victim).train, own))
