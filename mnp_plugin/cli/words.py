"""Costs in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnp_plugin.benchmark.outlook import duration, in_words

if TYPE_CHECKING:
    from mnp_plugin.benchmark.outlook import Cost

CALLED = {"repaired": "repaired nets", "training_sets": "training sets"}


def outlook(cost: Cost, workers: int = 1) -> str:
    """One sentence: how many jobs are left, how long they take and what they keep."""
    if not cost.jobs:
        return "nothing left to do"
    jobs = ", ".join(f"{count} {CALLED.get(kind, kind)[: None if count > 1 else -1]}" for kind, count in cost.jobs.items())
    at_once = f"{workers} at once" if workers > 1 else "one at a time"
    time = f"about {duration(cost.seconds / workers)}, {at_once}" if cost.seconds else "time unknown"
    if cost.no_time and cost.seconds:
        time += f", and {cost.no_time} jobs unlike any done before"
    size = f"about {in_words(cost.bytes)} kept"
    if cost.no_size:
        size += f", and {cost.no_size} files of unknown size"
    return f"left: {jobs}; {time}; {size}"
