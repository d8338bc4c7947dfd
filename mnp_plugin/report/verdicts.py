"""What detectors said about nets: one JSON per net and detector under ``results/<suite>/verdicts/``. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mnp_plugin.report.texts import Status, finite, fraction, parsed

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class VerdictRecord:
    """One detector on one net, not repaired."""

    id: str
    """Fingerprint of the verdict; the file's name ends with it."""
    victim: str
    """Fingerprint of the net."""
    suite: str
    dataset: str
    net: str
    attack: str
    """``clean`` is the net that was never attacked."""
    poison_ratio: float | None
    seed: int
    detector: str
    """Label of the detector in the suite."""
    status: Status
    reason: str = ""
    """Why it failed, in one line; empty otherwise."""
    asr: float | None = None
    """ASR of the net, in [0, 1]: a net whose attack did not succeed is neither healthy nor attacked."""
    targets: list[int] = field(default_factory=list)
    """The attacker's true target classes; empty for a clean net and for all-to-all."""
    score: float | None = None
    """Grows with the suspicion."""
    per_class: list[float] = field(default_factory=list)
    """Evidence that each class is the target, in the order of the net's outputs; empty where the detector gives none."""
    suspected: int | None = None
    """The class it suspects to be the target."""
    threshold: float | None = None
    """Nets that score above it are called backdoored."""
    calibration: str = ""
    """On what the threshold was set."""
    p_value: float | None = None
    """Chance of such a score on a healthy net by the detector's own null; null where it has none."""
    verdict: bool | None = None
    """Whether the net is called backdoored; null without a threshold."""
    clean_images: int = 0
    """Size of the clean budget handed to the detector."""
    clean_source: str = ""
    """``held-out`` of the training set, or drawn from the ``training`` set."""
    seconds: float | None = None
    """Wall time of the detector."""
    peak_mb: float | None = None
    """Peak memory in MiB while it ran: of the device on CUDA, resident memory of the process on a CPU."""
    report: dict[str, Any] = field(default_factory=dict)
    """The detector's own report."""
    spec: dict[str, Any] = field(default_factory=dict)
    """All that determines the verdict, every hyper-parameter written out."""
    content: str = ""
    """Fingerprint of the images; empty where the settings say which they are, and in records of older versions."""
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA


def from_json(text: str, source: str) -> VerdictRecord:
    """Read a record.

    Raises:
        UserError: not JSON, not a record of this schema, or a number that cannot be; names ``source``.
    """

    def build(plain: dict[str, Any]) -> VerdictRecord:
        record = VerdictRecord(**plain)
        numbers = {"score": record.score, "threshold": record.threshold, "seconds": record.seconds, "asr": record.asr}
        for name, value in numbers.items():
            if not finite(value) and (value is not None or (name in ("score", "seconds") and record.status == "ok")):
                raise ValueError(f"{name} must be a finite number, not {value!r}")
        for name, value in {"asr": record.asr, "p_value": record.p_value}.items():
            if value is not None and not fraction(value):
                raise ValueError(f"{name} must be from 0 to 1, not {value!r}")
        return record

    return parsed(text, source, "a record of a verdict", SCHEMA, build)
