"""Which score made of what ``reach.py`` and ``ascents.py`` measured tells attacked calibration nets from clean ones?

    python experiments/detection/candidates.py

A line per candidate, best first: AUROC; in how many attacked nets the class of the largest evidence is the target; the largest
score of a clean net and the smallest of an attacked one. Nets whose attack failed are left out. No test net has been seen here.
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
Evidence = Callable[[Row], list[float]]
CLASSES = range(10)
HERE = Path(__file__).parent


def contrast(row: Row, eps: str) -> list[float]:
    """Mean over the searches of what the net gives each class beyond the copy."""
    searches = row["disagree"][eps]
    return [max(0.0, statistics.fmean(net[c] - copy[c] for net, copy in searches)) for c in CLASSES]


def beyond(values: list[float]) -> list[float]:
    """Distance from the median of the classes."""
    middle = statistics.median(values)
    return [v - middle for v in values]


def robust(values: list[float]) -> list[float]:
    """The same in robust deviations."""
    far = beyond(values)
    spread = 1.4826 * statistics.median(map(abs, far))
    return [v / max(spread, 1e-6) for v in far]


def less(a: list[float], b: list[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def plus(a: list[float], b: list[float]) -> list[float]:
    return [x + y for x, y in zip(a, b, strict=True)]


def times(a: list[float], b: list[float]) -> list[float]:
    """a x (1 + b)."""
    return [x * (1 + y) for x, y in zip(a, b, strict=True)]


def candidates() -> dict[str, Evidence]:
    """By name: evidence of each class."""
    found: dict[str, Evidence] = {
        "disagreement, radius 0.15": lambda r: contrast(r, "0.15"),
        "disagreement, radius 0.3": lambda r: contrast(r, "0.30"),
        "signs: reach of the net - reach of the copy": lambda r: less(r["margin"]["net"], r["margin"]["own"]),
        "signs: log(reach of the net / reach of the copy)": lambda r: [
            math.log(max(a, 1) / max(b, 1)) for a, b in zip(r["margin"]["net"], r["margin"]["own"], strict=True)
        ],
    }
    for ascent in ("plain", "short", "images", "signs"):
        for number, which in enumerate(("largest", "mean")):

            def reach(r: Row, a: str = ascent, n: int = number) -> list[float]:
                return r[a]["net"][n]  # type: ignore[no-any-return]

            def lost(r: Row, a: str = ascent, n: int = number) -> list[float]:
                return less(r[a]["net"][n], r[a]["copy"][n])

            def both(r: Row, reach: Evidence = reach, lost: Evidence = lost) -> list[float]:
                return plus(reach(r), lost(r))

            name = f"{ascent}, {which}:"
            found[f"{name} reach"] = reach
            found[f"{name} lost"] = lost
            found[f"{name} reach + lost"] = both
            found[f"{name} (reach + lost) x (1 + disagreement)"] = lambda r, of=both: times(of(r), contrast(r, "0.15"))  # type: ignore[misc]
            found[f"{name} reach x (1 + disagreement)"] = lambda r, of=reach: times(of(r), contrast(r, "0.15"))  # type: ignore[misc]
            found[f"{name} lost x (1 + disagreement)"] = lambda r, of=lost: times(of(r), contrast(r, "0.15"))  # type: ignore[misc]
            found[f"{name} reach, beyond the median"] = lambda r, of=reach: beyond(of(r))  # type: ignore[misc]
            found[f"{name} reach + lost, beyond the median"] = lambda r, of=both: beyond(of(r))  # type: ignore[misc]
            found[f"{name} reach, robust"] = lambda r, of=reach: robust(of(r))  # type: ignore[misc]
            found[f"{name} reach + lost, robust"] = lambda r, of=both: robust(of(r))  # type: ignore[misc]
    return found


def main() -> None:
    """A line per candidate."""
    rows: dict[str, Row] = {}
    for name in ("reach.jsonl", "ascents.jsonl"):
        for line in (HERE / name).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            rows[row["net"]] = {**rows.get(row["net"], {}), **row}
    known = [row for row in rows.values() if "images" in row and (row["asr"] is None or row["asr"] >= 0.8)]
    clean, bad = ([row for row in known if (row["target"] is None) == healthy] for healthy in (True, False))
    print(f"{len(clean)} clean, {len(bad)} attacked")
    found = []
    for name, of in candidates().items():
        hits = sum(max(CLASSES, key=of(row).__getitem__) == row["target"] for row in bad)
        scores = [[max(of(row)) for row in part] for part in (clean, bad)]
        found.append((auroc(*scores), hits, name, max(scores[0]), min(scores[1])))
    for area, hits, name, high, low in sorted(found, reverse=True):
        print(f"{area:.3f}  {hits:2} of {len(bad)}  {name:50}  {high:7.2f} {low:7.2f}")


if __name__ == "__main__":
    main()
