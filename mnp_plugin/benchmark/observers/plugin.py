"""What a plugin that follows a run is, and how several follow one run."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from mnp_plugin.benchmark.observer import Observer, notify
from mnp_plugin.core.component import Component
from mnp_plugin.core.errors import UserError
from mnp_plugin.report.records import Record


@dataclass(frozen=True, kw_only=True)
class ObserverPlugin(Component):
    """Settings of something that follows a run; registered by an entry point of the group ``mnp_plugin.observers``."""

    @abstractmethod
    def open(self, suite: str) -> AbstractContextManager[Observer]:
        """An observer of one run of ``suite``; leaving the context closes it.

        Raises:
            UserError: what it needs is not installed, or cannot be written to.
        """


class Several:
    """Tells each of several observers. The first is the command's own; another that raises is heard of once and left out."""

    def __init__(self, first: Observer, others: Sequence[tuple[str, Observer]]) -> None:
        self.first, self.others = first, dict(others)

    def _tell(self, event: str, *arguments: Any) -> None:
        self._each(lambda observer: getattr(observer, event)(*arguments))

    def _each(self, tell: Callable[[Observer], None]) -> None:
        tell(self.first)
        for name, observer in list(self.others.items()):
            try:
                tell(observer)
            except Exception as error:  # whatever a plugin does wrong must not end the run
                del self.others[name]
                notify(self.first, f"observer '{name}' is left out: {_in_words(error)}")

    def plan(self, total: int, done: int, further: int = 0, further_done: int = 0) -> None:
        """As :meth:`Observer.plan`."""
        self._tell("plan", total, done, further, further_done)

    def busy(self, what: str, step: int = 0, steps: int = 0) -> None:
        """As :meth:`Observer.busy`."""
        self._tell("busy", what, step, steps)

    def finished(self, record: Record) -> None:
        """As :meth:`Observer.finished`."""
        self._tell("finished", record)

    def measured(self, title: str, reason: str) -> None:
        """As :meth:`Observer.measured`."""
        self._tell("measured", title, reason)

    def notice(self, text: str) -> None:
        """As :func:`notify`."""
        self._each(lambda observer: notify(observer, text))


@contextmanager
def opened(first: Observer, plugins: Sequence[ObserverPlugin], suite: str) -> Iterator[Observer]:
    """``first`` and an observer of each plugin, told together.

    Raises:
        UserError: a plugin that cannot be opened. One that cannot be closed is named: by then the run is over.
    """
    with ExitStack() as stack:
        others = []
        for plugin in plugins:
            context = plugin.open(suite)
            others.append((plugin.name, _entered(plugin.name, context)))
            stack.push(_Closing(first, plugin.name, context))
        yield Several(first, others) if others else first


def _entered(name: str, context: AbstractContextManager[Observer]) -> Observer:
    try:
        return context.__enter__()
    except UserError:
        raise
    except Exception as error:  # a service that is away, a package that is not there: each plugin has its own
        if isinstance(error, OSError) and error.filename:
            what = f"cannot write {error.filename} ({error.strerror})"
        else:
            what = f"cannot be opened ({_in_words(error)})"
        raise UserError(f"observer '{name}': {what}; mend that, or run without it") from None


@dataclass(frozen=True)
class _Closing:
    """Closes what a plugin opened."""

    first: Observer
    name: str
    context: AbstractContextManager[Observer]

    def __call__(self, *raised: Any) -> None:
        try:
            self.context.__exit__(*raised)
        except Exception as error:
            if error is not raised[1]:  # it is not what ended the run
                notify(self.first, f"observer '{self.name}' was not closed well: {_in_words(error)}")


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
