"""What jobs have in common that end in a record: one JSON file under the suite's results."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from mnp_plugin.benchmark.environment import hardware, versions
from mnp_plugin.benchmark.jobs.job import Job
from mnp_plugin.benchmark.jobs.repair import RepairJob
from mnp_plugin.benchmark.jobs.victim import VictimJob
from mnp_plugin.benchmark.store import DAMAGED, Kept, Store
from mnp_plugin.benchmark.suite import AnyVictim, Cell
from mnp_plugin.report.texts import DamagedRecordError, Status, to_json

if TYPE_CHECKING:
    from mnp_plugin.benchmark.bench import Bench


class AnyRecord(Protocol):
    """What every kind of record says."""

    @property
    def status(self) -> Status:
        """Whether the job succeeded."""

    @property
    def content(self) -> str:
        """Fingerprint of the images; empty where that is not known."""


class RecordJob(Job):
    """Keeps a record. One that failed has a record with the reason, and is tried again on request."""

    suite: str
    further = True

    @property
    @abstractmethod
    def file_name(self) -> str:
        """Name of its record: readable, and unique by the job's identity."""

    @abstractmethod
    def read(self, text: str, source: str) -> AnyRecord:
        """The record from its text."""

    def load(self, store: Store) -> Kept | None:
        kept = self.settled(store)
        return kept if kept is not None and kept.facts["record"].status == "ok" else None

    def settled(self, store: Store) -> Kept | None:
        found = store.read(self.suite, self.kind, self.file_name)
        try:
            record = None if found is None else self.read(*found)
        except DamagedRecordError:
            store.damaged[store.suite_folder(self.suite) / self.kind / self.file_name] = DAMAGED
            return None
        if record is None or not store.current(self.images_of, record.content):
            return None
        return Kept({}, {"record": record})

    def mark(self, store: Store) -> str:
        return store.mark(store.suite_folder(self.suite) / self.kind / self.file_name)

    def save(self, store: Store, kept: Kept) -> None:
        store.write(self.suite, self.kind, self.file_name, to_json(kept.facts["record"]))

    def common(self, bench: Bench) -> dict[str, Any]:
        """What every kind of record says of its victim and of the machine."""
        victim = self.images_of
        return {
            "suite": self.suite,
            "attack": victim.attack.label,
            "seed": victim.seed,
            "content": bench.store.content(victim),
            "versions": versions(),
            "hardware": hardware(bench.device, victim.recipe.precision),
        }


class CellRecordJob(RecordJob):
    """Keeps a record of one cell: of its repaired net."""

    cell: Cell

    @property
    def images_of(self) -> AnyVictim:
        return self.cell.victim

    @cached_property
    def repair(self) -> RepairJob:
        """The repaired net."""
        return RepairJob(self.cell)

    @property
    def victim(self) -> VictimJob:
        """The victim of that net."""
        return self.repair.victim

    @cached_property
    def needs(self) -> tuple[Job, ...]:
        return self.victim, self.repair
