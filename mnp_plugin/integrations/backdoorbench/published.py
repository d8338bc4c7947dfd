"""Takes a copy of BackdoorBench's published leaderboard, for reports that set it beside ours. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from mnp_plugin.io.atomic import write_atomic
from mnp_plugin.report.published import read_published

NAME = "backdoorbench.csv"


def import_leaderboard(source: Path, out: Path) -> tuple[Path, int, int]:
    """Check ``source`` and write ``out/backdoorbench.csv`` with a note of where it came from.

    Returns:
        The file, its cells, and how many of them have figures.

    Raises:
        UserError: no such file, or not in the leaderboard's format.
    """
    table = read_published(source)
    text: str = table.to_csv(index=False, lineterminator="\n")
    note = {
        "what": "figures published by BackdoorBench, not measured here",
        "file": source.name,
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "cells": len(table),
    }
    write_atomic(out / NAME, text.encode())
    write_atomic(out / "backdoorbench.json", (json.dumps(note, indent=1) + "\n").encode())
    return out / NAME, len(table), int(table["acc"].notna().sum())
