"""What control groups leave of memory to this process: those of a container, of a batch job, of systemd."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

VERSION_2 = ("memory.max", "memory.current", "inactive_file")
VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
"""Files with a group's limit and with what it uses; in ``memory.stat``, what of that are files read before, which give way."""


def bytes_left(memberships: Path = Path("/proc/self/cgroup"), mounts: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes that the tightest group around this process leaves; infinite where none limits.

    Args:
        memberships: the file of the kernel that says in which groups this process is.
        mounts: where groups are folders.
    """
    return min(
        (left for folder, files in _around(memberships, mounts) if (left := _left(folder, files)) is not None), default=math.inf
    )


def _around(memberships: Path, mounts: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Each group around this process, up to the outermost that can be seen: a batch job limits one around that of its steps."""
    try:
        lines = memberships.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, files = (mounts / "memory", VERSION_1) if controllers else (mounts, VERSION_2)
        inside = Path(name.lstrip("/"))
        if ".." in inside.parts:  # outside of what a container sees
            inside = Path()
        for part in (inside, *inside.parents):
            yield root / part, files


def _left(folder: Path, files: tuple[str, str, str]) -> float | None:
    """Bytes that one group leaves; None if it has no limit, or is not seen in a container."""
    limit, used, gives_way = files
    try:
        stat = dict(line.split(" ", 1) for line in (folder / "memory.stat").read_text().splitlines())
        return float((folder / limit).read_text()) - float((folder / used).read_text()) + float(stat.get(gives_way, 0))
    except (OSError, ValueError):  # "max" is no number
        return None
