"""A job: what it is, what it needs, how it is made."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from mnp_plugin.benchmark.store import Kept, Store
from mnp_plugin.benchmark.suite import AnyVictim
from mnp_plugin.core.params import fingerprint

if TYPE_CHECKING:
    from mnp_plugin.benchmark.bench import Bench

Inputs = Mapping["Job", Kept]
"""What the jobs that a job needs have made."""


class Job(ABC):
    """One thing that a run makes and keeps. Frozen; two jobs of one kind and identity are the same job."""

    kind: ClassVar[str]
    """``assets``, ``victims``, ``repaired``, ``records``, ...: also the folder it is kept in."""
    further: ClassVar[bool] = False
    """Whether its result is a record beside those of the cells."""

    @property
    def stored(self) -> bool:
        """Whether the store keeps it; what it does not keep is made again where it is needed, and needs nothing itself."""
        return True

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """JSON-ready: all that determines what is made."""

    @cached_property
    def fingerprint(self) -> str:
        """Hash of :attr:`identity`."""
        return fingerprint(self.identity)

    @property
    @abstractmethod
    def title(self) -> str:
        """One short line for people."""

    @property
    @abstractmethod
    def images_of(self) -> AnyVictim:
        """The victim whose images it is made from."""

    @property
    def needs(self) -> Sequence[Job]:
        """The jobs it is made from."""
        return ()

    @property
    def follows(self) -> Sequence[Job]:
        """Those of :attr:`needs` without which what was kept of this job is worth nothing: it is made anew when they are."""
        return ()

    @abstractmethod
    def make(self, inputs: Inputs, bench: Bench) -> Kept:
        """Make it. Touches no disk, and depends on nothing but identity and inputs.

        Args:
            inputs: what each of :attr:`needs` made.
            bench: device, data and observer.
        """

    def load(self, store: Store) -> Kept | None:
        """What was kept of it, or None."""
        content = store.content(self.images_of)
        kept = store.load(self.kind, self.fingerprint, self.identity, content) if self.stored else None
        if kept is not None and not self.whole(kept):
            store.discard(self.kind, self.fingerprint, content)
            return None
        return kept

    def settled(self, store: Store) -> Kept | None:
        """What was kept of it, a record of a failure included, or None if nothing was."""
        return self.load(store)

    def mark(self, store: Store) -> str:
        """What its file is now, by time stamp and size; empty if there is none. It changes when the job is made again."""
        return store.mark(store.path(self.kind, self.fingerprint, store.content(self.images_of))) if self.stored else ""

    def lock_name(self, store: Store) -> str:
        """Of the lock under which it is made: its fingerprint and that of its images, with the kind where kinds share one."""
        content = store.content(self.images_of)[:8]
        name = self.fingerprint if self.kind in ("victims", "assets") else "-".join(self.key)
        return f"{name}-{content}" if content else name

    def whole(self, kept: Kept) -> bool:
        """Whether ``kept``, read from a file, holds the facts that :meth:`make` gives; without them it is made anew."""
        return True

    def save(self, store: Store, kept: Kept) -> None:
        """Keep it."""
        if self.stored:
            store.save(self.kind, self.fingerprint, self.identity, kept, store.content(self.images_of))

    def failed(self, reason: str, bench: Bench) -> Kept | None:
        """What is kept of it if it, or something it needs, failed; None for all but records."""
        return None

    @property
    def key(self) -> tuple[str, str]:
        """Kind and fingerprint."""
        return self.kind, self.fingerprint

    def __reduce__(self) -> tuple[type[Job], tuple[Any, ...]]:
        """Its fields alone go to another process, which works out the rest anew."""
        return type(self), tuple(getattr(self, field.name) for field in dataclasses.fields(self))  # type: ignore[arg-type]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)
