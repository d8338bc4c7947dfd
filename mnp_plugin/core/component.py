"""The base of everything registered."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import ClassVar

from mnp_plugin.core import params as spec


@dataclass(frozen=True, kw_only=True)
class Component(ABC):  # noqa: B024 - its kinds add the abstract methods
    """A registered thing: hyper-parameters as fields, range-checked on construction; no learned state, ever."""

    name: ClassVar[str] = ""
    """Set by registration."""
    version: ClassVar[int] = 1
    """Raise it when behaviour changes: it is part of every fingerprint."""
    paper: ClassVar[str] = ""
    """Source: authors, title, venue and year, arXiv number."""

    def __post_init__(self) -> None:
        spec.check(self)
        self.validate()

    def validate(self) -> None:  # noqa: B027 - optional hook
        """Check what ranges of single fields cannot say; raise :class:`UserError`."""
