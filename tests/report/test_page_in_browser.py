"""The page in a real browser: from disk, without an error or a request; sorting, filtering, drawer, both appearances, keys."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from mnp_plugin.report.beside import Details
from mnp_plugin.report.build import build_tables
from mnp_plugin.report.page.data import suite_data
from mnp_plugin.report.page.model import repair_data, verdict_data
from mnp_plugin.report.page.render import render
from mnp_plugin.report.page.serve import Source, server
from mnp_plugin.report.records import Record, Scores
from mnp_plugin.report.samples import SampleRecord
from mnp_plugin.report.shown import Shown, shown
from mnp_plugin.report.verdicts import VerdictRecord

Make = Callable[..., list[Record]]
Write = Callable[[Path, Sequence[Record]], Path]
EVIL = "</script><script>document.title='evil'</script><img src=x onerror=\"document.title='evil'\"><b>bold</b>"


@pytest.fixture
def made(tmp_path: Path, make_records: Make, write_suite: Write) -> Shown:
    """A suite with something for every part of the page."""
    records = make_records(6, seeds=(0, 1))
    records[-1] = replace(records[-1], status="failed", reason="RuntimeError: boom", after=None)
    found = shown(write_suite(tmp_path / "made", records))
    verdicts = [
        VerdictRecord(
            id="0" * 16, victim="v", suite="made", dataset="digits", net="smallnet", attack=attack, poison_ratio=None, seed=seed,
            detector="sharp", status="ok", asr=1.0, score=float(seed + 9 * (attack != "clean")), seconds=1.0, clean_images=100,
        )
        for attack in ("clean", "badnets") for seed in range(3)
    ]  # fmt: skip
    samples = [
        SampleRecord(
            id=f"{i:016x}", victim="v", suite="made", dataset="digits", net="smallnet", attack=attack, poison_ratio=0.1, seed=i,
            detector=f"sieve{EVIL}", questions=questions, status="ok", asr=1.0, positives=5, negatives=5, auroc=0.75 + 0.1 * i,
            tpr_at_5_fpr=0.5, tpr=0.6, fpr=0.1, roc=[[0.0, 0.0], [0.0, 0.5], [1.0, 1.0]], clean_images=100, seconds=1.0,
        )
        for questions in ("inputs", "training set") for attack in ("badnets", "sig") for i in range(2)
    ]  # fmt: skip
    samples.append(replace(samples[0], status="failed", reason=f"ValueError: no{EVIL}"))
    return Shown(replace(found.own, verdicts=verdicts, samples=samples))


@pytest.fixture
def file(tmp_path: Path, made: Shown) -> Path:
    (tmp_path / "page.html").write_text(render(suite_data(made)))
    return tmp_path / "page.html"


def cells(page: Any) -> list[str]:
    """The attacks of the rows that are shown."""
    return [str(text) for text in page.locator("#cells tbody th").all_inner_texts()]


def test_it_opens_from_disk_with_all_of_its_parts(open_page: Callable[..., Any], file: Path) -> None:
    page = open_page(file)
    parts = ["summary", "cells", "victims", "charts", "chance", "detection", "samples", "flags", "provenance"]
    assert page.evaluate("[...document.querySelectorAll('main > section')].map((part) => part.id)") == parts
    assert page.title() == "made: mnp_plugin"
    assert "48 of 48 cells" in page.inner_text("#head")
    assert "2 seeds: intervals over so few are wide" in page.inner_text("#summary")
    assert "RuntimeError: boom" in page.inner_text("#flags")
    charts = page.locator("figure .chart svg")
    labels = " ".join(charts.nth(i).get_attribute("aria-label") for i in range(charts.count()))
    for what in ("ACC against ASR", "mean DER against mean seconds", "mean ranks: mnp 1.00", "oracle", "ROC", "scores of clean"):
        assert what in labels


def test_no_part_is_wider_than_a_phone(open_page: Callable[..., Any], file: Path) -> None:
    page = open_page(file, width=360)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.locator("#cells .cell").first.click()
    assert page.evaluate("document.getElementById('drawer').scrollWidth") <= 360


def test_a_heading_sorts_and_says_so(open_page: Callable[..., Any], file: Path) -> None:
    page = open_page(file)
    column = page.locator("#cells thead th").filter(has_text="mnp")
    values = "[...document.querySelectorAll('#cells tbody tr')].map((row) => +row.querySelectorAll('.value')[4].textContent)"
    page.locator("#cells thead button").filter(has_text="mnp").click()
    assert column.get_attribute("aria-sort") == "descending"
    found = page.evaluate(values)[:-1]  # the failed cell, which is last in both directions
    assert found == sorted(found, reverse=True)
    page.locator("#cells thead button").filter(has_text="mnp").click()
    assert column.get_attribute("aria-sort") == "ascending"
    assert page.evaluate(values)[: len(found)] == sorted(found)


def test_a_filter_narrows_both_views(open_page: Callable[..., Any], file: Path) -> None:
    page = open_page(file)
    assert page.inner_text("#count") == "30 of 30 results"
    page.fill("#filter", "attack03 mnp")
    assert page.inner_text("#count") == "1 of 30 results"
    assert cells(page) == ["attack03 0.05"]
    page.get_by_role("button", name="list").click()
    assert cells(page) == ["attack03 0.05"]
    page.fill("#filter", "oracle")
    assert len(cells(page)) == 6
    page.get_by_role("checkbox", name="oracle").uncheck()
    assert page.inner_text("#count") == "0 of 30 results"
    page.fill("#filter", "")
    page.get_by_role("checkbox", name="flagged").uncheck()
    assert page.inner_text("#count") == "23 of 30 results"


def test_the_score_can_be_chosen(open_page: Callable[..., Any], file: Path) -> None:
    page = open_page(file)
    page.select_option("#metric", "der")
    assert page.get_by_role("button", name="attack00 0.05 × none: DER 50.0").count() == 1


def test_detectors_of_single_images_stand_by_themselves(open_page: Callable[..., Any], file: Path) -> None:
    page = open_page(file)
    part = page.locator("#samples")
    assert part.locator("h3").all_inner_texts() == [
        "Triggered inputs among clean ones", "ROC", "Poisoned images in the training set", "ROC", "Failed screenings"
    ]  # fmt: skip
    assert part.locator("tbody").first.inner_text().split("\t") == [
        f"sieve{EVIL}",
        "4",
        "0.80 ± 0.06",
        *["50.0 ± 0.0", "60.0 ± 0.0", "10.0 ± 0.0", "1.0"],
    ]
    part.locator("summary").first.click()
    by_attack = part.locator("details tbody").first.locator("tr")
    assert [row.split("\t")[0] for row in by_attack.all_inner_texts()] == ["badnets 0.1", "sig 0.1"]
    assert f"ValueError: no{EVIL}" in part.inner_text()
    assert "mean ROC curve" in part.locator(".chart svg").first.get_attribute("aria-label")


def test_the_drawer_shows_a_cell_and_says_what_is_not_stored(open_page: Callable[..., Any], file: Path) -> None:
    page = open_page(file)
    page.get_by_role("button", name="attack01 0.05 × anp: ASR").click()
    text = page.inner_text("#drawer")
    assert "attack01 0.05 × anp" in text
    assert "had test ASR chosen (oracle)" in text
    assert "Not stored beside this record: images of the trigger, a pruning path, magnitude and saliency of neurons" in text
    page.locator("#drawer select").select_option("1")
    assert "seed 1 ·" in page.inner_text("#drawer")
    name = page.evaluate("decodeURIComponent(location.hash)")
    assert name.startswith("#attack01-anp-s1-")
    again = open_page(file, fragment=name)
    assert "attack01 0.05 × anp" in again.inner_text("#drawer"), "the address leads to the cell"


def test_the_drawer_shows_what_was_recovered_and_nothing_where_nothing_was(
    open_page: Callable[..., Any], made: Shown, tmp_path: Path
) -> None:
    data = suite_data(made)
    pixel = (
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    )
    number = next(i for i, record in enumerate(made.own.records) if (record.attack, record.defense) == ("attack01", "mnp"))
    data["pictures"] = {"own.png": pixel, "theirs.png": pixel}
    data["records"][number] |= {
        "recovered": [{"detector": EVIL, "picture": "theirs.png", "suspected": 7, "score": 2.5}],
        "details": {
            "classes": ["zero", "one"], "clean": [], "triggered": [], "clean_before": [], "triggered_before": [], "picture": "",
            "shared": {}, "shown": [], "path": [], "path images": 0,
            "perturbation": {"picture": "own.png", "class": 1, "images": 40, "before": 0.95, "after": 0.1},
        },
    }  # fmt: skip
    (tmp_path / "found.html").write_text(render(data))
    page = open_page(tmp_path / "found.html")
    page.get_by_role("button", name="attack01 0.05 × mnp: ASR").click()
    text = page.inner_text("#drawer")
    assert (
        "By the defense: sends 95.0 % of 40 clean images of other classes to one in the victim, 10.0 % after the defense." in text
    )
    assert f"Detector {EVIL}: score 2.50, suspected target: class 7." in text
    assert page.locator("#drawer img").count() == 2
    page.get_by_role("button", name="next cell").click()
    assert "recovered" not in page.inner_text("#drawer")


def test_a_way_that_comes_back_is_drawn_step_by_step_with_a_ring_at_its_end(
    open_page: Callable[..., Any], made: Shown, tmp_path: Path
) -> None:
    data = suite_data(made)
    number = next(i for i, record in enumerate(made.own.records) if (record.attack, record.defense) == ("attack01", "mnp"))
    data["records"][number] |= {
        "report": {"pruned": 9},
        "details": {
            "classes": ["zero", "one"], "clean": [], "triggered": [], "clean_before": [], "triggered_before": [], "shared": {},
            "picture": "", "shown": [], "path images": 40,
            "path": [{"pruned": n, "acc": 0.9, "asr": 0.1} for n in (0, 5, 9, 9, 9)],
        },
    }  # fmt: skip
    (tmp_path / "way.html").write_text(render(data))
    page = open_page(tmp_path / "way.html", width=390)
    page.get_by_role("button", name="attack01 0.05 × mnp: ASR").click()
    drawn = page.locator("#drawer svg[aria-label='ACC and ASR by pruned']")
    places = drawn.locator(".mark").evaluate_all("(all) => all.map((one) => one.getAttribute('transform'))")
    assert len(places) == len(set(places)) == 10
    rings = drawn.locator(".ring").evaluate_all("(all) => all.map((one) => +one.getAttribute('cx'))")
    assert len(rings) == 2
    most = max(float(place.split("(")[1].split()[0]) for place in places)
    assert all(abs(x - most) < 0.1 for x in rings)
    names = drawn.locator("text").all_text_contents()
    assert names[:5] == ["0", "5", "9", "9", "9"]


def test_no_two_curves_look_the_same_in_grey(open_page: Callable[..., Any], made: Shown, tmp_path: Path) -> None:
    """By dashes and markers."""
    verdicts = [replace(one, detector=f"d{i:02}") for i in range(28) for one in made.own.verdicts]
    (tmp_path / "many.html").write_text(render(suite_data(Shown(replace(made.own, verdicts=verdicts)))))
    page = open_page(tmp_path / "many.html")
    seen = page.evaluate(
        "[...document.querySelectorAll('#detection .legend path.line, #detection .legend line.line')].map((one) => {"
        " const style = getComputedStyle(one), sign = one.parentNode.querySelector('.mark').outerHTML.replace(/--c: [^;]*;/, '');"
        " return style.strokeDasharray + sign; })"
    )
    assert len(seen) == len(set(seen)) == 28


def test_everything_works_from_the_keyboard(open_page: Callable[..., Any], file: Path) -> None:
    page = open_page(file)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    cell = page.get_by_role("button", name="attack00 0.05 × ft: ASR")
    cell.focus()
    page.keyboard.press("Enter")
    assert page.inner_text("#drawer-title") == "attack00 0.05 × ft"
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#drawer-title") != "attack00 0.05 × ft"
    for _ in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('#drawer')")
    page.keyboard.press("Escape")
    assert not page.evaluate("document.getElementById('drawer').open")
    assert "attack00 0.05 × ft" in page.evaluate("document.activeElement.getAttribute('aria-label')"), "back where it was"


def test_every_control_has_a_name(open_page: Callable[..., Any], file: Path) -> None:
    page = open_page(file)
    page.locator("#cells .cell").first.click()
    nameless = """[...document.querySelectorAll("button, select, input, svg[role], .chart [role], img, [role=region]")]
        .filter((node) => !(node.getAttribute("aria-label") || node.textContent.trim() || node.alt || (node.labels || []).length))
        .length"""
    assert page.evaluate(nameless) == 0


def test_what_a_screen_reader_is_told_has_names(open_page: Callable[..., Any], file: Path) -> None:
    """By Chromium's own accessibility tree, of the page and of a drawer."""
    page = open_page(file)
    page.get_by_text("What the words mean").click()
    reader = page.context.new_cdp_session(page)
    for opened in (False, True):
        if opened:
            page.locator("#cells .cell").first.click()
        nodes = [node for node in reader.send("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]
        told = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if "role" in node]
        speaking = {
            "button",
            "link",
            "searchbox",
            "combobox",
            "checkbox",
            "table",
            "columnheader",
            "rowheader",
            "region",
            "image",
            "dialog",
        }
        assert [role for role, name in told if role in speaking and not name] == []
        assert {"table", "columnheader", "button"} <= {role for role, _ in told}
    assert ("table", "percent, before and after") in told
    assert not any(role == "StaticText" and name in ("20", "40") for role, name in told), "ticks of charts are not read out"


def test_the_words_of_the_table_are_explained_without_hovering(open_page: Callable[..., Any], file: Path) -> None:
    page = open_page(file, width=390)
    page.get_by_text("What the words mean").click()
    words = page.locator("#summary details dl").inner_text()
    assert all(word in words for word in ("ASR", "triggered test images sent to the attacker's label", "oracle", "attack-failed"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_appearances_are_legible_and_can_be_switched(open_page: Callable[..., Any], file: Path, scheme: str) -> None:
    page = open_page(file, scheme=scheme)
    contrast = """(selector) => {
        const light = (colour) => { const c = document.createElement("canvas").getContext("2d"); c.fillStyle = colour; c.fillRect(0, 0, 1, 1);
            return [...c.getImageData(0, 0, 1, 1).data].slice(0, 3).map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
                .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0); };
        const back = (node) => { for (; node; node = node.parentElement) { const b = getComputedStyle(node).backgroundColor; if (!b.endsWith(", 0)")) return b; } };
        return Math.min(...[...document.querySelectorAll(selector)].map((node) => { const a = light(getComputedStyle(node).color), b = light(back(node));
            return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); }));
    }"""  # noqa: E501
    for time_of in range(2):
        for selector in ("h1", "h2", "td", "th", ".quiet", "small", ".caution", ".badge", "a", "button", ".cell .value"):
            assert page.evaluate(contrast, selector) >= 4.5, selector
        before = page.evaluate("getComputedStyle(document.body).backgroundColor")
        dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") == (time_of == 0)
        assert page.get_attribute("#theme", "aria-label") == ("switch to light" if dark else "switch to dark")
        page.click("#theme")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before


def test_a_point_opens_its_cell_and_a_name_hides_its_points(open_page: Callable[..., Any], file: Path) -> None:
    page = open_page(file)
    card = page.locator("#charts .card").first
    count = card.locator("figure .mark").count()
    card.get_by_role("button", name="anp", exact=True).click()
    assert card.locator("figure .mark").count() == count - 6
    card.locator("figure .mark").last.click()
    assert page.evaluate("document.getElementById('drawer').open")


def test_a_malicious_record_is_text(open_page: Callable[..., Any], made: Shown, tmp_path: Path) -> None:
    records = [
        replace(
            r, attack=f"{r.attack}{EVIL}", defense=f"{r.defense}{EVIL}", dataset=EVIL, net=EVIL, reason=EVIL, prune={EVIL: EVIL},
            versions={EVIL: EVIL}, hardware={EVIL: EVIL}, spec={EVIL: {EVIL: EVIL}},
            status="failed" if r.seed else "ok", after=None if r.seed else r.after,
        )
        for r in made.own.records
    ]  # fmt: skip
    (tmp_path / "evil.html").write_text(render(suite_data(Shown(replace(made.own, records=records)))))
    page = open_page(tmp_path / "evil.html")
    page.locator("#cells .cell").first.click()
    page.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
    assert page.title() == "made: mnp_plugin"
    assert page.evaluate("document.querySelectorAll('b, img').length") == 0
    assert page.inner_text("#drawer").count("<b>bold</b>") > 5
    assert "<b>bold</b>" in page.inner_text("#flags")


def test_several_data_sets_are_shown_one_at_a_time(
    open_page: Callable[..., Any], tmp_path: Path, make_records: Make, write_suite: Write
) -> None:
    records = [*make_records(4), *(replace(r, net="other", cell=f"f{r.cell[1:]}") for r in make_records(2))]
    (tmp_path / "two.html").write_text(render(suite_data(shown(write_suite(tmp_path / "two", records)))))
    page = open_page(tmp_path / "two.html")
    assert "other" in page.inner_text("h1")
    page.select_option("#group", "1")
    assert "smallnet" in page.inner_text("h1")
    assert page.inner_text("#count") == "20 of 20 results"


def test_a_suite_of_attacks_alone_has_a_chart_of_them(
    open_page: Callable[..., Any], tmp_path: Path, make_records: Make, write_suite: Write
) -> None:
    folder = write_suite(tmp_path / "attacks", make_records(3, ("none",), seeds=(0, 1)))
    build_tables(folder)
    page = open_page(folder / "index.html", width=360)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.locator("#charts h3").all_inner_texts() == ["Attacks"]
    point = page.get_by_role("button", name="attack01 0.05: ASR 100.0 ± 0.0")
    point.click()
    assert page.inner_text("#drawer-title") == "attack01 0.05 × none"


def test_clean_nets_alone_show_their_accuracy(
    open_page: Callable[..., Any], tmp_path: Path, make_records: Make, write_suite: Write
) -> None:
    plain = [replace(r, attack="clean", poison_ratio=None) for r in make_records(1, ("none",))]
    alone = Scores(acc=0.87, asr=None, ra=None)
    folder = write_suite(tmp_path / "clean", [replace(r, before=alone, after=alone) for r in plain])
    build_tables(folder)
    page = open_page(folder / "index.html")
    assert page.locator("#cells .cell .value").all_inner_texts() == ["87.0"]


def test_published_figures_stand_beside_ours(
    open_page: Callable[..., Any], tmp_path: Path, make_records: Make, write_suite: Write
) -> None:
    records = [replace(r, dataset="cifar10", attack="badnets") for r in make_records(1, ("none", "ft"), seeds=(0, 1))]
    folder = write_suite(tmp_path / "made", records)
    (folder / "published").mkdir()
    (folder / "published/backdoorbench.csv").write_text(
        "dataset,poison_ratio,model,attack,defense,acc,asr,ra\ncifar10,0.05,PreActResNet-18,BadNet,FT,91.2,4.5,88.2\n"
    )
    build_tables(folder)
    page = open_page(folder / "index.html", width=390)
    card = page.locator("#charts .card", has=page.get_by_role("heading", name="Published beside here"))
    assert "Another net: preactresnet18 there, smallnet here" in card.inner_text()
    point = card.get_by_role("img", name="badnets 0.05 × ft: ASR published 4.5, here ")
    assert "±" in point.get_attribute("aria-label")
    card.get_by_text("All 1 cell").click()
    assert "91.2" in card.get_by_role("row").nth(1).inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_a_large_suite_shows_its_first_rows_and_more_on_demand(
    open_page: Callable[..., Any], tmp_path: Path, make_records: Make, write_suite: Write
) -> None:
    folder = write_suite(tmp_path / "large", make_records(70))
    build_tables(folder)
    page = open_page(folder / "index.html")
    page.get_by_role("button", name="list").click()
    assert len(cells(page)) == 100
    page.get_by_role("button", name="Show more (250 left)").click()
    assert len(cells(page)) == 350


def test_a_served_page_follows_the_run(browser: Any, tmp_path: Path, make_records: Make, write_suite: Write) -> None:
    with server(Source(tmp_path / "made"), pause=100) as running:
        thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        page = browser.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.goto(f"http://127.0.0.1:{running.server_port}/")
        assert "No records yet" in page.inner_text("main")
        (tmp_path / "made/records").mkdir(parents=True)
        (tmp_path / "made/records/one.json").write_text("{")
        page.wait_for_function("(before) => document.querySelector('main').innerText !== before", arg=page.inner_text("main"))
        shutil.rmtree(tmp_path / "made")
        write_suite(tmp_path / "made", make_records(4))
        page.wait_for_selector("text=16 of 16 cells", timeout=20_000)
        page.select_option("#metric", "der")
        page.locator("#cells thead button").filter(has_text="mnp").click()
        next((tmp_path / "made" / "records").iterdir()).unlink()
        page.wait_for_selector("text=15 of 16 cells", timeout=20_000)
        assert page.input_value("#metric") == "der", "what was chosen stays"
        heading = page.locator("#cells thead th").filter(has_text="mnp")
        assert heading.get_attribute("aria-sort") == "descending"
        assert page.evaluate("document.activeElement.textContent") == "mnp"
        assert said == []
        page.close()
        running.shutdown()
        thread.join()


def test_the_pages_of_one_model(browser: Any, tmp_path: Path) -> None:
    values = {"magnitude": [1.0, 2.0, 9.0], "saliency": [1.0, 2.0, 0.1]}
    details = Details(
        id="", classes=["zero", EVIL], clean=[[5, 1], [0, 6]], clean_before=[[6, 0], [0, 6]], layers=[[EVIL, 3]], before=values,
        after=values, pruned=[2],
    )  # fmt: skip
    facts = {
        "defense": {"name": EVIL}, "checkpoint": EVIL, "clean images": 12, "verdict": EVIL,
        "clean accuracy": {"validation": {"images": 12, "before": 1.0, "after": 0.9, "note": EVIL}},
        "triggered": {"target": EVIL, "images": 9, "sent to target": {"before": 1.0, "after": 0.5}},
        "pruned by layer": [{"layer": EVIL, "pruned": 1}],
        "repair": {EVIL: EVIL, "damage": EVIL, "path of pruned, agreement": [[1, 2], [2, 1]]},
    }  # fmt: skip
    judged = {
        "verdict": "backdoored", "reason": EVIL, "detector": {"name": EVIL}, "clean images": 12, "clean accuracy": 0.9,
        "score": 3.0, "threshold": 2.0, "suspected": EVIL, "evidence": {"zero": 0.1, EVIL: 3.0}, "report": {EVIL: [EVIL]},
    }  # fmt: skip
    said: list[str] = []
    for data, parts in (
        (repair_data(facts, EVIL, details), ["measured", "neurons", "layers", "path", "confusion", "facts"]),
        (verdict_data(judged, EVIL, None), ["measured", "evidence", "facts"]),
    ):
        (tmp_path / "model.html").write_text(render(data))
        page = browser.new_page(viewport={"width": 360, "height": 800})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto((tmp_path / "model.html").as_uri())
        assert page.evaluate("[...document.querySelectorAll('main > section')].map((part) => part.id)") == parts
        assert page.evaluate("document.querySelectorAll('b, img').length") == 0
        assert page.title() == f"{EVIL}: mnp_plugin"
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        page.close()
    assert said == []


SORTING = """async () => {
    const took = [];
    for (const name of ["ASR", "attack", "DER", "DER", "ACC"]) {
        const button = [...document.querySelectorAll("#cells thead button")].find((node) => node.textContent === name);
        const start = performance.now();
        button.click();
        document.body.offsetHeight; // laid out, too
        took.push(performance.now() - start);
        await new Promise(requestAnimationFrame);
    }
    return Math.max(...took);
}"""


@pytest.mark.slow
def test_five_thousand_records_are_a_report_in_twenty_seconds_and_sort_in_a_fifth_of_one(
    open_page: Callable[..., Any], tmp_path: Path, make_records: Make, write_suite: Write
) -> None:
    folder = write_suite(tmp_path / "huge", make_records(100, [f"d{i:02d}" for i in range(25)], seeds=(0, 1)))
    start = time.process_time()  # of this process: others do not make it slower
    build_tables(folder, figures=True)
    assert time.process_time() - start < 20
    assert (folder / "index.html").stat().st_size < 6_000_000
    page = open_page(folder / "index.html")
    page.get_by_role("button", name="list").click()
    assert page.inner_text("#count") == "2500 of 2500 results"
    assert page.evaluate(SORTING) < 200
