"""Scores of finished cells in TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mnp_plugin.benchmark.observer import Observer, Silent
from mnp_plugin.benchmark.observers.plugin import ObserverPlugin
from mnp_plugin.core.errors import UserError
from mnp_plugin.core.params import param
from mnp_plugin.core.registries import observers
from mnp_plugin.report.records import Record


@observers.register("tensorboard")
@dataclass(frozen=True, kw_only=True)
class TensorBoard(ObserverPlugin):
    """Scalars ``acc/ATTACK/DEFENSE`` and so on, at the cell's seed, and the share of cells that are done, by count."""

    folder: str = param("runs", "folder of event files; each suite has its own inside")

    @contextmanager
    def open(self, suite: str) -> Iterator[Observer]:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError("the observer 'tensorboard' needs the package tensorboard: pip install tensorboard") from None
        writer = SummaryWriter(f"{self.folder}/{suite}")
        try:
            yield _Scalars(writer)
        finally:
            writer.close()


class _Scalars(Silent):
    def __init__(self, writer: Any) -> None:
        self.writer, self.total, self.done = writer, 0, 0

    def plan(self, total: int, done: int, further: int = 0, further_done: int = 0) -> None:
        self.total, self.done = total, done

    def finished(self, record: Record) -> None:
        self.done += 1
        self.writer.add_scalar("done", self.done / max(self.total, 1), self.done)
        for name, value in vars(record.after).items() if record.after else ():
            if value is not None:
                self.writer.add_scalar(f"{name}/{record.attack}/{record.defense}", value, record.seed)
