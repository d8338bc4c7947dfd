"""Against a real BackdoorBench checkout: their command lines, our scripts, the same victim measured by both.

    BACKDOORBENCH_ROOT=~/BackdoorBench python -m pytest -m slow tests/integrations/backdoorbench/test_backdoorbench_checkout.py

The checkout is copied, never changed. ``BACKDOORBENCH_PYTHON`` names a Python that has BackdoorBench's packages and this one (the
running one by default). Some minutes of CPU: 500 training and 200 test images, of ``CIFAR10_ROOT`` (a class tree) or noise.
``experiments/backdoorbench_both_ways.py`` does the same at a size at which the figures mean something.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from backdoorbench_both_ways import Checkout

ROOT = os.environ.get("BACKDOORBENCH_ROOT", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ROOT, reason="BACKDOORBENCH_ROOT does not name a BackdoorBench checkout"),
]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    python = os.environ.get("BACKDOORBENCH_PYTHON", sys.executable)
    return Checkout(ROOT, tmp_path_factory.mktemp("theirs"), python=python, tree=os.environ.get("CIFAR10_ROOT", ""))


def test_their_attack_our_defense_by_their_command_line(checkout: Checkout) -> None:
    attacked = checkout.their_attack("theirs", epochs=2, batch=32, ratio=0.3)
    assert checkout.measured_here("theirs") == pytest.approx(attacked, abs=1e-12)
    assert checkout.our_defense("theirs", "none", "--ratio", "0.2") == pytest.approx(attacked, abs=1e-12)
    quick = ["--suppression_steps", "1", "--recover_steps", "1", "--steps", "2", "--restore_steps", "2", "--batch_size", "32"]
    assert 0 <= checkout.our_defense("theirs", "mnp", "--ratio", "0.2", *quick)[0] <= 1
    folder = checkout.root / "record/theirs/defense/mnp"
    assert len((folder / "log" / "index.txt").read_text().split()) == 100
    result = torch.load(folder / "defense_result.pt", weights_only=True)
    assert list(result) == ["model_name", "num_classes", "model"]
    assert len(result["model"]) == 102


def test_our_victim_their_anp_by_their_command_line(checkout: Checkout) -> None:
    exported = checkout.our_victim("ours", epochs=2, batch=32, ratio=0.3)
    assert checkout.measured_here("ours") == pytest.approx(exported, abs=1e-12)
    words = ["--ratio", "0.2", "--batch_size", "32", "--nb_iter", "2", "--print_every", "2", "--pruning_step", "0.9"]
    threshold, found = checkout.their_anp("ours", *words)[0]
    folder = checkout.root / "record/ours/defense/anp"
    assert len((folder / "checkpoint/mask_values.txt").read_text().splitlines()) == 1 + 3392
    assert threshold == 0
    if not _pruned_at_zero(folder):
        assert found == pytest.approx(exported, abs=1e-12)
    for defense in ("ft", "fp", "nad"):
        assert all(0 <= score <= 1 for score in checkout.their_defense("ours", defense))


def _pruned_at_zero(folder: Path) -> bool:
    rows = [line.split() for line in (folder / "checkpoint/mask_values.txt").read_text().splitlines()[1:]]
    return any(float(score) == 0 for *_, score in rows)
