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
from mnp_plugin.contracts import Images, MethodError, State
from mnp_plugin.io.tensors import part, prefixed

if TYPE_CHECKING:
    from mnp_plugin.benchmark.bench import Bench
    from mnp_plugin.benchmark.stages import Victim


@dataclass(frozen=True, eq=False)
class TrainingSetJob(Job):
    """The poisoned images of a victim trained here, made again as they were for its training; kept once for all defenses."""

    victim: VictimSpec
    kind = "training_sets"

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        return {**self.victim.plain(), "training_set": 2}

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
        images = made.train[altered]
        tensors = {"poisoned": made.poisoned, "altered": altered, "x": images.x, "y": images.y}
        return Kept(tensors | prefixed("state", made.state))

    def opened(self, kept: Kept, bench: Bench, victim: Victim) -> Images:
        """The whole training set.

        Args:
            kept: what :meth:`make` made.
            bench: gives the clean images.
            victim: for a check alone.

        Raises:
            MethodError: the victim saw other images poisoned, or another trigger: a clean net or asset that the trigger is made
                from was trained anew since, and came out otherwise.
        """
        tensors = {name: value.to(bench.device) for name, value in kept.tensors.items()}
        if not torch.equal(tensors["poisoned"], victim.poisoned) or not _alike(part("state", tensors), victim.state):
            raise MethodError("the training set made again is not the victim's; delete the victim from the store and run again")
        train = bench.split(self.victim).train
        x, y = train.x.clone(), train.y.clone()
        x[tensors["altered"]], y[tensors["altered"]] = tensors["x"], tensors["y"]
        return Images(x, y)


def _alike(one: State, other: State) -> bool:
    """Whether two states of a trigger are the same, but for what processors round differently."""
    return one.keys() == other.keys() and all(
        value.shape == other[name].shape and torch.allclose(value.double(), other[name].double(), rtol=1e-3, atol=1e-3)
        for name, value in one.items()
    )
