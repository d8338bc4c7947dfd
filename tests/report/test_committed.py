"""The committed pages and tables are those of the committed records."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mnp_plugin.report.build import build_tables

RESULTS = Path(__file__).parents[2] / "results"
SUITES = sorted(folder.parent.name for folder in RESULTS.glob("*/records") if folder.parent.name != "digits")
MADE = ("*.csv", "*.md", "*.tex", "index.html")
"""Figures are left out: another version of matplotlib draws other bytes."""


@pytest.mark.parametrize("suite", SUITES)
def test_a_report_changes_no_committed_file(suite: str, tmp_path: Path) -> None:
    ours = RESULTS / suite
    shutil.copytree(ours, tmp_path / suite, ignore=shutil.ignore_patterns("figures"))
    for path in [path for kind in MADE for path in (tmp_path / suite).glob(kind)]:
        path.unlink()
    build_tables(tmp_path / suite)
    again = {path.name: path.read_bytes() for kind in MADE for path in (tmp_path / suite).glob(kind)}
    assert again == {path.name: path.read_bytes() for kind in MADE for path in ours.glob(kind)}
    assert len(again["index.html"]) < 6_000_000


def test_published_figures_stand_beside_those_of_a_suite_on_its_page() -> None:
    page = (RESULTS / "cifar10_cpu" / "index.html").read_text(encoding="utf-8")
    assert "Another net: preactresnet18 there, resnet18 here" in page


def test_every_suite_has_its_page() -> None:
    assert len(SUITES) >= 7
    for suite in (*SUITES, "demo"):
        assert (RESULTS / suite / "index.html").is_file()
