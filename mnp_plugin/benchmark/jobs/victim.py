"""A victim: trained here, or taken from elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from mnp_plugin.benchmark import stages
from mnp_plugin.benchmark.environment import hardware, versions
from mnp_plugin.benchmark.jobs.asset import AssetJob
from mnp_plugin.benchmark.jobs.job import Inputs, Job
from mnp_plugin.benchmark.partial import Partial
from mnp_plugin.benchmark.stages import Victim
from mnp_plugin.benchmark.store import Kept, Store
from mnp_plugin.benchmark.suite import AnyVictim, VictimSpec
from mnp_plugin.contracts import AttackContext, GivenVictim, MethodError, Triggered
from mnp_plugin.evaluation import scores as metrics
from mnp_plugin.evaluation.measure import asr_in_bytes, measure
from mnp_plugin.evaluation.pictures import pictures
from mnp_plugin.io.tensors import part, prefixed
from mnp_plugin.report.records import Scores, scores_in
from mnp_plugin.training.device import place
from mnp_plugin.training.loop import InterruptedStateError

if TYPE_CHECKING:
    from mnp_plugin.benchmark.bench import Bench

T = TypeVar("T")


@dataclass(frozen=True)
class MeasuredVictim:
    """A victim with what its cells are measured against.

    ``facts`` stand in every record of the victim: its scores, its training time, the stealth of its trigger.
    """

    victim: Victim
    triggered: Triggered | None
    facts: dict[str, Any]
    _known: dict[str, Any] = field(default_factory=dict)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What ``make`` gives, made for the first of its cells and kept for the others."""
        if name not in self._known:
            self._known[name] = make()
        found: T = self._known[name]
        return found

    @property
    def before(self) -> Scores:
        """The victim as trained."""
        return Scores(**self.facts["before"])


@dataclass(frozen=True, eq=False)
class VictimJob(Job):
    """One victim of a suite, or the clean net that an attack requires: that is the victim of the attack ``clean``."""

    victim: AnyVictim
    kind = "victims"

    @property
    def stored(self) -> bool:
        return self.victim.kept

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        return self.victim.plain()

    @cached_property
    def fingerprint(self) -> str:
        return self.victim.fingerprint  # hashed once for all jobs of it

    @property
    def images_of(self) -> AnyVictim:
        return self.victim

    @property
    def title(self) -> str:
        return self.victim.title

    @cached_property
    def twin(self) -> VictimJob | None:
        """The clean net it is made from, where its attack requires one."""
        twin = self.victim.clean_twin
        return None if twin is None else VictimJob(twin)

    @cached_property
    def assets(self) -> tuple[AssetJob, ...]:
        """The assets that its attack requires."""
        return tuple(AssetJob(victim, asset.name) for victim, asset in self.victim.assets)

    @cached_property
    def needs(self) -> tuple[Job, ...]:
        return (*((self.twin,) if self.twin else ()), *self.assets)

    def make(self, inputs: Inputs, bench: Bench) -> Kept:
        source = bench.source(self.victim)
        if source.given is not None:
            return self._measured(source.given, bench)
        assert source.spec is not None
        return self._trained(source.spec, inputs, bench)

    def _measured(self, given: GivenVictim, bench: Bench) -> Kept:
        """Measure a victim from elsewhere. Its triggered images are 8 bit already."""
        bench.busy(f"{self.title}: measuring")
        split = bench.split(self.victim)
        victim, triggered = stages.take_given(given, bench.device)
        before = measure(victim.model, split.test, triggered)
        stealth = metrics.stealth(split.test.x[triggered.index].float() / 255, triggered.x)
        return Kept({}, {"before": vars(before), "asr_8bit": before.asr, "stealth": stealth})

    def _trained(self, spec: VictimSpec, inputs: Inputs, bench: Bench) -> Kept:
        def progress(done: int, epochs: int, loss: float) -> None:
            bench.busy(f"{self.title}: training, loss {loss:.3f}", done, epochs)

        bench.busy(f"{self.title}: training", 0, spec.recipe.epochs)
        start = time.perf_counter()
        source, split = bench.source(spec), bench.split(spec)
        partial = Partial(bench.store, spec)
        context = self.context(["victim", self.identity], inputs, bench)
        try:
            victim = stages.train_victim(spec, source.data, split, context, progress, partial)
        except InterruptedStateError:
            bench.busy(f"{self.title}: what an interruption left is damaged; training from the start")
            bench.store.drop_partial(spec)
            return self._trained(spec, inputs, bench)
        if odd := [name for name, value in victim.model.state_dict().items() if not torch.isfinite(value).all()]:
            raise MethodError(f"training ended in weights that are not finite ({odd[0]}); try a smaller learning rate")
        seconds = round(partial.seconds + time.perf_counter() - start, 2)
        triggered = stages.triggered_test(spec, victim.state, split, len(source.data.classes))
        before = measure(victim.model, split.test, triggered)
        facts: dict[str, Any] = {
            "before": vars(before),
            "victim_seconds": seconds,
            "victim_hardware": hardware(bench.device, spec.recipe.precision),
            "victim_versions": versions(),
        }
        grid = None
        if triggered is not None:
            facts["asr_8bit"] = asr_in_bytes(victim.model, triggered)
            facts["stealth"] = metrics.stealth(split.test.x[triggered.index].float() / 255, triggered.x)
            grid = pictures(split.test, triggered)
        tensors = prefixed("model", victim.model.state_dict()) | prefixed("state", victim.tensors())
        return Kept(tensors, facts, grid)

    def context(self, identity: object, inputs: Inputs, bench: Bench) -> AttackContext:
        """What its attack works with: everything it requires is there.

        Args:
            identity: what the context is for; seeds its random stream.
            inputs: what :attr:`needs` made.
            bench: device, data and observer.
        """
        source = bench.source(self.victim)
        assert source.spec is not None
        clean = None if self.twin is None else self.twin.opened(inputs[self.twin], bench).victim.model
        made = {job.name: {k: v.to(bench.device) for k, v in inputs[job].tensors.items()} for job in self.assets}
        busy = bench.busy_for(self.title)
        return stages.attack_context(identity, source.spec, source.data, bench.device, busy, clean=clean, assets=made)

    def opened(self, kept: Kept, bench: Bench) -> MeasuredVictim:
        """The victim ready to be defended, from what :meth:`make` made."""
        source = bench.source(self.victim)
        if source.given is not None:
            victim, triggered = stages.take_given(source.given, bench.device)
            return MeasuredVictim(victim, triggered, kept.facts)
        assert source.spec is not None
        model = source.fresh_net()
        model.load_state_dict(part("model", kept.tensors))
        place(model, bench.device, bench.split(self.victim).test[:2].pixels()).eval()
        state = {key: value.to(bench.device) for key, value in part("state", kept.tensors).items()}
        victim = Victim.from_tensors(state, model, source.fresh_net)
        found = stages.triggered_test(source.spec, victim.state, bench.split(self.victim), len(source.data.classes))
        return MeasuredVictim(victim, found, kept.facts)

    def whole(self, kept: Kept) -> bool:
        try:
            return scores_in(kept.facts, "before") is not None
        except (KeyError, TypeError, ValueError):
            return False

    def save(self, store: Store, kept: Kept) -> None:
        super().save(store, kept)
        store.drop_partial(self.victim)
