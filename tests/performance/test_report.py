"""Tables and page of suites of two sizes: time should grow with the records, and no faster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mnp_plugin.report.build import build_tables
from mnp_plugin.report.records import Record, Scores
from mnp_plugin.report.texts import to_json


@pytest.mark.benchmark(group="a report")
@pytest.mark.parametrize("count", [250, 1000])
def test_records(benchmark: Any, tmp_path: Path, count: int) -> None:
    folder = tmp_path / "made"
    (folder / "records").mkdir(parents=True)
    before, after = Scores(acc=0.9, asr=1.0, ra=0.0), Scores(acc=0.88, asr=0.1, ra=0.8)
    for number in range(count):
        defense = ("none", "ft", "anp", "mnp", "fp")[number % 5]
        record = Record(
            cell=f"{number:016x}", suite="made", dataset="d", net="n", attack=f"attack{number // 50:02d}", defense=defense,
            seed=number // 5 % 10, status="ok", poison_ratio=0.1, before=before, after=before if defense == "none" else after,
            gate=0.8, clean_images=5, seconds=1.0,
        )  # fmt: skip
        (folder / "records" / f"{number}.json").write_text(to_json(record))
    benchmark.pedantic(build_tables, (folder,), rounds=3, warmup_rounds=1)
