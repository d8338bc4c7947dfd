"""What jobs have in common in which a detector looks at one victim: verdicts, and screenings of single images."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mnp_plugin.benchmark import stages
from mnp_plugin.benchmark.jobs.job import Job
from mnp_plugin.benchmark.jobs.recorded import RecordJob
from mnp_plugin.benchmark.jobs.victim import MeasuredVictim, VictimJob
from mnp_plugin.benchmark.store import Kept
from mnp_plugin.benchmark.suite import AnyVictim, Entry
from mnp_plugin.contracts import DefenderView, DefenseContext

if TYPE_CHECKING:
    from mnp_plugin.benchmark.bench import Bench


@dataclass(frozen=True, eq=False)
class DetectingJob(RecordJob):
    """The detector sees what a defense would: net and clean budget."""

    suite: str
    subject: AnyVictim
    detector: Entry[Any]

    @property
    def images_of(self) -> AnyVictim:
        return self.subject

    @property
    def file_name(self) -> str:
        return f"{self.subject.attack.label}-{self.detector.label}-s{self.subject.seed}-{self.fingerprint}.json"

    @cached_property
    def victim(self) -> VictimJob:
        """The net that it looks at."""
        return VictimJob(self.subject)

    @cached_property
    def needs(self) -> tuple[Job, ...]:
        return (self.victim,)

    def given(self, stream: str, measured: MeasuredVictim, bench: Bench) -> tuple[DefenderView, DefenseContext]:
        """What the detector is given; ``stream`` names its random stream."""
        split = bench.split(self.subject)
        context = DefenseContext(
            device=bench.device,
            generator=stages.stream([stream, self.identity], bench.device),
            recipe=self.subject.recipe,
            fresh_net=measured.victim.fresh_net,
            busy=bench.busy_for(self.title),
        )
        classes = len(bench.source(self.subject).data.classes)
        view = DefenderView(  # the detector is given a copy
            model=measured.victim.model, clean=split.clean, validation=split.validation, num_classes=classes
        )
        return view, context

    def failed(self, reason: str, bench: Bench) -> Kept:
        return self._kept(bench, status="failed", reason=reason, clean_images=bench.split(self.subject).budget_size)

    def common(self, bench: Bench) -> dict[str, Any]:
        victim = self.subject
        return {
            "id": self.fingerprint,
            "victim": victim.fingerprint,
            "dataset": victim.dataset.label,
            "net": victim.net.label,
            "poison_ratio": victim.poison_ratio,
            "detector": self.detector.label,
            "spec": dict(self.identity),
            **super().common(bench),
        }

    @abstractmethod
    def _kept(self, bench: Bench, **facts: Any) -> Kept:
        """Its record, with ``facts``."""
