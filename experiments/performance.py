"""Tables of ``make bench``: each row beside the others of its group, as ratios of their fastest rounds.

    python experiments/performance.py build/performance.json > build/performance.md

The fastest of a few rounds is what a busy machine spoils least.
"""

from __future__ import annotations

import json
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import torch


def name_of(row: dict[str, Any]) -> str:
    """``test_ours[wanet]`` -> ``ours, wanet``."""
    name, _, case = str(row["name"]).removeprefix("test_").removesuffix("]").partition("[")
    return ", ".join(part for part in (name.replace("_", " "), case) if part)


def lines(run: dict[str, Any]) -> list[str]:
    """Markdown."""
    machine = run["machine_info"]
    cpu = machine["cpu"]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{cpu['brand_raw']}, {cpu['count']} cores, no GPU"
    found = [
        "# Speed, side by side",
        "",
        f"{device}; one thread; Python {machine['python_version']}, torch {torch.__version__}. Ratios of the fastest rounds.",
        "",
    ]
    rows = sorted(run["benchmarks"], key=lambda row: (row["group"], row["stats"]["min"]))
    for group, part in groupby(rows, key=lambda row: row["group"]):
        members = list(part)
        least = members[0]["stats"]["min"]
        found += [f"| {group} | times the fastest |", "|---|---|"]
        found += [f"| {name_of(row)} | {row['stats']['min'] / least:.2f} |" for row in members]
        found.append("")
    return found


if __name__ == "__main__":
    print("\n".join(lines(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))
