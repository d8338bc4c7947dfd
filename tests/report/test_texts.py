"""Every kind of record is read by the same care."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from mnp_plugin.core.errors import UserError
from mnp_plugin.report import floors, trials
from mnp_plugin.report.floors import FloorRecord
from mnp_plugin.report.records import Scores
from mnp_plugin.report.texts import to_json
from mnp_plugin.report.trials import TrialRecord

ID = "0123456789abcdef"
FLOOR = FloorRecord(
    id=ID,
    victim="v",
    clean="c",
    same_recipe=True,
    suite="s",
    attack="badnets",
    seed=0,
    status="ok",
    floor=Scores(acc=0.9, asr=0.1),
)
TRIAL = TrialRecord(
    id=ID, cell="c", suite="s", attack="badnets", defense="ft", seed=0, trial="finetuned", status="ok", after=Scores(acc=0.9)
)
READ: dict[str, tuple[Any, Any]] = {"floors": (FLOOR, floors.from_json), "trials": (TRIAL, trials.from_json)}
BROKEN = ["[" * 100_000, "9" * 5000, "", "[]", "null", '{"schema": 1}', '{"schema": 1, "spec": ' + "[" * 100_000]


@pytest.mark.parametrize("kind", READ)
def test_a_record_is_read_as_it_was_written(kind: str) -> None:
    record, read = READ[kind]
    assert read(to_json(record), f"{kind}/badnets-s0-{ID}.json") == record


@pytest.mark.parametrize("kind", READ)
@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_broken_json_is_one_sentence(kind: str, text: str) -> None:
    with pytest.raises(UserError, match=r"^here\.json: not a record of a .*; delete it and run again$"):
        READ[kind][1](text, "here.json")


@pytest.mark.parametrize("kind", READ)
@pytest.mark.parametrize(
    "change",
    [
        {"attack": ["x"]},
        {"seed": "0"},
        {"seed": 10**400},
        {"status": "fine"},
        {"content": None},
        {"versions": 5},
        {"hardware": []},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_value_of_another_type_is_named(kind: str, change: dict[str, Any]) -> None:
    record, read = READ[kind]
    plain = json.loads(to_json(record)) | change
    with pytest.raises(UserError, match=rf"here\.json: not a record of a .*: '{next(iter(change))}' must be"):
        read(json.dumps(plain), "here.json")


@pytest.mark.parametrize("kind", READ)
def test_a_file_named_after_another_record_is_refused(kind: str) -> None:
    record, read = READ[kind]
    other = replace(record, id="f" * 16)
    with pytest.raises(UserError, match=r"it holds f+, not what its name says"):
        read(to_json(other), f"{kind}/badnets-s0-{ID}.json")
