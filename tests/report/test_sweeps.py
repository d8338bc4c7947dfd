"""Curves along swept settings: which rows of a table make which line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mnp_plugin.report.leaderboard import leaderboard
from mnp_plugin.report.page.data import suite_data
from mnp_plugin.report.page.render import render
from mnp_plugin.report.records import Record, Scores
from mnp_plugin.report.shown import shown
from mnp_plugin.report.sweeps import Sweep, sweeps

Make = Callable[..., list[Record]]
Write = Callable[[Path, Sequence[Record]], Path]


def row(attack: str, defense: str, asr: float, net: str = "small", images: int = 100, taken: bool = True) -> Record:
    before = Scores(acc=0.9, asr=1.0 if taken else 0.1, ra=0.0)
    return Record(
        cell=f"{attack}{defense}{net}{images}", suite="s", dataset="digits", net=net, attack=attack, defense=defense, seed=0,
        status="ok", before=before, after=Scores(acc=0.8, asr=asr, ra=0.1), clean_images=images, gate=0.8,
    )  # fmt: skip


def found(*records: Record) -> list[Sweep]:
    return sweeps(leaderboard(records).to_dict("records"))


def test_a_sweep_of_an_attack_has_a_curve_for_each_defense() -> None:
    (one,) = found(
        *(row(f"badnets-poison_ratio={x}", d, x + y) for x in (0.1, 0.05, 1e-05) for d, y in (("ft", 0.1), ("mnp", 0.2)))
    )
    assert (one.setting, one.of, one.part) == ("poison_ratio", "badnets", ("digits", "small", 100))
    assert [(c.attack, c.defense, c.selection) for c in one.curves] == [("badnets", "ft", "blind"), ("badnets", "mnp", "blind")]
    assert one.curves[0].points == ((1e-05, pytest.approx(10.001), 80.0), (0.05, pytest.approx(15.0), 80.0), (0.1, 20.0, 80.0))


def test_a_sweep_of_a_defense_has_a_curve_for_each_attack_and_one_for_each_other_setting() -> None:
    records = [row(a, f"mnp-agreement={x}-rounds={r}", x) for a in ("sig", "wanet") for x in (0.5, 0.75) for r in (1, 2)]
    names = [(one.setting, one.of, [c.attack for c in one.curves]) for one in found(*records)]
    assert names == [
        ("agreement", "mnp-rounds=1", ["sig", "wanet"]),
        ("rounds", "mnp-agreement=0.5", ["sig", "wanet"]),
        ("agreement", "mnp-rounds=2", ["sig", "wanet"]),
        ("rounds", "mnp-agreement=0.75", ["sig", "wanet"]),
    ]


def test_a_sweep_of_the_whole_suite_is_a_mean_over_the_attacks_that_took_everywhere() -> None:
    def at(images: int, sig: bool) -> list[Record]:
        net = f"small-images={images}"
        others = [row("badnets", "ft", images / 1000, net, images), row("wanet", "ft", 0.5, net, images)]
        return [*others, row("sig", "ft", 1.0, net, images, sig)]

    (one,) = found(*at(50, True), *at(500, False))
    assert (one.setting, one.of, one.part) == ("images", "digits, small", None)
    (curve,) = one.curves
    assert (curve.attack, curve.points) == ("", ((50.0, pytest.approx(27.5), 80.0), (500.0, pytest.approx(50.0), 80.0)))


@pytest.mark.parametrize("values", [["0.5"], ["fast", "slow"], ["nan", "inf"]])
def test_one_value_and_words_make_no_curve(values: list[str]) -> None:
    assert found(*(row("sig", f"mnp-mode={value}", 0.5) for value in values)) == []


def test_the_page_draws_them(open_page: Callable[..., Any], tmp_path: Path, make_records: Make, write_suite: Write) -> None:
    swept = [
        replace(r, attack=f"badnets-poison_ratio={0.1 / 10**i}", poison_ratio=0.1 / 10**i, cell=f"{i}{r.cell[1:]}")
        for i in range(3)
        for r in make_records(1)
    ]
    (tmp_path / "page.html").write_text(render(suite_data(shown(write_suite(tmp_path / "swept", swept)))))
    page = open_page(tmp_path / "page.html", width=360)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert "badnets by poison_ratio" in page.locator("#charts h3").all_inner_texts()
    assert page.locator("figure [aria-label='ASR of badnets by poison_ratio']").count() == 1
    assert page.get_by_role("img", name="mnp: 0.01, ").count() == 2, "ASR and ACC"
