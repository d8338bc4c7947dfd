"""Who is told what a run does."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from mnp_plugin.report.records import Record


class Observer(Protocol):
    """Told what happens; the command line draws it."""

    def plan(self, total: int, done: int, further: int = 0, further_done: int = 0) -> None:
        """``done`` of ``total`` cells have their record already; so have ``further_done`` verdicts, trials and floors."""

    def busy(self, what: str, step: int = 0, steps: int = 0) -> None:
        """What runs now, and how far it is (0 of 0 where unknown)."""

    def finished(self, record: Record) -> None:
        """The record of a cell was written."""

    def measured(self, title: str, reason: str) -> None:
        """The record of a verdict, a trial or a floor was written; ``reason`` says why it failed, if it did."""


@runtime_checkable
class Noticing(Protocol):
    """An observer that tells what is to be read from what merely runs; the others are told both alike."""

    def notice(self, text: str) -> None:
        """A sentence that whoever runs this should read."""


def notify(observer: Observer, text: str) -> None:
    """Tell ``observer`` a sentence that whoever runs this should read."""
    if isinstance(observer, Noticing):
        observer.notice(text)
    else:
        observer.busy(text)


class Silent:
    """An observer that says nothing."""

    def plan(self, total: int, done: int, further: int = 0, further_done: int = 0) -> None:
        """Nothing."""

    def busy(self, what: str, step: int = 0, steps: int = 0) -> None:
        """Nothing."""

    def finished(self, record: Record) -> None:
        """Nothing."""

    def measured(self, title: str, reason: str) -> None:
        """Nothing."""
