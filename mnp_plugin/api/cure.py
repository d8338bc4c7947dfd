"""Judge a checkpoint and, if it is found to be backdoored, repair it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnp_plugin.api.judge import DetectReport, detect_checkpoint
from mnp_plugin.api.repair import RepairReport, check_place, defense_of, repair_checkpoint
from mnp_plugin.contracts import Defense, Detector


@dataclass(frozen=True, eq=False, kw_only=True)
class CureReport:
    """A checkpoint judged and, perhaps, repaired.

    Args:
        found: the verdict.
        repaired: the repair; None unless the verdict is ``backdoored``.
    """

    found: DetectReport
    repaired: RepairReport | None

    @property
    def facts(self) -> dict[str, Any]:
        """JSON-ready: those of the verdict and, under ``repaired``, those of the repair or None."""
        return {**self.found.facts, "repaired": None if self.repaired is None else dict(self.repaired.facts)}


def detect_and_repair(
    checkpoint: Path | str,
    net: str,
    data: Path | str,
    *,
    detector: str | Detector = "mnp",
    settings: Sequence[str] = (),
    picture: Path | str | None = None,
    defense: str | Defense = "mnp",
    defense_settings: Sequence[str] = (),
    out: Path | str | None = None,
    force: bool = False,
    **common: Any,
) -> CureReport:
    """Judge as :func:`~mnp_plugin.detect_checkpoint` does and, where the verdict is ``backdoored``, repair as
    :func:`~mnp_plugin.repair_checkpoint` does. The perturbation that the detector found is then tried on the repaired net.

    Without a decision nothing is repaired: that is the detector's task here, and
    :func:`~mnp_plugin.repair_checkpoint` repairs without one.

    Args:
        checkpoint: as for both, and so ``net`` and ``data``.
        detector: as for the verdict, and so ``settings`` and ``picture``.
        defense: as for the repair, and so ``out`` and ``force``; checked before the net is judged.
        defense_settings: the defense's ``settings``.
        common: further arguments that both take: ``net_settings``, ``size``, ``normalise``, ``anyway``, ``validation``,
            ``recipe``, ``seed``, ``device``, ``progress``, and ``html``, a page: of the repair, if there is one.

    Raises:
        UserError: what is wrong, and how to put it right.
        MethodError: detector or defense failed.
    """
    method = defense_of(defense, defense_settings)
    check_place(Path(checkpoint), None if out is None else Path(out), force)
    found = detect_checkpoint(checkpoint, net, data, detector=detector, settings=settings, picture=picture, **common)
    repaired = None
    if found.word == "backdoored":
        repaired = repair_checkpoint(checkpoint, net, data, defense=method, out=out, force=force, verdict=found.verdict, **common)
    return CureReport(found=found, repaired=repaired)
