"""A screening: one detector of single images on a victim's inputs, or on the training set that it was trained on."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mnp_plugin.benchmark.jobs.detecting import DetectingJob
from mnp_plugin.benchmark.jobs.job import Inputs, Job
from mnp_plugin.benchmark.jobs.training_set import TrainingSetJob
from mnp_plugin.benchmark.jobs.victim import MeasuredVictim
from mnp_plugin.benchmark.store import Kept
from mnp_plugin.benchmark.suite import AnyVictim, Entry, Suite, VictimSpec
from mnp_plugin.contracts import Images, SampleDetector, concat, to_bytes
from mnp_plugin.evaluation.cost import Cost
from mnp_plugin.report.samples import SampleRecord, from_json

if TYPE_CHECKING:
    from mnp_plugin.benchmark.bench import Bench

INPUTS = 500
"""Most triggered and most clean test images that a detector of inputs is asked about, each."""


@dataclass(frozen=True, eq=False)
class SampleJob(DetectingJob):
    """The detector is given the images in question, too, mixed; which of them carry a trigger is not said.

    Inputs are clean and triggered images of the test, as many of each. Of a training set, covers count neither way: images that
    carry the trigger under their own label.
    """

    detector: Entry[SampleDetector]
    kind = "samples"

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        more = {} if self.of_training_set else {"inputs": INPUTS}
        return {**self.subject.plain(), "sample_detector": self.detector.plain(), **more}

    @property
    def of_training_set(self) -> bool:
        """Whether it is asked about the training set; else about inputs."""
        return self.detector.component.questions == "training set"

    @property
    def title(self) -> str:
        return f"{self.subject.title}: sample detector {self.detector.label}"

    @cached_property
    def training_set(self) -> TrainingSetJob | None:
        """The training set in question, if it is one."""
        return TrainingSetJob(self.subject) if self.of_training_set and isinstance(self.subject, VictimSpec) else None

    @cached_property
    def needs(self) -> tuple[Job, ...]:
        return (self.victim, *((self.training_set,) if self.training_set else ()))

    def make(self, inputs: Inputs, bench: Bench) -> Kept:
        from mnp_plugin.report.detection import auroc, tpr_at  # here: plan lists jobs without pandas
        from mnp_plugin.report.roc import kept

        bench.busy(self.title)
        measured, split = bench.opened(self.victim, inputs[self.victim]), bench.split(self.subject)
        view, context = self.given("samples", measured, bench)
        job = self.training_set
        if job is None:
            images, bad = self._inputs(measured, split.test, context.generator)
            counted = torch.ones_like(bad)
        else:
            images = job.opened(inputs[job], bench, measured.victim)
            bad, counted = (torch.zeros(len(images), dtype=torch.bool, device=bench.device) for _ in range(2))
            bad[measured.victim.poisoned], counted[:] = True, True
            counted[measured.victim.cover] = False
        with Cost(bench.device) as cost:
            found = self.detector.component.run(view, images, context)
        report = dict(found.report)
        json.dumps(report, allow_nan=False)  # a report that is not plain JSON is the detector's failure
        scores, flagged = found.scores.detach().double().cpu(), found.flagged.cpu()
        bad, good = (bad & counted).cpu(), (~bad & counted).cpu()
        asked = {"positives": scores[bad].tolist(), "negatives": scores[good].tolist()}
        both = all(asked.values())
        return self._kept(
            bench,
            status="ok",
            asr=measured.before.asr,
            positives=len(asked["positives"]),
            negatives=len(asked["negatives"]),
            auroc=auroc(asked["negatives"], asked["positives"]) if both else None,
            tpr_at_5_fpr=tpr_at(asked["negatives"], asked["positives"]) if both else None,
            roc=kept(asked["negatives"], asked["positives"]) if both else [],
            tpr=_share(flagged[bad]),
            fpr=_share(flagged[good]),
            clean_images=split.budget_size,
            seconds=round(cost.seconds, 2),
            peak_mb=round(cost.mib, 1),
            report=report,
        )

    def _inputs(self, measured: MeasuredVictim, test: Images, generator: torch.Generator) -> tuple[Images, Tensor]:
        """(as many clean and triggered test images, mixed; which of them are triggered)."""
        triggered = measured.triggered
        assert triggered is not None  # else the job is not planned
        own = Images(to_bytes(triggered.x), triggered.y_true)
        count, device = min(INPUTS, len(own), len(test)), test.x.device
        drawn = [part[torch.randperm(len(part), generator=generator, device=device)[:count]] for part in (own, test)]
        order = torch.randperm(2 * count, generator=generator, device=device)
        return concat(drawn)[order], order < count

    def _kept(self, bench: Bench, **facts: Any) -> Kept:
        record = SampleRecord(questions=self.detector.component.questions, **self.common(bench), **facts)
        return Kept({}, {"record": record})

    def read(self, text: str, source: str) -> SampleRecord:
        return from_json(text, source)


def sample_jobs(suite: Suite, victims: Iterable[AnyVictim], detectors: Collection[str] | None = None) -> list[SampleJob]:
    """Screenings by the sample detectors of these labels, or by all: of the inputs of victims that have a trigger, and of the
    training sets of those that were trained on one; each victim once.
    """
    each = {victim.fingerprint: victim for victim in victims}
    asked = [entry for entry in suite.sample_detectors if detectors is None or entry.label in detectors]
    jobs = [SampleJob(suite.name, victim, entry) for victim in each.values() for entry in asked]
    return [job for job in jobs if (job.subject.has_training_set if job.of_training_set else _has_trigger(job.subject))]


def _has_trigger(victim: AnyVictim) -> bool:
    """Whether triggered test images are known of it."""
    return victim.trigger is not None or not isinstance(victim, VictimSpec)


def _share(flags: Tensor) -> float | None:
    return float(flags.double().mean()) if len(flags) else None
