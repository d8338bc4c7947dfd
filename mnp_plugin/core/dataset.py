"""A source of labelled images."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

from mnp_plugin.core.component import Component
from mnp_plugin.core.images import ImageData


@dataclass(frozen=True, kw_only=True)
class Dataset(Component):
    """A source of labelled images."""

    @abstractmethod
    def load(self, cache: Path) -> ImageData:
        """Return the data on the CPU; ``cache`` is a folder for downloads and decoded copies.

        Raises:
            UserError: missing folder, empty class, images that do not decode.
        """
