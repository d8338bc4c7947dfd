"""A run: the cells that are asked for, the jobs they need, and an engine that does them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import torch

from mnp_plugin.benchmark import stages
from mnp_plugin.benchmark.bench import Bench
from mnp_plugin.benchmark.engines.engine import Engine
from mnp_plugin.benchmark.engines.inline import inline
from mnp_plugin.benchmark.jobs.job import Job
from mnp_plugin.benchmark.jobs.scores import ScoreJob
from mnp_plugin.benchmark.jobs.victim import MeasuredVictim, VictimJob
from mnp_plugin.benchmark.observer import Observer, Silent
from mnp_plugin.benchmark.plan import floor_jobs, further_jobs, further_records, in_order, score_jobs
from mnp_plugin.benchmark.store import Store
from mnp_plugin.benchmark.suite import Suite, VictimSpec
from mnp_plugin.contracts import AttackContext
from mnp_plugin.core.errors import UserError, did_you_mean
from mnp_plugin.report.records import Record


@dataclass
class Summary:
    """What a run did."""

    ran: int = 0
    skipped: int = 0
    failed: list[Record] = field(default_factory=list)


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
    ) -> None:
        self.suite, self.store, self.device, self.detectors = suite, store, device, detectors
        store.look_again()
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
        self.cells = [
            cell
            for cell in suite.cells()
            if (attacks is None or cell.victim.attack.label in attacks)
            and (defenses is None or cell.defense.label in defenses)
            and (seeds is None or cell.victim.seed in seeds)
        ]
        self.observer: Observer = observer or Silent()
        self.bench = Bench(store, device, self.observer)

    def pending(self) -> list[ScoreJob]:
        """Cells without a whole record of success, in the order of the suite."""
        return [job for job in score_jobs(self.suite, self.cells) if job.load(self.store) is None]

    def check(self) -> None:
        """Everything that can be known to be wrong before training.

        Raises:
            UserError: data that do not load, a target outside the classes, a defense that cannot treat the net, ...
        """
        for victim in self.suite.victims:
            stages.check(victim, self.bench.source(victim))
        for victim in {v.net.label: v for v in self.suite.victims}.values():  # one of each net
            model = self.bench.source(victim).fresh_net()
            for entry in self.suite.defenses:
                if reason := entry.component.objection(model):
                    raise UserError(f"defense '{entry.label}' cannot treat the net '{victim.net.label}': {reason}")
            for detector in self.suite.all_detectors:
                if reason := detector.component.objection(model):
                    raise UserError(f"detector '{detector.label}' cannot judge the net '{victim.net.label}': {reason}")

    def run(self, engine: Engine = inline) -> Summary:
        """Run every pending cell; a failing one becomes a record with its reason and stops nothing else.

        Floors are measured where their nets are at hand: none is trained for them.
        """
        goals = self.pending()
        summary = Summary(skipped=len(self.cells) - len(goals))
        further = further_jobs(self.suite, self.cells, self.detectors)
        wanted = [job for job in further if job.load(self.store) is None]
        jobs = self.jobs([*goals, *wanted])
        floors = floor_jobs(self.suite, self.cells)
        lacking = [job for job in floors if job.load(self.store) is None]
        made = set(jobs)
        at_hand = [job for job in lacking if all(need in made or need.load(self.store) is not None for need in job.needs)]
        known = len(further) + len(floors) - len(wanted) - len(lacking)
        self.observer.plan(len(self.cells), summary.skipped, known + len(wanted) + len(at_hand), known)
        for path in self.store.damaged:
            self.observer.busy(f"{path} is damaged and is made anew")
        if jobs or at_hand:
            self.observer.busy("checking data and nets")
            self.check()
            self.store.probe()
        self.store.save_plan(self.suite, further_records(self.suite))
        for job in jobs:
            if job.follows:
                self.store.drop(job.kind, job.fingerprint, self.store.content(job.images_of))
        for done in engine(self.bench, [*jobs, *at_hand]):
            if done.record is not None:
                summary.ran += 1
                summary.failed += [done.record] if done.record.status == "failed" else []
        return summary

    def jobs(self, goals: Collection[Job]) -> list[Job]:
        """``goals`` and what must be made for them, in order: what is kept whole, and what only that needed, is left out."""
        return in_order(goals, kept=lambda job: job.load(self.store) is not None)

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
