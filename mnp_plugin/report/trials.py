"""What trials after the defense found: their records. Imports neither torch nor pandas."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mnp_plugin.report.records import Scores, scores_in
from mnp_plugin.report.texts import Status, parsed

SCHEMA = 1

NAMES = ("recalibrated", "finetuned", "retuned5", "retuned50", "stronger")
"""Trials that tables know, in the order of their columns."""


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial on the repaired net of one cell.

    It is a record of its own beside the cell's: a trial asked for later rewrites nothing that was measured before, and one that
    fails leaves the cell as it is.
    """

    id: str
    """Fingerprint of the trial on this cell; the file's name ends with it."""
    cell: str
    """Fingerprint of the cell."""
    suite: str
    attack: str
    defense: str
    seed: int
    trial: str
    """One of :data:`NAMES`."""
    status: Status
    reason: str = ""
    """Why it failed, in one line; empty otherwise."""
    after: Scores | None = None
    """The net after the trial."""
    seconds: float | None = None
    """Wall time of the trial, without measuring."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The settings of the trial."""
    content: str = ""
    """Fingerprint of the images; empty where the settings say which they are, and in records of older versions."""
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA


def from_json(text: str, source: str) -> TrialRecord:
    """Read a record.

    Raises:
        UserError: not JSON, or not a record of this schema; names ``source``.
    """
    return parsed(
        text, source, "a record of a trial", SCHEMA, lambda plain: TrialRecord(**{**plain, "after": scores_in(plain, "after")})
    )
