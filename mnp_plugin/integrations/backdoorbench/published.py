"""Takes a copy of BackdoorBench's published leaderboard, for reports that set it beside ours. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from mnp_plugin.core.errors import UserError
from mnp_plugin.io.atomic import write_atomic
from mnp_plugin.report.published import COLUMNS, OWN, read_published


def import_leaderboard(source: Path, out: Path, only: Mapping[str, str] | None = None) -> tuple[Path, int, int]:
    """Check ``source`` and write ``out/backdoorbench.csv`` with a note of where it came from.

    Args:
        source: a csv of their figures.
        out: folder to write to.
        only: keep the cells with these values; None for all.

    Returns:
        The file, its cells, and how many of them have figures.

    Raises:
        UserError: no such file, not in the leaderboard's format, or no cell with these values.
    """
    table = read_published(source)
    for column, value in (only or {}).items():
        if column not in COLUMNS[:5]:
            raise UserError(f"cells are chosen by {', '.join(COLUMNS[:5])}, not by {column!r}")
        texts = table[column].map(lambda one: f"{one:g}" if isinstance(one, float) else str(one))
        if value not in set(texts):
            raise UserError(f"{source}: no such cell has {column}={value}; there are {', '.join(sorted(set(texts)))}")
        table = table[texts == value]
    text: str = table.to_csv(index=False, lineterminator="\n")
    note = {
        "what": "figures published by BackdoorBench, not measured here",
        "file": source.name,
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        **({"only": dict(only)} if only else {}),
        "cells": len(table),
    }
    file = out / OWN.name
    write_atomic(file, text.encode())
    write_atomic(file.with_suffix(".json"), (json.dumps(note, indent=1) + "\n").encode())
    return file, len(table), int(table["acc"].notna().sum())
