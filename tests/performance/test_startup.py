"""Answers of the command line beside Python's own start and the import of torch, which none of them needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PLAIN = [sys.executable, "-c", "pass"]
TORCH = [sys.executable, "-c", "import torch"]
OURS = [sys.executable, "-m", "mnp_plugin"]


@pytest.mark.benchmark(group="start-up")
@pytest.mark.parametrize(
    "command",
    [PLAIN, TORCH, [*OURS, "--help"], [*OURS, "list"], [*OURS, "describe", "mnp"], [*OURS, "plan", "digits"]],
    ids=["python", "import torch", "--help", "list", "describe mnp", "plan digits"],
)
def test_answer(benchmark: Any, command: list[str], tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}  # compiled once, as where the package is installed

    def answer() -> None:
        subprocess.run(command, check=True, capture_output=True, cwd=tmp_path, env=environment)

    benchmark.pedantic(answer, rounds=3, warmup_rounds=1)
