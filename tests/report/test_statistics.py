"""Intervals, ranks, comparisons and the tables for papers."""

from __future__ import annotations

import importlib
import math
import re
import shutil
import subprocess
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from statistics import fmean, stdev

import pandas as pd
import pytest
from scipy import stats

import mnp_plugin
from mnp_plugin.report import extra
from mnp_plugin.report.build import build_tables
from mnp_plugin.report.frames import runs
from mnp_plugin.report.latex import escape, to_latex
from mnp_plugin.report.leaderboard import leaderboard
from mnp_plugin.report.paired import comparisons
from mnp_plugin.report.ranks import block, groups, ranking
from mnp_plugin.report.records import Record, Scores
from mnp_plugin.report.spread import intervals, over_attacks, over_runs
from mnp_plugin.report.statistics import statistics
from mnp_plugin.report.summary import summarise

Make = Callable[..., list[Record]]
Write = Callable[[Path, Sequence[Record]], Path]


def test_the_interval_over_seeds_is_students_and_says_what_varies() -> None:
    found = over_runs([(0, 0, 90.0), (1, 0, 92.0), (2, 0, 97.0)])
    assert found is not None
    low, high = stats.t.interval(0.95, 2, loc=93.0, scale=stats.sem([90.0, 92.0, 97.0]))
    assert (found.mean, found.low, found.high) == pytest.approx((93.0, low, min(100.0, high)))
    assert found.high == 100.0, "a rate cannot leave 0 to 100"
    assert (found.n, found.varies) == (3, "victim seed")


def test_draws_of_one_victim_are_no_further_victims() -> None:
    two = over_runs([(0, 0, 10.0), (0, 1, 30.0), (1, 0, 50.0), (1, 1, 70.0)])
    one = over_runs([(0, 0, 10.0), (0, 1, 30.0)])
    assert two is not None
    assert one is not None
    assert (two.n, two.mean, two.varies) == (2, 40.0, "victim seed (draws averaged)")
    assert (one.n, one.varies) == (2, "clean draw, one victim")
    assert over_runs([(0, 0, 10.0)]) is None


def test_the_interval_over_attacks_holds_the_mean_and_needs_five() -> None:
    assert over_attacks([1.0, 2.0, 3.0, 4.0]) is None
    found = over_attacks([0.0, 1.0, 2.0, 3.0, 94.0])
    assert found is not None
    assert 0 <= found.low < found.mean == 20.0 < found.high <= 94
    assert found == over_attacks([94.0, 3.0, 2.0, 1.0, 0.0])


def test_intervals_leave_out_what_the_means_leave_out(make_records: Make) -> None:
    records = make_records(1, ("mnp",), seeds=(0, 1, 2))
    weak = replace(records[2], before=Scores(acc=0.9, asr=0.1, ra=0.8))  # its attack failed
    table = intervals(runs([*records[:2], weak]))
    assert set(table["n"]) == {2}
    row = table[table["score"] == "asr"].iloc[0]
    assert row["mean"] == pytest.approx(leaderboard([*records[:2], weak]).iloc[0]["asr"])


def test_mean_ranks_and_the_tests_by_hand(make_records: Make) -> None:
    found = ranking(leaderboard(make_records(8)))
    assert found is not None
    assert found.ranks == {"mnp": 1.0, "anp": 2.0, "ft": 3.0, "none": 4.0}
    assert found.p_value == pytest.approx(stats.chi2.sf(8 * 3, 3))  # of ranks that never differ: n (k - 1)
    assert found.difference == pytest.approx(2.569 * (4 * 5 / (6 * 8)) ** 0.5, abs=1e-3)  # q of four, Demšar's table 5
    assert found.groups == [(0, 1), (1, 2), (2, 3)]


def test_nemenyi_is_that_of_scikit_posthocs(make_records: Make) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it imports
        posthocs = importlib.import_module("scikit_posthocs")
    table = leaderboard(make_records(7, ("none", "ft", "anp", "mnp", "a", "b", "c")))
    found, scores = ranking(table), block(table)
    assert found is not None
    theirs = posthocs.posthoc_nemenyi_friedman(scores.to_numpy())
    place = {name: i for i, name in enumerate(scores.columns)}
    apart = {(a, b): abs(found.ranks[a] - found.ranks[b]) > found.difference for a in place for b in place}
    assert apart == {(a, b): theirs.iloc[place[a], place[b]] < 0.05 for a in place for b in place}
    assert set(apart.values()) == {True, False}


def test_a_defense_that_is_hardly_measured_does_not_cost_the_others_their_attacks(make_records: Make) -> None:
    records = [r for r in make_records(6, ("none", "ft", "anp", "mnp", "late")) if r.defense != "late" or r.attack == "attack00"]
    found = ranking(leaderboard([r for r in records if (r.defense, r.attack) != ("ft", "attack05")]))
    assert found is not None
    assert (found.left_out, found.dropped, found.attacks) == (["late"], ["attack05 0.05"], 5)


def test_groups_are_the_longest_that_do_not_differ() -> None:
    assert groups([1.0, 1.5, 3.0, 3.2], 1.0) == [(0, 1), (2, 3)]
    assert groups([1.0, 2.0, 3.0], 0.5) == []
    assert groups([1.0, 1.2, 1.4], 1.0) == [(0, 2)]


def test_mnp_against_every_other_defense(make_records: Make) -> None:
    table = leaderboard(make_records(8))
    found = {item.other: item for item in comparisons(table)}
    assert sorted(found) == ["anp", "ft", "none"]
    anp = found["anp"]
    assert (anp.one, anp.pairs, anp.better, anp.worse, anp.effect) == ("mnp", 8, 8, 0, 1.0)
    assert anp.p_value == pytest.approx(2 / 2**8)
    assert anp.p_holm == pytest.approx(3 * 2 / 2**8)
    assert [item.effect for item in comparisons(table, "none")] == [-1.0, -1.0, -1.0]
    assert comparisons(table, "absent") == []


@pytest.mark.parametrize("attacks", [4, 5])
def test_equal_differences_have_the_exact_p_value(make_records: Make, attacks: int) -> None:
    records = make_records(attacks, ("none", "mnp"))
    by = {"none": Scores(acc=0.9, asr=1.0), "mnp": Scores(acc=0.9, asr=0.5)}
    found = comparisons(leaderboard([replace(r, before=by["none"], after=by[r.defense]) for r in records]))
    assert found[0].p_value == pytest.approx(2 / 2**attacks)


def test_who_was_given_more_is_not_compared(make_records: Make) -> None:
    records = [replace(r, knowledge="training set" if r.defense == "mnp" else "") for r in make_records(3)]
    table = leaderboard(records)
    summary = summarise(table).set_index("defense")
    assert math.isnan(summary["rank"]["mnp"])
    assert summary[summary["selection"] != "oracle"]["rank"].drop("mnp").to_dict() == {"anp": 1.0, "ft": 2.0, "none": 3.0}
    assert [item.one for item in comparisons(table)] == ["anp", "anp"]
    text = latex(records)
    _, rows = summary_of(text)
    assert rows["mnp"][1] == "training set"
    assert not any("textbf" in cell for cell in rows["mnp"])
    assert any("textbf" in cell for cell in rows["anp"])
    asr = text.partition("ASR in percent")[2].partition(r"\end{table}")[0]
    assert r"mnp$^\ddagger$" in asr
    assert "more than clean images" in asr


def test_a_row_that_lacks_an_attack_is_neither_first_nor_marked(make_records: Make) -> None:
    """The best of those that it has, but it failed on the hardest."""
    records = [r for r in make_records(5) if (r.defense, r.attack) != ("mnp", "attack03")]
    table = leaderboard(records)
    assert list(summarise(table)["defense"])[-1] == "mnp"
    _, rows = summary_of(latex(records))
    assert not any("textbf" in cell or "underline" in cell for cell in rows["mnp"])
    assert any("textbf" in cell for cell in rows["anp"])
    (page,) = statistics(table)
    assert page.ranking is not None
    ranks = summarise(table).set_index(["defense", "selection"])["rank"]
    same = {name: ranks[name, "none" if name == "none" else "blind"] for name in page.ranking.ranks}
    assert page.ranking.ranks == pytest.approx(same), "the rank in the table of defenses is that in the statistics"


def test_equal_defenses_have_no_p_value(make_records: Make) -> None:
    records = make_records(6, ("none", "ft"))
    same = [replace(r, after=r.before) for r in records]
    (found,) = comparisons(leaderboard(same), "ft")
    assert (found.better, found.worse, found.p_value, found.effect) == (0, 0, None, None)


@pytest.mark.parametrize(
    ("attacks", "more", "caution"),
    [
        (8, {}, "One seed and one draw"),
        (8, {"draws": (0, 1)}, "say nothing of other victims"),
        (8, {"seeds": (0, 1)}, "2 seeds: intervals over so few are wide"),
        (3, {"seeds": range(5)}, "3 attacks: too few for intervals over attacks"),
        (5, {"seeds": range(5)}, "cannot reach p < 0.05"),
        (8, {"seeds": range(5)}, "rough approximation"),
        (8, {"defenses": ("none", "ft")}, "Ranks are not tested"),
    ],
)
def test_where_n_is_too_small_it_is_said(make_records: Make, attacks: int, more: dict[str, Sequence[int]], caution: str) -> None:
    (found,) = statistics(leaderboard(make_records(attacks, **more)))
    assert any(caution in sentence for sentence in found.cautions), found.cautions


def test_enough_attacks_and_seeds_need_no_caution(make_records: Make) -> None:
    (found,) = statistics(leaderboard(make_records(12, seeds=range(5))))
    assert found.cautions == []


def test_the_worst_case_stands_beside_the_mean(make_records: Make) -> None:
    (found,) = statistics(leaderboard(make_records(8)))
    mnp = next(item for item in found.overall if item.row["defense"] == "mnp")
    value, attack = mnp.worst["asr"]
    assert value >= mnp.row["asr"]
    assert re.fullmatch(r"attack0\d 0\.05", attack)


# ------------------------------------------------------------------------------------------------------------------ latex


def latex(records: Sequence[Record], name: str = "made") -> str:
    return to_latex(leaderboard(records), name, runs(records))


def summary_of(text: str) -> tuple[str, dict[str, list[str]]]:
    """Caption, and cells by defense, of the first table: that of defenses."""
    table = text.partition(r"\end{table}")[0]
    rows = [line.removesuffix(r" \\").split(" & ") for line in table.splitlines() if line.endswith(r"\\")]
    return table.partition(r"\label")[0], {row[0]: row for row in rows}


def test_means_over_attacks_have_the_spread_over_seeds(make_records: Make) -> None:
    """By hand: each seed's mean over attacks, and the deviation of these."""
    records = make_records(3, seeds=(0, 1, 2))
    caption, rows = summary_of(latex(records))
    assert "what varies: victim seed, n = 3." in caption
    means = [fmean(100 * r.after.acc for r in records if r.defense == "mnp" and r.seed == s and r.after) for s in range(3)]
    cells = dict(zip(rows["defense"], rows["mnp"], strict=True))
    assert cells["ACC"] == rf"{fmean(means):.1f} {{\scriptsize $\pm$ {stdev(means):.1f}}}"
    assert all(r"$\pm$" in cells[name] for name in ("ASR", "RA", "DER"))
    assert not any("pm" in cells[name] for name in ("attacks", "worst ASR", "rank", "seconds"))
    assert cells["ASR"].startswith(r"\textbf{")
    assert rows["anp"][3].startswith(r"\underline{")
    mean = next(line for line in latex(records).splitlines() if line.startswith("mean & "))
    assert cells["ACC"] in mean, "the mean of a matrix has it, too"


def test_draws_of_one_victim_vary_by_themselves_and_those_of_several_are_averaged(make_records: Make) -> None:
    assert "what varies: clean draw, one victim, n = 4." in summary_of(latex(make_records(3, draws=range(4))))[0]
    both = latex(make_records(3, seeds=(0, 1), draws=range(4)))
    assert "what varies: victim seed (draws averaged), n = 2." in summary_of(both)[0]
    assert "what varies: victim seed (n = 2) and clean draw (n = 4). Mean" in both
    once = [r for r in make_records(3, seeds=(0, 1), draws=range(4)) if r.defense != "none" or not r.draw]
    assert "what varies: victim seed (draws averaged), n = 2." in summary_of(latex(once))[0]


def test_no_spread_is_made_up(make_records: Make) -> None:
    single = latex(make_records(3))
    assert "pm" not in single
    assert "±" not in single
    assert "varies" not in single
    caption, rows = summary_of(latex([r for r in make_records(3, seeds=(0, 1)) if (r.attack, r.seed) != ("attack00", 1)]))
    assert r"No $\pm$: attacks were run with different seeds." in caption
    assert not any("pm" in cell for row in rows.values() for cell in row)
    some = [r for r in make_records(3, seeds=(0, 1)) if (r.attack, r.seed, r.defense) != ("attack00", 1, "ft")]
    caption, rows = summary_of(latex(some))
    assert "n = 2; without one: attacks were run with different seeds." in caption
    assert "pm" in rows["mnp"][2]
    assert "pm" not in rows["ft"][2]


def test_markdown_has_the_same_spread_whatever_the_names(tmp_path: Path, make_records: Make, write_suite: Write) -> None:
    for name in ("ft", "f[t]"):
        records = [replace(r, defense=name if r.defense == "ft" else r.defense) for r in make_records(3, seeds=(0, 1))]
        folder = write_suite(tmp_path / name[:2], records)
        build_tables(folder)
        text = (folder / "leaderboard.md").read_text()
        assert "±: standard deviation of the mean over attacks; what varies: victim seed, n = 2." in text
        row = re.compile(r"\| f\\?\[?t\\?\]? \| blind \| 3 \| \d\d\.\d ± \d\.\d \|")
        assert row.search(text)
        assert "±: standard deviation over the runs of a cell; what varies: victim seed (n = 2)." in text
        statistics_md = (folder / "statistics.md").read_text()
        assert row.search(statistics_md), "too few attacks for an interval"
        assert "what varies: victim seed, n = 2." in statistics_md


def test_tables_for_papers_are_whole_and_mark_best_and_second(make_records: Make) -> None:
    text = latex(make_records(3, seeds=(0, 1)), "made_up")
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == text.count(r"\bottomrule") == 5
    for align, body in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert {row.count(" & ") for row in rows} == {len(align) - 1}
    asr = text.partition("ASR in percent")[2].partition(r"\end{table}")[0]
    row = next(line for line in asr.splitlines() if line.startswith("attack00"))
    _, none, anp, oracle, ft, mnp = row.removesuffix(r" \\").split(" & ")
    assert re.fullmatch(r"\\textbf\{\d+\.\d \{\\scriptsize \$\\pm\$ \d+\.\d\}\}", mnp)
    assert re.fullmatch(r"\\underline\{.*\}", anp)
    assert not any("text" in cell or "under" in cell for cell in (none, ft, oracle))


def test_a_table_wider_than_the_text_is_shrunk_to_it(make_records: Make) -> None:
    one_seed, seeds = (latex(make_records(3, seeds=s)) for s in ((0,), (0, 1)))
    assert "resizebox" in seeds.partition("Defenses, means")[2].partition(r"\end{table}")[0]
    assert "resizebox" not in one_seed.partition("ASR in percent")[2]
    for text in (one_seed, seeds):
        assert text.count("{") == text.count("}")
        assert text.count(r"\resizebox{\linewidth}{!}{%") == text.count(r"\end{tabular}}")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex: apt-get install texlive-latex-recommended")
def test_latex_sets_every_table_within_the_text(make_records: Make, tmp_path: Path) -> None:
    many = make_records(3, [f"d_{i}" for i in range(12)], seeds=(0, 1))
    odd = [replace(record, attack=f"größe=1_{record.attack}") for record in make_records(3)]
    tables = [latex(records, "a_b & c") for records in (many, odd)]
    head = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}"
    (tmp_path / "paper.tex").write_text("\n".join([head, *tables, r"\end{document}"]))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).stdout.decode(errors="replace")
    assert "Output written on paper.pdf" in said
    assert "Overfull" not in said


def test_latex_says_which_cells_do_not_count_and_what_the_mean_is_over(make_records: Make) -> None:
    records = make_records(3, seeds=(0, 1))
    failed = Scores(acc=0.9, asr=0.1, ra=0.8)  # attack00, seed 1
    records = [replace(r, before=failed) if (r.attack, r.seed) == ("attack00", 1) else r for r in records]
    asr = latex(records).partition("ASR in percent")[2].partition(r"\end{table}")[0]
    caption, _, rows = asr.partition(r"\label")
    assert "Mean: over 2 attacks that took." in caption
    assert "The attack failed on some or all victims" in caption
    marked = [line for line in rows.splitlines() if "dagger" in line]
    assert [line.partition(" ")[0] for line in marked] == ["attack00"]
    assert marked[0].count("dagger") == 5
    assert "dagger" not in latex(make_records(3))


def test_names_are_no_markdown(tmp_path: Path, make_records: Make, write_suite: Write) -> None:
    evil = "<img src=x onerror=alert(1)>|`a`[b](javascript:c)\n# d *e*"
    records = [replace(r, defense=evil if r.defense == "ft" else r.defense) for r in make_records(6, seeds=(0, 1))]
    records[-1] = replace(records[-1], status="failed", reason=evil, after=None)
    folder = write_suite(tmp_path / "made", records)
    build_tables(folder, figures=False)
    for name in ("leaderboard.md", "statistics.md"):
        text = (folder / name).read_text()
        assert r"&lt;img src=x onerror=alert(1)&gt;\|\`a\`\[b\](javascript:c) # d \*e\*" in text
        assert "<img" not in text


def test_few_seeds_of_attacks_are_named_though_a_clean_net_has_many(make_records: Make) -> None:
    clean = [replace(r, attack="clean", poison_ratio=None) for r in make_records(1, seeds=tuple(range(9)))]
    (found,) = statistics(leaderboard([*clean, *make_records(5, seeds=(0, 1))]))
    assert any(caution.startswith("2 seeds: ") for caution in found.cautions)


def test_a_suite_without_a_defense_is_not_told_that_its_ranks_are_not_tested(make_records: Make) -> None:
    (found,) = statistics(leaderboard(make_records(6, ("none",), seeds=range(5))))
    assert found.cautions == []


def test_attacks_that_failed_are_not_counted_as_enough(make_records: Make) -> None:
    weak = Scores(acc=0.9, asr=0.1, ra=0.8)
    records = [replace(r, before=weak) if r.attack == "attack00" else r for r in make_records(5)]
    (found,) = statistics(leaderboard(records))
    assert "4 attacks: too few for intervals over attacks (at least 5)." in found.cautions


def test_a_negative_number_has_a_minus_and_a_name_its_hyphen(make_records: Make) -> None:
    clean = [replace(r, attack="clean", poison_ratio=None) for r in make_records(1, ("none", "mnp-x"))]
    assert clean[1].before is not None
    clean[1] = replace(clean[1], after=replace(clean[1].before, acc=clean[1].before.acc - 0.02))
    text = latex([*clean, *make_records(2, ("none", "mnp-x"))])
    assert re.search(r"mnp-x .*\\textbf\{\$-\$2\.0\}|mnp-x .* \$-\$2\.0 ", text)


def test_nothing_in_a_name_is_a_command() -> None:
    assert escape(r"a_b & \input{x} 5 % $^~#") == (
        r"a\_b \& \textbackslash{}input\{x\} 5 \% \$\textasciicircum{}\textasciitilde{}\#"
    )
    assert escape("one\ntwo") == "one two"


# ------------------------------------------------------------------------------------------------------------------ files


def test_a_report_writes_them_and_again_the_same_bytes(tmp_path: Path, make_records: Make, write_suite: Write) -> None:
    folder = write_suite(tmp_path / "made", make_records(6, seeds=(0, 1)))
    names = ("leaderboard.tex", "intervals.csv", "statistics.md")
    build_tables(folder)
    first = {name: (folder / name).read_bytes() for name in names}
    build_tables(folder)
    assert {name: (folder / name).read_bytes() for name in names} == first
    text = first["statistics.md"].decode()
    assert "| mnp against |" in text
    assert "Critical difference (Nemenyi, 5 %)" in text
    table = pd.read_csv(folder / "intervals.csv")
    assert set(table["varies"]) == {"victim seed"}


def test_without_the_extra_csv_md_and_tex_are_written(
    tmp_path: Path, make_records: Make, write_suite: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_suite(tmp_path / "made", make_records(6))
    found: Callable[[str], ModuleSpec | None] = extra.find_spec
    monkeypatch.setattr(extra, "find_spec", lambda name: None if name == "matplotlib" else found(name))
    built = build_tables(folder)
    assert built.hint == (
        "pip install 'mnp_plugin[report]' adds statistics, figures and the page index.html (not installed: matplotlib)"
    )
    assert {path.name for path in folder.iterdir()} == {
        "records", "suite.json", "leaderboard.csv", "leaderboard.md", "leaderboard.tex",
    }  # fmt: skip


def test_records_and_leaderboard_are_data_frames(tmp_path: Path, make_records: Make, write_suite: Write) -> None:
    folder = write_suite(tmp_path / "made", make_records(2, seeds=(0, 1)))
    table = mnp_plugin.load_records(folder)
    assert len(table) == 2 * 2 * (4 + 1), "a row more for every oracle choice"
    assert set(table["selection"]) == {"none", "blind", "oracle"}
    blind = table[(table["defense"] == "mnp") & (table["attack"] == "attack00")]
    board = mnp_plugin.load_leaderboard(str(folder))
    row = board[(board["defense"] == "mnp") & (board["attack"] == "attack00")].iloc[0]
    assert blind["asr"].mean() == pytest.approx(row["asr"])
    assert set(table["picture"]) == {""}, "nothing was stored beside these"
    (damaged, *_) = sorted((folder / "records").iterdir())
    damaged.write_text(damaged.read_text().replace('"seed": 0', '"seed": 9'))
    with pytest.warns(UserWarning, match=damaged.name):
        assert len(mnp_plugin.load_records(folder)) == len(table) - 2 + ("none" in damaged.name or "ft" in damaged.name)
