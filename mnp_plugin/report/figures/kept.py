"""Which figures need not be drawn again: those of the same results, by the same code, that lie there as they were written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path

from mnp_plugin.report.shown import Shown

NOTE = "drawn.json"
"""Beside the figures: ``from``, the fingerprint of all that they were drawn from, and ``files``, that of each as written."""


def origin(shown: Shown) -> str:
    """Fingerprint of all that makes figures: what was measured, published figures, pictures of triggers, code, matplotlib."""
    own, published = replace(shown.own, folder=Path()), shown.published
    pictures = sorted((file.name, file.stat().st_size) for file in (shown.own.folder / "pictures").glob("*.png"))
    theirs = "" if published is None else published.to_csv()
    return _digest("\0".join((repr(own), theirs, repr(pictures), _code(), version("matplotlib"))).encode())


def kept(folder: Path, origin: str) -> list[Path] | None:
    """The figures in ``folder``, if they are of this origin and all of them are there unchanged; else None."""
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        files = {folder / str(name): digest for name, digest in note["files"].items()}
        same = note["from"] == origin and all(_digest(file.read_bytes()) == digest for file, digest in files.items())
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return None
    return list(files) if same else None


def note(origin: str, files: Mapping[str, bytes]) -> str:
    """The text of :data:`NOTE` for ``files`` that were just drawn."""
    found = {"from": origin, "files": {name: _digest(content) for name, content in files.items()}}
    return f"{json.dumps(found, indent=1)}\n"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


@cache
def _code() -> str:
    """Fingerprint of the code of all reports."""
    room = Path(__file__).parents[1]
    return _digest(b"\0".join(file.read_bytes() for file in sorted(room.rglob("*.py"))))
