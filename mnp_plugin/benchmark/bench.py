"""Where jobs are done: the device, the data in memory, the store. One in each process."""

from __future__ import annotations

import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch

from mnp_plugin.benchmark import stages
from mnp_plugin.benchmark.jobs.job import Job
from mnp_plugin.benchmark.jobs.victim import MeasuredVictim, VictimJob
from mnp_plugin.benchmark.observer import Observer
from mnp_plugin.benchmark.store import Kept, Store
from mnp_plugin.benchmark.suite import AnyVictim, Source
from mnp_plugin.contracts import ImageData
from mnp_plugin.data.split import Split
from mnp_plugin.io.atomic import UnwritableError
from mnp_plugin.report.records import Record


@dataclass(frozen=True)
class Done:
    """What became of a job: the reason if it failed, and its record if it is a cell."""

    key: tuple[str, str]
    reason: str = ""
    record: Record | None = None
    found: bool = False
    """Whether it was kept already: by another run, since this one began."""
    locked: bool = False
    """Whether another run is making it: nothing was done, and it is to be looked at again."""


class LockedError(Exception):
    """Another run is making what was asked for."""


class Bench:
    """Does one job at a time.

    Args:
        store: where inputs are found and results are kept.
        device: where tensors live.
        observer: told what happens.
        again: jobs to be made again though something is kept of them, by their key, each with the mark that its file had when
            the run began: one with another mark was made again meanwhile.
    """

    def __init__(
        self, store: Store, device: torch.device, observer: Observer, again: Mapping[tuple[str, str], str] = MappingProxyType({})
    ) -> None:
        self.store, self.device, self.observer, self.again = store, device, observer, dict(again)
        self._data: dict[str, ImageData] = {}
        self._source: tuple[str, Source] | None = None
        self._split: tuple[str, Split] | None = None
        self._opened: tuple[str, MeasuredVictim] | None = None
        self._recent: OrderedDict[Job, Kept] = OrderedDict()

    # -- what jobs are made with

    def source(self, victim: AnyVictim) -> Source:
        """Data and net of a victim; data sets stay in memory, and so does the last victim from elsewhere."""
        if self._source is None or self._source[0] != victim.fingerprint:
            self._source = victim.fingerprint, victim.load(self.store.cache, self._data)
        return self._source[1]

    def split(self, victim: AnyVictim) -> Split:
        """The victim's data on the device; those of the last victim are kept."""
        own = victim.split_identity if victim.kept else victim.fingerprint  # what was given is called as its source likes
        key = str((own, victim.seed, victim.budget))
        if self._split is None or self._split[0] != key:
            self._split = key, stages.split_of(victim, self.source(victim).data).to(self.device)
        return self._split[1]

    def opened(self, job: VictimJob, kept: Kept) -> MeasuredVictim:
        """The victim as its cells need it; the last one is kept, so nobody may change it."""
        if self._opened is None or self._opened[0] != job.fingerprint:
            self._opened = job.fingerprint, job.opened(kept, self)
        return self._opened[1]

    def busy(self, what: str, step: int = 0, steps: int = 0) -> None:
        """Tell the observer what runs now."""
        self.observer.busy(what, step, steps)

    def busy_for(self, title: str) -> Callable[[str, int, int], None]:
        """:meth:`busy` for a method, which knows not for what it works."""
        return lambda what, step, steps: self.busy(f"{title}: {what}", step, steps)

    # -- doing

    def do(self, job: Job, blocked: str = "", *, wait: bool = True) -> Done:
        """Find a job in the store or make and keep it; a failure stops nothing else.

        Args:
            job: what to do; what it needs is kept, or has failed.
            blocked: why something it needs failed; only its record is then made.
            wait: for another run that is making it; else the answer is then that it is locked.

        Raises:
            UnwritableError: the disk is full or read-only; that ends the run.
        """
        reason = blocked
        if not blocked:
            try:
                return self._done(job, *self._found_or_made(job, wait))
            except LockedError:
                return Done(job.key, locked=True)
            except UnwritableError:
                raise
            except Exception as error:
                reason = reason_of(error)
        return self._failed(job, reason)

    def found_or_made(self, job: Job) -> Kept:
        """What a job made, by this process or another; made and kept now if there is nothing."""
        return self._found_or_made(job, True)[0]

    def _found_or_made(self, job: Job, wait: bool) -> tuple[Kept, bool]:
        """What a job made, and whether it was found."""
        if not job.stored:
            return self._made(job), False

        def waiting() -> None:
            self.busy(f"{job.title}: another process makes it")
            if not wait:
                raise LockedError

        return self.store.once(
            job.lock_name(self.store),
            load=lambda: self._found(job),
            make=lambda: (self._made(job), False),
            waiting=waiting,
        )

    def _found(self, job: Job) -> tuple[Kept, bool] | None:
        """What is kept of a job, if it need not be made again; that a cell failed elsewhere says nothing of this machine."""
        mark = self.again.get(job.key)
        if mark is not None and mark == job.mark(self.store):
            return None
        kept = job.settled(self.store) if job.further else job.load(self.store)
        return None if kept is None else (kept, True)

    def _made(self, job: Job) -> Kept:
        inputs = {need: self.kept(need) for need in job.needs}
        # Each job seeds its streams by its identity; beside it, the caller's own global stream stays as it is.
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            kept = job.make(inputs, self)
        job.save(self.store, kept)
        self._remember(job, kept)
        return kept

    def kept(self, job: Job) -> Kept:
        """What a job made.

        Raises:
            FileNotFoundError: the store no longer has it.
        """
        if job in self._recent:
            return self._recent[job]
        with self.store.asking():
            kept = self._made(job) if not job.stored else job.load(self.store)
        if kept is None:
            raise FileNotFoundError(f"{job.title} has gone from {self.store.cache}; run again")
        self._remember(job, kept)
        return kept

    def _remember(self, job: Job, kept: Kept) -> None:
        self._recent[job] = kept
        while len(self._recent) > 3:
            self._recent.popitem(last=False)

    def _done(self, job: Job, kept: Kept, found: bool = False) -> Done:
        record = kept.facts.get("record")
        if isinstance(record, Record):
            self.observer.finished(record)
            return Done(job.key, record=record, found=found)
        if job.further and record is not None:
            self.observer.measured(job.title, record.reason)
        return Done(job.key, found=found)

    def _failed(self, job: Job, reason: str) -> Done:
        kept = job.failed(reason, self)
        if kept is None:
            return Done(job.key, reason)
        if (found := self._found(job)) is not None:  # another machine has made it meanwhile
            return self._done(job, *found)
        job.save(self.store, kept)
        return self._done(job, kept)


def reason_of(error: Exception) -> str:
    """One line: kind, message, and the last place in the code."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    message = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}{': ' if message else ''}{message}{place}"
