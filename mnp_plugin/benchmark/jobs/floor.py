"""The floor of an attack: what a clean net does on the victim's triggered test images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mnp_plugin.benchmark.jobs.job import Inputs
from mnp_plugin.benchmark.jobs.recorded import RecordJob
from mnp_plugin.benchmark.jobs.victim import VictimJob
from mnp_plugin.benchmark.store import Kept
from mnp_plugin.benchmark.suite import AnyVictim
from mnp_plugin.evaluation.measure import measure
from mnp_plugin.report.floors import FloorRecord, from_json

if TYPE_CHECKING:
    from mnp_plugin.benchmark.bench import Bench


@dataclass(frozen=True, eq=False)
class FloorJob(RecordJob):
    """The clean net of a suite on the images of ``subject``, of the same data, net and seed.

    One for each victim, not for each cell, and cheap: nothing is trained for it.
    """

    suite: str
    subject: AnyVictim
    clean: AnyVictim
    kind = "floors"

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        return {**self.subject.plain(), "clean": self.clean.plain()}

    @property
    def images_of(self) -> AnyVictim:
        return self.subject

    @property
    def title(self) -> str:
        return f"{self.subject.title}: clean net on its images"

    @property
    def file_name(self) -> str:
        return f"{self.subject.attack.label}-s{self.subject.seed}-{self.fingerprint}.json"

    @cached_property
    def needs(self) -> tuple[VictimJob, VictimJob]:
        return VictimJob(self.subject), VictimJob(self.clean)

    def make(self, inputs: Inputs, bench: Bench) -> Kept:
        bench.busy(self.title)
        attacked, clean = self.needs
        triggered = bench.opened(attacked, inputs[attacked]).triggered
        model = clean.opened(inputs[clean], bench).victim.model
        return self._kept(bench, status="ok", floor=measure(model, bench.split(self.subject).test, triggered))

    def failed(self, reason: str, bench: Bench) -> Kept:
        return self._kept(bench, status="failed", reason=reason)

    def _kept(self, bench: Bench, **facts: Any) -> Kept:
        record = FloorRecord(
            id=self.fingerprint,
            victim=self.subject.fingerprint,
            clean=self.clean.fingerprint,
            same_recipe=self.subject.recipe == self.clean.recipe,
            **self.common(bench),
            **facts,
        )
        return Kept({}, {"record": record})

    def read(self, text: str, source: str) -> FloorRecord:
        return from_json(text, source)
