"""What detectors said about single images: one JSON per victim and detector under ``results/<suite>/samples/``. Imports no
torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mnp_plugin.report.texts import Status, finite, fraction, parsed

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class SampleRecord:
    """One detector of single images on one victim."""

    id: str
    """Fingerprint of the screening; the file's name ends with it."""
    victim: str
    """Fingerprint of the net."""
    suite: str
    dataset: str
    net: str
    attack: str
    poison_ratio: float | None
    seed: int
    detector: str
    """Label of the detector in the suite."""
    questions: str
    """``inputs`` or ``training set``."""
    status: Status
    reason: str = ""
    """Why it failed, in one line; empty otherwise."""
    asr: float | None = None
    """ASR of the net, in [0, 1]."""
    positives: int = 0
    """Triggered or poisoned images among those judged."""
    negatives: int = 0
    """Clean images among them."""
    auroc: float | None = None
    """Chance that a positive scores above a negative; null where there are none of either."""
    tpr_at_5_fpr: float | None = None
    """Share of the positives above the score that at most 5 % of the negatives exceed."""
    tpr: float | None = None
    """Share of the positives that the detector flags."""
    fpr: float | None = None
    """Share of the negatives that it flags."""
    roc: list[list[float]] = field(default_factory=list)
    """Corners (false positive rate, true positive rate) of the ROC curve, at most 200; empty where there is no AUROC, and in
    records of older versions."""
    clean_images: int = 0
    """Size of the clean budget handed to the detector."""
    seconds: float | None = None
    """Wall time of the detector."""
    peak_mb: float | None = None
    """Peak memory in MiB while it ran: of the device on CUDA, resident memory of the process on a CPU."""
    report: dict[str, Any] = field(default_factory=dict)
    """The detector's own report."""
    spec: dict[str, Any] = field(default_factory=dict)
    """All that determines the screening, every hyper-parameter written out."""
    content: str = ""
    """Fingerprint of the images; empty where the settings say which they are."""
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA


def from_json(text: str, source: str) -> SampleRecord:
    """Read a record.

    Raises:
        UserError: not JSON, not a record of this schema, or a number that cannot be; names ``source``.
    """

    def build(plain: dict[str, Any]) -> SampleRecord:
        record = SampleRecord(**plain)
        for name in ("asr", "auroc", "tpr_at_5_fpr", "tpr", "fpr"):
            if (value := getattr(record, name)) is not None and not fraction(value):
                raise ValueError(f"{name} must be from 0 to 1, not {value!r}")
        if not all(len(point) == 2 and all(map(fraction, point)) for point in record.roc):
            raise ValueError("roc must hold pairs of rates from 0 to 1")
        if record.status == "ok" and not finite(record.seconds):
            raise ValueError(f"seconds must be a finite number, not {record.seconds!r}")
        return record

    return parsed(text, source, "a record of a screening", SCHEMA, build)
