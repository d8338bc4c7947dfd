"""Records say of which commit of this package they are, and no other repository is ever asked."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import mnp_plugin
from mnp_plugin.benchmark import commit as module
from mnp_plugin.benchmark.commit import commit_of
from mnp_plugin.benchmark.environment import versions

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="no git")
Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path) -> Git:
    """Runs git in ``tmp_path``."""

    def run(*words: str) -> str:
        who = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *who, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    return run


@pytest.fixture
def checkout(tmp_path: Path, git: Git) -> Path:
    """A repository that looks as that of this package does."""
    (tmp_path / "setup.py").write_text('NAME = "mnp_plugin"\n')
    (tmp_path / "mnp_plugin").mkdir()
    (tmp_path / "mnp_plugin" / "a.py").write_text("a = 1\n")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    return tmp_path


def test_a_checkout_gives_its_commit(checkout: Path, git: Git) -> None:
    assert commit_of(checkout) == git("rev-parse", "--short=10", "HEAD")


def test_changed_and_new_files_of_the_package_are_marked_others_are_not(checkout: Path) -> None:
    clean = commit_of(checkout)
    (checkout / "results.csv").write_text("1\n")
    assert commit_of(checkout) == clean
    (checkout / "mnp_plugin" / "b.py").write_text("")
    assert commit_of(checkout) == f"{clean}-dirty"
    (checkout / "mnp_plugin" / "b.py").unlink()
    (checkout / "mnp_plugin" / "a.py").write_text("a = 2\n")
    assert commit_of(checkout) == f"{clean}-dirty"


def test_a_repository_that_is_not_ours_is_never_asked(checkout: Path, git: Git, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / "monitor").write_text(f"#!/bin/sh\ntouch {checkout}/asked\n")
    (checkout / "monitor").chmod(0o755)
    git("config", "core.fsmonitor", str(checkout / "monitor"))
    installed = checkout / ".venv" / "lib"
    shutil.copytree(checkout / "mnp_plugin", installed / "mnp_plugin")
    monkeypatch.setenv("GIT_DIR", str(checkout / ".git"))
    assert commit_of(installed) is None, "inside of it"
    (checkout / "setup.py").write_text('NAME = "theirs"\n')
    assert commit_of(checkout) is None, "a copy of the package beside its own code"
    assert not (checkout / "asked").exists()


def test_the_environment_names_no_other_repository(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = commit_of(checkout)
    other = tmp_path_factory.mktemp("other")
    subprocess.run(["git", "init", "--quiet"], cwd=other, check=True)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert commit_of(checkout) == own is not None


@pytest.mark.parametrize("missing", ["git", "commits", "head"])
def test_without_git_or_a_commit_there_is_none(
    checkout: Path, git: Git, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    assert commit_of(checkout) is not None
    if missing == "git":
        monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("empty")))
    elif missing == "commits":
        shutil.rmtree(checkout / ".git")
        git("init", "--quiet")
    else:
        (checkout / ".git" / "HEAD").write_bytes(b"\xff")
    assert commit_of(checkout) is None


def test_records_of_a_checkout_say_it_and_git_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "commit_of", lambda place: f"c-{place.name}")
    module.commit.cache_clear()
    assert versions()["commit"] == f"c-{Path(mnp_plugin.__file__).parents[1].name}"
    monkeypatch.setattr(module, "commit_of", lambda place: pytest.fail("asked again"))
    assert versions()["commit"]
    module.commit.cache_clear()


def test_records_of_an_installed_package_do_not_mention_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "commit_of", lambda place: None)
    module.commit.cache_clear()
    assert "commit" not in versions()
    module.commit.cache_clear()
