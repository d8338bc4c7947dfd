"""Records: one small JSON per cell, with a documented schema. Imports no torch, so that reports need none.

Rates are fractions in [0, 1]; a score that could not be measured is null, never NaN, and ``reason`` says why.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mnp_plugin.report.texts import Status, finite, fraction, parsed

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What was measured on one net. Fractions in [0, 1], or None where the attack defines no such score."""

    acc: float
    """Clean accuracy on the whole clean test set."""
    asr: float | None = None
    """Attack success rate: triggered test images sent to the attacker's label; the target class is left out."""
    ra: float | None = None
    """Robust accuracy: the same triggered images given their true label."""


def der(before: Scores, after: Scores) -> float | None:
    """Defense effectiveness rating [max(0, fall of ASR) - max(0, fall of ACC) + 1] / 2; 0.5 means nothing gained.

    Source: Zhu et al., Enhancing Fine-Tuning Based Backdoor Defense with Sharpness-Aware Minimization, ICCV 2023,
    arXiv 2304.11823.
    """
    if before.asr is None or after.asr is None:
        return None
    return (max(0.0, before.asr - after.asr) - max(0.0, before.acc - after.acc) + 1) / 2


@dataclass(frozen=True, kw_only=True)
class Record:
    """Everything known about one cell (dataset, net, attack, defense, seed)."""

    cell: str
    """Identity of the cell: fingerprint of everything that determines its numbers."""
    suite: str
    """Name of the suite that ran it."""
    dataset: str
    net: str
    attack: str
    """Label of the attack in tables; ``clean`` is the unattacked model."""
    defense: str
    """Label of the defense in tables."""
    seed: int
    status: Status
    draw: int = 0
    """Which draw of the clean budget's division and of the defense's random stream, on the same victim."""
    reason: str = ""
    """Why the cell failed; empty otherwise."""
    poison_ratio: float | None = None
    """Share of the training set (clean-label attacks: of the target class) that carries the trigger."""
    clean_images: int = 0
    """Size of the clean budget handed to the defense, its validation part included."""
    clean_source: str = ""
    """``held-out`` of the training set, or drawn from the ``training`` set."""
    before: Scores | None = None
    """The victim as trained."""
    after: Scores | None = None
    """The net the defense gave back at its blind choice."""
    oracle: Scores | None = None
    """The candidate that test ASR would have chosen (never a fair result, see ``oracle_setting``)."""
    oracle_setting: dict[str, float] | None = None
    """The setting behind ``oracle``."""
    knowledge: str = ""
    """What the defense was given besides model and clean budget, such as ``training set``; empty: nothing."""
    gate: float = 0.0
    """Least ASR before defense for the attack to count as taken."""
    seconds: float | None = None
    """Wall time of the defense alone."""
    peak_mb: float | None = None
    """Peak memory while the defense ran: of the device on CUDA, resident memory of the process on a CPU; in MiB."""
    victim_seconds: float | None = None
    """Wall time of training the victim, as measured when it was trained."""
    asr_8bit: float | None = None
    """ASR of the victim on triggered images rounded to 8 bit, as a saved picture would be (``before`` has the float one)."""
    stealth: dict[str, float | None] | None = None
    """``psnr`` (dB), ``ssim`` and ``linf`` (share of the full scale) between clean and triggered test images, means over them."""
    prune: dict[str, Any] = field(default_factory=dict)
    """The defense's own report: neurons pruned, stopping point, and so on."""
    spec: dict[str, Any] = field(default_factory=dict)
    """The resolved specification of the cell, every hyper-parameter written out."""
    content: str = ""
    """Fingerprint of the images; empty where the settings say which they are, and in records of older versions."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of this package, torch, torchvision, numpy and Python; its ``commit``, where it ran from its checkout."""
    hardware: dict[str, Any] = field(default_factory=dict)
    """Device, processor, threads and numeric precision."""
    victim_versions: dict[str, str] = field(default_factory=dict)
    """As ``versions``, when the victim was trained; empty where that is not known."""
    victim_hardware: dict[str, Any] = field(default_factory=dict)
    """As ``hardware``, where the victim was trained."""
    schema: int = SCHEMA

    @property
    def took(self) -> bool:
        """Whether the attack took: its ASR before defense reaches the gate (always true of the clean model)."""
        return self.before is None or self.before.asr is None or self.before.asr >= self.gate

    @property
    def unsaid(self) -> bool:
        """Whether it was made from a folder of images and, being of an older version, does not say which."""
        dataset = self.spec.get("dataset")
        return not self.content and isinstance(dataset, dict) and dataset.get("name") == "imagefolder"


def from_json(text: str, source: str) -> Record:
    """Read a record.

    Raises:
        UserError: not JSON, another schema, missing and unknown keys, or a value that cannot be; names ``source``.
    """

    def build(plain: dict[str, Any]) -> Record:
        plain["knowledge"] = str(plain.get("knowledge") or "")  # in records of older versions always empty
        record = Record(**{**plain, **{key: scores_in(plain, key) for key in ("before", "after", "oracle")}})
        if fault := _fault(record) or _misplaced(record, source):
            raise ValueError(fault)
        return record

    return parsed(text, source, "a record of a cell", SCHEMA, build)


def scores_in(plain: Mapping[str, Any], key: str) -> Scores | None:
    """The scores under ``key``, or None where that is null.

    Raises:
        KeyError: no such key.
        TypeError: not the scores of this schema.
        ValueError: a score that cannot be.
    """
    if plain[key] is None:
        return None
    found = Scores(**plain[key])
    for name, value in vars(found).items():
        if name == "acc" and value is None:
            raise ValueError(f"'{key}.acc' is missing")
        if value is not None and not fraction(value):
            raise ValueError(f"'{key}.{name}' must be a fraction from 0 to 1, not {value!r}")
    return found


def _fault(record: Record) -> str:
    """Which number is out of its range; empty if none is."""
    for name in ("seed", "draw", "clean_images"):
        if type(getattr(record, name)) is not int or getattr(record, name) < 0:
            return f"'{name}' must be a whole number from 0, not {getattr(record, name)!r}"
    if record.status not in ("ok", "failed"):
        return f"'status' must be 'ok' or 'failed', not {record.status!r}"
    fractions: dict[str, Any] = {name: getattr(record, name) for name in ("gate", "poison_ratio", "asr_8bit")}
    for name, value in fractions.items():
        if value is not None and not fraction(value):
            return f"'{name}' must be a fraction from 0 to 1, not {value!r}"
    for name in ("seconds", "peak_mb", "victim_seconds"):
        value = getattr(record, name)
        if value is not None and not (finite(value) and value >= 0):
            return f"'{name}' must be a finite number from 0"
    return ""


def _misplaced(record: Record, source: str) -> str:
    """Whether the file is called after another cell than it holds."""
    named = re.search(r"([^/\\]*)-([0-9a-f]{16})\.json$", source)
    draw = f"-d{record.draw}" if record.draw else ""
    own = f"{record.attack}-{record.defense}-s{record.seed}{draw}"
    if named is None or (named[1], named[2]) == (own, record.cell):
        return ""
    return f"it holds {own} (cell {record.cell}), not what its name says"
