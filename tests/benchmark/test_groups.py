"""Memory that control groups leave, on folders that look like those of the kernel."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from mnp_plugin.benchmark.engines.groups import bytes_left


def group(folder: Path, limit: str, used: int, cached: int, version: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for name, value in zip(names, (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{'' if version == 2 else 'total_'}inactive_file {cached}\n")


@pytest.mark.parametrize(
    ("said", "root", "version"), [("0::{}", "", 2), ("5:cpu,cpuacct:/other\n4:memory:{}\n0::/", "memory", 1)]
)
def test_the_tightest_group_around_a_process_counts(tmp_path: Path, said: str, root: str, version: int) -> None:
    """A batch job has its limit on a group around that of its steps; files that were read before give way."""
    own, mounts = tmp_path / "cgroup", tmp_path / "mounts"
    own.write_text(said.format("/slurm/job_7/step_0"))
    no_limit = "max" if version == 2 else str(2**63 - 4096)
    group(mounts / root, no_limit, 900, 0, version)
    group(mounts / root / "slurm/job_7", "1000", 700, 200, version)
    group(mounts / root / "slurm/job_7/step_0", no_limit, 700, 200, version)
    assert bytes_left(own, mounts) == 500
    group(mounts / root / "slurm/job_7/step_0", "800", 700, 200, version)
    assert bytes_left(own, mounts) == 300


@pytest.mark.parametrize("name", ["/of/the/host", "/../host"])
def test_a_container_sees_its_own_group_alone(tmp_path: Path, name: str) -> None:
    own, mounts = tmp_path / "cgroup", tmp_path / "mounts"
    own.write_text(f"0::{name}\n")
    group(mounts, "1000", 700, 0, 2)
    assert bytes_left(own, mounts) == 300


def test_without_groups_nothing_limits(tmp_path: Path) -> None:
    assert bytes_left(tmp_path / "none", tmp_path) == math.inf
    (tmp_path / "cgroup").write_text("0::/a\n")
    assert bytes_left(tmp_path / "cgroup", tmp_path) == math.inf
