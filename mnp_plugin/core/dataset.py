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

    def content(self, cache: Path) -> str:
        """A fingerprint of the images themselves, the same wherever they lie; empty where name and settings say which they are.

        Override it where a setting names a place whose images may be others tomorrow, or in another project: what is made from
        images is kept and found by this, too. It is asked for often, so remember it under ``cache``.

        Raises:
            UserError: the images are not there.
        """
        return ""
