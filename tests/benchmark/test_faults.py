"""A grid that is killed again and again. ``experiments/faults/grid.py`` kills a hundred times and knows more faults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "experiments/faults/grid.py"
SUITE = """
suite: faults
dataset: {name: digits, size: 8}
net: {name: smallnet, width: 4}
recipe: {epochs: 4, batch_size: 256, lr: 0.1, crop: 1, flip: false, precision: float32}
clean_budget: {images: 40}
attacks: [clean, badnets, {name: trojannn, steps: 20}]
defenses: [none, {name: ft, epochs: 1}, {name: anp, iterations: 4}]
"""
"""That of the script, briefer."""


@pytest.mark.thorough
def test_a_grid_killed_at_random_moments_ends_as_one_left_alone(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(tmp_path / "faults"), "3", "0", "SIGKILL", SUITE]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "faults/figures.json").read_text())["SIGKILL"]
    assert figures.pop("grids") >= 1
    assert figures.pop("temporary files left") <= 1
    assert figures == {"kills": 3, "grids that differ": 0, "victims trained twice": 0, "half files": 0}
