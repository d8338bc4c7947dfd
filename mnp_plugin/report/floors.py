"""What a clean net does on triggered images: one JSON per victim under ``results/<suite>/floors/``. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mnp_plugin.report.records import Record, Scores, scores_in
from mnp_plugin.report.texts import Status, parsed

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


def from_json(text: str, source: str) -> FloorRecord:
    """Read a record.

    Raises:
        UserError: not JSON, or not a record of this schema; names ``source``.
    """
    return parsed(
        text, source, "a record of a floor", SCHEMA, lambda plain: FloorRecord(**{**plain, "floor": scores_in(plain, "floor")})
    )


Floors = Mapping[tuple[str | int, ...], Scores]
"""By attack and seed, and by data set and net where several are swept: what a clean net does on the triggered images."""


def by_victim(floors: Iterable[FloorRecord], labels: Mapping[str, Mapping[str, str]]) -> dict[tuple[str | int, ...], Scores]:
    """What clean nets do, by attack and seed, and by data set and net where several are swept."""
    found: dict[tuple[str | int, ...], Scores] = {}
    for f in floors:
        if f.floor:
            named = labels.get(f"{f.attack}-s{f.seed}-{f.id}.json", {})
            found[f.attack, f.seed, *named.values()] = f.floor
    return found


def floor_of(floors: Floors, record: Record) -> Scores | None:
    """What a clean net does on the triggered images of a record, where that was measured."""
    key = record.attack, record.seed
    return floors.get((*key, record.dataset, record.net), floors.get(key))
