"""Which score made of what ``reach.py`` measured tells attacked calibration nets from clean ones? AUROC and target hits.

    python experiments/detection/candidates.py

Reads ``reach.jsonl``, prints a line per candidate. Nets whose attack failed are left out. Nothing here has seen a test net.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mnp_plugin.report.detection import auroc

Row = dict[str, Any]


def contrast(row: Row, eps: str) -> list[float]:
    """Mean over the searches of what the net gives each class beyond the copy."""
    searches = row["disagree"][eps]
    return [statistics.fmean(net[c] - copy[c] for net, copy in searches) for c in range(10)]


def difference(row: Row, kind: str = "") -> list[float]:
    """How much further each class reaches in the net than in the copy."""
    return [a - b for a, b in zip(row["margin"][f"net{kind}"], row["margin"][f"own{kind}"], strict=True)]


def lost(row: Row, kind: str = "") -> list[float]:
    """How much of the reach the copy does not follow on the very same images."""
    return [a - b for a, b in zip(row["margin"][f"net{kind}"], row["margin"][f"moved{kind}"], strict=True)]


def over(values: list[float], scale: float) -> list[float]:
    return [v / max(scale, 1e-6) for v in values]


def robust(values: list[float]) -> list[float]:
    """Distance from the median of the classes in its deviations."""
    middle = statistics.median(values)
    spread = 1.4826 * statistics.median(abs(v - middle) for v in values)
    return [(v - middle) / max(spread, 1e-6) for v in values]


def beyond(values: list[float]) -> list[float]:
    """Distance from the median of the classes."""
    middle = statistics.median(values)
    return [v - middle for v in values]


def usual(row: Row) -> float:
    """Reach of the middle class of the copy."""
    return statistics.median(row["margin"]["own"])


def joined(values: list[float], contrasts: list[float]) -> list[float]:
    return [a * (1 + max(b, 0)) for a, b in zip(values, contrasts, strict=True)]


CANDIDATES: dict[str, Callable[[Row], list[float]]] = {
    "reach of the net": lambda r: r["margin"]["net"],
    "reach of the net, mean of starts": lambda r: r["margin"]["net mean"],
    "reach of the net, beyond the median": lambda r: beyond(r["margin"]["net"]),
    "reach of the net, over the copy's median": lambda r: over(r["margin"]["net"], usual(r)),
    "net - copy": difference,
    "net - copy, mean of starts": lambda r: difference(r, " mean"),
    "net - copy, beyond the median": lambda r: beyond(difference(r)),
    "net - copy, robust": lambda r: robust(difference(r)),
    "net - copy, over the copy's median": lambda r: over(difference(r), usual(r)),
    "net - copy, beyond the median, over the copy's median": lambda r: over(beyond(difference(r)), usual(r)),
    "net - copy, mean of starts, beyond the median": lambda r: beyond(difference(r, " mean")),
    "log(net / copy)": lambda r: [
        math.log(max(a, 1) / max(b, 1)) for a, b in zip(r["margin"]["net"], r["margin"]["own"], strict=True)
    ],
    "net - copy on the net's images": lost,
    "the same, beyond the median": lambda r: beyond(lost(r)),
    "the same, robust": lambda r: robust(lost(r)),
    "the same, over the copy's median": lambda r: over(lost(r), usual(r)),
    "net - copy on the net's images, mean of starts": lambda r: lost(r, " mean"),
    "net - copy on the net's images x (1 + disagreement 0.15)": lambda r: joined(lost(r), contrast(r, "0.15")),
    "net - copy on the net's images x (1 + disagreement 0.3)": lambda r: joined(lost(r), contrast(r, "0.30")),
    "net - copy on the net's images + reach": lambda r: [a + b for a, b in zip(r["margin"]["net"], lost(r), strict=True)],
    "root of reach x (net - copy on the net's images)": lambda r: [
        math.sqrt(max(a, 0) * max(b, 0)) for a, b in zip(r["margin"]["net"], lost(r), strict=True)
    ],
    "disagreement, 0.15": lambda r: contrast(r, "0.15"),
    "disagreement, 0.3": lambda r: contrast(r, "0.30"),
    "reach of the net + net - copy": lambda r: [a + b for a, b in zip(r["margin"]["net"], difference(r), strict=True)],
    "reach of the net + net - copy, beyond the median": lambda r: beyond(
        [a + b for a, b in zip(r["margin"]["net"], difference(r), strict=True)]
    ),
    "reach beyond the median x (1 + disagreement 0.15)": lambda r: [
        a * (1 + 2 * max(b, 0)) for a, b in zip(beyond(r["margin"]["net"]), contrast(r, "0.15"), strict=True)
    ],
}


def main() -> None:
    """A line per candidate, best first."""
    text = Path(__file__).with_name("reach.jsonl").read_text(encoding="utf-8")
    rows = [row for row in map(json.loads, text.splitlines()) if row["asr"] is None or row["asr"] >= 0.8]
    clean, bad = ([row for row in rows if (row["target"] is None) == healthy] for healthy in (True, False))
    print(f"{len(clean)} clean, {len(bad)} attacked")
    found = []
    for name, of in CANDIDATES.items():
        hits = sum(max(range(10), key=of(row).__getitem__) == row["target"] for row in bad)
        found.append((auroc([max(of(r)) for r in clean], [max(of(r)) for r in bad]), hits, name))
    for area, hits, name in sorted(found, reverse=True):
        print(f"{area:.3f}  {hits:2} of {len(bad)}  {name}")


if __name__ == "__main__":
    main()
