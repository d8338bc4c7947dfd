"""The embedded default reaches the gates that the README claims; trains fourteen victims, some minutes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mnp_plugin.benchmark.runner import Runner
from mnp_plugin.benchmark.store import Store
from mnp_plugin.benchmark.suite_file import load_suite

CONFIG = Path(__file__).parents[2] / "benchmark_configs" / "digits.yaml"


@pytest.mark.slow
def test_every_attack_of_the_default_suite_takes(tmp_path: Path) -> None:
    suite = load_suite(CONFIG)
    only_victims = replace(suite, defenses=tuple(d for d in suite.defenses if d.label == "none"))
    store = Store(tmp_path / "store", tmp_path / "results")
    Runner(only_victims, store, torch.device("cpu")).run()
    for cell in only_victims.cells():
        record = store.load_record(suite.name, cell)
        assert record is not None
        assert record.before is not None
        assert record.before.acc >= 0.97, record.attack
        if record.attack != "clean":
            assert record.before.asr is not None
            assert record.before.asr >= (0.8 if record.attack in ("sig", "lc") else 0.9), record.attack
