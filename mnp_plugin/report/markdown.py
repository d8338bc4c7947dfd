"""Tables in Markdown, and names in them: a label or a reason from a record is shown as what it is, no table, link or HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

SPECIAL = {"&": "&amp;", "<": "&lt;", ">": "&gt;", **{c: f"\\{c}" for c in "\\|`[]*!"}}


def escape(text: str) -> str:
    """``text`` on one line, as Markdown prints it."""
    return "".join(SPECIAL.get(c, c if c.isprintable() else " ") for c in text)


def lines_of(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table in Markdown, line by line."""
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def in_markdown(table: pd.DataFrame) -> pd.DataFrame:
    """``table`` with every text escaped; the same table where none needs it."""
    changed = {
        column: found
        for column in table.columns
        if table[column].dtype.kind not in "biuf"
        and not (found := table[column].map(lambda value: escape(value) if isinstance(value, str) else value)).equals(
            table[column]
        )
    }
    return table.assign(**changed) if changed else table
