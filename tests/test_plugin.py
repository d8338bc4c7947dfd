"""A third party's package, really installed with pip, runs through the benchmark."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SAMPLE = HERE / "sample_plugin"
PAGE = HERE.parent / "docs" / "extending" / "attack.md"

SUITE = """
dataset: digits
net: {name: smallnet, width: 4}
recipe: {epochs: 2, crop: 1, flip: false}
clean_budget: {images: 40}
gate: {asr: 0.0}
attacks: [corner]
defenses: [none, ft]
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sample package installed, for PYTHONPATH."""
    folder = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source") / "sample_plugin"
    shutil.copytree(SAMPLE, source)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--target", str(folder), str(source)], check=True, timeout=300)
    return folder


def started(site: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What Python said to ``words``, with the package installed in ``site``."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=cwd, env=environment, timeout=300, check=False
    )


@pytest.mark.thorough
def test_an_installed_attack_is_listed_passes_the_contract_and_runs_through_the_benchmark(site: Path, tmp_path: Path) -> None:
    """One process for all three: each would import torch anew."""
    (tmp_path / "mine.yaml").write_text(SUITE)
    code = """
from mnp_plugin.cli import main
for arguments in (["list"], ["check", "corner"], ["run", "mine.yaml", "--store", "store"]):
    assert main(arguments) == 0, arguments
"""
    done = started(site, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert "corner-attack 1.0" in done.stdout
    records = [json.loads(f.read_text()) for f in (tmp_path / "results/mine/records").glob("*.json")]
    assert sorted((r["attack"], r["defense"], r["status"]) for r in records) == [
        ("corner", "ft", "ok"),
        ("corner", "none", "ok"),
    ]
    assert all(r["spec"]["attack"]["size"] == 3 for r in records)


def test_a_broken_plugin_is_listed_and_stops_nothing(site: Path, tmp_path: Path) -> None:
    (site / "broken_plugin.py").write_text("raise RuntimeError('no licence file')\n")
    info = site / "broken_plugin-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[mnp_plugin]\nbroken = broken_plugin\n")
    listed = started(site, tmp_path, "-m", "mnp_plugin", "list")
    assert listed.returncode == 0
    assert "broken plugin 'broken'" in listed.stdout
    assert "RuntimeError: no licence file" in listed.stdout
    assert "corner-attack 1.0" in listed.stdout


def test_the_sample_is_short_and_the_documentation_shows_it() -> None:
    code, metadata = (SAMPLE / "corner_attack.py").read_text(), (SAMPLE / "pyproject.toml").read_text()
    assert len([line for line in (code + metadata).splitlines() if line.strip()]) <= 30
    text = PAGE.read_text()
    assert code.strip() in text
    assert metadata.strip() in text
