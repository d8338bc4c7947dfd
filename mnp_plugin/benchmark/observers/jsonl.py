"""What happens in a run, as JSON lines."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mnp_plugin.benchmark.observer import Observer
from mnp_plugin.benchmark.observers.plugin import ObserverPlugin
from mnp_plugin.core.params import param
from mnp_plugin.core.registries import observers
from mnp_plugin.report.records import Record


@observers.register("jsonl")
@dataclass(frozen=True, kw_only=True)
class JsonLines(ObserverPlugin):
    """One JSON object a line, appended to a file: ``time`` (Unix seconds), ``suite``, ``event`` and what it is about.

    Events are ``plan``, ``busy``, ``finished`` (a cell, with its scores) and ``measured`` (a verdict, a trial or a floor).
    """

    file: str = param("events.jsonl", "file that lines are appended to")

    @contextmanager
    def open(self, suite: str) -> Iterator[Observer]:
        path = Path(self.file)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as stream:
            yield _Lines(stream, suite)


class _Lines:
    def __init__(self, stream: IO[str], suite: str) -> None:
        self.stream, self.suite = stream, suite

    def _line(self, event: str, **facts: Any) -> None:
        line = {"time": round(time.time(), 3), "suite": self.suite, "event": event, **facts}
        self.stream.write(json.dumps(line) + "\n")
        self.stream.flush()

    def plan(self, total: int, done: int, further: int = 0, further_done: int = 0) -> None:
        self._line("plan", cells=total, done=done, further=further, further_done=further_done)

    def busy(self, what: str, step: int = 0, steps: int = 0) -> None:
        self._line("busy", what=what, step=step, steps=steps)

    def finished(self, record: Record) -> None:
        scores = {name: vars(found) for name in ("before", "after") if (found := getattr(record, name)) is not None}
        about = {
            key: getattr(record, key) for key in ("cell", "attack", "defense", "seed", "draw", "status", "reason", "seconds")
        }
        self._line("finished", **about, **scores)

    def measured(self, title: str, reason: str) -> None:
        self._line("measured", title=title, reason=reason)
