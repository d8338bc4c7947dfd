"""Records: one small JSON per cell, with a documented schema. Imports no torch, so that reports need none.

Rates are fractions in [0, 1]; a score that could not be measured is null, never NaN, and ``reason`` says why.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from mnp_plugin.core.errors import UserError

SCHEMA = 1

Status = Literal["ok", "failed"]


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
    reason: str = ""
    """Why the cell failed; empty otherwise."""
    poison_ratio: float | None = None
    """Share of the training set (clean-label attacks: of the target class) that carries the trigger."""
    clean_images: int = 0
    """Size of the clean budget handed to the defense, its validation part included."""
    clean_source: str = ""
    """``held-out`` of the training set, or drawn from the ``training`` set."""
    knowledge: list[str] = field(default_factory=list)
    """What the defense saw beyond the model and the clean budget; empty for all ordinary defenses."""
    before: Scores | None = None
    """The victim as trained."""
    after: Scores | None = None
    """The net the defense gave back at its blind choice."""
    oracle: Scores | None = None
    """The candidate that test ASR would have chosen (never a fair result, see ``oracle_setting``)."""
    oracle_setting: dict[str, float] | None = None
    """The setting behind ``oracle``."""
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
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of this package, torch, torchvision, numpy and Python."""
    hardware: dict[str, Any] = field(default_factory=dict)
    """Device, processor, threads and numeric precision."""
    schema: int = SCHEMA

    @property
    def took(self) -> bool:
        """Whether the attack took: its ASR before defense reaches the gate (always true of the clean model)."""
        return self.before is None or self.before.asr is None or self.before.asr >= self.gate


def to_json(record: Record) -> str:
    """Stable, human-readable JSON text.

    Raises:
        ValueError: a number is NaN or infinite; a missing score is None with a reason.
    """
    plain = dataclasses.asdict(record)
    return json.dumps(plain, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=True) + "\n"


def from_json(text: str, source: str) -> Record:
    """Read a record.

    Raises:
        UserError: not JSON, another schema, or missing and unknown keys; names ``source``.
    """
    try:
        plain = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{source}: not a record, its JSON is broken ({error}); delete it and run again") from None
    if not isinstance(plain, dict) or plain.get("schema") != SCHEMA:
        found = plain.get("schema") if isinstance(plain, dict) else None
        raise UserError(f"{source}: schema {found!r}, this version reads {SCHEMA}; delete it and run again")
    try:
        for key in ("before", "after", "oracle"):
            if plain[key] is not None:
                plain[key] = Scores(**plain[key])
        return Record(**plain)
    except (TypeError, KeyError) as error:
        raise UserError(f"{source}: not a record of schema {SCHEMA}: {error}") from None
