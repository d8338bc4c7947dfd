"""The two errors of this package: the user's to mend, and a method's.

Everything a user can get wrong (a name, a key, a range, a folder) raises :class:`UserError` with a sentence that says what
was wrong and how to put it right. The command line prints that sentence and exits with status 2; anything else that
escapes is a defect of this package and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def printable(text: str) -> str:
    """``text`` with control characters escaped: names from files must not reach a terminal as they are. Line ends stay."""
    return "".join(c if c == "\n" or c.isprintable() else ascii(c)[1:-1] for c in text)


class UserError(ValueError):
    """Bad input: the message says what was wrong and how to put it right."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class MethodError(RuntimeError):
    """A method broke its contract; the message names method and clause. Becomes the reason of a failed record."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest known word, else the list of what is known."""
    options = sorted(set(known))
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    if near:
        return f" Did you mean '{near[0]}'?"
    return f" Known: {', '.join(options) or 'none'}."
