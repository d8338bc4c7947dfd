"""A repaired net: one defense on one victim."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mnp_plugin.benchmark import stages
from mnp_plugin.benchmark.jobs.job import Inputs, Job
from mnp_plugin.benchmark.jobs.training_set import TrainingSetJob
from mnp_plugin.benchmark.jobs.victim import VictimJob
from mnp_plugin.benchmark.store import Kept, Store
from mnp_plugin.benchmark.suite import AnyVictim, Cell, VictimSpec
from mnp_plugin.contracts import TrainingSetDefense
from mnp_plugin.evaluation.oracle import CandidateScores, oracle_choice
from mnp_plugin.io.tensors import DIGEST, digest, part, prefixed
from mnp_plugin.report.records import scores_in
from mnp_plugin.training.device import place

if TYPE_CHECKING:
    from mnp_plugin.benchmark.bench import Bench

PERTURBATION = "found.perturbation"
"""Name, among the tensors that are kept, of what the defense found the victim to follow."""


@dataclass(frozen=True, eq=False)
class RepairJob(Job):
    """The net a defense gives back, what it reports and cost, and the oracle's choice among its candidates.

    A net whose weights are the victim's own (no defense) is not kept a second time.
    """

    cell: Cell
    kind = "repaired"

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        return self.cell.plain()

    @cached_property
    def fingerprint(self) -> str:
        return self.cell.fingerprint  # hashed once for all jobs of it

    @property
    def images_of(self) -> AnyVictim:
        return self.cell.victim

    @property
    def title(self) -> str:
        return self.cell.title

    @cached_property
    def victim(self) -> VictimJob:
        """Its victim."""
        return VictimJob(self.cell.victim)

    @cached_property
    def training_set(self) -> TrainingSetJob | None:
        """The victim's training set, where the defense is given it."""
        given = isinstance(self.cell.defense.component, TrainingSetDefense) and isinstance(self.cell.victim, VictimSpec)
        return TrainingSetJob(self.cell.victim) if given else None  # type: ignore[arg-type]

    @cached_property
    def needs(self) -> tuple[Job, ...]:
        return (self.victim, *((self.training_set,) if self.training_set else ()))

    @property
    def follows(self) -> tuple[Job, ...]:
        return (self.victim,)  # elsewhere the same training may end in other weights

    def make(self, inputs: Inputs, bench: Bench) -> Kept:
        bench.busy(self.title)
        measured = bench.opened(self.victim, inputs[self.victim])
        data, split = bench.source(self.cell.victim).data, bench.split(self.cell.victim)
        job = self.training_set
        train = None if job is None else job.opened(inputs[job], bench, measured.victim)
        outcome = stages.defend(self.cell, measured.victim, data, split, bench.device, bench.busy_for(self.title), train)
        along = CandidateScores(split.test, measured.triggered)
        oracle = oracle_choice(outcome.purified, measured.before, split.test, measured.triggered, along)
        for setting, model in outcome.purified.path() if outcome.purified.path else ():
            along(setting, model)
        facts = {
            "oracle": vars(oracle[0]) if oracle else None,
            "oracle_setting": oracle[1] if oracle else None,
            "seconds": round(outcome.seconds, 2),
            "peak_mb": round(outcome.peak_mb, 1),
            "prune": dict(outcome.purified.report),
            "path": {"points": along.points, "images": len(along.test)},
            "victim": digest(inputs[self.victim].tensors),
        }
        json.dumps(facts, allow_nan=False)  # a report that is not plain JSON is the defense's failure
        weights = outcome.purified.model.state_dict()
        had = part("model", inputs[self.victim].tensors)
        same = had.keys() == weights.keys() and all(torch.equal(v.cpu(), had[k].cpu()) for k, v in weights.items())
        delta = outcome.purified.perturbation
        found = {} if delta is None else {PERTURBATION: delta.detach().float()}
        return Kept(({} if same else prefixed("model", weights)) | found, facts)

    def load(self, store: Store) -> Kept | None:
        """What was kept, if it was made from the weights that the victim has now; files of older versions do not say that."""
        kept = super().load(store)
        if kept is None or not self.victim.stored or "victim" not in kept.facts:
            return kept
        about = store.about("victims", self.victim.fingerprint, store.content(self.images_of))
        return kept if about is None or about.get(DIGEST) == kept.facts["victim"] else None

    def unsaid(self, store: Store) -> bool:
        """Whether there is a file of an older version, which does not say from which victim it was made."""
        about = store.about(self.kind, self.fingerprint, store.content(self.images_of))
        return about is not None and "victim" not in about.get("facts", {})

    def whole(self, kept: Kept) -> bool:
        try:
            scores_in(kept.facts, "oracle")
        except (KeyError, TypeError, ValueError):
            return False
        return kept.facts.keys() >= {"oracle_setting", "seconds", "peak_mb", "prune"}

    def opened(self, kept: Kept, inputs: Inputs, bench: Bench) -> nn.Module:
        """The repaired net in eval mode, from what :meth:`make` made and what it was made from."""
        weights = part("model", kept.tensors) or part("model", inputs[self.victim].tensors)
        model = bench.source(self.cell.victim).fresh_net()
        model.load_state_dict(weights)
        return place(model, bench.device, bench.split(self.cell.victim).test[:2].pixels()).eval()
