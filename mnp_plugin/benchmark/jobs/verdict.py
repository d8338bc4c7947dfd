"""A verdict: one detector on one victim as it stands."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mnp_plugin.benchmark import stages
from mnp_plugin.benchmark.jobs.job import Inputs, Job
from mnp_plugin.benchmark.jobs.recorded import RecordJob
from mnp_plugin.benchmark.jobs.victim import VictimJob
from mnp_plugin.benchmark.store import Kept
from mnp_plugin.benchmark.suite import AnyVictim, Entry, Suite
from mnp_plugin.contracts import DefenderView, DefenseContext, Detector, Triggered
from mnp_plugin.core.params import to_plain
from mnp_plugin.evaluation.cost import Cost
from mnp_plugin.report.verdicts import VerdictRecord, from_json

if TYPE_CHECKING:
    from mnp_plugin.benchmark.bench import Bench


@dataclass(frozen=True, eq=False)
class VerdictJob(RecordJob):
    """The detector sees what a defense would: net and clean budget."""

    suite: str
    subject: AnyVictim
    detector: Entry[Detector]
    kind = "verdicts"

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        runs = [to_plain(method) for method in self.detector.component.runs()]
        return {**self.subject.plain(), "detector": self.detector.plain(), **({"runs": runs} if runs else {})}

    @property
    def images_of(self) -> AnyVictim:
        return self.subject

    @property
    def title(self) -> str:
        return f"{self.subject.title}: detector {self.detector.label}"

    @property
    def file_name(self) -> str:
        return f"{self.subject.attack.label}-{self.detector.label}-s{self.subject.seed}-{self.fingerprint}.json"

    @cached_property
    def victim(self) -> VictimJob:
        """The net it judges."""
        return VictimJob(self.subject)

    @cached_property
    def needs(self) -> tuple[Job, ...]:
        return (self.victim,)

    def make(self, inputs: Inputs, bench: Bench) -> Kept:
        bench.busy(self.title)
        measured, split = bench.opened(self.victim, inputs[self.victim]), bench.split(self.subject)
        context = DefenseContext(
            device=bench.device,
            generator=stages.stream(["verdict", self.identity], bench.device),
            recipe=self.subject.recipe,
            fresh_net=measured.victim.fresh_net,
            busy=bench.busy_for(self.title),
        )
        classes = len(bench.source(self.subject).data.classes)
        view = DefenderView(  # the detector is given a copy
            model=measured.victim.model, clean=split.clean, validation=split.validation, num_classes=classes
        )
        with Cost(bench.device) as cost:
            found = self.detector.component.run(view, context)
        report = dict(found.report)
        json.dumps(report, allow_nan=False)  # a report that is not plain JSON is the detector's failure
        return self._kept(
            bench,
            status="ok",
            asr=measured.before.asr,
            targets=_targets(measured.triggered, classes),
            score=found.score,
            per_class=list(found.per_class),
            suspected=found.suspected,
            threshold=found.threshold,
            calibration=found.calibration,
            p_value=found.p_value,
            verdict=found.backdoored,
            clean_images=split.budget_size,
            seconds=round(cost.seconds, 2),
            peak_mb=round(cost.mib, 1),
            report=report,
        )

    def failed(self, reason: str, bench: Bench) -> Kept:
        return self._kept(bench, status="failed", reason=reason, clean_images=bench.split(self.subject).budget_size)

    def _kept(self, bench: Bench, **facts: Any) -> Kept:
        victim = self.subject
        record = VerdictRecord(
            id=self.fingerprint,
            victim=victim.fingerprint,
            dataset=victim.dataset.label,
            net=victim.net.label,
            poison_ratio=victim.poison_ratio,
            detector=self.detector.label,
            clean_source=victim.budget.source,
            spec=dict(self.identity),
            **self.common(bench),
            **facts,
        )
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
