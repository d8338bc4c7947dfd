"""A trial after the defense: one repaired net, changed a little and measured again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mnp_plugin.benchmark import stages
from mnp_plugin.benchmark.environment import hardware, versions
from mnp_plugin.benchmark.jobs.job import Inputs, Job
from mnp_plugin.benchmark.jobs.repair import RepairJob
from mnp_plugin.benchmark.jobs.victim import VictimJob
from mnp_plugin.benchmark.store import Kept, Store
from mnp_plugin.benchmark.suite import AnyVictim, Cell
from mnp_plugin.contracts import Images, concat
from mnp_plugin.core.params import fingerprint
from mnp_plugin.evaluation.trials import TRIALS, apply, triggered_images
from mnp_plugin.report.trials import TrialRecord, from_json, to_json

if TYPE_CHECKING:
    from mnp_plugin.benchmark.bench import Bench


@dataclass(frozen=True, eq=False)
class TrialJob(Job):
    """The trial ``name`` on the repaired net of a cell. One that failed is tried again by the next run."""

    suite: str
    cell: Cell
    name: str
    kind = "trials"
    further = True

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        return {**self.cell.plain(), "trial": TRIALS[self.name].plain()}

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.identity)

    @property
    def images_of(self) -> AnyVictim:
        return self.cell.victim

    @property
    def title(self) -> str:
        return f"{self.repair.title}: {self.name}"

    @property
    def file_name(self) -> str:
        """Name of its record."""
        cell = self.cell
        return f"{cell.victim.attack.label}-{cell.defense.label}-s{cell.victim.seed}-{self.name}-{self.fingerprint}.json"

    @cached_property
    def repair(self) -> RepairJob:
        """The net it changes."""
        return RepairJob(self.cell)

    @property
    def victim(self) -> VictimJob:
        """The victim of that net."""
        return self.repair.victim

    @cached_property
    def needs(self) -> tuple[Job, ...]:
        return self.victim, self.repair

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
        return self._kept(bench, status="ok", after=stages.measure(model, split.test, measured.triggered), seconds=seconds)

    def failed(self, reason: str, bench: Bench) -> Kept:
        return self._kept(bench, status="failed", reason=reason)

    def _kept(self, bench: Bench, **facts: Any) -> Kept:
        cell = self.cell
        record = TrialRecord(
            id=self.fingerprint,
            cell=cell.fingerprint,
            suite=self.suite,
            attack=cell.victim.attack.label,
            defense=cell.defense.label,
            seed=cell.victim.seed,
            trial=self.name,
            settings=TRIALS[self.name].plain(),
            content=bench.store.content(self.images_of),
            versions=versions(),
            hardware=hardware(bench.device, cell.victim.recipe.precision),
            **facts,
        )
        return Kept({}, {"trial": record})

    def load(self, store: Store) -> Kept | None:
        found = store.read(self.suite, self.kind, self.file_name)
        record = None if found is None else from_json(*found)
        return (
            Kept({}, {"trial": record})
            if record is not None and record.status == "ok" and store.current(self.images_of, record.content)
            else None
        )

    def save(self, store: Store, kept: Kept) -> None:
        store.write(self.suite, self.kind, self.file_name, to_json(kept.facts["trial"]))
