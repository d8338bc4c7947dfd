"""The record of a cell: what was measured on victim and repaired net."""

from __future__ import annotations

import dataclasses
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
from mnp_plugin.benchmark.suite import AnyVictim, Cell, Gate
from mnp_plugin.report.records import Record, Scores

if TYPE_CHECKING:
    from mnp_plugin.benchmark.bench import Bench


@dataclass(frozen=True, eq=False)
class ScoreJob(Job):
    """One cell of a suite. A cell that failed has a record with the reason, and is tried again by the next run."""

    suite: str
    gate: Gate
    cell: Cell
    kind = "records"

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        return self.cell.plain()

    @cached_property
    def fingerprint(self) -> str:
        return self.cell.fingerprint

    @property
    def images_of(self) -> AnyVictim:
        return self.cell.victim

    @property
    def title(self) -> str:
        return self.repair.title

    @cached_property
    def repair(self) -> RepairJob:
        """The net it measures."""
        return RepairJob(self.cell)

    @property
    def victim(self) -> VictimJob:
        """What it measures against."""
        return self.repair.victim

    @cached_property
    def needs(self) -> tuple[Job, ...]:
        return self.victim, self.repair

    def make(self, inputs: Inputs, bench: Bench) -> Kept:
        measured = bench.opened(self.victim, inputs[self.victim])
        facts = dict(inputs[self.repair].facts)
        model = self.repair.opened(inputs[self.repair], inputs, bench)
        facts["after"] = stages.measure(model, bench.split(self.cell.victim).test, measured.triggered)
        facts["oracle"] = Scores(**facts["oracle"]) if facts["oracle"] else None
        return self._kept(bench, status="ok", **_of_victim(inputs[self.victim]), **facts)

    def failed(self, reason: str, bench: Bench) -> Kept:
        try:
            victim = bench.kept(self.victim)
        except Exception:  # it is the victim that failed, which is what the reason says
            return self._kept(bench, status="failed", reason=f"victim: {reason}")
        return self._kept(bench, status="failed", reason=reason, **_of_victim(victim))

    def _kept(self, bench: Bench, **facts: Any) -> Kept:
        cell = self.cell
        record = Record(
            cell=cell.fingerprint,
            suite=self.suite,
            dataset=cell.victim.dataset.label,
            net=cell.victim.net.label,
            attack=cell.victim.attack.label,
            defense=cell.defense.label,
            seed=cell.victim.seed,
            draw=cell.draw,
            poison_ratio=cell.victim.poison_ratio,
            clean_images=bench.split(cell.victim).budget_size,
            clean_source=cell.victim.budget.source,
            gate=self.gate.asr,
            spec=cell.plain(),
            content=bench.store.content(self.images_of),
            versions=versions(),
            hardware=hardware(bench.device, cell.victim.recipe.precision),
            **facts,
        )
        return Kept({}, {"record": record})

    def load(self, store: Store) -> Kept | None:
        record = store.load_record(self.suite, self.cell)
        return (
            Kept({}, {"record": record})
            if record is not None and record.status == "ok" and store.current(self.images_of, record.content)
            else None
        )

    def save(self, store: Store, kept: Kept) -> None:
        store.save_record(self.suite, self.cell, kept.facts["record"])


def _of_victim(victim: Kept) -> dict[str, Any]:
    known = {field.name for field in dataclasses.fields(Record)}
    found = {key: value for key, value in victim.facts.items() if key in known}
    return {**found, "before": Scores(**victim.facts["before"])}
