"""Options of ``run`` that become objects: engines and observers with their settings, and the signal that ends a run."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from mnp_plugin.api.settings import parse_settings
from mnp_plugin.core import params as spec
from mnp_plugin.core.documents import Document
from mnp_plugin.core.errors import UserError
from mnp_plugin.core.registries import engines
from mnp_plugin.core.registry import Registry

if TYPE_CHECKING:
    from mnp_plugin.benchmark.engines.engine import Engine

T = TypeVar("T")


def component(registry: Registry[T], text: str, **more: Any) -> T:
    """What ``name,key=value,key=value`` names, with its settings and ``more`` of them.

    Raises:
        UserError: no such name or setting, or a value that it does not take.
    """
    name, *pairs = text.split(",")
    source = f"{registry.kind} '{name.strip()}'"
    values = parse_settings(pairs, source)
    return spec.build(registry.get(name.strip()), Document({**values, **more}, {}, source), ())


def engine_of(text: str | None, workers: int | None, devices: Sequence[str]) -> Engine:
    """The engine that is asked for; left open, it is ``processes`` where several workers or devices are, else ``inline``.

    Raises:
        UserError: no such engine; one that has no workers, or takes one device, and is given more.
    """
    if workers is not None and workers < 1:
        raise UserError(f"--jobs must be 1 or more, not {workers}")
    several = len(devices) > 1
    if text is None:
        text = "processes" if (workers or 1) > 1 or several else "inline"
    known = {field.name for field in dataclasses.fields(engines.get(text.partition(",")[0].strip()))}
    more: dict[str, Any] = {}
    if several and "devices" not in known:
        raise UserError(f"the engine '{text}' takes one --device, not {len(devices)}")
    if workers is None and several:
        workers = len(devices)
    if workers is not None and "workers" in known:
        more["workers"] = workers
    elif (workers or 1) > 1:
        raise UserError(f"the engine '{text}' does one job at a time; leave out --workers {workers}, or take --engine processes")
    if several:
        more["devices"] = list(devices)
    found: Engine = component(engines, text, **more)
    return found


class Ended(KeyboardInterrupt):
    """SIGTERM, as batch systems send it before they kill: ends a run as Ctrl-C does, and gives its locks back."""


def _say_last() -> None:
    """What is said when nothing is tidied up any more; the bars of a terminal have hidden its cursor."""
    cursor = "\x1b[?25h" if os.isatty(2) else ""
    with suppress(OSError):
        os.write(
            2, f"{cursor}\nmnp-bench: ended at once. Finished cells are kept; the same command goes on from here.\n".encode()
        )


@contextmanager
def ended_by_signal() -> Iterator[None]:
    """Inside the block, SIGTERM raises :class:`Ended` and Ctrl-C a KeyboardInterrupt; a second one ends the process at once.

    Nothing is lost by that: processes of the run end with it, and their locks are free once nobody renews them.
    """
    known = {signal.SIGTERM: (Ended, 143), signal.SIGINT: (KeyboardInterrupt, 130)}
    heard: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        kind, status = known[signal.Signals(number)]
        if heard:
            _say_last()
            os._exit(status)
        heard.append(number)
        raise kind

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread hears of signals
        return
    before = {number: signal.getsignal(number) for number in known}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as in the background of a shell
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
