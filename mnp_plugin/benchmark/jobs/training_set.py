"""The training set of a victim as the attacker left it, for the defenses that are given it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from mnp_plugin.benchmark import stages
from mnp_plugin.benchmark.jobs.job import Inputs, Job
from mnp_plugin.benchmark.jobs.victim import VictimJob
from mnp_plugin.benchmark.store import Kept
from mnp_plugin.benchmark.suite import AnyVictim, VictimSpec
from mnp_plugin.contracts import Images, MethodError

if TYPE_CHECKING:
    from mnp_plugin.benchmark.bench import Bench


@dataclass(frozen=True, eq=False)
class TrainingSetJob(Job):
    """The poisoned images of a victim trained here, made again as they were for its training; kept once for all defenses."""

    victim: VictimSpec
    kind = "training_sets"

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        return {**self.victim.plain(), "training_set": 1}

    @property
    def images_of(self) -> AnyVictim:
        return self.victim

    @property
    def title(self) -> str:
        return f"{self.victim.title}: its training set"

    @property
    def needs(self) -> Sequence[Job]:
        return VictimJob(self.victim).needs

    def make(self, inputs: Inputs, bench: Bench) -> Kept:
        bench.busy(self.title)
        job, source, split = VictimJob(self.victim), bench.source(self.victim), bench.split(self.victim)
        made = stages.prepared(self.victim, source.data, split, job.context(["victim", job.identity], inputs, bench))
        altered = torch.cat([made.poisoned, made.cover])
        part = made.train[altered]
        return Kept({"poisoned": made.poisoned, "altered": altered, "x": part.x, "y": part.y})

    def opened(self, kept: Kept, bench: Bench, poisoned: torch.Tensor) -> Images:
        """The whole training set.

        Args:
            kept: what :meth:`make` made.
            bench: gives the clean images.
            poisoned: which images were poisoned for the victim's training; for a check alone.

        Raises:
            MethodError: other images were: the attack is not what it was.
        """
        tensors = {name: value.to(bench.device) for name, value in kept.tensors.items()}
        if not torch.equal(tensors["poisoned"], poisoned):
            raise MethodError("the training set made again is not the victim's; delete the victim from the store and run again")
        train = bench.split(self.victim).train
        x, y = train.x.clone(), train.y.clone()
        x[tensors["altered"]], y[tensors["altered"]] = tensors["x"], tensors["y"]
        return Images(x, y)
