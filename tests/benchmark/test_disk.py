"""A disk that is full or read-only ends a run in one sentence, before more is made that cannot be kept."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from mnp_plugin.benchmark import stages, store
from mnp_plugin.benchmark.runner import Runner, Summary
from mnp_plugin.benchmark.store import Store
from mnp_plugin.benchmark.suite_file import parse_suite
from mnp_plugin.io.atomic import STALE, UnwritableError, clear_stale, write_atomic

FULL = os.strerror(errno.ENOSPC)
SUITE = parse_suite(
    """
dataset: {name: digits, size: 16}
net: {name: smallnet, width: 4}
recipe: {epochs: 1, batch_size: 64, crop: 1, flip: false}
clean_budget: {images: 40}
attacks: [clean, badnets]
defenses: [none, {name: ft, epochs: 1}]
""",
    "test",
    "disk",
)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Titles of the victims that are trained."""
    titles: list[str] = []
    train = stages.train_victim

    def counted(victim: Any, *more: Any) -> Any:
        titles.append(victim.attack.label)
        return train(victim, *more)

    monkeypatch.setattr(stages, "train_victim", counted)
    return titles


def run(folder: Path) -> Summary:
    return Runner(SUITE, Store(folder / "store", folder / "results"), torch.device("cpu")).run()


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("kind", "expected"),
    [("probe", []), ("suite.json", []), ("victims", ["clean"]), ("repaired", ["clean"]), ("records", ["clean"])],
)
def test_a_disk_that_refuses_a_file_ends_the_run_which_goes_on_later(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trained: list[str],
    kind: str,
    expected: list[str],
) -> None:
    def refuse(path: Path, content: bytes) -> None:
        if kind in path.name or kind == path.parent.name:
            raise OSError(errno.ENOSPC, FULL, str(path))
        write_atomic(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_atomic", refuse)
        with pytest.raises(UnwritableError, match=rf"cannot write .*{kind}.*: {FULL}\. Mend that and run the same"):
            run(tmp_path)
    assert trained == expected
    assert not list(tmp_path.rglob("records/*.json"))
    summary = run(tmp_path)
    assert (summary.ran, summary.failed) == (4, [])
    assert trained == (["clean", "clean", "badnets"] if kind == "victims" else ["clean", "badnets"])


def test_what_killed_writers_left_is_removed_and_what_is_being_written_stays(tmp_path: Path) -> None:
    cache, results = tmp_path / "store", tmp_path / "results"
    old = [
        cache / "victims/.ab.safetensors.k1l2m3n4",
        results / "s/.leaderboard.csv.abcdefg_",
        results / "s/records/.a.json.00000000",
    ]
    kept = [cache / "victims/.ab.safetensors.now12345", cache / "victims/.gitignore", cache / "victims/ab.safetensors"]
    for file in [*old, *kept]:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    before = time.time() - STALE - 1
    for file in [*old, *kept[1:]]:
        os.utime(file, (before, before))
    Store(cache, results, reading=True)
    assert all(file.exists() for file in old), "plan and report remove nothing"
    Store(cache, results)
    assert not any(file.exists() for file in old)
    assert all(file.exists() for file in kept)
    clear_stale([tmp_path / ".gone.json.abcdefgh"])
