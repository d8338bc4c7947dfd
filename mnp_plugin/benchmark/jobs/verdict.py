"""A verdict: one detector on one victim as it stands."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mnp_plugin.benchmark.jobs.details import FEW
from mnp_plugin.benchmark.jobs.detecting import DetectingJob
from mnp_plugin.benchmark.jobs.job import Inputs
from mnp_plugin.benchmark.store import Kept, Store
from mnp_plugin.benchmark.suite import AnyVictim, Entry, Suite
from mnp_plugin.contracts import Detector, Triggered
from mnp_plugin.core.params import to_plain
from mnp_plugin.evaluation.cost import Cost
from mnp_plugin.evaluation.pictures import perturbed
from mnp_plugin.report.beside import PICTURES, picture_beside
from mnp_plugin.report.verdicts import VerdictRecord, from_json

if TYPE_CHECKING:
    from mnp_plugin.benchmark.bench import Bench


@dataclass(frozen=True, eq=False)
class VerdictJob(DetectingJob):
    """One detector on one net."""

    detector: Entry[Detector]
    kind = "verdicts"

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        runs = [to_plain(method) for method in self.detector.component.runs()]
        return {**self.subject.plain(), "detector": self.detector.plain(), **({"runs": runs} if runs else {})}

    @property
    def title(self) -> str:
        return f"{self.subject.title}: detector {self.detector.label}"

    def make(self, inputs: Inputs, bench: Bench) -> Kept:
        bench.busy(self.title)
        measured = bench.opened(self.victim, inputs[self.victim])
        view, context = self.given("verdict", measured, bench)
        with Cost(bench.device) as cost:
            found = self.detector.component.run(view, context)
        report = dict(found.report)
        json.dumps(report, allow_nan=False)  # a report that is not plain JSON is the detector's failure
        kept = self._kept(
            bench,
            status="ok",
            asr=measured.before.asr,
            targets=_targets(measured.triggered, view.num_classes),
            score=found.score,
            per_class=list(found.per_class),
            suspected=found.suspected,
            threshold=found.threshold,
            calibration=found.calibration,
            p_value=found.p_value,
            verdict=found.backdoored,
            clean_images=bench.split(self.subject).budget_size,
            seconds=round(cost.seconds, 2),
            peak_mb=round(cost.mib, 1),
            report=report,
        )
        if found.perturbation is None:
            return kept
        return replace(kept, picture=perturbed(view.clean, found.perturbation.to(bench.device), FEW))

    def save(self, store: Store, kept: Kept) -> None:
        if kept.picture is not None:  # first: who finds the record finds it, too
            store.write(self.suite, PICTURES, picture_beside(self.file_name), kept.picture)
        super().save(store, kept)

    def _kept(self, bench: Bench, **facts: Any) -> Kept:
        record = VerdictRecord(clean_source=self.subject.budget.source, **self.common(bench), **facts)
        return Kept({}, {"record": record})

    def read(self, text: str, source: str) -> VerdictRecord:
        return from_json(text, source)


def verdict_jobs(suite: Suite, victims: Iterable[AnyVictim], detectors: Collection[str] | None = None) -> list[VerdictJob]:
    """Verdicts of the detectors of these labels, or of all, on ``victims``; each victim once."""
    each = {victim.fingerprint: victim for victim in victims}
    asked = [entry for entry in suite.detectors if detectors is None or entry.label in detectors]
    return [VerdictJob(suite.name, victim, entry) for victim in each.values() for entry in asked]


def _targets(triggered: Triggered | None, classes: int) -> list[int]:
    """The classes that the attacker wants; none where that is every class."""
    found = [] if triggered is None else sorted(set(triggered.y_attack.tolist()))
    return found if len(found) < classes else []
