"""The record of a cell: what was measured on victim and repaired net."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mnp_plugin.benchmark.jobs.details import FEW, SHOWN, cell_details, found_by_defense
from mnp_plugin.benchmark.jobs.job import Inputs
from mnp_plugin.benchmark.jobs.recorded import CellRecordJob
from mnp_plugin.benchmark.jobs.repair import PERTURBATION
from mnp_plugin.benchmark.store import Kept, Store
from mnp_plugin.benchmark.suite import Cell, Gate
from mnp_plugin.evaluation.measure import predictions, scored
from mnp_plugin.evaluation.pictures import perturbed, pictures
from mnp_plugin.report.beside import DETAILS, PICTURES, picture_beside
from mnp_plugin.report.records import Record, Scores, from_json
from mnp_plugin.report.texts import to_json

if TYPE_CHECKING:
    from mnp_plugin.benchmark.bench import Bench


@dataclass(frozen=True, eq=False)
class ScoreJob(CellRecordJob):
    """The scores of one cell of a suite."""

    suite: str
    gate: Gate
    cell: Cell
    kind = "records"
    further = False

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        return self.cell.plain()

    @cached_property
    def fingerprint(self) -> str:
        return self.cell.fingerprint  # hashed once for all jobs of it

    @property
    def title(self) -> str:
        return self.cell.title

    @property
    def file_name(self) -> str:
        return self.cell.file_name

    def make(self, inputs: Inputs, bench: Bench) -> Kept:
        measured = bench.opened(self.victim, inputs[self.victim])
        facts = {key: value for key, value in inputs[self.repair].facts.items() if key != "victim"}
        model = self.repair.opened(inputs[self.repair], inputs, bench)
        split, path = bench.split(self.cell.victim), facts.pop("path", {})
        after = predictions(model, split.test, measured.triggered)
        facts["after"] = scored(after, split.test, measured.triggered)
        facts["oracle"] = Scores(**facts["oracle"]) if facts["oracle"] else None
        kept = self._kept(bench, status="ok", **_of_victim(inputs[self.victim]), **facts)
        net, triggered = measured.victim.model, measured.triggered
        before = measured.once("predictions", lambda: predictions(net, split.test, triggered))
        png = None if triggered is None else measured.once("picture", lambda: pictures(split.test, triggered, SHOWN))
        data, picture = bench.source(self.cell.victim).data, "" if png is None else self.picture
        more: dict[str, Any] = {}
        perturbation: dict[str, Any] = {}
        if (delta := inputs[self.repair].tensors.get(PERTURBATION)) is not None:
            delta = delta.to(bench.device)
            more["perturbation"] = perturbed(split.clean, delta, FEW)
            perturbation = found_by_defense(delta, split, net, model, picture_beside(self.file_name))
        more["details"] = cell_details(
            self.cell.fingerprint, data, split, measured, model, before, after, picture, path, perturbation
        )
        return replace(kept, facts=kept.facts | more, picture=png)

    @property
    def picture(self) -> str:
        """Name of the PNG that shows the trigger of its victim."""
        victim = self.cell.victim
        return f"{victim.attack.label}-s{victim.seed}-{victim.fingerprint}.png"

    def save(self, store: Store, kept: Kept) -> None:
        if "details" in kept.facts:  # first: who finds the record finds them, too
            store.write(self.suite, DETAILS, self.file_name, to_json(kept.facts["details"]))
        if kept.picture is not None:
            store.write(self.suite, PICTURES, self.picture, kept.picture)
        if "perturbation" in kept.facts:
            store.write(self.suite, PICTURES, picture_beside(self.file_name), kept.facts["perturbation"])
        super().save(store, kept)

    def failed(self, reason: str, bench: Bench) -> Kept:
        try:
            victim = _of_victim(bench.kept(self.victim))
        except Exception:  # it is the victim that failed, which is what the reason says
            return self._kept(bench, status="failed", reason=f"victim: {reason}")
        return self._kept(bench, status="failed", reason=reason, **victim)

    def _kept(self, bench: Bench, **facts: Any) -> Kept:
        cell = self.cell
        record = Record(
            cell=cell.fingerprint,
            dataset=cell.victim.dataset.label,
            net=cell.victim.net.label,
            defense=cell.defense.label,
            draw=cell.draw,
            knowledge=cell.defense.component.knowledge,
            poison_ratio=cell.victim.poison_ratio,
            clean_images=bench.split(cell.victim).budget_size,
            clean_source=cell.victim.budget.source,
            gate=self.gate.asr,
            spec=cell.plain(),
            **self.common(bench),
            **facts,
        )
        return Kept({}, {"record": record})

    def read(self, text: str, source: str) -> Record:
        return from_json(text, source)


def _of_victim(victim: Kept) -> dict[str, Any]:
    known = {field.name for field in dataclasses.fields(Record)}
    found = {key: value for key, value in victim.facts.items() if key in known}
    return {**found, "before": Scores(**victim.facts["before"])}
