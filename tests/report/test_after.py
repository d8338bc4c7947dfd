"""Trials after the defense: what every table says of them, and how much it varies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from mnp_plugin import load_leaderboard, load_records
from mnp_plugin.report.build import build_tables
from mnp_plugin.report.page.data import suite_data
from mnp_plugin.report.page.render import render
from mnp_plugin.report.records import Record, Scores
from mnp_plugin.report.shown import shown
from mnp_plugin.report.trials import TrialRecord

Make = Callable[..., list[Record]]
Write = Callable[..., Path]


def tried(records: Sequence[Record], name: str = "retuned50") -> list[TrialRecord]:
    """A trial on every repaired net, after which the ASR differs by seed and draw."""
    return [
        TrialRecord(
            id=f"{i:08x}{len(name):08x}", cell=r.cell, suite=r.suite, attack=r.attack, defense=r.defense, seed=r.seed, trial=name,
            status="ok", after=Scores(acc=0.9, asr=round(0.5 + 0.1 * r.seed + 0.04 * r.draw, 2)),
        )
        for i, r in enumerate(records) if r.defense != "none"
    ]  # fmt: skip


def tables(folder: Path) -> tuple[str, str, str]:
    """Of the trials: Markdown, LaTeX, and what the page is given."""
    build_tables(folder)
    markdown = (folder / "leaderboard.md").read_text().partition("## After the defense")[2]
    latex = (folder / "leaderboard.tex").read_text().partition("After the defense")[2]
    return markdown, latex.partition(r"\end{table}")[0], str(suite_data(shown(folder))["groups"][0]["after"])


def test_means_over_attacks_have_the_spread_over_seeds(tmp_path: Path, make_records: Make, write_suite: Write) -> None:
    """By hand: each seed's mean over attacks, and the deviation of these."""
    records = make_records(3, seeds=(0, 1, 2))
    markdown, latex, page = tables(write_suite(tmp_path / "made", records, tried(records)))
    asr = [
        fmean(100 * r.after.asr for r in records if r.defense == "mnp" and r.seed == s and r.after and r.after.asr)
        for s in range(3)
    ]
    assert f"| mnp | 3 | {fmean(asr):.1f} ± {stdev(asr):.1f} | 60.0 ± 10.0 |" in markdown
    assert "what varies: victim seed, n = 3." in markdown
    assert r"60.0 {\scriptsize $\pm$ 10.0}" in latex
    assert "what varies: victim seed, n = 3." in latex
    assert "60.0, 10.0" in page
    assert "what varies: victim seed, n = 3." in page
    for text in (markdown, latex, page):
        assert "50 triggered ones" in text
        assert "recalibrated" not in text


def test_draws_of_one_victim_vary_and_single_runs_do_not(tmp_path: Path, make_records: Make, write_suite: Write) -> None:
    drawn, single = make_records(2, draws=(0, 1)), make_records(2)
    markdown, latex, page = tables(write_suite(tmp_path / "drawn", drawn, tried(drawn)))
    assert "52.0 ± 2.8" in markdown
    assert all("what varies: clean draw, one victim, n = 2." in text for text in (markdown, latex, page))
    markdown, latex, page = tables(write_suite(tmp_path / "single", single, tried(single)))
    assert "| 50.0 |" in markdown
    assert not any(sign in text for text in (markdown, latex, page) for sign in ("±", "pm", "varies:"))


@pytest.mark.parametrize(("key", "value", "attacks", "cell"), [("seed", 0, 2, "—"), ("attack", "attack00", 1, "60.0 ± 10.0")])
def test_a_trial_has_a_mean_over_the_runs_of_the_asr_beside_it_or_none(
    tmp_path: Path, make_records: Make, write_suite: Write, key: str, value: object, attacks: int, cell: str
) -> None:
    """Over other runs, it would say that the trial removed a backdoor."""
    records = make_records(2, seeds=(0, 1, 2))
    some = tried([r for r in records if getattr(r, key) != value])
    markdown, _, _ = tables(write_suite(tmp_path / "made", records, some))
    (row,) = [line for line in markdown.splitlines() if line.startswith("| mnp |")]
    assert row.startswith(f"| mnp | {attacks} |")
    assert row.endswith(f"| {cell} |")


def test_a_seed_whose_attack_failed_does_not_count(tmp_path: Path, make_records: Make, write_suite: Write) -> None:
    records = make_records(1, seeds=(0, 1, 2))
    records = [replace(r, before=Scores(acc=0.9, asr=0.1)) if r.seed == 2 else r for r in records]
    row = load_leaderboard(write_suite(tmp_path / "made", records, tried(records))).set_index("defense").loc["mnp"]
    assert row["asr_retuned50"] == pytest.approx(55)
    assert row["asr_retuned50_std"] == pytest.approx(10 / 2**0.5)


def test_csv_and_frames_have_them_and_oracle_choices_have_none(tmp_path: Path, make_records: Make, write_suite: Write) -> None:
    records = make_records(1, seeds=(0, 1))
    folder = write_suite(tmp_path / "made", records, [*tried(records, "finetuned"), *tried(records)])
    built = build_tables(folder)
    assert built.csv.read_text().partition("\n")[0].endswith(
        ",asr_finetuned,asr_finetuned_std,asr_retuned50,asr_retuned50_std"
    )  # fmt: skip
    runs, board = load_records(folder), load_leaderboard(folder)
    blind = runs[runs["selection"] == "blind"]
    assert blind["asr_finetuned"].tolist() == pytest.approx((50 + 10 * blind["seed"]).tolist())
    assert board.loc[board["selection"] != "blind", ["asr_finetuned", "asr_finetuned_std"]].isna().all(axis=None)


def test_several_budgets_are_not_averaged(tmp_path: Path, make_records: Make, write_suite: Write) -> None:
    records = [
        replace(r, cell=f"{r.cell[:-3]}{images}", clean_images=images, spec={**r.spec, "images": images})
        for images in (100, 200) for r in make_records(2)
    ]  # fmt: skip
    folder = write_suite(tmp_path / "made", records, tried(records))
    markdown, _, _ = tables(folder)
    assert "| mnp (digits, smallnet, 100 clean images) | 2 |" in markdown
    assert "| mnp (digits, smallnet, 200 clean images) | 2 |" in markdown
    assert (folder / "leaderboard.tex").read_text().count("After the defense") == 2


def test_the_page_shows_them(open_page: Callable[..., Any], tmp_path: Path, make_records: Make, write_suite: Write) -> None:
    records = make_records(2, seeds=(0, 1))
    found = shown(write_suite(tmp_path / "made", records, tried(records)))
    (tmp_path / "page.html").write_text(render(suite_data(found)))
    part = open_page(tmp_path / "page.html", width=360).locator("#after")
    assert part.locator("tbody tr").last.inner_text().split("\t")[-1] == "55.0 ± 7.1"
    assert "what varies: victim seed, n = 2." in part.inner_text()
