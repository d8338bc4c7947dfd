"""Who is told what a run does."""

from __future__ import annotations

from typing import Protocol

from mnp_plugin.report.records import Record


class Observer(Protocol):
    """Told what happens; the command line draws it."""

    def plan(self, total: int, done: int) -> None:
        """``done`` of ``total`` cells have their record already."""

    def busy(self, what: str, step: int = 0, steps: int = 0) -> None:
        """What runs now, and how far it is (0 of 0 where unknown)."""

    def finished(self, record: Record) -> None:
        """A record was written."""


class Silent:
    """An observer that says nothing."""

    def plan(self, total: int, done: int) -> None:
        """Nothing."""

    def busy(self, what: str, step: int = 0, steps: int = 0) -> None:
        """Nothing."""

    def finished(self, record: Record) -> None:
        """Nothing."""
