"""A run: the cells that are asked for, the jobs they need, and an engine that does them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

import torch

from mnp_plugin.benchmark import stages
from mnp_plugin.benchmark.bench import Bench
from mnp_plugin.benchmark.engines.engine import Engine
from mnp_plugin.benchmark.engines.inline import Inline
from mnp_plugin.benchmark.jobs.job import Job
from mnp_plugin.benchmark.jobs.repair import RepairJob
from mnp_plugin.benchmark.jobs.scores import ScoreJob
from mnp_plugin.benchmark.jobs.victim import MeasuredVictim, VictimJob
from mnp_plugin.benchmark.observer import Observer, Silent, notify
from mnp_plugin.benchmark.older import in_words, older_records
from mnp_plugin.benchmark.outlook import Past, refuse_what_does_not_fit
from mnp_plugin.benchmark.plan import floor_jobs, further_jobs, further_records, in_order, score_jobs
from mnp_plugin.benchmark.store import Store
from mnp_plugin.benchmark.suite import Suite, VictimSpec
from mnp_plugin.contracts import AttackContext
from mnp_plugin.core.errors import UserError, did_you_mean
from mnp_plugin.data.augment import shrink
from mnp_plugin.evaluation.modes import training_fault
from mnp_plugin.report.records import Record
from mnp_plugin.report.texts import Status

REDONE = ("repaired", "records")
"""Kinds of jobs that ``all`` makes anew, beside verdicts, trials and floors."""

Resume = Literal["missing", "failed", "all"]
"""Which cells are run: those without a record; those that failed, too; all. Verdicts, trials and floors alike.

``all`` makes repaired nets and records anew. What is trained (victims, and what their attacks require) stays: where training
has not changed it would be the same again, and where it has, it is another victim.
"""


@dataclass
class Summary:
    """What a run did."""

    ran: int = 0
    """Cells that this run measured."""
    skipped: int = 0
    """Cells that were done before."""
    elsewhere: int = 0
    """Cells that another run measured meanwhile."""
    failed: list[Record] = field(default_factory=list)
    """Records of the cells that failed in this run."""
    failed_before: int = 0
    """Cells that failed before and were left as they are."""
    vanished: int = 0
    """Records of this run that were gone at its end."""


class Runner:
    """Runs a suite against a store.

    Args:
        suite: resolved suite.
        store: where victims and records are kept.
        device: where tensors live.
        observer: told what happens.
        attacks: labels of the attacks to run now; None is all of the suite.
        defenses: labels of the defenses to run now; None is all of the suite.
        detectors: labels of the detectors to run now; None is all of the suite.
        seeds: seeds to run now; None is all of the suite.
        shard: ``(i, n)``: run only the i-th of n parts, from 1, of the victims; each victim is in one part, with all its cells.
        resume: which of these cells to run.

    Raises:
        UserError: a label or a seed that the suite does not have.
    """

    def __init__(
        self,
        suite: Suite,
        store: Store,
        device: torch.device,
        observer: Observer | None = None,
        *,
        attacks: Collection[str] | None = None,
        defenses: Collection[str] | None = None,
        detectors: Collection[str] | None = None,
        seeds: Collection[int] | None = None,
        shard: tuple[int, int] = (1, 1),
        resume: Resume = "missing",
    ) -> None:
        self.suite, self.store, self.device, self.detectors = suite, store, device, detectors
        self.resume: Resume = resume
        store.look_again()
        store.exchange(suite.name)
        for kind, asked, known in (
            ("attack", attacks, dict.fromkeys(v.attack.label for v in suite.victims)),
            ("defense", defenses, dict.fromkeys(d.label for d in suite.defenses)),
            ("detector", detectors, dict.fromkeys(d.label for d in suite.all_detectors)),
        ):
            for label in asked or ():
                if label not in known:
                    raise UserError(f"suite '{suite.name}' has no {kind} '{label}'.{did_you_mean(label, list(known))}")
        own = sorted({victim.seed for victim in suite.victims})
        if missing := sorted(set(seeds or ()) - set(own)):
            raise UserError(f"suite '{suite.name}' has no seed {missing[0]}; it has {', '.join(map(str, own))}")
        part, parts = shard
        turn = {victim.fingerprint: index % parts for index, victim in enumerate(suite.victims)}
        self.cells = [
            cell
            for cell in suite.cells()
            if (attacks is None or cell.victim.attack.label in attacks)
            and (defenses is None or cell.defense.label in defenses)
            and (seeds is None or cell.victim.seed in seeds)
            and turn[cell.victim.fingerprint] == part - 1
        ]
        self.observer: Observer = observer or Silent()
        self.bench = Bench(store, device, self.observer)
        self.older = older_records(suite, store)

    def pending(self) -> list[ScoreJob]:
        """The cells that are to be run, in the order of the suite."""
        return [job for job in score_jobs(self.suite, self.cells) if self._wanted(self._status(job))]

    def _status(self, job: Job) -> Status | None:
        """How ``job`` ended, by its record; None if it has none that counts."""
        kept = job.settled(self.store)
        return None if kept is None else kept.facts["record"].status

    def _wanted(self, status: Status | None) -> bool:
        """Whether the record of a job that ended so is to be made."""
        return status is None or self.resume == "all" or (self.resume == "failed" and status == "failed")

    def check(self) -> dict[str, int]:
        """Everything that can be known to be wrong before training; the bytes of the weights of each net, by its label.

        Raises:
            UserError: data that do not load, a target outside the classes, a net that gives no logits, a defense that
                cannot treat it, ...
        """
        for victim in self.suite.victims:
            stages.check(victim, self.bench.source(victim))
        nets = {}
        for victim in {v.net.label: v for v in self.suite.victims}.values():  # one of each net
            model = self.bench.source(victim).fresh_net()
            nets[victim.net.label] = sum(value.nbytes for value in model.state_dict().values())
            pixels = self.bench.source(victim).data.test[:2].pixels()
            recipes = [v.recipe for v in self.suite.victims if isinstance(v, VictimSpec) and v.net.label == victim.net.label]
            for scale in sorted({1.0, *(r.small_scale for r in recipes if r.small_epochs)}, reverse=True):
                if fault := training_fault(model, pixels if scale == 1 else shrink(pixels, scale)):
                    small = "" if scale == 1 else f" on images of {scale:g} times their sides (recipe.small_epochs)"
                    raise UserError(f"the net '{victim.net.label}' cannot be trained{small}: {fault}")
            classes = len(self.bench.source(victim).data.classes)
            for entry in self.suite.defenses:
                if reason := entry.component.refusal(model, classes):
                    raise UserError(f"defense '{entry.label}' cannot treat the net '{victim.net.label}': {reason}")
            for detector in self.suite.all_detectors:
                if reason := detector.component.refusal(model, classes):
                    raise UserError(f"detector '{detector.label}' cannot judge the net '{victim.net.label}': {reason}")
        return nets

    def run(self, engine: Engine | None = None) -> Summary:
        """Run the pending cells; a failing one becomes a record with its reason and stops nothing else.

        Floors are measured where their nets are at hand: none is trained for them.

        Args:
            engine: does the jobs; none: one after the other, in this process.

        Raises:
            UserError: something is wrong that can be known before training, or the disk is full or read-only.
        """
        status = {job: self._status(job) for job in score_jobs(self.suite, self.cells)}
        goals = [job for job, found in status.items() if self._wanted(found)]
        summary = Summary(skipped=len(self.cells) - len(goals))
        summary.failed_before = sum(found == "failed" and not self._wanted(found) for found in status.values())
        further = further_jobs(self.suite, self.cells, self.detectors)
        wanted = [job for job in further if self._wanted(self._status(job))]
        jobs = self.jobs([*goals, *wanted])
        floors = floor_jobs(self.suite, self.cells)
        lacking = [job for job in floors if self._wanted(self._status(job))]
        made = set(jobs)
        at_hand = [job for job in lacking if all(need in made or need.load(self.store) is not None for need in job.needs)]
        known = len(further) + len(floors) - len(wanted) - len(lacking)
        self.observer.plan(len(self.cells), summary.skipped, known + len(wanted) + len(at_hand), known)
        for path, fault in self.store.damaged.items():
            notify(self.observer, f"{path} {fault} and is made anew")
        if jobs or at_hand:
            self.observer.busy("checking data and nets")
            nets = self.check()
            self.store.look_again()  # images that were away may have been downloaded
            self.store.probe()
            refuse_what_does_not_fit(jobs, Past.of(self.store), self.store, nets)
        if said := in_words(self.older):
            notify(self.observer, said)
        self._save_plan()
        for job in jobs:
            if isinstance(job, RepairJob) and job.unsaid(self.store):
                self.store.drop(job.kind, job.fingerprint, self.store.content(job.images_of))
        todo = [*jobs, *at_hand]
        if self.resume != "missing":
            redone = [job for job in todo if job.further or job.kind in REDONE]
            self.bench.again = {job.key: mark for job in redone if (mark := job.mark(self.store))}
        for done in (engine or Inline()).run(self.bench, todo):
            if done.record is not None:
                summary.ran += not done.found
                summary.elsewhere += done.found
                summary.failed += [done.record] if done.record.status == "failed" else []
        self.store.exchange(self.suite.name)
        summary.vanished = sum(not job.mark(self.store) for job in goals)
        if not self.store.mark(self.store.suite_folder(self.suite.name) / "suite.json"):
            self._save_plan()
        return summary

    def _save_plan(self) -> None:
        several = len({(victim.dataset.label, victim.net.label) for victim in self.suite.victims}) > 1
        floors = floor_jobs(self.suite, self.suite.cells()) if several else []
        older = {
            one.file: {"of": one.of, "versions": {key: version for key, (_, version, _) in one.versions.items()}}
            for one in self.older
            if one.kind == "records"
        }
        self.store.save_plan(self.suite, further_records(self.suite), {job.file_name: job.subject for job in floors}, older)

    def jobs(self, goals: Collection[Job]) -> list[Job]:
        """``goals`` and what must be made for them, in order: what is kept whole, and what only that needed, is left out."""
        asked = set(goals)

        def kept(job: Job) -> bool:
            return job not in asked and not (self.resume == "all" and job.kind in REDONE) and job.load(self.store) is not None

        return in_order(goals, kept)

    def victim(self, spec: VictimSpec) -> MeasuredVictim:
        """Any victim, of this suite or not: from the store, or made and kept now; raises what making it raises."""
        job = VictimJob(spec)
        for wanted in self.jobs([job]):
            self.bench.found_or_made(wanted)
        return self.bench.opened(job, self.bench.kept(job))

    def attack_context(self, identity: object, spec: VictimSpec) -> AttackContext:
        """What the attack of ``spec`` works with, its random stream seeded by ``identity``; what it requires is made first."""
        job = VictimJob(spec)
        for wanted in self.jobs(job.needs):
            self.bench.found_or_made(wanted)
        return job.context(identity, {need: self.bench.kept(need) for need in job.needs}, self.bench)
