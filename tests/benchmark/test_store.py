from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from mnp_plugin.benchmark.care import damaged
from mnp_plugin.benchmark.store import Kept, Store
from mnp_plugin.benchmark.suite import Suite, VictimSpec
from mnp_plugin.benchmark.suite_file import parse_suite
from mnp_plugin.core.errors import UserError
from mnp_plugin.io.atomic import write_atomic
from mnp_plugin.io.tensors import prefixed
from mnp_plugin.report.records import Record, Scores, from_json
from mnp_plugin.report.texts import sealed, to_json

TEXT = "dataset: digits\nnet: smallnet\nclean_budget: {images: 40}\nattacks: [clean, badnets]\ndefenses: [none, ft]\n"


@pytest.fixture
def suite() -> Suite:
    return parse_suite(TEXT, "s.yaml", default_name="tiny")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache", tmp_path / "results")


def saved(store: Store, victim: VictimSpec) -> Path:
    weights = {"conv.weight": torch.randn(2, 3, 3, 3).to(memory_format=torch.channels_last), "bn.count": torch.tensor(7)}
    state = {"pattern": torch.rand(3, 4), "poisoned_indices": torch.empty(0, dtype=torch.int64)}
    kept = Kept(prefixed("model", weights) | prefixed("state", state), {"seconds": 1.5, "before": {"acc": 1 / 3, "asr": None}})
    store.save("victims", victim.fingerprint, victim.plain(), kept)
    (path,) = (store.cache / "victims").iterdir()
    loaded = store.load_victim(victim)
    assert loaded is not None
    for kept, found in zip((weights, state), loaded[:2], strict=True):
        assert kept.keys() == found.keys()
        assert all(torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in kept.items())
    assert loaded[2] == {"seconds": 1.5, "before": {"acc": 1 / 3, "asr": None}}
    return path


def test_victim_round_trip(store: Store, suite: Suite) -> None:
    path = saved(store, suite.victims[0])
    assert path.name == f"{suite.victims[0].fingerprint}.safetensors"
    assert store.load_victim(suite.victims[1]) is None


@pytest.mark.parametrize("damage", ["empty", "cut header", "cut data", "noise", "longer", "header only", "no facts"])
def test_a_damaged_victim_counts_as_absent_and_can_be_made_again(store: Store, suite: Suite, damage: str) -> None:
    victim = suite.victims[0]
    path = saved(store, victim)
    content = path.read_bytes()
    spoilt = {
        "empty": b"",
        "cut header": content[:20],
        "cut data": content[:-4],
        "noise": bytes(range(256)) * 4,
        "longer": content + b"more",
        "header only": content[:8],
        "no facts": save({"model.a": torch.zeros(1)}),
    }
    path.write_bytes(spoilt[damage])
    assert store.load_victim(victim) is None
    assert store.load_victim(victim) is None
    saved(store, victim)


def test_a_victim_with_one_changed_weight_is_damaged(store: Store, suite: Suite) -> None:
    victim = suite.victims[0]
    path = saved(store, victim)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert store.load_victim(victim) is None
    assert not path.exists()


def test_a_victim_of_an_older_version_is_read(store: Store, suite: Suite) -> None:
    """Its file has no checksum."""
    victim = suite.victims[0]
    weight = torch.rand(2, 3)
    meta = {"spec": json.dumps(victim.plain()), "facts": json.dumps({"seconds": 2.5})}
    path = store.path("victims", victim.fingerprint)
    path.parent.mkdir()
    path.write_bytes(save({"model.a": weight, "state.b": weight + 1}, metadata=meta))
    found = store.load_victim(victim)
    assert found is not None
    assert torch.equal(found[0]["a"], weight)
    assert torch.equal(found[1]["b"], weight + 1)
    assert found[2] == {"seconds": 2.5}


def test_a_file_that_holds_another_victim_counts_as_absent(store: Store, suite: Suite) -> None:
    path = saved(store, suite.victims[0])
    other = path.rename(store.path("victims", suite.victims[1].fingerprint))
    assert store.load_victim(suite.victims[1]) is None
    assert store.damaged == {other: "holds something else than its name says (attack), as if files were swapped,"}
    assert other.exists(), "it may be all that is left of it"
    assert list(damaged(store, suite)) == [
        f"{other}: it holds something else than its name says, as if files were swapped; run makes it again"
    ]


def record(suite: Suite, index: int = 0) -> Record:
    cell = list(suite.cells())[index]
    return Record(
        cell=cell.fingerprint,
        suite=suite.name,
        dataset="digits",
        net="smallnet",
        attack=cell.victim.attack.label,
        defense=cell.defense.label,
        seed=0,
        status="ok",
        before=Scores(acc=0.5, asr=1 / 3),
        spec=cell.plain(),
    )


def test_record_round_trip(store: Store, suite: Suite) -> None:
    cells = list(suite.cells())
    assert store.load_record(suite.name, cells[0]) is None
    store.write(suite.name, "records", cells[0].file_name, to_json(record(suite)))
    assert store.load_record(suite.name, cells[0]) == record(suite)
    assert store.load_record(suite.name, cells[1]) is None
    assert store.load_record("other", cells[0]) is None
    assert [p.name for p in (store.results / "tiny" / "records").iterdir()] == [cells[0].file_name]


@pytest.mark.parametrize("content", [b"", b'{"schema": 1', b"\xff\xfe\x00broken"])
def test_a_record_that_cannot_be_read_is_named(store: Store, suite: Suite, content: bytes) -> None:
    cell = next(suite.cells())
    path = store.suite_folder(suite.name) / "records" / cell.file_name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        store.load_record(suite.name, cell)
    assert str(path) in str(caught.value)


def test_the_plan_lists_the_records_of_the_suite(store: Store, suite: Suite) -> None:
    store.save_plan(suite)
    plan = json.loads((store.results / "tiny" / "suite.json").read_text())
    names = [c.file_name for c in suite.cells()]
    labels = {name: {"dataset": "digits", "net": "smallnet"} for name in names}
    assert plan == sealed({"suite": "tiny", "gate": 0.8, "records": names, "labels": labels})


def test_a_folder_that_cannot_be_made_is_a_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"cannot write to .*file.*--store or --results"):
        Store(tmp_path / "file" / "cache", tmp_path / "results")
    with pytest.raises(UserError, match=r"cannot write to .*file"):
        Store(tmp_path / "cache", tmp_path / "file")


# -------------------------------------------------------------------------------------------------------- atomic writing


def test_write_atomic_makes_folders_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.json"
    write_atomic(path, b"one")
    write_atomic(path, b"two, longer")
    write_atomic(path, b"3")
    assert path.read_bytes() == b"3"
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("step", ["replace", "fsync", "chmod"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_write_atomic_survives_an_exception(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    path = tmp_path / "x.json"
    write_atomic(path, b"old")

    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(type(error)):
            write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
from mnp_plugin.io.atomic import write_atomic
from mnp_plugin.report.records import Record
from mnp_plugin.report.texts import sealed, to_json

folder = Path(sys.argv[1])
record = Record(cell="c", suite="s", dataset="d", net="n", attack="a", defense="f", seed=0, status="ok")
texts = [to_json(replace(record, seed=i, prune={"long": str(i) * (3_000_000 + i)})).encode() for i in range(4)]
for i in range(10**6):
    print(i, flush=True)
    write_atomic(folder / f"{i % 3}.json", texts[i % 4])
"""


def test_a_kill_at_any_moment_leaves_whole_records(tmp_path: Path) -> None:
    for round_ in range(8):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        try:
            for _ in range(4 + round_):  # the line comes just before a write, so the kill falls into it
                assert writer.stdout.readline()
        finally:
            writer.kill()
            writer.wait()
            writer.stdout.close()
        files = sorted(tmp_path.glob("*.json"))
        assert [f.name for f in files] == ["0.json", "1.json", "2.json"]
        for file in files:
            found = from_json(file.read_text(), str(file))
            assert found.prune == {"long": str(found.seed) * (3_000_000 + found.seed)}
