"""What lies beside a record for people to look at, and on which no table depends: ``details/`` and ``pictures/``. No torch.

Records of older versions have nothing of this; whoever shows a cell says so.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mnp_plugin.core.errors import UserError
from mnp_plugin.report.records import Record
from mnp_plugin.report.texts import fraction, parsed

SCHEMA = 1
DETAILS, PICTURES = "details", "pictures"
"""Folders under ``results/<suite>``. A file of details is called as its record is."""

REMEDY = "to have it made anew, delete it and the record of the same name, and run again"
REMEDY_PICTURE = "to have it made anew, delete it and a record that shows it, and run again"

NAME = re.compile(r"[\w.=+-]+\.png")
PNG = b"\x89PNG\r\n\x1a\n"
MOST_CLASSES = 50
"""Confusion matrices of more classes are not kept: nobody can read them."""


@dataclass(frozen=True, kw_only=True)
class Details:
    """One cell, looked at closely. Counts and numbers of classes are whole numbers, rates fractions in [0, 1]."""

    id: str
    """Fingerprint of the cell."""
    classes: list[str] = field(default_factory=list)
    """Names of the classes, in the order of the net's outputs."""
    clean: list[list[int]] = field(default_factory=list)
    """Confusion on the clean test set, repaired net: images of the class of the row predicted as that of the column."""
    triggered: list[list[int]] = field(default_factory=list)
    """The same on the triggered test images; empty for a net that was never attacked."""
    clean_before: list[list[int]] = field(default_factory=list)
    """As ``clean``, of the victim."""
    triggered_before: list[list[int]] = field(default_factory=list)
    """As ``triggered``, of the victim."""
    picture: str = ""
    """Name of the PNG under ``pictures/`` that shows the trigger: clean, triggered and difference times ten, a row each."""
    shown: list[dict[str, int]] = field(default_factory=list)
    """Of each image of the picture, from the left: ``true`` class, class ``wanted`` by the attacker, predictions of the triggered
    image ``before`` and ``after`` the defense."""
    perturbation: dict[str, Any] = field(default_factory=dict)
    """What the defense found the victim to follow: ``picture``, name of the PNG that shows it on clean images, and what share of
    ``images`` clean images of other classes it sends to ``class``, ``before`` and ``after`` the defense."""
    path: list[dict[str, float]] = field(default_factory=list)
    """Of each setting that the defense chose among, or passed: the setting, ``acc`` and ``asr``; empty where there were none."""
    path_images: int = 0
    """On how many test images ``path`` was measured."""
    layers: list[list[Any]] = field(default_factory=list)
    """(name, number of neurons) of each layer; the lists of neurons run through them in this order."""
    before: dict[str, list[float]] = field(default_factory=dict)
    """``magnitude`` and ``saliency`` of every neuron of the victim."""
    after: dict[str, list[float]] = field(default_factory=dict)
    """The same of the repaired net."""
    pruned: list[int] = field(default_factory=list)
    """Numbers of the pruned neurons."""
    schema: int = SCHEMA


def from_json(text: str, source: str) -> Details:
    """Read details.

    Raises:
        UserError: not JSON, not of this schema, or lists that do not fit together; names ``source``.
    """

    def build(plain: dict[str, Any]) -> Details:
        found = Details(**plain)
        for name in ("clean", "triggered", "clean_before", "triggered_before"):
            matrix = getattr(found, name)
            if matrix and not (len(matrix) == len(found.classes) and all(len(row) == len(found.classes) for row in matrix)):
                raise ValueError(f"'{name}' is no square matrix of its {len(found.classes)} classes")
        count = sum(int(size) for _, size in found.layers)
        for name in ("before", "after"):
            values = getattr(found, name)
            if values and {key: len(list_) for key, list_ in values.items()} != {"magnitude": count, "saliency": count}:
                raise ValueError(f"'{name}' does not give magnitude and saliency of {count} neurons")
        if not all(0 <= neuron < count for neuron in found.pruned):
            raise ValueError("'pruned' names a neuron that is not there")
        shown = found.perturbation
        if shown and not (0 <= shown["class"] < len(found.classes) and fraction(shown["before"]) and fraction(shown["after"])):
            raise ValueError("'perturbation' names no class, or no shares")
        if shown and type(shown["images"]) is not int:
            raise ValueError("'perturbation' does not say on how many images")
        for name in (found.picture, *([shown["picture"]] if shown else [])):
            if name and not NAME.fullmatch(name):
                raise ValueError(f"no name of a PNG: {name!r}")
        return found

    return parsed(text, source, "details of a cell", SCHEMA, build, REMEDY)


class Beside:
    """What lies beside the records of one suite, read when it is shown.

    No table depends on it: what cannot be used counts as not there and is named in :attr:`damaged`. Older versions kept nothing.

    Args:
        folder: ``results/<suite>``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._damaged: dict[str, None] = {}

    @property
    def damaged(self) -> list[str]:
        """One sentence for each file that was found damaged so far."""
        return list(self._damaged)

    def details(self, record: Record, file: str) -> Details | None:
        """The details beside ``records/<file>``, or None."""
        path = self.folder / DETAILS / file
        content = self._content(path)
        if content is None:
            return None
        try:
            found = from_json(content.decode(errors="replace"), str(path))
            if found.id != record.cell:
                raise UserError(f"{path}: it holds details of cell {found.id}, not of {record.cell}; {REMEDY}")
        except UserError as error:
            self._damaged[str(error)] = None
            return None
        return found

    def picture(self, name: str) -> bytes | None:
        """The PNG ``pictures/<name>``, or None."""
        path = self.folder / PICTURES / name
        content = self._content(path) if NAME.fullmatch(name) else None
        if content is not None and not whole_png(content):
            self._damaged[f"{path}: it is no whole PNG; {REMEDY_PICTURE}"] = None
            return None
        return content

    def picture_of(self, record: Record, file: str) -> Path | None:
        """Where the PNG lies that shows the trigger of a record's victim, or None."""
        found = self.details(record, file)
        return None if found is None or self.picture(found.picture) is None else self.folder / PICTURES / found.picture

    def _content(self, path: Path) -> bytes | None:
        if not path.exists():
            return None
        try:
            if path.is_file():  # a pipe or device may never end
                return path.read_bytes()
            reason = "no regular file"
        except OSError as error:
            reason = f"it cannot be read ({error.strerror})"
        self._damaged[f"{path}: {reason}; {REMEDY}"] = None
        return None


def picture_beside(file: str) -> str:
    """Name under ``pictures/`` of the PNG that shows what the defense or detector of a record ``file`` found a net to follow."""
    return f"{file.removesuffix('.json')}.png"


def whole_png(content: bytes) -> bool:
    """Whether ``content`` is a PNG to its end, each of its chunks as its checksum says."""
    at = len(PNG)
    if not content.startswith(PNG):
        return False
    while at < len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4])
        if zlib.crc32(content[at + 4 : end - 4]) != int.from_bytes(content[end - 4 : end]) or end > len(content):
            return False
        if content[at + 4 : at + 8] == b"IEND":
            return end == len(content)
        at = end
    return False
