from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from mnp_plugin.core.errors import UserError
from mnp_plugin.report.records import SCHEMA, Record, Scores, der, from_json
from mnp_plugin.report.texts import DamagedRecordError, sealed, to_json

RECORD = Record(
    cell="0123456789abcdef",
    suite="tiny",
    dataset="digits",
    net="smallnet",
    attack="badnets",
    defense="anp",
    seed=3,
    status="ok",
    poison_ratio=0.1,
    clean_images=100,
    clean_source="held-out",
    before=Scores(acc=0.1 + 0.2, asr=1.0, ra=0.0),
    after=Scores(acc=0.97, asr=1 / 3, ra=2 / 3),
    oracle=Scores(acc=0.9),
    oracle_setting={"threshold": 0.2},
    gate=0.8,
    seconds=1.25,
    peak_mb=500.5,
    prune={"layers": {"bn1": 2}, "why": "ärger"},
    spec={"seed": 3},
    versions={"python": "3"},
    hardware={"threads": 2},
)


def plain(**changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(to_json(RECORD))
    return content | changes


@pytest.mark.parametrize(("old", "new"), [("0.25", "0.35"), ('"reason": ""', '"reason": "x"'), ('"sha256": "', '"sha256": "0')])
def test_a_plausible_edit_is_damage(old: str, new: str) -> None:
    text = to_json(replace(RECORD, before=Scores(acc=0.25)))
    assert old in text
    with pytest.raises(
        DamagedRecordError, match=r"^r\.json: its content is not what its checksum says; delete it and run again$"
    ):
        from_json(text.replace(old, new), "r.json")


def test_neither_white_space_nor_the_order_of_keys_is_damage() -> None:
    content = json.loads(to_json(RECORD))
    assert from_json(json.dumps(dict(reversed(content.items()))), "r.json") == RECORD


def test_what_a_newer_version_wrote_is_refused_and_not_taken_for_damaged() -> None:
    newer = json.dumps(sealed({key: value for key, value in plain(colour="red").items() if key != "sha256"}))
    with pytest.raises(UserError, match="colour") as caught:
        from_json(newer, "r.json")
    assert not isinstance(caught.value, DamagedRecordError)


def test_round_trip_is_exact() -> None:
    assert from_json(to_json(RECORD), "r.json") == RECORD
    failed = replace(RECORD, status="failed", reason="boom", before=None, after=None, oracle=None, seconds=None)
    assert from_json(to_json(failed), "r.json") == failed


def test_text_is_stable_ascii_with_sorted_keys() -> None:
    text = to_json(RECORD)
    assert text.isascii()
    assert text.endswith("}\n")
    assert list(json.loads(text)) == sorted(json.loads(text))
    assert to_json(from_json(text, "r.json")) == text
    assert json.loads(text)["schema"] == SCHEMA


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_json_does_not_know_are_refused(bad: float) -> None:
    for record in (replace(RECORD, seconds=bad), replace(RECORD, after=Scores(acc=bad)), replace(RECORD, prune={"a": [bad]})):
        with pytest.raises(ValueError, match="JSON"):
            to_json(record)


def refusal(text: str) -> str:
    with pytest.raises(UserError) as caught:
        from_json(text, "results/x/records/r.json")
    assert str(caught.value).startswith("results/x/records/r.json: ")
    return str(caught.value)


@pytest.mark.parametrize("text", ["", "{", to_json(RECORD)[:-30], "no json"])
def test_broken_json_names_the_file(text: str) -> None:
    assert "JSON is broken" in refusal(text)
    assert "delete it and run again" in refusal(text)


@pytest.mark.parametrize("found", [0, SCHEMA + 1, "1", None])
def test_another_schema_is_refused_and_says_what_to_do(found: Any) -> None:
    message = refusal(json.dumps(plain(schema=found)))
    assert f"schema {found!r}, this version reads {SCHEMA}" in message
    # A run reads the records before it runs, so without deleting the file "run again" ends in this very message.
    assert "delete" in message


@pytest.mark.parametrize("text", ["[]", "3", "null", '"text"', "{}"])
def test_json_that_is_no_record_is_refused(text: str) -> None:
    assert "schema None" in refusal(text)


def test_unknown_and_missing_keys_are_refused() -> None:
    assert "colour" in refusal(json.dumps(plain(colour="red")))
    assert "purity" in refusal(json.dumps(plain(after={"acc": 1.0, "purity": 1.0})))
    assert "acc" in refusal(json.dumps(plain(after={"asr": 1.0})))
    for key in ("cell", "before", "oracle", "status"):
        assert key in refusal(json.dumps({k: v for k, v in plain().items() if k != key}))


def test_scores_of_another_type_are_refused() -> None:
    refusal(json.dumps(plain(before=0.5)))
    refusal(json.dumps(plain(after=[1, 2])))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((0.90, 1.00), (0.90, 0.00), 1.0),  # everything won
        ((0.90, 1.00), (0.80, 0.20), 0.85),  # (0.8 - 0.1 + 1) / 2
        ((0.90, 1.00), (0.95, 0.50), 0.75),  # better accuracy earns nothing
        ((0.90, 0.50), (0.90, 0.90), 0.5),  # worse ASR costs nothing
        ((0.90, 0.50), (0.40, 0.50), 0.25),  # accuracy lost for nothing
        ((0.90, 1.00), (0.90, 1.00), 0.5),
        ((1.00, 0.00), (0.00, 0.00), 0.0),
        ((0.90, None), (0.90, 0.00), None),
        ((0.90, 1.00), (0.90, None), None),
        ((0.90, None), (0.90, None), None),
    ],
)
def test_der_by_hand(before: tuple[float, float | None], after: tuple[float, float | None], expected: float | None) -> None:
    got = der(Scores(acc=before[0], asr=before[1]), Scores(acc=after[0], asr=after[1]))
    assert got is None if expected is None else got == pytest.approx(expected, abs=1e-12)


def test_an_attack_took_when_its_asr_reaches_the_gate() -> None:
    def took(asr: float | None) -> bool:
        return replace(RECORD, gate=0.8, before=Scores(acc=0.9, asr=asr)).took

    assert took(0.8)
    assert took(1.0)
    assert took(None)
    assert not took(0.79)
    assert replace(RECORD, before=None).took


def test_records_need_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import mnp_plugin.report.records"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"seed": 3', '"seed": "3"', "'seed' must be a whole number from 0, not '3'"),
        ('"gate": 0.8', '"gate": 80', "'gate' must be a fraction from 0 to 1, not 80"),
        ('"acc": 0.25', '"acc": "x"', "'before.acc' must be a fraction from 0 to 1, not 'x'"),
        ('"acc": 0.25', '"acc": NaN', "'before.acc' must be a fraction from 0 to 1, not nan"),
        ('"acc": 0.25', '"acc": null', "'before.acc' is missing"),
        ('"status": "ok"', '"status": "fine"', "'status' must be 'ok' or 'failed', not 'fine'"),
        ('"seconds": 1.5', '"seconds": Infinity', "'seconds' must be a finite number from 0"),
        ('"seconds": 1.5', f'"seconds": {10**400}', "'seconds' must be a finite number from 0"),
        ('"clean_images": 100', f'"clean_images": {10**400}', "'clean_images' must be int, not a number of very many digits"),
        ('"stealth": null', '"stealth": [1]', "'stealth' must be dict[str, float | None] | None, not a list"),
        ('"stealth": null', '"stealth": {"psnr": NaN}', "'stealth' must be dict[str, float | None] | None, not a dict"),
        ('"net": "', '"net": 5, "reason": "', "'net' must be str, not 5"),
        (
            '"cell": "0123456789abcdef"',
            '"cell": "fedcba9876543210"',
            "it holds badnets-anp-s3 (cell fedcba9876543210), not what its name says",
        ),
        (
            '"defense": "anp"',
            '"defense": "ft"',
            "it holds badnets-ft-s3 (cell 0123456789abcdef), not what its name says",
        ),
    ],
)
def test_a_value_that_cannot_be_is_named_with_its_file(old: str, new: str, message: str) -> None:
    record = replace(RECORD, cell="0123456789abcdef", seed=3, gate=0.8, seconds=1.5, before=Scores(acc=0.25))
    text = to_json(record)
    source = "records/badnets-anp-s3-0123456789abcdef.json"
    assert from_json(text, source) == record
    assert old in text
    with pytest.raises(UserError) as caught:
        from_json(text.replace(old, new, 1), source)
    assert str(caught.value) == f"{source}: not a record of a cell: {message}; delete it and run again"
