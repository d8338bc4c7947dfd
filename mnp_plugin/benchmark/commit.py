"""Which commit of this package is running, where it runs from a checkout of its own."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

DIRTY = "-dirty"
"""Behind the hash where the package's files are not those of the commit, as ``git describe`` writes it."""


@cache
def commit() -> str | None:
    """Of the running package; asked once in a process, since what is imported stays what it was."""
    return commit_of(Path(__file__).parents[2])


def commit_of(checkout: Path) -> str | None:
    """Short hash of the commit checked out at ``checkout``, with :data:`DIRTY` where ``mnp_plugin/`` differs from it.

    None without git, and where ``checkout`` is not this package's own: the package may lie anywhere inside a project of its
    user, whose repository is none of our business and may run programs on being asked (``core.fsmonitor``).
    """
    if not (checkout / ".git").exists() or not _ours(checkout / "setup.py"):
        return None
    found = _git(checkout, "rev-parse", "--short=10", "HEAD")
    changed = _git(checkout, "status", "--porcelain", "--", "mnp_plugin")
    return None if not found or changed is None else f"{found}{DIRTY if changed else ''}"


def _ours(setup: Path) -> bool:
    try:
        return 'NAME = "mnp_plugin"' in setup.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False


def _git(checkout: Path, *words: str) -> str | None:
    """What git says; None if it cannot say it. It writes nothing, and hears of no repository but this one (in a hook of another,
    the environment names that).
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(checkout), *words]
    try:
        done = subprocess.run(command, env=own, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
