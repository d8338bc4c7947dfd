"""The plan of a suite as it was last run (``suite.json``), and the records that it names. Imports neither torch nor pandas."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mnp_plugin.core.errors import UserError
from mnp_plugin.report.records import Record, from_json
from mnp_plugin.report.texts import UNSEALED, read_all, unsealed


@dataclass(frozen=True)
class Older:
    """A record of an older version of a method: it is shown, its version named, until the one ``of`` now is there.

    ``versions`` gives the version of each method that is older, by the field of the record that holds its label.
    """

    of: str
    versions: Mapping[str, int]

    def named(self, record: Record) -> Record:
        """``record`` with the versions in its labels."""
        labels: dict[str, Any] = {key: f"{getattr(record, key)} (version {version})" for key, version in self.versions.items()}
        return replace(record, **labels)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a suite says of its tables (``suite.json``); older files name the records alone."""

    records: tuple[str, ...]
    """Names of the record files of the suite as it stands."""
    gate: float | None = None
    contents: tuple[str, ...] = ()
    """Fingerprints of the images of its data sets when the suite was last run; none where its settings say which they are."""
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By file name: ``dataset`` and ``net`` as they are called now."""
    verdicts: tuple[str, ...] = ()
    """Names of the files of its verdicts."""
    samples: tuple[str, ...] = ()
    """Names of the files of what detectors said about single images."""
    trials: tuple[str, ...] = ()
    """Names of the files of its trials after the defense."""
    floors: tuple[str, ...] = ()
    """Names of the files of its floors."""
    calibration_seeds: tuple[int, ...] = ()
    """Seeds of the nets that detectors may be calibrated on."""
    older: Mapping[str, Older] = field(default_factory=dict)
    """Records of older versions of methods, by file name."""

    def applied(self, record: Record, name: str) -> Record:
        """``record`` with the gate and the labels of the suite as it stands."""
        now: dict[str, Any] = {**self.labels.get(name, {})}
        if self.gate is not None:
            now["gate"] = self.gate
        return replace(record, **now)

    def shows(self, content: str) -> bool:
        """Whether what was measured on the images ``content`` belongs into the tables; where that is not known, it does."""
        return not content or not self.contents or content in self.contents


def read_plan(folder: Path) -> Plan | None:
    """The plan of the suite in ``folder``, or None if it has none.

    Raises:
        UserError: it is damaged, or has no checksum.
    """
    path = folder / "suite.json"
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        whole = unsealed(found)
        if whole is False:
            raise ValueError("not what its checksum says")
        gate = found.get("gate")
        names = found["records"]
        named = isinstance(names, list) and names and all(isinstance(name, str) for name in names)
        if not named or not (gate is None or 0 <= gate <= 1):
            raise ValueError("not a plan")
        content = found.get("content", "")
        labels = {name: {k: str(known[k]) for k in ("dataset", "net")} for name, known in found.get("labels", {}).items()}
        plan = Plan(
            records=tuple(names),
            gate=None if gate is None else float(gate),
            contents=tuple(map(str, content)) if isinstance(content, list) else (str(content),) if content else (),
            labels=labels,
            verdicts=tuple(map(str, found.get("verdicts", ()))),
            samples=tuple(map(str, found.get("samples", ()))),
            trials=tuple(map(str, found.get("trials", ()))),
            floors=tuple(map(str, found.get("floors", ()))),
            calibration_seeds=tuple(map(int, found.get("calibration_seeds", ()))),
            older={name: _older(about) for name, about in found.get("older", {}).items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UserError(f"{path} is damaged; run the suite again, or delete it") from None
    if whole is None:
        raise UserError(f"{path}: {UNSEALED.format(folder=folder)}")
    return plan


def _older(about: Mapping[str, Any]) -> Older:
    versions = {key: int(about["versions"][key]) for key in ("attack", "defense") if key in about["versions"]}
    return Older(str(about["of"]), versions)


@dataclass(frozen=True)
class Found:
    """The records of a suite as planned.

    ``left_out`` names the record files of other settings, or of other images than the last run's; ``damaged`` says one sentence
    of each damaged one. Neither counts. ``files`` names the files of ``records``, in their order. The last ``older`` of them are
    of older versions of their methods, in the place of records that are not there yet.
    """

    records: list[Record]
    left_out: list[str]
    damaged: list[str]
    files: list[str] = field(default_factory=list, compare=False)
    older: int = 0


def read_records(folder: Path) -> Found:
    """The records in ``folder``, their gate and labels those of its plan.

    Raises:
        UserError: no records there, or one that cannot be read and is not damaged.
    """
    files = sorted((folder / "records").glob("*.json"))
    if not files:
        raise UserError(f"no records in {folder / 'records'}; run the suite first: mnp-bench run")
    plan = read_plan(folder) or Plan(records=tuple(f.name for f in files))
    planned = set(plan.records)
    found, damaged = read_all([f for f in files if f.name in planned], from_json)
    shown = {name: plan.applied(record, name) for name, record in found.items() if plan.shows(record.content)}
    instead = {name for name, older in plan.older.items() if older.of not in found}
    before, broken = read_all([f for f in files if f.name in instead], from_json)
    older = {
        name: plan.older[name].named(plan.applied(record, plan.older[name].of))
        for name, record in before.items()
        if plan.shows(record.content)
    }
    shown |= older
    whole = {*found, *before}
    left_out = [f.name for f in files if f.name not in shown and (f.name in whole or f.name not in planned | instead)]
    return Found(list(shown.values()), left_out, [*damaged, *broken], list(shown), len(older))
