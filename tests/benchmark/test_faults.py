"""A grid that is killed again and again. ``experiments/faults/grid.py`` kills a hundred times and knows more faults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "experiments/faults/grid.py"


def test_a_grid_killed_at_random_moments_ends_as_one_left_alone(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(tmp_path / "faults"), "3", "0", "SIGKILL"]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "faults/figures.json").read_text())["SIGKILL"]
    assert figures.pop("grids") >= 1
    assert figures.pop("temporary files left") <= 1
    assert figures == {"kills": 3, "grids that differ": 0, "victims trained twice": 0, "half files": 0}
