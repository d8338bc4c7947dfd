"""A trial after the defense: one repaired net, changed a little and measured again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mnp_plugin.benchmark import stages
from mnp_plugin.benchmark.jobs.job import Inputs
from mnp_plugin.benchmark.jobs.recorded import CellRecordJob
from mnp_plugin.benchmark.store import Kept
from mnp_plugin.benchmark.suite import Cell
from mnp_plugin.contracts import Images, concat
from mnp_plugin.evaluation.measure import measure
from mnp_plugin.evaluation.trials import TRIALS, apply, strengthened, triggered_images
from mnp_plugin.report.trials import TrialRecord, from_json

if TYPE_CHECKING:
    from mnp_plugin.benchmark.bench import Bench


@dataclass(frozen=True, eq=False)
class TrialJob(CellRecordJob):
    """The trial ``name`` on the repaired net of a cell."""

    suite: str
    cell: Cell
    name: str
    kind = "trials"

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        return {**self.cell.plain(), "trial": TRIALS[self.name].plain()}

    @property
    def title(self) -> str:
        return f"{self.cell.title}: {self.name}"

    @property
    def file_name(self) -> str:
        cell = self.cell
        return f"{cell.victim.attack.label}-{cell.defense.label}-s{cell.victim.seed}-{self.name}-{self.fingerprint}.json"

    def make(self, inputs: Inputs, bench: Bench) -> Kept:
        bench.busy(self.title)
        victim, trial = self.cell.victim, TRIALS[self.name]
        measured, split = bench.opened(self.victim, inputs[self.victim]), bench.split(victim)
        classes = len(bench.source(victim).data.classes)
        model = self.repair.opened(inputs[self.repair], inputs, bench)
        generator = stages.stream(["trial", self.identity], bench.device)

        def trigger(count: int) -> Images:
            assert victim.trigger is not None  # else the trial is not planned
            return triggered_images(victim.trigger, measured.victim.state, split.train, count, classes, generator)

        start = time.perf_counter()
        apply(trial, model, concat([split.clean, split.validation]), victim.recipe, generator, trigger)
        seconds = round(time.perf_counter() - start, 2)
        triggered = measured.triggered
        if triggered is not None and trial.strength != 1:
            triggered = strengthened(triggered, split.test, trial.strength)
        return self._kept(bench, status="ok", after=measure(model, split.test, triggered), seconds=seconds)

    def failed(self, reason: str, bench: Bench) -> Kept:
        return self._kept(bench, status="failed", reason=reason)

    def _kept(self, bench: Bench, **facts: Any) -> Kept:
        cell = self.cell
        record = TrialRecord(
            id=self.fingerprint,
            cell=cell.fingerprint,
            defense=cell.defense.label,
            trial=self.name,
            settings=TRIALS[self.name].plain(),
            **self.common(bench),
            **facts,
        )
        return Kept({}, {"record": record})

    def read(self, text: str, source: str) -> TrialRecord:
        return from_json(text, source)
