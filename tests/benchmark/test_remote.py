"""Machines that share no folder, but a URL: they find what others made, divide the work, and lose nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from mnp_plugin.benchmark import locks
from mnp_plugin.benchmark.remote import Remote
from mnp_plugin.benchmark.remote_locks import RemoteLocks
from mnp_plugin.benchmark.runner import Runner, Summary
from mnp_plugin.benchmark.store import Store
from mnp_plugin.benchmark.suite_file import parse_suite
from mnp_plugin.cli import main
from mnp_plugin.io.atomic import UnwritableError
from mnp_plugin.report.build import build_tables

SUITE = parse_suite(
    """
dataset: {name: digits, size: 8}
net: {name: smallnet, width: 4}
recipe: {epochs: 1, batch_size: 64, crop: 0, flip: false, precision: float32}
clean_budget: {images: 40}
attacks: [clean, {name: badnets, poison_ratio: 0.2}]
defenses: [none, {name: ft, epochs: 1}]
""",
    "test",
    "shared",
)


@pytest.fixture
def url() -> Iterator[str]:
    place = f"memory://{uuid.uuid4().hex}"
    yield place
    with suppress(FileNotFoundError):
        fsspec.filesystem("memory").rm(place, recursive=True)


class Machine:
    """Folders of its own."""

    def __init__(self, folder: Path, url: str) -> None:
        cache, results = folder / "cache", folder / "results"
        self.store = Store(cache, results, Remote(url, cache, results))

    def run(self, **chosen: Any) -> Summary:
        return Runner(SUITE, self.store, torch.device("cpu"), **chosen).run()

    def table(self) -> str:
        build_tables(self.store.suite_folder("shared"))
        return (self.store.suite_folder("shared") / "leaderboard.csv").read_text()


def test_what_one_machine_made_another_finds(tmp_path: Path, url: str) -> None:
    first, second = Machine(tmp_path / "first", url), Machine(tmp_path / "second", url)
    assert first.run(attacks=["clean"]).ran == 2
    done = second.run()
    assert (done.ran, done.skipped) == (2, 2)
    again = first.run()
    assert (again.ran, again.skipped) == (0, 4)
    assert first.table() == second.table()
    fresh = Machine(tmp_path / "third", url)
    assert all(fresh.store.load_victim(victim) is not None for victim in SUITE.victims)
    assert not fsspec.filesystem("memory").glob(f"{url}/store/locks/*")


def test_what_another_wrote_since_the_last_look_is_found_under_its_lock(tmp_path: Path, url: str) -> None:
    first, second = Machine(tmp_path / "first", url), Machine(tmp_path / "second", url)
    assert second.store.remote is not None
    assert second.store.remote.known() == {}
    first.run(attacks=["clean"])
    runner = Runner(SUITE, second.store, torch.device("cpu"))
    second.store.remote.places["results"].joinpath("shared").mkdir(parents=True, exist_ok=True)
    second.store.remote._known = {}  # as if the other had been quicker by a moment
    for file in (tmp_path / "second/results/shared").rglob("*.json"):
        file.unlink()
    done = runner.run()
    assert (done.ran, done.elsewhere) == (2, 2)


def test_a_damaged_file_there_is_made_anew_and_sent_again(tmp_path: Path, url: str) -> None:
    Machine(tmp_path / "first", url).run()
    files = fsspec.filesystem("memory")
    (broken,) = [path for path in files.glob(f"{url}/store/victims/*.safetensors") if SUITE.victims[1].fingerprint in path]
    content = files.cat_file(broken)
    files.pipe_file(broken, content[:-1] + bytes([content[-1] ^ 1]))
    second = Machine(tmp_path / "second", url)
    victim = SUITE.victims[1]
    assert second.store.load_victim(victim) is None
    Runner(SUITE, second.store, torch.device("cpu")).victim(victim)
    found = Machine(tmp_path / "third", url).store.load_victim(victim)
    assert found is not None


def test_records_made_again_elsewhere_are_those_that_count(tmp_path: Path, url: str) -> None:
    first, second = Machine(tmp_path / "first", url), Machine(tmp_path / "second", url)
    first.run()
    second.run()
    name = next((tmp_path / "first/results/shared/records").glob("badnets-ft-*")).name
    ours, theirs = (tmp_path / place / "results/shared/records" / name for place in ("first", "second"))
    older = theirs.read_bytes().replace(b'"seconds"', b'"SECONDS"')  # of the same size: what is made again may be the same
    theirs.write_bytes(older)
    time.sleep(0.02)
    first.run(resume="all")
    second.store.exchange("shared")
    assert theirs.read_bytes() == ours.read_bytes() != older


def test_a_newer_record_that_was_not_sent_is_kept_and_sent(tmp_path: Path, url: str) -> None:
    first = Machine(tmp_path / "first", url)
    first.run()
    record = next((tmp_path / "first/results/shared/records").glob("badnets-ft-*"))
    time.sleep(0.02)
    newer = record.read_bytes() + b"\n"  # as if the connection had broken when it was remade
    record.write_bytes(newer)
    first.store.exchange("shared")
    assert record.read_bytes() == newer
    second = Machine(tmp_path / "second", url)
    second.store.exchange("shared")
    assert (tmp_path / "second/results/shared/records" / record.name).read_bytes() == newer


def test_records_of_a_run_without_it_are_sent(tmp_path: Path, url: str) -> None:
    alone = Store(tmp_path / "alone", tmp_path / "first/results")
    assert Runner(SUITE, alone, torch.device("cpu")).run().ran == 4
    assert Machine(tmp_path / "first", url).run().ran == 0
    assert Machine(tmp_path / "second", url).run().skipped == 4


@pytest.mark.parametrize("name", ["../../out.json", "records/../../../out.json", "records//../../../out.json", "..\\\\out.json"])
def test_a_name_that_leads_out_of_the_folders_is_passed_over(name: str, tmp_path: Path, url: str) -> None:
    files = fsspec.filesystem("memory")
    files.store[f"{files._strip_protocol(url)}/results/shared/{name}"] = MemoryFile(files, name, b"{}")
    machine = Machine(tmp_path / "a/b/c", url)
    machine.store.exchange("shared")
    assert machine.store.remote is not None
    machine.store.remote.fetch_all()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# ------------------------------------------------------------------------------------------------------------------ locks


class TakenError(Exception):
    pass


def refuse() -> None:
    raise TakenError


def locks_at(folder: Path, url: str) -> RemoteLocks:
    return RemoteLocks(Remote(url, folder, folder))


def test_of_many_only_one_gets_a_lock_and_the_next_when_it_is_released(tmp_path: Path, url: str) -> None:
    got, refused = [], []

    def attempt() -> None:
        try:
            got.append(locks_at(tmp_path, url).acquired("job", refuse))
        except TakenError:
            refused.append(1)

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 7)
    (holder,) = locks_at(tmp_path, url).holders()
    assert (holder.name, holder.host, holder.pid) == ("job", socket.gethostname(), os.getpid())
    got[0].release()
    locks_at(tmp_path, url).acquired("job", refuse).release()
    assert locks_at(tmp_path, url).holders() == []


def test_the_lock_of_a_silent_host_is_free_when_its_lease_is_over(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LEASE", 0.5)
    monkeypatch.setattr(locks, "HEARTBEAT", 0.1)
    theirs = locks_at(tmp_path, url).acquired("job", refuse)
    mine = locks_at(tmp_path, url)
    end = time.monotonic() + 1.0
    while time.monotonic() < end:  # it says something all the time
        with pytest.raises(TakenError):
            mine.acquired("job", refuse)
        time.sleep(0.1)
    theirs._over.set()  # silent from now on
    waited = time.monotonic()
    lease = mine.acquired("job", lambda: None)
    assert 0.4 < time.monotonic() - waited < 10
    assert [holder.name for holder in mine.holders()] == ["job"]
    lease.release()


def test_the_lock_of_a_dead_process_of_this_host_is_free_at_once(tmp_path: Path, url: str) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    lease = locks_at(tmp_path, url).acquired("job", refuse)
    lease._over.set()
    content = lease.remote.get(lease.file)
    assert content is not None
    lease.remote.put(lease.file, content.replace(f'"pid": {os.getpid()}'.encode(), f'"pid": {ended.pid}'.encode()))
    assert locks_at(tmp_path, url).holders() == []
    locks_at(tmp_path, url).acquired("job", refuse).release()
    assert locks_at(tmp_path, url).holders() == []


def test_a_lock_that_cannot_be_read_is_held_until_its_lease_is_over(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where writing is no single step, a lock is empty for a moment while its holder renews it."""
    lease = locks_at(tmp_path, url).acquired("job", refuse)
    lease._over.set()
    mine = locks_at(tmp_path, url)
    for half in (b"", b'{"host": "x"', b"[]"):
        lease.remote.put(lease.file, half)
        with pytest.raises(TakenError):
            mine.acquired("job", refuse)
        assert mine.holders() == []
    monkeypatch.setattr(locks, "LEASE", 0.2)
    time.sleep(0.3)
    mine.acquired("job", refuse).release()


# ------------------------------------------------------------------------------------------------------------ what is said


@pytest.mark.parametrize(
    ("place", "reason"), [("nowhere://x/y", "nowhere"), ("s3://bucket/x", "pip install 'mnp_plugin[s3]'|cannot be reached")]
)
def test_what_is_wrong_with_a_url_is_said_before_any_work(
    place: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert main(["run", "digits", "--store", place]) == 2
    said = capsys.readouterr().err
    assert any(word in said for word in reason.split("|"))
    assert "training" not in said
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("what", ["probe", "victims", "records"])
def test_a_place_that_fails_later_ends_the_run_with_a_sentence(
    what: str, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path / "first", url)
    whole = MemoryFileSystem.pipe_file

    def broken(files: MemoryFileSystem, path: str, *more: Any, **named: Any) -> None:
        if what in path:
            raise RuntimeError("the line is cut")
        whole(files, path, *more, **named)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", broken)
    with pytest.raises(UnwritableError, match=r"cannot be reached: the line is cut\..*what was finished is kept"):
        machine.run()
    monkeypatch.undo()
    done = machine.run()
    assert (done.ran + done.skipped, done.failed) == (4, [])
    second = Machine(tmp_path / "second", url)
    assert second.run().skipped == 4, "what could not be sent before is sent now"
    assert all(second.store.load_victim(victim) is not None for victim in SUITE.victims)


def test_files_there_are_not_removed_by_gc(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gc", "digits", "--store", url]) == 2
    assert "with the tools of that place" in capsys.readouterr().err


def test_verify_looks_at_what_others_made(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    Machine(tmp_path / "first", url).run()
    fsspec.filesystem("memory").pipe_file(f"{url}/store/victims/{'0' * 16}.safetensors", b"broken")
    (tmp_path / "shared.yaml").write_text(
        "suite: shared\ndataset: digits\nnet: smallnet\nclean_budget: {images: 40}\nattacks: [badnets]\ndefenses: [none]\n"
    )
    main(["verify", str(tmp_path / "shared.yaml"), "--store", url, "--results", str(tmp_path / "second"), "--sample", "0"])
    assert f"{'0' * 16}.safetensors: its content is not what its checksum says" in capsys.readouterr().out
