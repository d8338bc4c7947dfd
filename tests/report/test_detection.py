"""Figures of detectors, from verdicts alone."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mnp_plugin.core.errors import UserError
from mnp_plugin.report.build import build_tables
from mnp_plugin.report.detection import auroc, detection, detection_lines, interval, to_csv, tpr_at
from mnp_plugin.report.figures.detectors import by_detector
from mnp_plugin.report.judged import COLUMNS, judged
from mnp_plugin.report.judged import to_csv as judged_csv
from mnp_plugin.report.latex_detectors import nets_to_latex
from mnp_plugin.report.page.data import suite_data
from mnp_plugin.report.records import Record, Scores
from mnp_plugin.report.shown import shown
from mnp_plugin.report.texts import sealed, to_json
from mnp_plugin.report.verdicts import VerdictRecord, from_json

HEALTHY, ATTACKED = [0.1, 0.3, 0.2, 0.5, 0.3], [0.3, 0.9, 0.6, 0.05]


def verdict(attack: str, score: float | None, seed: int = 0, **more: Any) -> VerdictRecord:
    plain: dict[str, Any] = {
        "id": f"{attack}{seed}", "victim": "v", "suite": "s", "dataset": "digits", "net": "smallnet", "attack": attack,
        "poison_ratio": None if attack == "clean" else 0.1, "seed": seed, "detector": "mnp", "status": "ok",
        "score": score, "seconds": 2.0, "clean_images": 40, "asr": None if attack == "clean" else 0.99,
        "targets": [] if attack == "clean" else [0],
    }  # fmt: skip
    return VerdictRecord(**(plain | more))


def test_auroc_counts_pairs_and_ties_half() -> None:
    assert auroc(HEALTHY, ATTACKED) == pytest.approx((3 + 5 + 5 + 0) / 20)  # what each attacked net scores above


def test_the_interval_holds_the_estimate_and_needs_two_nets_of_each_kind() -> None:
    found = interval(HEALTHY, ATTACKED)
    assert found is not None
    assert 0 <= found[0] < auroc(HEALTHY, ATTACKED) < found[1] <= 1
    assert found == interval(HEALTHY, ATTACKED)
    assert interval(HEALTHY[:1], ATTACKED) is None


def test_with_few_healthy_nets_tpr_counts_what_scores_above_all_of_them() -> None:
    assert tpr_at(HEALTHY, ATTACKED) == 0.5
    assert tpr_at([i / 100 for i in range(100)], [0.945, 0.93, 0.96]) == pytest.approx(2 / 3)  # 5 of 100 may score above


def test_nets_whose_attack_failed_count_neither_way() -> None:
    records = [
        verdict("clean", 0.1), verdict("clean", 0.2, 1),
        verdict("badnets", 0.9, suspected=0, verdict=True), verdict("badnets", 0.8, 1, suspected=3, verdict=True),
        verdict("sig", 0.0, asr=0.2), verdict("wanet", None, status="failed", reason="x"),
    ]  # fmt: skip
    table = detection(records, gate=0.8).set_index("attack")
    assert list(table.index) == ["badnets", "sig", "wanet", "all"]
    total = table.loc["all"]
    assert (total["clean_nets"], total["attacked_nets"], total["auroc"], total["target_hit"]) == (2, 2, 1.0, 50.0)
    assert total["flag"] == "failed 1 of 4 nets; attack-failed 1 of 3 nets"
    assert table.loc["sig", "auroc"] != table.loc["sig", "auroc"]  # NaN: nothing to judge
    lines = detection_lines(detection(records, gate=0.8))
    assert "| digits, smallnet, 40 clean images | mnp | 2 | 2 | 1.00 [1.00, 1.00] | 100.0 | 50.0 | 2.0 | — |" in lines
    assert any(line.startswith("- 2 clean and 2 attacked nets: one net more or less changes") for line in lines)
    last = to_csv(detection(records, 0.8)).splitlines()[-1]
    assert last.startswith("digits,smallnet,40,test,mnp,all,2,2,1.0000,1.0000,1.0000,100.00")


def test_a_suite_without_clean_nets_has_no_auroc() -> None:
    table = detection([verdict("badnets", 0.9, suspected=0)], gate=0.8)
    assert table["auroc"].isna().all()
    assert set(table["target_hit"]) == {100.0}


@pytest.mark.parametrize(
    "change",
    [
        {"score": "x"}, {"score": True}, {"asr": 1.2}, {"schema": 2}, {"other": 1}, {"score": 10**400}, {"seconds": None},
        {"targets": None}, {"targets": ["0"]}, {"suspected": [1]}, {"verdict": "yes"}, {"clean_images": 10**400}, {"attack": 5},
        {"seed": None}, {"status": "fine"}, {"dataset": ["digits"]}, {"per_class": [None]},
    ],
)  # fmt: skip
def test_a_damaged_verdict_is_refused_by_name(change: dict[str, Any]) -> None:
    plain = json.loads(to_json(verdict("badnets", 0.9))) | change
    with pytest.raises(UserError, match=r"here\.json: not a record of a verdict"):
        from_json(json.dumps(plain), "here.json")


def test_only_planned_verdicts_count_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    for kind in ("records", "verdicts"):
        (tmp_path / kind).mkdir()
    record = Record(
        cell="c", suite="s", dataset="d", net="n", attack="badnets", defense="none", seed=0, status="ok", before=Scores(acc=1)
    )
    (tmp_path / "records" / "c.json").write_text(to_json(record))
    one = verdict("badnets", 0.9)
    for name, seed in {"a.json": 0, "b.json": 1, "c.json": 2}.items():
        (tmp_path / "verdicts" / name).write_text(to_json(replace(one, seed=seed)))
    edited = tmp_path / "verdicts" / "c.json"
    edited.write_text(edited.read_text().replace('"score": 0.9', '"score": 0.1'))
    (tmp_path / "suite.json").write_text(json.dumps(sealed({"records": ["c.json"], "verdicts": ["b.json", "c.json"]})))
    (sentence,) = build_tables(tmp_path).damaged
    assert sentence.startswith(str(edited))
    assert (tmp_path / "detection.csv").read_text() == judged_csv(judged([replace(one, seed=1)], 0.0))


def test_nets_of_two_kinds_are_not_pooled(tmp_path: Path) -> None:
    """One detector tells the wide nets apart, and has the narrow ones the wrong way round."""
    plan: dict[str, list[str]] = {"records": [], "verdicts": []}
    for kind in plan:
        (tmp_path / kind).mkdir()
    for net, (healthy, attacked) in {"narrow": (0.9, 0.1), "wide": (0.1, 0.9)}.items():
        record = Record(
            cell=net, suite="s", dataset="digits", net=net, attack="badnets", defense="none", seed=0, status="ok",
            clean_images=40, before=Scores(acc=1, asr=1), after=Scores(acc=1, asr=1),
        )  # fmt: skip
        (tmp_path / "records" / f"{net}.json").write_text(to_json(record))
        plan["records"].append(f"{net}.json")
        for attack, score in (("clean", healthy), ("badnets", attacked)):
            for seed in range(2):
                name = f"{net}-{attack}-{seed}.json"
                (tmp_path / "verdicts" / name).write_text(to_json(verdict(attack, score, seed, net=net)))
                plan["verdicts"].append(name)
    (tmp_path / "suite.json").write_text(json.dumps(sealed(plan)))
    found = shown(tmp_path)
    areas = [(named[1].split(", ")[1], area) for named, _, _, area in by_detector(found.judged)]
    assert areas == [("wide", 1.0), ("narrow", 0.0)]
    data = suite_data(found)
    rows = [dict(zip(data["detection"]["rows"]["columns"], row, strict=True)) for row in data["detection"]["rows"]["data"]]
    where = {group["net"]: i for i, group in enumerate(data["groups"])}
    assert {row["group"]: row["auroc"] for row in rows} == {where["wide"]: 1.0, where["narrow"]: 0.0}
    assert {point["group"] for point in data["detection"]["points"]} == set(where.values())


def test_a_table_of_detectors_goes_with_them(tmp_path: Path) -> None:
    test_only_planned_verdicts_count_and_a_damaged_one_is_named(tmp_path)
    (tmp_path / "suite.json").write_text(json.dumps(sealed({"records": ["c.json"]})))
    build_tables(tmp_path)
    assert not list(tmp_path.glob("detection*.csv"))


def test_the_threshold_is_set_on_the_clean_nets_of_the_calibration_alone() -> None:
    records = [
        *(verdict("clean", score, seed) for seed, score in enumerate([0.1, 0.4, 0.2, 0.5, 0.3, 0.45])),
        verdict("badnets", 0.05, 1), verdict("badnets", 0.9, 2), verdict("sig", 0.42, 3), verdict("sig", 0.35, 4),
    ]  # fmt: skip
    table = detection(records, 0.8, calibration=[0, 1]).set_index(["split", "attack"])
    total = table.loc[("test", "all")]
    assert (total["clean_nets"], total["attacked_nets"]) == (4, 3)
    assert total["calibrated_tpr"] == pytest.approx(200 / 3)  # above 0.4: 0.9 and 0.42
    assert total["calibrated_fpr"] == 50.0  # 0.5 and 0.45
    assert total["auroc"] == pytest.approx((4 + 2 + 2) / 12)
    assert table.loc[("calibration", "all"), "calibrated_tpr"] != table.loc[("calibration", "all"), "calibrated_tpr"]
    lines = detection_lines(detection(records, 0.8, calibration=[0, 1]))
    assert any("| 66.7 | 50.0 |" in line for line in lines)
    assert "| digits, smallnet | mnp | 1.00 | 0.50 [0.00, 1.00] |" in lines, "one net alone has no interval"


def test_every_net_has_its_line() -> None:
    records = [
        verdict("sig", 0.123456789, 2, suspected=3, verdict=True, victim="n2", p_value=0.25),
        verdict("clean", 0.5, 1, victim="n1"),
        verdict("all2all", 0.5, 1, targets=[0, 1], asr=0.3),
        verdict("wanet", None, status="failed", seconds=None, reason="x, y"),
    ]
    lines = judged_csv(judged(records, 0.8, [1])).splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert lines[1:] == [
        "v,digits,smallnet,all2all,0.1,1,calibration,mnp,0.5,,,,2.0,,attack-failed: ASR 30.0",
        "n1,digits,smallnet,clean,,1,calibration,mnp,0.5,,,,2.0,,",
        "n2,digits,smallnet,sig,0.1,2,test,mnp,0.123457,1,0,3,2.0,0.25,",
        "v,digits,smallnet,wanet,0.1,0,test,mnp,,,0,,,,failed",
    ]


def test_tables_for_papers_hold_the_detectors_with_the_best_marked() -> None:
    nets = [("clean", 0.1, 0), ("clean", 0.2, 1), ("bad_nets", 0.9, 0), ("bad_nets", 0.8, 1), ("sig", 0.15, 0)]
    records = [verdict(attack, score, seed) for attack, score, seed in nets]
    records += [verdict(attack, -score, seed, detector="blind_one") for attack, score, seed in nets]
    text = nets_to_latex(detection(records, gate=0.8), "a_zoo")
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    over = text.partition(r"\end{table}")[0]
    assert r"\caption{Detectors of attacked nets: digits, smallnet, 40 clean images. Nets are victims before any defense;" in over
    assert r"\label{tab:a-zoo-detectors-digits-smallnet-40-clean-images}" in over
    assert re.search(r"^mnp & 2 & 3 & \\textbf\{0\.83 \[", over, re.MULTILINE)
    assert re.search(r"^blind\\_one & 2 & 3 & \\underline\{0\.17 \[", over, re.MULTILINE)
    assert r"detector & bad\_nets (2) & sig (1) \\" in text
    assert nets_to_latex(detection([], gate=0.8), "none") == ""
