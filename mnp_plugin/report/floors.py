"""What a clean net does on triggered images: one JSON per victim under ``results/<suite>/floors/``. Imports no torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mnp_plugin.core.errors import UserError
from mnp_plugin.report.records import Scores, Status

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class FloorRecord:
    """The clean net on the triggered test images of one victim: what an ASR or RA is worth without a backdoor."""

    id: str
    """Fingerprint of the measurement; the file's name ends with it."""
    victim: str
    """Fingerprint of the victim whose trigger it is."""
    clean: str
    """Fingerprint of the clean net: the suite's, of the same data, net and seed."""
    same_recipe: bool
    """Whether the clean net was trained by the victim's recipe; an attack may have one of its own."""
    suite: str
    attack: str
    seed: int
    status: Status
    reason: str = ""
    """Why it failed, in one line; empty otherwise."""
    floor: Scores | None = None
    """ACC of the clean net, and its ASR and RA on the triggered images."""
    content: str = ""
    """Fingerprint of the images; empty where the settings say which they are."""
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA


def to_json(record: FloorRecord) -> str:
    """Stable, human-readable JSON text."""
    return json.dumps(dataclasses.asdict(record), indent=1, sort_keys=True, allow_nan=False) + "\n"


def from_json(text: str, source: str) -> FloorRecord:
    """Read a record.

    Raises:
        UserError: not JSON, or not a record of this schema; names ``source``.
    """
    try:
        plain = json.loads(text)
        if plain["schema"] != SCHEMA:
            raise ValueError(f"schema {plain['schema']!r}, this version reads {SCHEMA}")
        record = FloorRecord(**{**plain, "floor": None if plain["floor"] is None else Scores(**plain["floor"])})
        for name in ("acc", "asr", "ra") if record.floor else ():
            value = getattr(record.floor, name)
            if not (value is None and name != "acc") and not (type(value) in (int, float) and 0 <= value <= 1):
                raise ValueError(f"floor.{name} must be a number from 0 to 1, not {value!r}")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{source}: not a record of a floor ({error}); delete it and run again") from None
    return record


def read_floors(folder: Path, planned: Collection[str]) -> list[FloorRecord]:
    """The floors that were measured among the files ``planned``, from ``folder`` (``results/<suite>``)."""
    files = [file for file in sorted((folder / "floors").glob("*.json")) if file.name in planned]
    found = [from_json(file.read_text(encoding="utf-8", errors="replace"), str(file)) for file in files]
    return [record for record in found if record.status == "ok"]
