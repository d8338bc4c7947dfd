"""Atomic writing."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mnp_plugin.io.atomic import write_atomic


@pytest.mark.parametrize("umask", ["022", "077", "002"])
def test_permissions_follow_the_umask(umask: str, tmp_path: Path) -> None:
    code = f"import os; os.umask(0o{umask}); from pathlib import Path; from mnp_plugin.io.atomic import write_atomic; "
    subprocess.run([sys.executable, "-c", code + "write_atomic(Path('x/y.bin'), b'abc')"], cwd=tmp_path, check=True)
    assert stat.S_IMODE((tmp_path / "x/y.bin").stat().st_mode) == 0o666 & ~int(umask, 8)
    assert (tmp_path / "x/y.bin").read_bytes() == b"abc"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    write_atomic(path, b"old")
    with pytest.raises(TypeError):
        write_atomic(path, "text is no content")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]


def test_a_disk_that_refuses_the_bytes_is_named_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as refused:
        write_atomic(tmp_path / "x.bin", b"new")
    assert refused.value.filename == str(tmp_path / "x.bin")
