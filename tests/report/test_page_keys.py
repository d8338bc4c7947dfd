"""Without a pointer: all that hovering over the page shows is reached by the tab key and arrow keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from mnp_plugin.report.page.data import suite_data
from mnp_plugin.report.page.render import render
from mnp_plugin.report.page.serve import Source, server
from mnp_plugin.report.records import Record
from mnp_plugin.report.shown import Shown, shown
from mnp_plugin.report.verdicts import VerdictRecord

Make = Callable[..., list[Record]]
Write = Callable[[Path, Sequence[Record]], Path]
Open = Callable[..., Any]

NAME = "document.activeElement.getAttribute('aria-label')"
TIP = "document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent"
DETAILS = {
    "classes": ["zero", "one"], "clean": [[5, 1], [0, 6]], "clean_before": [[6, 0], [0, 6]], "triggered": [],
    "triggered_before": [], "picture": "", "shown": [], "path images": 40,
    "path": [{"pruned": n, "acc": 0.9, "asr": 0.1} for n in (0, 5, 9)],
    "layers": [["conv", 3]], "pruned": [2], "neurons before": [[0.0, 1.0, -2.0], [0.5, 1.0, 3.0]], "shared": {},
}  # fmt: skip
"""What the drawer of one cell shows."""


@pytest.fixture
def file(tmp_path: Path, make_records: Make, write_suite: Write) -> Path:
    """A page with every kind of chart."""
    found = shown(write_suite(tmp_path / "made", make_records(6, seeds=(0, 1))))
    verdicts = [
        VerdictRecord(
            id="0" * 16, victim="v", suite="made", dataset="digits", net="smallnet", attack=attack, poison_ratio=None, seed=seed,
            detector="sharp", status="ok", asr=1.0, score=float(seed + 9 * (attack != "clean")), seconds=1.0, clean_images=100,
        )
        for attack in ("clean", "badnets") for seed in range(3)
    ]  # fmt: skip
    data = suite_data(Shown(replace(found.own, verdicts=verdicts)))
    number = next(i for i, record in enumerate(found.own.records) if (record.attack, record.defense) == ("attack01", "mnp"))
    data["records"][number] |= {"report": {"pruned": 5}, "details": DETAILS}
    (tmp_path / "page.html").write_text(render(data))
    return tmp_path / "page.html"


def press(page: Any, *keys: str) -> str:
    """Press ``keys``, and say what then has the focus."""
    for key in keys:
        page.keyboard.press(key)
    return str(page.evaluate(NAME))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_chart_is_one_stop_and_arrow_keys_go_from_point_to_point(open_page: Open, file: Path, scheme: str) -> None:
    page = open_page(file, scheme=scheme)
    card = page.locator("#charts .card").first
    card.get_by_role("button", name="none", exact=True).focus()  # the last name beside the chart
    plain = card.locator(".mark[tabindex='0']").evaluate("(point) => getComputedStyle(point).stroke")
    first = press(page, "Tab")
    assert first.startswith("attack00 0.05 × none: ACC 9")
    assert "2 seeds (0, 1), 1 draw, clean images: held-out" in page.evaluate(TIP)
    assert page.evaluate("document.activeElement.getAttribute('aria-describedby')") == "tip", "read out, too"
    seen = page.evaluate(
        "getComputedStyle(document.activeElement).outlineStyle + getComputedStyle(document.activeElement).stroke"
    )
    assert seen.startswith("solid")
    assert plain not in seen
    places = "[document.activeElement, document.getElementById('tip')].map((one) => one.getBoundingClientRect())"
    page.mouse.wheel(0, 150)
    page.wait_for_timeout(100)
    point, text = page.evaluate(places)
    assert min(abs(text["top"] - point["bottom"]), abs(point["top"] - text["bottom"])) < 12, "it stays beside its point"
    second = press(page, "ArrowRight")
    assert second != first
    assert second in (last := press(page, "End"), press(page, "Home", "ArrowDown"))[1]
    assert last.startswith("attack05 0.05 × mnp")
    assert press(page, "ArrowUp", "ArrowLeft") == first, "no way beyond the first"
    press(page, "Escape")
    assert page.evaluate(TIP) == ""
    press(page, "ArrowRight", "Enter")
    assert page.inner_text("#drawer-title") == second.partition(":")[0]
    assert press(page, "Escape") == second, "back where it was"
    press(page, "Tab")
    assert not page.evaluate("document.activeElement.matches('#charts .card:first-child .mark')")
    press(page, "Shift+Tab")
    assert page.evaluate(NAME) == second, "it keeps its place"


def test_every_point_of_every_chart_has_a_name_and_one_of_each_chart_is_a_stop(open_page: Open, file: Path) -> None:
    page = open_page(file)
    stops = "(charts) => charts.map((chart) => chart.querySelectorAll('[tabindex=\"0\"]').length)"
    drawn = page.locator("main .chart svg[role=group]")
    assert drawn.evaluate_all(stops) == [1] * 5  # ACC against ASR, DER against seconds, oracle, ROC, strips
    nameless = "[...document.querySelectorAll('.chart .mark, .chart .line, .chart rect')].filter((one) => one.hasAttribute('tabindex') && !one.getAttribute('aria-label')).length"  # noqa: E501
    assert page.evaluate(nameless) == 0
    assert page.locator("#charts .mark:not([tabindex])").count() == page.locator("#charts .legend .mark").count()
    names = page.locator("#detection .mark[tabindex]").evaluate_all("(all) => all.map((one) => one.getAttribute('aria-label'))")
    assert names[-1] == "sharp, badnets, seed 2: score 11"
    page.get_by_role("button", name="attack01 0.05 × mnp: ASR").click()
    assert page.locator("#drawer .chart svg[role=group]").evaluate_all(stops) == [1] * 4
    assert (
        page.locator("#drawer .pruned").get_attribute("aria-label") == "conv, channel 2, pruned: saliency -2.00, magnitude 3.00"
    )


def test_arrow_keys_in_a_chart_of_the_drawer_leave_its_cell(open_page: Open, file: Path) -> None:
    page = open_page(file)
    page.get_by_role("button", name="attack01 0.05 × mnp: ASR").click()
    page.locator("#drawer svg[aria-label='Clean images, after'] [tabindex='0']").focus()
    assert press(page, "ArrowRight") == "zero predicted as one: 1 of 6"
    assert page.evaluate(TIP) == "zero predicted as one: 1 of 6"
    assert press(page, "ArrowDown") == "one predicted as one: 6 of 6", "by a row"
    assert press(page, "ArrowRight", "ArrowDown") == "one predicted as one: 6 of 6"
    page.locator("#drawer svg[aria-label='ACC and ASR by pruned'] [tabindex='0']").focus()
    assert press(page, "ArrowRight") == "ACC: 5, 90, chosen"
    assert page.inner_text("#drawer-title") == "attack01 0.05 × mnp"


def test_the_cells_are_one_stop_and_arrow_keys_go_by_row_and_column(open_page: Open, file: Path) -> None:
    page = open_page(file)
    assert page.locator("#cells tbody [tabindex='0']").count() == 1
    page.locator("#cells tbody [tabindex='0']").focus()
    assert press(page, "ArrowRight").startswith("attack00 0.05 × anp:")
    assert press(page, "ArrowDown").startswith("attack01 0.05 × anp:")
    assert "2 seeds (0, 1)" in page.evaluate(TIP)
    assert press(page, "End", "ArrowRight").startswith("attack01 0.05 × anp (oracle):")
    assert press(page, "ArrowUp", "ArrowUp", "Home").startswith("attack00 0.05 × none:")


def test_rows_of_the_list_show_on_focus_what_hovering_shows(open_page: Open, file: Path) -> None:
    page = open_page(file)
    page.get_by_role("button", name="list", exact=True).click()  # where the pointer stays: what scrolls below it says nothing
    assert page.locator("#cells tbody [tabindex='0']").count() == 1
    page.locator("#cells tbody [tabindex='0']").focus()
    name = press(page, "ArrowDown")
    said = page.evaluate(TIP)
    assert said.startswith(f"{name}\n")
    assert "1 draw, clean images: held-out" in said
    press(page, "Enter")
    assert page.inner_text("#drawer-title") == name


def test_the_focus_stays_on_its_point_when_a_chart_is_drawn_anew(
    open_page: Open, browser: Any, file: Path, tmp_path: Path, make_records: Make, write_suite: Write
) -> None:
    page = open_page(file)
    page.locator("#charts .card .mark[tabindex='0']").first.focus()
    name = press(page, "ArrowRight", "ArrowRight")
    page.set_viewport_size({"width": 700, "height": 860})
    page.wait_for_function("document.querySelector('#charts .chart svg').clientWidth < 700")
    assert page.evaluate(NAME) == name
    suite = write_suite(tmp_path / "live", make_records(4))
    with server(Source(suite), pause=100) as running:
        thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        live = browser.new_page()
        live.goto(f"http://127.0.0.1:{running.server_port}/")
        live.locator("#charts .card .mark[tabindex='0']").first.focus()
        name = press(live, "ArrowRight")
        max((suite / "records").iterdir()).unlink()
        live.wait_for_selector("text=15 of 16 cells", timeout=20_000)
        live.wait_for_function(f"(name) => {NAME} === name", arg=name)
        live.close()
        running.shutdown()
        thread.join()
