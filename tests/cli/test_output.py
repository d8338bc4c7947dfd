"""What verbs print, and where: JSON, tables on stdout, everything else on stderr."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mnp_plugin import contracts
from mnp_plugin.benchmark import find
from mnp_plugin.cli import main, methods
from mnp_plugin.core.errors import MethodError
from mnp_plugin.report.records import Record, Scores
from mnp_plugin.report.texts import to_json

TINY = """\
suite: tiny
dataset: {name: digits, size: 8}
net: {name: smallnet, width: 4}
recipe: {epochs: 1, batch_size: 64, crop: 0, flip: false}
clean_budget: {images: 40}
gate: {asr: 0.0}
attacks: [clean]
defenses: [none]
"""


def record(attack: str, defense: str, asr: float | None) -> Record:
    return Record(
        cell=f"{attack}{defense}", suite="tiny", dataset="digits", net="smallnet", attack=attack, defense=defense, seed=0,
        status="ok", before=Scores(acc=0.9, asr=asr), after=Scores(acc=0.8, asr=asr), gate=0.0, clean_images=40,
    )  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``mine.yaml``, whose suite is called tiny, and records of that suite."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(TINY)
    folder = tmp_path / "results" / "tiny" / "records"
    folder.mkdir(parents=True)
    for one in (record("clean", "none", None), record("badnets", "none", 0.5)):
        (folder / f"{one.cell}.json").write_text(to_json(one))
    return tmp_path


def test_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for registry in contracts.all_registries:
        assert [row["name"] for row in found[registry.plural]] == registry.names()
    (badnets,) = [row for row in found["attacks"] if row["name"] == "badnets"]
    assert badnets["origin"] == "mnp_plugin"
    assert badnets["summary"] == (contracts.attacks.get("badnets").__doc__ or "").splitlines()[0]


@pytest.mark.parametrize("word", ["nets", "net"])
def test_list_of_one_kind(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", word]) == 0
    out = capsys.readouterr().out
    assert out.startswith("nets:\n")
    assert "attacks:" not in out
    assert "smallnet" in out
    assert main(["list", "victim-sources"]) == 0
    assert "backdoorbench" in capsys.readouterr().out


def test_plan_as_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "mine.yaml", "--json", "--store", "store"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["suite"], found["victims"], found["done"]) == ("tiny", 1, 0)
    (cell,) = found["cells"]
    assert {k: cell[k] for k in ("state", "attack", "defense", "dataset", "net", "seed")} == {
        "state": "to do", "attack": "clean", "defense": "none", "dataset": "digits", "net": "smallnet", "seed": 0,
    }  # fmt: skip
    assert not (here / "store").exists()


def test_report_as_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (here / "results").is_dir()
    assert main(["report", "tiny", "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert captured.err == ""
    assert (found["suite"], found["records"], found["left out"]) == ("tiny", 2, [])
    rows = {row["attack"]: row for row in found["rows"]}
    assert (rows["badnets"]["acc"], rows["badnets"]["asr"], rows["badnets"]["seeds"]) == (90.0, 50.0, 1) or (
        rows["badnets"]["acc"],
        rows["badnets"]["asr"],
    ) == (80.0, 50.0)
    assert rows["clean"]["asr"] is None
    assert rows["clean"]["flag"] == ""


@pytest.mark.parametrize("word", ["tiny", "mine.yaml", "./mine.yaml"])
def test_report_takes_the_suite_by_name_or_by_file(here: Path, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (here / "results").is_dir()
    assert main(["report", word]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("# Leaderboard: tiny\n")
    assert "leaderboard.csv" not in captured.out
    assert captured.err.startswith("2 records -> ")


def test_report_takes_the_name_of_a_suite_that_ships_under_another_name(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find, "CONFIGS", "suites")
    (here / "suites").mkdir()
    (here / "mine.yaml").rename(here / "suites" / "other.yaml")
    assert main(["report", "other", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("# Leaderboard: tiny\n")
    assert captured.err == ""


def test_report_offers_the_nearest_suite(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (here / "results").is_dir()
    assert main(["report", "tinny"]) == 2
    assert capsys.readouterr().err == "mnp-bench: no records of a suite 'tinny' in results. Did you mean 'tiny'?\n"


def test_progress_is_on_stderr_and_the_table_alone_on_stdout(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "results" / "tiny" / "records" / "badnetsnone.json").unlink()
    assert main(["run", "mine.yaml", "--store", "store", "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("# Leaderboard: tiny\n")
    assert "cells" not in captured.out
    for line in ("1 cells, 0 done before", "clean      none     seed 0", "1 cells run, 0 done before, 0 failed"):
        assert line in captured.err
    table = captured.out
    assert main(["run", "mine.yaml", "--store", "store", "--device", "cpu", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.out == table
    assert captured.err == ""


# ------------------------------------------------------------------------------------------------ what the system refuses


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/results/leaderboard.csv")


def diverged(*_: object) -> None:
    raise MethodError("defense 'ft' diverged; try a smaller learning rate")


def nameless(*_: object) -> None:
    raise OSError("the device went away")


@pytest.mark.parametrize(
    ("fault", "status", "message"),
    [
        (full, 2, "mnp-bench: /results/leaderboard.csv: No space left on device\n"),
        (nameless, 2, "mnp-bench: the device went away\n"),
        (diverged, 1, "mnp-bench: defense 'ft' diverged; try a smaller learning rate\n"),
    ],
)
def test_errors_of_the_system_and_of_methods_are_one_sentence(
    fault: Any, status: int, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(methods, "_describe", fault)
    assert main(["describe", "ft"]) == status
    assert capsys.readouterr().err == message


def test_a_table_that_cannot_be_written_is_one_sentence(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "results" / "tiny" / "leaderboard.csv").mkdir()
    assert main(["report", "tiny"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("mnp-bench: ")
    assert "leaderboard.csv: Is a directory" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_terminal_without_the_characters_gets_their_escapes(here: Path, encoding: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "mnp_plugin", "report", "tiny"]
    done = subprocess.run(command, capture_output=True, cwd=here, env=environment, check=False)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    assert b"\\u0394ACC" in done.stdout


def test_a_stream_that_cannot_be_told_so_is_left_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["list", "nets"]) == 0
    assert "smallnet" in stream.getvalue()


# ------------------------------------------------------------------------------------------------------------------ shells


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_the_verbs(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--print-completion", shell])
    assert caught.value.code == 0
    script = capsys.readouterr().out
    for word in ("run", "describe", "import-leaderboard", "optimize-mask"):
        assert word in script


def test_bash_accepts_the_completion_and_completes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["--print-completion", "bash"])
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)
    code = (
        f"source {script}; COMP_WORDS=(mnp-bench desc); COMP_CWORD=1; "
        "$(complete -p mnp-bench | sed 's/.*-F \\([^ ]*\\).*/\\1/'); echo \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["describe"], done.stderr
