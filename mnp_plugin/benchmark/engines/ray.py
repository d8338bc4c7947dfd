"""Jobs on every machine of a Ray cluster (the extra ``ray``).

Ray starts a job again when its machine or process is lost. All machines see the store and the results under the same paths, on a
shared folder: jobs find there what they need, so nothing large travels through Ray.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mnp_plugin.benchmark.bench import Bench, Done
from mnp_plugin.benchmark.engines.engine import Engine
from mnp_plugin.benchmark.jobs.job import Job
from mnp_plugin.benchmark.observer import Silent
from mnp_plugin.benchmark.schedule import Schedule
from mnp_plugin.core.errors import UserError
from mnp_plugin.core.params import param
from mnp_plugin.core.registries import engines
from mnp_plugin.report.records import Record

TICK = 0.5
"""Seconds between two looks at what the machines say and how many there are."""


@engines.register("ray")
@dataclass(frozen=True, kw_only=True)
class Ray(Engine):
    """Jobs on every machine of a Ray cluster: that of ``RAY_ADDRESS`` or of ``ray start`` here, else this machine alone.

    Machines may join and leave: a job of a machine that is lost is started again elsewhere.
    """

    workers: int | None = param(None, "jobs at once; none: as many as the CPUs and GPUs of the cluster do", low=1)
    threads: int = param(1, "CPUs of each job, and threads of torch in it", low=1)
    gpus: float = param(0.0, "GPUs of each job; a fraction lets several share one", low=0)
    retries: int = param(3, "times a job is started again whose machine or process is lost; then it is a failed one", low=0)

    def run(self, bench: Bench, jobs: Sequence[Job]) -> Iterator[Done]:
        ray = _ray()
        if started := not ray.is_initialized():
            _join(ray)
        run = _Run(self, ray, bench, Schedule(jobs))
        try:
            yield from run.loop()
        finally:
            run.end()
            if started:
                ray.shutdown()


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise UserError("the engine 'ray' needs the package ray: pip install 'mnp_plugin[ray]'") from None


def _join(ray: Any) -> None:
    """Join the cluster that the environment names, or start one of this machine."""
    try:
        ray.init(include_dashboard=False, logging_level="warning")
    except Exception as error:  # no such cluster, another version of Ray there, a machine too busy to start one: each of its kind
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        where = os.environ.get("RAY_ADDRESS")
        what = f"find the cluster at RAY_ADDRESS={where}" if where else "find a cluster or start one here"
        raise UserError(
            f"the engine 'ray' cannot {what}: {reason}. Look with 'ray status', and run the same command again"
        ) from None


class _Run:
    def __init__(self, engine: Ray, ray: Any, bench: Bench, schedule: Schedule) -> None:
        self.engine, self.ray, self.bench, self.schedule = engine, ray, bench, schedule
        here = self.strategy()
        self.events = ray.remote(_Events).options(num_cpus=0, scheduling_strategy=here).remote()
        store = bench.store.resolved()
        device = "cuda" if engine.gpus else str(bench.device)
        self.asked = self.events.taken.remote()
        self.how = ray.put((time.time_ns(), store, device, engine.threads, bench.again, self.events))
        options = {"num_cpus": engine.threads, "num_gpus": engine.gpus, "max_retries": engine.retries}
        self.task = ray.remote(_work).options(scheduling_strategy="SPREAD", **options)
        self.running: dict[Any, Job] = {}
        self.slots, self.looked = 1, 0.0

    def strategy(self) -> Any:
        """On this machine: it outlives the others."""
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        return strategies.NodeAffinitySchedulingStrategy(self.ray.get_runtime_context().get_node_id(), soft=False)

    def loop(self) -> Iterator[Done]:
        while self.schedule.left:
            self.look()
            while len(self.running) < self.slots and (job := self.schedule.take(alone=not self.running)) is not None:
                self.running[self.task.remote(self.how, job, self.schedule.blocked(job))] = job
            if not self.running:
                time.sleep(min(self.schedule.pause, TICK))
                continue
            finished, _ = self.ray.wait(list(self.running), num_returns=1, timeout=TICK)
            for task in finished:
                yield from self.ended(task, self.running.pop(task))

    def look(self) -> None:
        """Now and then: what the machines say, and how many jobs they can do at once."""
        if time.monotonic() - self.looked < TICK:
            return
        self.looked = time.monotonic()
        fit = self.room()
        if not fit and not self.running:
            raise UserError(
                f"no machine of this Ray cluster has the {self.wanted()} that each job takes; set fewer (threads=N, gpus=N), "
                "or let one that has them join (ray start) and run the same command again"
            )
        if not fit:
            self.bench.busy(f"no machine with {self.wanted()} is left; waiting for one to join")
        # twice as many wait at the machines, so that none is idle until this process gives it the next
        self.slots = self.engine.workers or max(2 * fit, 1)
        answered, _ = self.ray.wait([self.asked], timeout=0)  # it may be slow to start, and nothing waits for it
        if answered:
            for arguments in self.ray.get(self.asked):
                self.bench.busy(*arguments)
            self.asked = self.events.taken.remote()

    def room(self) -> int:
        """How many jobs the machines can do at once; each is done on one of them."""
        engine, count = self.engine, 0
        for machine in self.ray.nodes():
            has = machine["Resources"] if machine["Alive"] else {}
            fit = has.get("CPU", 0.0) // engine.threads
            count += int(min(fit, has.get("GPU", 0.0) // engine.gpus) if engine.gpus else fit)
        return count

    def wanted(self) -> str:
        """What a job takes of a machine, in words."""
        threads, gpus = self.engine.threads, self.engine.gpus
        return f"{threads} CPU{'s' * (threads > 1)}" + (f" and {gpus:g} GPU{'s' * (gpus > 1)}" if gpus else "")

    def ended(self, task: Any, job: Job) -> Iterator[Done]:
        """What became of a job."""
        try:
            done, events, raised = self.ray.get(task)
        except self.ray.exceptions.RayError as error:  # its process died, or its machine, more often than it is retried
            reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            if self.schedule.blocked(job):
                raise UserError(
                    f"processes of this run die ({reason}). Finished cells are kept: run the same command again"
                ) from None
            self.schedule.give_back(job, reason)
            return
        if raised is not None:
            raise raised
        for event, arguments in events:
            getattr(self.bench.observer, event)(*arguments)
        if done.locked:
            self.schedule.put_off(job)
            return
        self.schedule.done(job, done.reason)
        yield done

    def end(self) -> None:
        """Leave nothing running."""
        for task in self.running:
            self.ray.cancel(task, force=True)
        self.ray.kill(self.events)


# -- on the machines


class _Events:
    """Says what runs: an actor beside the first process."""

    def __init__(self) -> None:
        self._said: list[tuple[str, int, int]] = []

    def say(self, what: str, step: int, steps: int) -> None:
        self._said = [*self._said[-99:], (what, step, steps)]

    def taken(self) -> list[tuple[str, int, int]]:
        said, self._said = self._said, []
        return said


class _Reporter(Silent):
    """Observer that passes on what runs now, and keeps the rest until the job is over."""

    def __init__(self, events: Any) -> None:
        self.events, self.rest, self.last = events, [], 0.0  # type: ignore[var-annotated]

    def busy(self, what: str, step: int = 0, steps: int = 0) -> None:
        if time.monotonic() - self.last > TICK:
            self.last = time.monotonic()
            self.events.say.remote(what, step, steps)

    def finished(self, record: Record) -> None:
        self.rest.append(("finished", (record,)))

    def measured(self, title: str, reason: str) -> None:
        self.rest.append(("measured", (title, reason)))

    def taken(self) -> list[tuple[str, tuple[Any, ...]]]:
        rest, self.rest = self.rest, []
        return rest


_bench: tuple[int, Bench, _Reporter] | None = None
"""In a process of Ray, which does one job after the other: its own, and of which run it is."""


def _work(how: tuple[Any, ...], job: Job, blocked: str) -> tuple[Done | None, list[Any], UserError | None]:
    global _bench
    run, store, device, threads, again, events = how
    if _bench is None or _bench[0] != run:
        torch.set_num_threads(threads)
        reporter = _Reporter(events)
        _bench = run, Bench(store, torch.device(device), reporter, again), reporter
    _, bench, reporter = _bench
    try:
        done = bench.do(job, blocked, wait=False)
    except UserError as error:  # a full disk
        return None, [], error
    return done, reporter.taken(), None
