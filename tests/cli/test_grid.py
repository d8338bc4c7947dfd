"""A grid from the command line: what is done, what is left, what it costs; parts, retries, and what follows a run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mnp_plugin.benchmark import outlook, stages
from mnp_plugin.benchmark.observer import Silent
from mnp_plugin.benchmark.observers.plugin import opened
from mnp_plugin.benchmark.store import Store
from mnp_plugin.cli import main
from mnp_plugin.cli.settings import Ended, component, ended_by_signal, engine_of
from mnp_plugin.core.errors import UserError
from mnp_plugin.core.registries import engines
from mnp_plugin.defenses.ft import FineTuning
from mnp_plugin.training.device import pick_devices

SUITE = """
suite: grid
dataset: {name: digits, size: 8}
net: {name: smallnet, width: 4}
recipe: {epochs: 1, batch_size: 64, crop: 0, flip: false, precision: float32}
clean_budget: {images: 40}
attacks: [clean, badnets]
defenses: [none, {name: ft, epochs: 1}]
"""


@dataclass(frozen=True)
class Place:
    folder: Path

    def __call__(self, verb: str, *more: str) -> int:
        places = ["--store", str(self.folder / "store"), "--results", str(self.folder / "results")]
        suite = [] if verb == "gc" else [str(self.folder / "grid.yaml")]
        return main([verb, *suite, *places, *more])

    def marks(self, pattern: str) -> dict[str, int]:
        return {str(file): file.stat().st_mtime_ns for file in self.folder.glob(pattern)}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.yaml").write_text(SUITE)
    return Place(tmp_path)


def test_a_grid_from_its_plan_to_its_verification(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def said() -> str:
        return capsys.readouterr().out

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("out of ideas")

    assert place("plan") == 0
    assert "left: 2 victims, 4 repaired nets, 4 records, 1 floor; time unknown" in said()
    with monkeypatch.context() as patch:
        patch.setattr(FineTuning, "purify", fails)
        assert place("run", "--device", "cpu", "--shard", "2/2", "--log", "log/events.jsonl") == 1
    events = [json.loads(line) for line in (place.folder / "log/events.jsonl").read_text().splitlines()]
    assert [e["event"] for e in events if e["event"] != "busy"] == ["plan", "finished", "finished"]
    assert [(e["attack"], e["defense"], e["status"]) for e in events if e["event"] == "finished"] == [
        ("badnets", "none", "ok"), ("badnets", "ft", "failed"),
    ]  # fmt: skip
    capsys.readouterr()
    assert place("status", "--json") == 0
    found = json.loads(said())
    assert found["records"]["records"] == {"done": 1, "failed": 1, "missing": 2}
    assert [reason[:26] for reason in found["failed"]] == ["RuntimeError: out of ideas"]
    assert found["jobs left"] == {"victims": 1, "repaired": 2, "records": 2, "floors": 1}
    assert place("run", "--device", "cpu", "--quiet") == 1, "a cell that failed before is left as it is"
    assert place("run", "--device", "cpu", "--quiet", "--resume", "failed") == 0
    capsys.readouterr()
    lock = Store(place.folder / "store", place.folder / "results").locks.acquired("elsewhere", fails)
    assert place("status") == 0
    lock.release()
    assert said() == "records: 4 done\nfloors: 1 done\nnothing left to do\n"
    assert place("verify", "--sample", "2", "--device", "cpu") == 0
    assert "0 damaged files; 2 cells measured again, 0 differ" in said()

    record = min((place.folder / "results/grid/records").glob("*.json"))
    whole = {file: file.read_bytes() for file in (*place.folder.glob("store/repaired/*"), record)}
    for file, content in whole.items():
        file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    assert place("status") == 0
    assert f"3 done, 1 missing\nfloors: 1 done\nmissing: {record} is damaged; run makes it anew\n" in said()
    assert place("verify", "--device", "cpu") == 1
    assert "5 damaged files; 3 cells measured again, 0 differ" in said()
    assert all(file.read_bytes() != content for file, content in whole.items()), "verify writes nothing"
    for file, content in whole.items():
        file.write_bytes(content)

    victims, records = place.marks("store/victims/*"), place.marks("results/grid/records/*")
    assert place("run", "--device", "cpu", "--quiet", "--resume", "all") == 0
    assert place.marks("store/victims/*") == victims, "nothing is trained again"
    again = place.marks("results/grid/records/*")
    assert again.keys() == records.keys()
    assert all(again[name] != records[name] for name in records)

    capsys.readouterr()
    (place.folder / "store/victims/0123456789abcdef.safetensors").write_bytes(b"x" * 1000)
    assert place("gc", "grid.yaml") == 0
    assert said() == f"{place.folder}/store/victims/0123456789abcdef.safetensors\n"
    assert place("verify", "--sample", "0", "--device", "cpu") == 1
    assert "its content is not what its checksum says" in said()
    assert place("gc", "grid.yaml", "--delete") == 0
    assert place.marks("store/victims/*") == victims

    (place.folder / "grid.yaml").write_text(SUITE.replace("[clean, badnets]", "[clean, badnets, wanet, blended]"))
    assert place("plan") == 0
    assert "left: 2 victims, 4 repaired nets, 4 records, 2 floors; about " in said().splitlines()[-1]
    monkeypatch.setattr(outlook, "free_bytes", lambda folder: 100.0)
    for verb in ("plan", "run"):
        assert place(verb) == 2
        assert "the disk of" in capsys.readouterr().err
    assert place.marks("store/victims/*") == victims, "nothing is trained that could not be kept"


def test_the_repaired_net_of_other_weights_is_made_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run may have made a victim meanwhile, which elsewhere ends in other weights."""
    assert place("run", "--device", "cpu", "--attacks", "badnets", "--quiet") == 0
    (victim,) = place.folder.glob("store/victims/*.safetensors")
    repaired = place.marks("store/repaired/*")
    victim.unlink()
    train = stages.train_victim

    def otherwise(*arguments: Any) -> Any:
        made = train(*arguments)
        with torch.no_grad():
            next(made.model.parameters()).mul_(1.01)
        return made

    monkeypatch.setattr(stages, "train_victim", otherwise)
    assert place("run", "--device", "cpu", "--attacks", "badnets", "--quiet", "--resume", "all") == 0
    assert all(stamp != repaired[name] for name, stamp in place.marks("store/repaired/*").items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--jobs", "2", "--engine", "inline"], "does one job at a time"),
        (["--jobs", "0"], "--jobs must be 1 or more, not 0"),
        (["--engine", "proceses"], "no engine is called 'proceses'. Did you mean 'processes'?"),
        (["--engine", "processes,worker=2"], "engine 'processes': worker: unknown key 'worker'"),
        (["--engine", "processes,workers"], "engine 'processes': 'workers' is no setting; write key=value"),
        (["--engine", "inline", "--device", "cpu,cpu"], "takes one --device, not 2"),
        (["--observe", "jsonl,file=grid.yaml/x/y"], "observer 'jsonl': cannot write"),
    ],
)
def test_mistakes_are_found_before_anything_runs(
    place: Place, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert place("run", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(place.folder.glob("store/victims/*"))


def test_a_part_is_one_of_several(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ("0/2", "3/2", "2", "a/b"):
        with pytest.raises(SystemExit):
            place("run", "--shard", wrong)
        assert "must be I/N with 1 <= I <= N" in capsys.readouterr().err


def test_parts_without_a_shared_folder_are_put_together_by_copying(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack's part has no clean net, so its floor is measured when both nets lie together, and nothing else is made."""
    for part in ("1", "2"):
        suite = ["run", str(place.folder / "grid.yaml"), "--device", "cpu", "--quiet", "--shard", f"{part}/2"]
        assert main([*suite, "--store", f"part{part}/store", "--results", f"part{part}/results"]) == 0
        for kind in ("store", "results"):
            shutil.copytree(place.folder / f"part{part}" / kind, place.folder / kind, dirs_exist_ok=True)
    assert not list(place.folder.glob("results/grid/floors/*"))
    capsys.readouterr()
    assert place("status") == 0
    assert capsys.readouterr().out.startswith("records: 4 done\nfloors: 1 missing\nleft: 1 floor; ")
    monkeypatch.setattr(stages, "train_victim", None)
    before = place.marks("store/*/*.safetensors")
    assert place("run", "--device", "cpu", "--quiet") == 0
    assert place.marks("store/*/*.safetensors") == before
    assert len(list(place.folder.glob("results/grid/floors/*"))) == 1


def test_several_devices_and_workers_ask_for_processes() -> None:
    assert [str(d) for d in pick_devices("cpu,cpu")] == ["cpu", "cpu"]
    found = engine_of(None, None, ["cuda:0", "cuda:1"])
    assert isinstance(found, engines.get("processes"))
    assert (found.workers, found.devices) == (2, ("cuda:0", "cuda:1"))  # type: ignore[attr-defined]
    assert isinstance(engine_of(None, None, ["cpu"]), engines.get("inline"))
    assert component(engines, "processes,threads=2,reserve=10").threads == 2


def test_an_observer_that_breaks_is_left_out_and_said(tmp_path: Path) -> None:
    told: list[str] = []

    class Screen(Silent):
        def busy(self, what: str, step: int = 0, steps: int = 0) -> None:
            told.append(what)

    class Broken(Silent):
        def plan(self, total: int, done: int, further: int = 0, further_done: int = 0) -> None:
            raise OSError("disk full")

    @contextmanager
    def plugin(suite: str) -> Iterator[Silent]:
        yield Broken()

    fake: Any = SimpleNamespace(name="mine", open=plugin)
    with opened(Screen(), [fake], "s") as observer:
        for _ in range(2):
            observer.plan(1, 0)
    assert told == ["observer 'mine' is left out: OSError: disk full"]


def test_an_observer_that_cannot_be_opened_is_a_mistake_and_one_that_cannot_be_closed_is_said() -> None:
    told: list[str] = []

    class Screen(Silent):
        def busy(self, what: str, step: int = 0, steps: int = 0) -> None:
            told.append(what)

    @contextmanager
    def away(suite: str) -> Iterator[Silent]:
        raise ConnectionError("nobody\nanswers")
        yield Silent()

    @contextmanager
    def leaves(suite: str) -> Iterator[Silent]:
        try:
            yield Silent()
        finally:
            raise ConnectionError("gone")

    first: Any = SimpleNamespace(name="away", open=away)
    second: Any = SimpleNamespace(name="leaves", open=leaves)
    with pytest.raises(UserError, match=r"observer 'away': cannot be opened \(ConnectionError: nobody answers\)"):
        opened(Screen(), [first], "s").__enter__()
    with opened(Screen(), [second], "s"):
        pass
    assert told == ["observer 'leaves' was not closed well: ConnectionError: gone"]
    with pytest.raises(UserError, match="the disk is full"), opened(Screen(), [second], "s"):
        raise UserError("the disk is full")
    assert len(told) == 2, "what ended the run stays what is raised"


def test_tensorboard_is_asked_for_in_one_sentence_or_written(tmp_path: Path) -> None:
    from mnp_plugin.core.registries import observers

    plugin = component(observers, f"tensorboard,folder={tmp_path / 'runs'}")
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match="pip install tensorboard"), plugin.open("s"):
            pass
        return
    with plugin.open("s") as observer:
        observer.plan(1, 0)
    assert list((tmp_path / "runs/s").iterdir())


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGTERM, Ended), (signal.SIGINT, KeyboardInterrupt)])
def test_signals_end_a_run_and_only_a_run(number: signal.Signals, kind: type[BaseException]) -> None:
    before = signal.getsignal(number)
    handler: Callable[..., Any] = signal.default_int_handler
    signal.signal(number, handler)
    try:
        with pytest.raises(kind), ended_by_signal():
            os.kill(os.getpid(), number)
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)


TWICE = """
import os, signal, sys
from mnp_plugin.cli.settings import ended_by_signal
signal.signal(signal.SIGINT, signal.default_int_handler)
with ended_by_signal():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        os.kill(os.getpid(), signal.SIGINT)
"""


def test_a_second_signal_ends_at_once_with_a_sentence() -> None:
    done = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr == "\nmnp-bench: ended at once. Finished cells are kept; the same command goes on from here.\n"
