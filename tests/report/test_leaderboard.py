from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mnp_plugin.core.errors import UserError
from mnp_plugin.report.build import build_tables
from mnp_plugin.report.leaderboard import COLUMNS, leaderboard, to_csv, to_markdown
from mnp_plugin.report.planned import Found, read_records
from mnp_plugin.report.records import Record, Scores
from mnp_plugin.report.stamp import stamp
from mnp_plugin.report.summary import summarise
from mnp_plugin.report.texts import sealed, to_json

ISSUE = (
    "dataset,net,attack,poison_ratio,clean_images,defense,selection,seeds,"
    "acc,asr,ra,der,acc_before,asr_before,seconds,peak_mb,flag"
)

Triple = tuple[float, float | None, float | None]


def scores(values: Triple | None) -> Scores | None:
    return None if values is None else Scores(acc=values[0], asr=values[1], ra=values[2])


def make(
    attack: str,
    defense: str,
    before: Triple | None,
    after: Triple | None,
    seed: int = 0,
    oracle: Triple | None = None,
    **more: Any,
) -> Record:
    facts: dict[str, Any] = {
        "cell": f"{attack}.{defense}.{seed}",
        "suite": "golden",
        "dataset": "digits",
        "net": "smallnet",
        "status": "ok",
        "poison_ratio": None if attack == "clean" else 0.05 if attack == "wanet" else 0.1,
        "clean_images": 100,
        "clean_source": "held-out",
        "gate": 0.8,
        "seconds": 2.0 + seed,
        "peak_mb": 512.0,
    }
    return Record(
        attack=attack,
        defense=defense,
        seed=seed,
        before=scores(before),
        after=scores(after),
        oracle=scores(oracle),
        **facts | more,
    )


CLEAN: Triple = (0.98, None, None)
BAD0: Triple = (0.97, 1.0, 0.0)
BAD1: Triple = (0.95, 0.9, 0.1)
SIG: Triple = (0.97, 0.5, 0.45)
WANET: Triple = (0.96, 0.9, 0.08)

RECORDS = [
    make("clean", "none", CLEAN, CLEAN),
    make("clean", "anp", CLEAN, (0.96, None, None)),
    make("clean", "ft", CLEAN, (0.99, None, None)),
    make("badnets", "none", BAD0, BAD0),
    make("badnets", "none", BAD1, BAD1, seed=1),
    make("badnets", "anp", BAD0, (0.96, 0.1, 0.8), oracle=(0.95, 0.0, 0.9)),
    make("badnets", "anp", BAD1, (0.93, 0.3, 0.6), seed=1, oracle=(0.94, 0.1, 0.8)),
    make("badnets", "ft", BAD0, (0.96, 0.6, 0.4)),
    make("badnets", "ft", BAD1, None, seed=1, status="failed", reason="RuntimeError: boom, twice", seconds=None, peak_mb=None),
    make("sig", "none", SIG, SIG),
    make("sig", "anp", SIG, (0.96, 0.2, 0.7)),
    make("sig", "ft", SIG, (0.97, 0.4, 0.5)),
    make("wanet", "none", WANET, WANET),
    make("wanet", "anp", WANET, (0.94, 0.5, 0.4)),
    make("wanet", "ft", WANET, (0.95, 0.1, 0.8)),
    make("trojan", "none", None, None, status="failed", reason="victim: MethodError: diverged", seconds=None, peak_mb=None),
]

# By hand. DER of anp on badnets: seed 0 (0.9 - 0.01 + 1) / 2 = 0.945, seed 1 (0.6 - 0.02 + 1) / 2 = 0.79, mean 86.75.
# Its oracle row: (1 - 0.02 + 1) / 2 = 0.99 and (0.8 - 0.01 + 1) / 2 = 0.895, mean 94.25.
# Seed 1 of ft failed, so that row is seed 0 alone: (0.4 - 0.01 + 1) / 2 = 0.695, and no spread.
GOLDEN = (
    ISSUE
    + """,ra_before,delta_acc,acc_std,asr_std,ra_std,der_std,asr_8bit,psnr,ssim,linf,clean_source,draws,asr_floor,ra_floor,excess_asr,excess_asr_std
digits,smallnet,clean,,100,none,none,1,98.00,,,,98.00,,2.00,512.00,,,0.00,,,,,,,,,held-out,1,,,,
digits,smallnet,clean,,100,anp,blind,1,96.00,,,,98.00,,2.00,512.00,,,-2.00,,,,,,,,,held-out,1,,,,
digits,smallnet,clean,,100,ft,blind,1,99.00,,,,98.00,,2.00,512.00,,,1.00,,,,,,,,,held-out,1,,,,
digits,smallnet,badnets,0.1,100,none,none,2,96.00,95.00,5.00,50.00,96.00,95.00,2.50,512.00,,5.00,0.00,1.41,7.07,7.07,0.00,,,,,held-out,1,,,,
digits,smallnet,badnets,0.1,100,anp,blind,2,94.50,20.00,70.00,86.75,96.00,95.00,2.50,512.00,,5.00,-1.50,2.12,14.14,14.14,10.96,,,,,held-out,1,,,,
digits,smallnet,badnets,0.1,100,anp,oracle,2,94.50,5.00,85.00,94.25,96.00,95.00,2.50,512.00,,5.00,-1.50,0.71,7.07,7.07,6.72,,,,,held-out,1,,,,
digits,smallnet,badnets,0.1,100,ft,blind,1,96.00,60.00,40.00,69.50,97.00,100.00,2.00,512.00,"failed 1 of 2 seeds: RuntimeError: boom, twice",0.00,-1.00,,,,,,,,,held-out,1,,,,
digits,smallnet,sig,0.1,100,none,none,1,97.00,50.00,45.00,50.00,97.00,50.00,2.00,512.00,attack-failed,45.00,0.00,,,,,,,,,held-out,1,,,,
digits,smallnet,sig,0.1,100,anp,blind,1,96.00,20.00,70.00,64.50,97.00,50.00,2.00,512.00,attack-failed,45.00,-1.00,,,,,,,,,held-out,1,,,,
digits,smallnet,sig,0.1,100,ft,blind,1,97.00,40.00,50.00,55.00,97.00,50.00,2.00,512.00,attack-failed,45.00,0.00,,,,,,,,,held-out,1,,,,
digits,smallnet,trojan,0.1,100,none,none,0,,,,,,,,,failed: victim: MethodError: diverged,,,,,,,,,,,held-out,0,,,,
digits,smallnet,wanet,0.05,100,none,none,1,96.00,90.00,8.00,50.00,96.00,90.00,2.00,512.00,,8.00,0.00,,,,,,,,,held-out,1,,,,
digits,smallnet,wanet,0.05,100,anp,blind,1,94.00,50.00,40.00,69.00,96.00,90.00,2.00,512.00,,8.00,-2.00,,,,,,,,,held-out,1,,,,
digits,smallnet,wanet,0.05,100,ft,blind,1,95.00,10.00,80.00,89.50,96.00,90.00,2.00,512.00,,8.00,-1.00,,,,,,,,,held-out,1,,,,
"""  # noqa: E501
)


def test_golden_table() -> None:
    assert to_csv(leaderboard(RECORDS)) == GOLDEN


def test_columns_begin_with_those_of_the_issue() -> None:
    assert list(COLUMNS[:17]) == ISSUE.split(",")
    assert list(leaderboard(RECORDS).columns) == list(COLUMNS)


def test_floors_stand_beside_the_scores_of_the_seeds_they_were_measured_on() -> None:
    floors = {("badnets", 0): Scores(acc=0.98, asr=0.02, ra=0.9), ("wanet", 0): Scores(acc=0.98, asr=0.06, ra=0.8)}
    table = leaderboard(RECORDS, floors)
    rows = {(r["attack"], r["defense"], r["selection"]): r for r in table.to_dict("records")}
    anp = rows["badnets", "anp", "blind"]  # seed 1 has no floor
    assert [anp[k] for k in ("asr_floor", "ra_floor", "excess_asr")] == pytest.approx([2, 90, 8])
    assert rows["badnets", "anp", "oracle"]["excess_asr"] == pytest.approx(-2)
    assert rows["wanet", "none", "none"]["excess_asr"] == pytest.approx(84)
    lines = {line.rsplit(",", 4)[0]: line.rsplit(",", 4)[1:] for line in to_csv(table).splitlines()}
    assert list(lines) == [line.rsplit(",", 4)[0] for line in GOLDEN.splitlines()], "no other column moves"
    assert [value for line, value in lines.items() if ",sig," in line or ",clean," in line] == [["", "", "", ""]] * 6
    page = to_markdown(table, "t")
    assert "| ASR | excess | worst ASR |" in page
    assert re.search(r"\| anp \| blind \| 2 \| [0-9.]+ \| 35.0 \| 26.0 \| 50.0 \|", page)
    assert re.search(r"\| wanet 0.05 \| 1 \| 96.0 \| 90.0 \| 8.0 \| 6.0 / 80.0 \|", page)
    assert "excess" not in to_markdown(leaderboard(RECORDS), "t")
    del floors["wanet", 0]  # a mean over some of the attacks would not fit the ASR beside it
    assert re.search(r"\| anp \| blind \| 2 \| [0-9.]+ \| 35.0 \| — \| 50.0 \|", to_markdown(leaderboard(RECORDS, floors), "t"))


def test_order_of_records_does_not_matter() -> None:
    page = to_markdown(leaderboard(RECORDS), "t")
    for seed in range(5):
        mixed = random.Random(seed).sample(RECORDS, len(RECORDS))
        assert to_csv(leaderboard(mixed)) == GOLDEN
        assert to_markdown(leaderboard(mixed), "t") == page


def test_stealth_and_rounding_stand_in_the_rows_and_in_a_table_of_victims() -> None:
    shown = [
        replace(make("badnets", "none", BAD0, BAD0, seed=seed), asr_8bit=0.5 + seed / 10, stealth=stealth)
        for seed, stealth in enumerate(({"psnr": 20.0, "ssim": 0.9, "linf": 0.1}, {"psnr": 30.0, "ssim": 0.8, "linf": 0.3}))
    ]
    table = leaderboard(shown)
    row = table.iloc[0]
    assert [row[k] for k in ("asr_8bit", "psnr", "ssim", "linf")] == pytest.approx([55, 25, 0.85, 51])
    assert ",55.00,25.00,0.8500,51.00," in to_csv(table)
    assert f"| badnets 0.1 | 2 | {row['acc']:.1f} ± 0.0 |" in to_markdown(table, "t")


def test_a_seed_below_the_gate_is_left_out_of_the_mean() -> None:
    weak = make("badnets", "anp", (0.9, 0.3, 0.6), (0.5, 0.3, 0.5), seed=2)
    table = leaderboard([r for r in RECORDS if (r.attack, r.defense) == ("badnets", "anp")] + [weak])
    blind = table[table["selection"] == "blind"].iloc[0]
    assert blind["seeds"] == 2
    assert blind["acc"] == pytest.approx(94.5)
    assert blind["flag"] == "attack-failed 1 of 3 seeds"


def test_victims_without_a_defense_count_every_seed() -> None:
    scores = [(0.9, 0.9, 0.1), (0.8, 0.3, 0.6)]
    row = leaderboard([make("badnets", "none", s, s, seed=seed) for seed, s in enumerate(scores)]).iloc[0]
    assert row["seeds"] == 2
    assert [row["acc"], row["asr"], row["ra"]] == pytest.approx([85, 60, 35])
    assert row["flag"] == "attack-failed 1 of 2 seeds"


def test_settings_that_differ_stand_in_rows_of_their_own() -> None:
    rows = [make("badnets", "ft", BAD0, BAD0, poison_ratio=ratio, clean_images=n) for ratio in (0.1, 0.01) for n in (500, 50)]
    table = leaderboard(rows)
    assert list(zip(table["poison_ratio"], table["clean_images"], strict=True)) == [
        (0.01, 50),
        (0.01, 500),
        (0.1, 50),
        (0.1, 500),
    ]


def test_means_and_ranks_by_hand() -> None:
    summary = {(r["defense"], r["selection"]): r for r in summarise(leaderboard(RECORDS)).to_dict("records")}
    # badnets counts for none and anp (ft is flagged), wanet for all; sig did not take, trojan has no victim.
    assert {k: r["attacks"] for k, r in summary.items()} == {
        ("anp", "blind"): 2, ("anp", "oracle"): 1, ("ft", "blind"): 1, ("none", "none"): 2,
    }  # fmt: skip
    anp, ft, none, oracle = (summary[k] for k in (("anp", "blind"), ("ft", "blind"), ("none", "none"), ("anp", "oracle")))
    assert [anp[k] for k in ("acc", "asr", "ra", "der", "worst_asr", "seconds")] == pytest.approx(
        [94.25, 35, 55, 77.875, 50, 2.25]
    )
    # Ranks by DER on wanet, which all have: ft 1, anp 2, none 3.
    assert (anp["rank"], ft["rank"], none["rank"]) == pytest.approx((2.0, 1.0, 3.0))
    assert {k: bool(r["whole"]) for k, r in summary.items() if not r["whole"]} == {("ft", "blind"): False}
    assert (anp["clean_delta_acc"], ft["clean_delta_acc"], none["clean_delta_acc"]) == pytest.approx((-2, 1, 0))
    assert oracle["rank"] is None or oracle["rank"] != oracle["rank"]
    assert oracle["clean_delta_acc"] is None or oracle["clean_delta_acc"] != oracle["clean_delta_acc"]
    assert [d for d, _ in summary] == [
        "anp",
        "anp",
        "none",
        "ft",
    ]  # by mean DER: 94.25, 77.9, 50; ft's 89.5 is of one attack of two


def test_equal_ders_share_their_rank() -> None:
    table = leaderboard(
        [make("badnets", d, BAD0, (0.97, 0.2, 0.8)) for d in ("ft", "anp")] + [make("badnets", "none", BAD0, BAD0)]
    )
    ranks = dict(zip(summarise(table)["defense"], summarise(table)["rank"], strict=True))
    assert ranks == {"anp": 1.5, "ft": 1.5, "none": 3.0}


def test_markdown_shows_attacks_by_defenses_and_says_what_went_wrong() -> None:
    page = to_markdown(leaderboard(RECORDS), "Leaderboard: golden")
    lines = page.splitlines()
    assert lines[0] == "# Leaderboard: golden"
    assert "## digits, smallnet, 100 clean images" in lines
    assert "| ACC / ASR | none | anp | ft | anp (oracle) |" in lines
    assert "| clean | 98.0 | 96.0 | 99.0 | — |" in lines
    both = ["96.0 ± 1.4 / 95.0 ± 7.1", "94.5 ± 2.1 / 20.0 ± 14.1", "96.0 / 60.0 ⚠", "94.5 ± 0.7 / 5.0 ± 7.1"]
    assert f"| badnets 0.1 | {' | '.join(both)} |" in lines, "± over the seeds, where there are several"
    assert "| sig 0.1 | 97.0 / 50.0 ⚠ | 96.0 / 20.0 ⚠ | 97.0 / 40.0 ⚠ | — |" in lines
    assert "| trojan 0.1 | failed | — | — | — |" in lines
    assert "- badnets × ft: failed 1 of 2 seeds: RuntimeError: boom, twice" in lines
    assert "- sig × all defenses: attack-failed" in lines


def test_nothing_to_rank_is_said() -> None:
    assert "nothing to rank" in to_markdown(leaderboard([make("sig", "ft", SIG, SIG)]), "t")


# ------------------------------------------------------------------------------------------------------------------ files


def save(folder: Path, records: list[Record]) -> None:
    (folder / "records").mkdir(parents=True, exist_ok=True)
    for record in records:
        (folder / "records" / f"{record.cell}.json").write_text(to_json(record))


def test_rebuilding_gives_the_same_bytes(tmp_path: Path) -> None:
    save(tmp_path / "golden", RECORDS)
    built = build_tables(tmp_path / "golden")
    assert (built.records, built.left_out) == (len(RECORDS), [])
    assert built.csv.read_bytes() == GOLDEN.encode()
    first = built.md.read_bytes()
    again = build_tables(tmp_path / "golden")
    assert (again.csv.read_bytes(), again.md.read_bytes()) == (GOLDEN.encode(), first)
    save(tmp_path / "copy" / "golden", RECORDS[::-1])
    copy = build_tables(tmp_path / "copy" / "golden")
    assert (copy.csv.read_bytes(), copy.md.read_bytes()) == (GOLDEN.encode(), first)


def test_records_outside_the_plan_are_left_out(tmp_path: Path) -> None:
    save(tmp_path, [*RECORDS, make("blended", "ft", BAD0, BAD0)])
    (tmp_path / "suite.json").write_text(json.dumps(sealed({"suite": "golden", "records": [f"{r.cell}.json" for r in RECORDS]})))
    built = build_tables(tmp_path)
    assert built.left_out == ["blended.ft.0.json"]
    assert built.csv.read_bytes() == GOLDEN.encode()


def test_a_plan_with_records_still_to_come_shows_those_that_are_there(tmp_path: Path) -> None:
    save(tmp_path, RECORDS[:1])
    (tmp_path / "suite.json").write_text(json.dumps(sealed({"records": ["clean.none.0.json", "to.come.0.json"]})))
    assert read_records(tmp_path) == Found(RECORDS[:1], left_out=[], damaged=[])


def test_gate_and_labels_are_those_of_the_plan_and_unfinished_suites_say_so(tmp_path: Path) -> None:
    save(tmp_path, RECORDS)
    names = [f"{r.cell}.json" for r in RECORDS]
    labels = {name: {"dataset": "figures", "net": "tiny"} for name in names}
    plan = {"suite": "golden", "gate": 0.4, "records": [*names, "to.come.json"], "labels": labels}
    (tmp_path / "suite.json").write_text(json.dumps(sealed(plan)))
    built = build_tables(tmp_path)
    rows = built.csv.read_text().splitlines()[1:]
    assert all(row.startswith("figures,tiny,") for row in rows)
    assert not any("attack-failed" in row for row in rows), "SIG's ASR of 0.5 passes"
    assert f"Unfinished: {len(RECORDS)} of {len(RECORDS) + 1} planned cells have a record." in built.md.read_text()
    (tmp_path / "suite.json").write_text(json.dumps(sealed({**plan, "records": names, "gate": 0.8})))
    assert "planned cells" not in build_tables(tmp_path).md.read_text()
    assert "attack-failed" in (tmp_path / "leaderboard.csv").read_text()


def test_means_are_over_seeds_and_draws() -> None:
    runs = [make("badnets", "ft", BAD0, (acc, 0.5, 0.4), seed=seed, draw=draw) for seed, draw, acc in
            ((0, 0, 0.9), (0, 1, 0.8), (1, 0, 0.7), (1, 1, 0.6))]  # fmt: skip
    (row,) = leaderboard(runs).to_dict("records")
    assert (row["seeds"], row["draws"]) == (2, 2)
    assert row["acc"] == pytest.approx(75)
    assert row["acc_std"] == pytest.approx(100 * (0.05 / 3) ** 0.5)


def test_only_stale_records_do_not_crash_the_report(tmp_path: Path) -> None:
    save(tmp_path, RECORDS)
    (tmp_path / "suite.json").write_text(json.dumps(sealed({"records": ["to.come.0.json"]})))
    built = build_tables(tmp_path)
    assert (built.records, len(built.left_out)) == (0, len(RECORDS))
    assert built.csv.read_text() == GOLDEN.splitlines(keepends=True)[0]


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", '{"suite": "x"}', '{"records": 5}', '{"records": []}', '{"records": "abc"}', '{"records": [1]}',
        '{"records": ["a"], "gate": 2}', '{"records": ["a"], "gate": NaN}', "[" * 100_000, "9" * 5000,
    ],
)  # fmt: skip
def test_a_broken_plan_is_named(tmp_path: Path, text: str) -> None:
    save(tmp_path, RECORDS)
    (tmp_path / "suite.json").write_text(text)
    with pytest.raises(UserError, match=r"suite\.json"):
        build_tables(tmp_path)


def test_a_pipe_in_place_of_a_record_is_named_and_waited_for_by_nobody(tmp_path: Path) -> None:
    save(tmp_path, RECORDS)
    os.mkfifo(tmp_path / "records/pipe.json")
    built = build_tables(tmp_path)
    assert built.damaged == [f"{tmp_path / 'records/pipe.json'}: no regular file; delete it and run again"]
    assert "suite.json is missing" in built.md.read_text()


def test_no_records_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no records in .*records; run the suite first"):
        build_tables(tmp_path / "nothing")


@pytest.mark.parametrize("damage", [lambda text: "{", lambda text: text.replace('"seed": 0', '"seed": 1')])
def test_a_damaged_record_is_named_and_does_not_count(tmp_path: Path, damage: Callable[[str], str]) -> None:
    save(tmp_path, [r for r in RECORDS if r.cell != "sig.ft.0"])
    (tmp_path / "suite.json").write_text(json.dumps(sealed({"records": [f"{r.cell}.json" for r in RECORDS]})))
    without = build_tables(tmp_path).csv.read_bytes()
    save(tmp_path, RECORDS)
    file = tmp_path / "records" / "sig.ft.0.json"
    file.write_text(damage(file.read_text()))
    built = build_tables(tmp_path)
    (sentence,) = built.damaged
    assert sentence.startswith(str(file))
    assert (built.records, built.csv.read_bytes()) == (len(RECORDS) - 1, without)
    assert "Damaged files that do not count: 1." in built.md.read_text()


@pytest.mark.parametrize(
    ("old", "new"),
    [('"gate": 0.8', '"gate": 0.5'), ("sig.ft.0.json", "sig.ft.9.json"), ('"seen"', '"other"'), ('["f.json"]', "[]")],
)
def test_an_edited_plan_is_damaged(tmp_path: Path, old: str, new: str) -> None:
    save(tmp_path, RECORDS)
    names = [f"{r.cell}.json" for r in RECORDS]
    text = json.dumps(sealed({"gate": 0.8, "content": "seen", "records": names, "floors": ["f.json"]}))
    (tmp_path / "suite.json").write_text(text)
    build_tables(tmp_path)
    assert old in text
    (tmp_path / "suite.json").write_text(text.replace(old, new))
    with pytest.raises(UserError, match=r"suite\.json is damaged; run the suite again, or delete it"):
        build_tables(tmp_path)


def test_results_without_a_checksum_are_refused_until_they_are_stamped(tmp_path: Path) -> None:
    save(tmp_path, RECORDS)
    golden = build_tables(tmp_path).csv.read_bytes()
    files = [*(tmp_path / "records").iterdir(), tmp_path / "suite.json"]
    files[-1].write_text(json.dumps(sealed({"records": [f"{r.cell}.json" for r in RECORDS]})))
    for file in files:
        content = json.loads(file.read_text())
        del content["sha256"]
        file.write_text(json.dumps(content))
    for first in ("suite.json: it has", "badnets.anp.0.json: it has"):
        with pytest.raises(UserError) as caught:
            build_tables(tmp_path)
        assert first in str(caught.value)
        assert str(caught.value).endswith(f"python -m mnp_plugin.report.stamp {tmp_path}")
        files[-1].unlink(missing_ok=True)
    edited = tmp_path / "records" / "sig.ft.0.json"
    text = to_json(next(r for r in RECORDS if r.cell == "sig.ft.0")).replace('"seed": 0', '"seed": 1')
    edited.write_text(text)
    assert stamp(tmp_path) == len(RECORDS) - 1
    assert edited.read_text() == text, "stamping mends no damage"
    edited.unlink()
    save(tmp_path, [r for r in RECORDS if r.cell == "sig.ft.0"])
    assert build_tables(tmp_path).csv.read_bytes() == golden
    with pytest.raises(UserError, match="no results in"):
        stamp(tmp_path / "records")


@pytest.mark.thorough
def test_the_report_command_needs_no_torch(tmp_path: Path) -> None:
    save(tmp_path / "golden", RECORDS)
    code = (
        "import sys\n"
        "class NoTorch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        assert name not in ('torch', 'torchvision'), name\n"
        "sys.meta_path.insert(0, NoTorch())\n"
        "from mnp_plugin.cli import main\n"
        f"sys.exit(main(['report', 'golden', '--results', {str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr.startswith(f"{len(RECORDS)} records -> ")
    assert done.stdout.startswith("# Leaderboard: golden")
    assert (tmp_path / "golden" / "leaderboard.csv").read_bytes() == GOLDEN.encode()
