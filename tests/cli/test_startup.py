"""What a verb imports. torch takes seconds, and names, help and tables need none of it; seconds themselves are not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mnp_plugin.report.records import Record, Scores, to_json

HEAVY = ("torch", "torchvision", "torchmetrics", "sklearn", "scipy", "pandas", "PIL", "torch_pruning")

PROBE = """
import json, sys
from mnp_plugin.cli import main
try:
    status = main({arguments!r})
except SystemExit as end:
    status = end.code
print(json.dumps([status or 0, [name for name in {heavy!r} if name in sys.modules]]), file=sys.stderr)
"""


def imported(cwd: Path, *arguments: str) -> list[str]:
    code = PROBE.format(arguments=list(arguments), heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, check=True)
    status, names = json.loads(done.stderr.splitlines()[-1])
    assert status == 0, done.stderr
    return [str(name) for name in names]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["--print-completion", "bash"],
        *(
            [verb, "--help"]
            for verb in ("run", "plan", "report", "list", "describe", "check", "bridge", "purify", "detect", "anp")
        ),
        ["list"],
        ["list", "--json"],
        ["list", "nets"],
    ],
    ids=" ".join,
)
def test_names_and_help_import_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    assert imported(tmp_path, *arguments) == []


def test_a_report_needs_pandas_and_no_torch(tmp_path: Path) -> None:
    record = Record(
        cell="c", suite="s", dataset="d", net="n", attack="clean", defense="none", seed=0, status="ok",
        before=Scores(acc=0.9), after=Scores(acc=0.9), gate=0.8, clean_images=5,
    )  # fmt: skip
    folder = tmp_path / "results" / "s" / "records"
    folder.mkdir(parents=True)
    (folder / "one.json").write_text(to_json(record))
    assert "torch" not in imported(tmp_path, "report", "s")


@pytest.mark.parametrize("arguments", [["plan", "digits"], ["describe", "badnets"]], ids=" ".join)
def test_methods_are_imported_one_by_one_with_torch_and_nothing_else(arguments: list[str], tmp_path: Path) -> None:
    assert set(imported(tmp_path, *arguments)) <= {"torch", "PIL"}
