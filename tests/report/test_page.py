"""The page as a file: what is in it, that no string of a record becomes HTML, that it stays small and is the same again."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mnp_plugin import load_records
from mnp_plugin.cli import main
from mnp_plugin.report.beside import DETAILS, PICTURES, REMEDY_PICTURE, Details
from mnp_plugin.report.build import build_tables
from mnp_plugin.report.page.data import packed, suite_data
from mnp_plugin.report.page.numbers import short, shown_as
from mnp_plugin.report.page.render import embedded, render
from mnp_plugin.report.records import Record
from mnp_plugin.report.shown import shown
from mnp_plugin.report.texts import to_json

Make = Callable[..., list[Record]]
Write = Callable[[Path, Sequence[Record]], Path]

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")


class Elements(HTMLParser):
    """All elements of a page, and the text of its scripts and style."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {"script": [], "style": []}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag in self.texts:
            self.texts[tag].append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem in self.texts:
            self.texts[self.cdata_elem][-1] += data


def parsed(page: str) -> Elements:
    elements = Elements()
    elements.feed(page)
    return elements


def evil(records: Sequence[Record]) -> list[Record]:
    """``records`` with markup in every string that a record or a plugin gives."""
    return [
        replace(
            r, attack=f"{r.attack}{EVIL}", defense=f"{r.defense}{EVIL}", dataset=EVIL, net=EVIL, suite=EVIL, reason=EVIL,
            status="failed" if r.attack == "attack00" else "ok", prune={EVIL: EVIL, "layers": {EVIL: 1}}, versions={EVIL: EVIL},
            hardware={EVIL: EVIL}, spec={"recipe": {EVIL: EVIL}}, clean_source=EVIL, knowledge=EVIL,
        )
        for r in records
    ]  # fmt: skip


def test_versions_and_machines_are_counted(tmp_path: Path, make_records: Make, write_suite: Write) -> None:
    records = make_records(1)
    spec = {"defense": {"name": records[0].defense, "version": 4}}
    records[0] = replace(records[0], versions={"torch": "2", "commit": "0123456789-dirty"}, spec=spec)  # older ones say no commit
    found = suite_data(shown(write_suite(tmp_path / "made", records)))["provenance"]
    assert found["versions"] == [[{}, 3], [{"torch": "2", "commit": "0123456789-dirty"}, 1]]
    assert found["methods"] == [f"{records[0].defense} 4"]


def test_a_malicious_record_adds_no_element(tmp_path: Path, make_records: Make, write_suite: Write) -> None:
    made = shown(write_suite(tmp_path / "made", make_records(4)))
    kind = type(made)
    plain, bad = (parsed(render(suite_data(kind(replace(made.own, records=records))))) for records in
                  (made.own.records, evil(made.own.records)))  # fmt: skip
    tags = [[tag for tag, _ in page.found if tag not in ("tr", "td", "th", "table", "caption")] for page in (plain, bad)]
    assert tags[0] == tags[1]
    assert not any(name.startswith("on") for _, attributes in bad.found for name in attributes)
    data = json.loads(bad.texts["script"][0])
    assert EVIL in data["groups"][0]["dataset"], "as data, letter by letter"
    assert "alert(1)" not in bad.texts["script"][1]


def test_data_cannot_end_their_element() -> None:
    text = embedded({"a": "</script><!--&\u2028"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": "</script><!--&\u2028"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        embedded({"a": float("nan")})


def test_only_its_own_script_and_style_may_run(tmp_path: Path, make_records: Make, write_suite: Write) -> None:
    data = suite_data(shown(write_suite(tmp_path / "made", make_records(2))))
    page = parsed(render(data))
    (policy,) = (a["content"] for tag, a in page.found if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    for kind, text in (("script", page.texts["script"][1]), ("style", page.texts["style"][0])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "connect-src" not in policy
    assert "connect-src 'self'" in render(data, live=4000)


def test_it_asks_nobody_for_anything(tmp_path: Path, make_records: Make, write_suite: Write) -> None:
    text = render(suite_data(shown(write_suite(tmp_path / "made", make_records(2)))))
    addresses = set(re.findall(r"\b(?:https?:)?//[a-z][^\s\"'`]*", text))
    assert addresses == {"http://www.w3.org/2000/svg"}, "the name of a language, which nobody fetches"
    assert {tag for tag, a in parsed(text).found if a.get("src") or (a.get("href") or "#")[0] != "#"} == {"link"}
    assert 'href="data:,"' in text


def test_a_report_writes_the_page_and_again_the_same_bytes(tmp_path: Path, make_records: Make, write_suite: Write) -> None:
    folder = write_suite(tmp_path / "made", make_records(6, seeds=(0, 1)))
    built = build_tables(folder)
    assert folder / "index.html" in built.further
    first = (folder / "index.html").read_bytes()
    build_tables(folder)
    assert (folder / "index.html").read_bytes() == first


def test_everything_of_a_suite_is_in_the_data(tmp_path: Path, make_records: Make, write_suite: Write) -> None:
    data = suite_data(shown(write_suite(tmp_path / "made", make_records(6, seeds=(0, 1)))))
    assert data["progress"] == {"done": 48, "planned": 48, "failed": 0}
    (group,) = data["groups"]
    assert [row["defense"] for row in group["overall"]] == ["anp", "mnp", "anp", "ft", "none"]
    assert group["overall"][1]["interval"].keys() == {"acc", "asr", "ra", "der"}
    assert group["ranking"]["ranks"][0] == ["mnp", 1.0]
    assert set(group["intervals"]["columns"]) >= {"low", "high", "n", "varies"}
    columns = data["rows"]["columns"]
    rows = [dict(zip(columns, values, strict=True)) for values in data["rows"]["data"]]
    assert len(rows) == 6 * 5
    assert all(len(row["records"]) == 2 for row in rows)
    assert len(data["pool"]) < 20, "settings that are shared are held once"
    record = data["records"][rows[0]["records"][0]]
    assert record["report"] == {"pruned": 3, "of": 64}
    json.dumps(data, allow_nan=False)


def beside(folder: Path, record: Record, file: str) -> None:
    classes = ["zero", "one"]
    values = {"magnitude": [1.0, 2.0, 9.0], "saliency": [1.0, 2.0, 0.1]}
    details = Details(
        id=record.cell, classes=classes, clean=[[5, 1], [0, 6]], triggered=[[0, 3], [0, 4]], clean_before=[[6, 0], [0, 6]],
        triggered_before=[[3, 0], [4, 0]], picture="trigger.png", shown=[{"true": 1, "wanted": 0, "before": 0, "after": 1}],
        path=[{"pruned": 1.0, "acc": 0.9, "asr": 1.0}, {"pruned": 3.0, "acc": 0.8, "asr": 0.1}], path_images=500,
        layers=[["bn1", 3]], before=values, after=values, pruned=[2],
    )  # fmt: skip
    for kind in (DETAILS, PICTURES):
        (folder / kind).mkdir(exist_ok=True)
    (folder / DETAILS / file).write_text(to_json(details))
    (folder / PICTURES / "trigger.png").write_bytes(PIXEL)


def test_what_lies_beside_a_record_is_shown(tmp_path: Path, make_records: Make, write_suite: Write) -> None:
    folder = write_suite(tmp_path / "made", make_records(2))
    made = shown(folder)
    for record, file in zip(made.own.records, made.own.files, strict=True):
        beside(folder, record, file)
    data = suite_data(made)
    found = data["records"][0]["details"]
    assert found["clean"] == [[5, 1], [0, 6]]
    before = data["pool"][found["shared"]["neurons before"]]
    assert before[0][0] == before[1][1] == 0, "the median"
    assert found["shared"] == data["records"][1]["details"]["shared"], "what is the victim's is held once"
    assert found["neurons after"][0][2] is None, "pruned ones are not there any more"
    assert list(data["pictures"]) == ["trigger.png"], "held once"
    assert data["pictures"]["trigger.png"].startswith("data:image/png;base64,iVBOR")


@pytest.mark.parametrize(
    "change",
    [
        {"id": "0" * 15 + "f"},
        {"clean": [[1]]},
        {"pruned": [3]},
        {"before": {"magnitude": [1.0]}},
        {"picture": "../../secret.png"},
        {"perturbation": {"picture": "../../secret.png", "class": 0, "images": 5, "before": 1.0, "after": 0.5}},
        {"perturbation": {"picture": "found.png", "class": 2, "images": 5, "before": 1.0, "after": 0.5}},
        {"perturbation": {"picture": "found.png", "class": 0, "images": 5, "before": 1.0, "after": 1.5}},
        {"perturbation": {"picture": "found.png"}},
    ],
    ids=str,
)
def test_details_that_do_not_fit_are_left_out(
    tmp_path: Path, make_records: Make, write_suite: Write, change: dict[str, Any]
) -> None:
    folder = write_suite(tmp_path / "made", make_records(1, ("mnp",)))
    made = shown(folder)
    (record,), (file,) = made.own.records, made.own.files
    beside(folder, record, file)
    assert "details" in suite_data(made)["records"][0]
    text = json.loads((folder / DETAILS / file).read_text())
    del text["sha256"]
    (folder / DETAILS / file).write_text(to_json(Details(**{**text, **change})))
    data = suite_data(made)
    assert "details" not in data["records"][0]
    (sentence,) = data["damaged"]
    assert file in sentence
    assert "run again" in sentence


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a flipped bit": lambda content: bytes([*content[:60], content[60] ^ 1, *content[61:]]),
    "cut short": lambda content: content[:-9],
    "something behind it": lambda content: content + b"more",
    "no text": lambda content: b"\xff\xfe" * 50,
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("kind", [DETAILS, PICTURES])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_beside_a_record_is_named_and_the_report_goes_on(
    tmp_path: Path,
    make_records: Make,
    write_suite: Write,
    kind: str,
    damage: Callable[[bytes], bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = write_suite(tmp_path / "made", make_records(1, ("mnp",)))
    made = shown(folder)
    beside(folder, made.own.records[0], made.own.files[0])
    (file,) = (folder / kind).iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert main(["report", "made", "--results", str(tmp_path), "--no-figures"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"{file}: ")
    assert "run again" in said.err.splitlines()[0]
    assert "attack00" in said.out
    assert file.name in (folder / "index.html").read_text()
    with pytest.warns(UserWarning, match=file.name):
        assert len(load_records(folder)) == 1
    if kind == DETAILS:
        assert main(["figure", "neurons", "made", "--results", str(tmp_path), "--out", str(tmp_path)]) == 2
        assert str(file) in capsys.readouterr().err


def test_what_is_no_file_is_named_too(tmp_path: Path, make_records: Make, write_suite: Write) -> None:
    """A pipe would be read for ever."""
    folder = write_suite(tmp_path / "made", make_records(1, ("mnp",)))
    made = shown(folder)
    (folder / DETAILS).mkdir()
    os.mkfifo(folder / DETAILS / made.own.files[0])
    (sentence,) = suite_data(made)["damaged"]
    assert sentence.startswith(f"{folder / DETAILS / made.own.files[0]}: no regular file; ")


def test_what_is_no_picture_is_not_shown(tmp_path: Path, make_records: Make, write_suite: Write) -> None:
    folder = write_suite(tmp_path / "made", make_records(1, ("mnp",)))
    made = shown(folder)
    beside(folder, made.own.records[0], made.own.files[0])
    (folder / PICTURES / "trigger.png").write_text("<svg onload=alert(1)>")
    data = suite_data(made)
    assert data["pictures"] == {}
    assert data["damaged"] == [f"{folder / PICTURES / 'trigger.png'}: it is no whole PNG; {REMEDY_PICTURE}"]


def test_a_page_without_room_says_what_it_leaves_out(tmp_path: Path, make_records: Make, write_suite: Write) -> None:
    """All that is on the page counts, whatever it is."""
    made = shown(write_suite(tmp_path / "made", make_records(2)))
    bare = suite_data(made, room=0)
    assert ["report" in record for record in bare["records"]] == [False] * 8
    del bare["pictures"]
    for record in bare["records"]:
        del record["left out"]
    found = suite_data(made, room=len(json.dumps(bare)) + 150)["records"]
    assert ["report" in record for record in found] == [True] * 2 + [False] * 6
    assert [record.get("left out", False) for record in found] == [False] * 2 + [True] * 6


@pytest.mark.parametrize(
    ("value", "digits"),
    [(86.05000000000001, 1), (86.25, 1), (86.35, 1), (0.12345, 3), (-0.25, 1), (4.7165, 3), (99.95, 1), (2.0, 1)],
)
def test_a_number_is_rounded_as_tables_round_it(value: float, digits: int) -> None:
    """JavaScript's toFixed takes the nearest decimal to the number it is given, and of two the larger."""
    theirs = Decimal(shown_as(value, digits)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    assert str(theirs) == f"{round(value, digits):.{digits}f}"


def test_numbers_are_short_and_plain() -> None:
    assert short({"a": [1 / 3, float("inf"), 2, "x"], 3: -0.00001}) == {"a": [0.3333, None, 2, "x"], "3": 0.0}
    assert str(short(-0.00001)) == "0.0"
    assert packed([]) == {"columns": [], "data": []}
    assert packed([{"a": 1, "b": 2}]) == {"columns": ["a", "b"], "data": [[1, 2]]}
