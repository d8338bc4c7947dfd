"""What the report of a repair comes to, in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LEFT = 0.1
"""Share of triggered images still sent to the target above which a repair is said to have failed."""


def repair_verdict(facts: Mapping[str, Any]) -> tuple[str, bool]:
    """(the sentence, whether it says that the repair failed), from the facts of a ``RepairReport``; empty where nothing is said.

    Triggered images count most, then the perturbation that a detector found; without either, what the defense says of itself.
    """
    sent = (facts.get("triggered") or {}).get("sent to target")
    probed = (facts.get("perturbation") or {}).get("sent there")
    if sent is not None and sent["after"] > LEFT:
        return f"the backdoor is still there: {100 * sent['after']:.1f} % of the triggered images go to the target", True
    if probed is not None and probed["after"] > max(0.5, probed["before"] / 2):
        return f"not repaired: the detector's perturbation still sends {100 * probed['after']:.1f} % of the images there", True
    return facts.get("verdict") or "", False
