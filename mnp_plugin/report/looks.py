"""Colour, marker and dashes of methods: the same on the page and in figures, and the same in every suite for the usual ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
"""Okabe and Ito's palette, told apart with every common colour blindness; yellow is left out, which is too pale on white, and
black is for axes."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p")
"""So that no two methods differ in colour alone. Their number and that of the colours have no common factor: 77 pairs."""
DASHES = ("-", "--", "-.", ":")
"""For lines, which bear markers as well, so that they differ in grey, too: 44 pairs."""
USUAL = ("mnp", "anp", "fp", "ft", "nad", "mnp-prune", "none")
"""Methods with a look of their own in every suite; what stands beside them comes after them, by name."""


@dataclass(frozen=True)
class Look:
    """The look of one method: places in :data:`COLOURS`, :data:`MARKERS` and :data:`DASHES`."""

    place: int

    @property
    def colour(self) -> str:
        """As hexadecimal RGB."""
        return COLOURS[self.place % len(COLOURS)]

    @property
    def marker(self) -> str:
        """As matplotlib calls it."""
        return MARKERS[self.place % len(MARKERS)]

    @property
    def dash(self) -> str:
        """As matplotlib calls it."""
        return DASHES[self.place % len(DASHES)]


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each of ``names``."""
    known = set(names)
    order = [*USUAL, *sorted(known - set(USUAL))]
    return {name: Look(place) for place, name in enumerate(order) if name in known}
