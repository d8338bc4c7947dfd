"""Ray, where it is installed: the records of a run in one process. Nodes that disappear: ``experiments/faults/ray_nodes.py``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mnp_plugin.benchmark.runner import Runner
from mnp_plugin.benchmark.store import Store
from mnp_plugin.benchmark.suite_file import parse_suite
from mnp_plugin.core.errors import UserError
from mnp_plugin.core.registries import engines
from mnp_plugin.report.records import Record, from_json

SUITE = """
dataset: {name: digits, size: 8}
net: {name: smallnet, width: 4}
recipe: {epochs: 1, batch_size: 64, crop: 0, flip: false, precision: float32}
clean_budget: {images: 40}
attacks: [clean, badnets]
defenses: [none, {name: ft, epochs: 1}]
"""


def records(folder: Path) -> dict[str, Record]:
    return {file.name: from_json(file.read_text(), str(file)) for file in folder.glob("x/records/*.json")}


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'mnp_plugin\[ray\]'"):
        Runner(parse_suite(SUITE, "x", "x"), Store(tmp_path / "a", tmp_path / "b"), torch.device("cpu")).run(engines.get("ray")())


@pytest.fixture(scope="module")
def machine() -> Iterator[None]:
    """A cluster of one machine with two CPUs and no GPU."""
    ray = pytest.importorskip("ray", reason="Ray is an extra: pip install 'mnp_plugin[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        ray.init(num_cpus=2, num_gpus=0, include_dashboard=False, logging_level="error")
        yield
        ray.shutdown()


@pytest.mark.filterwarnings("ignore")  # those of Ray
def test_a_cluster_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is an extra: pip install 'mnp_plugin[ray]'")
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")
    with pytest.raises(UserError, match=r"cannot find the cluster at RAY_ADDRESS=nonsense: .*ray status"):
        Runner(parse_suite(SUITE, "x", "x"), Store(tmp_path / "a", tmp_path / "b"), torch.device("cpu")).run(engines.get("ray")())


@pytest.mark.filterwarnings("ignore")  # those of Ray
@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(("settings", "wanted"), [({"gpus": 0.5}, "1 CPU and 0.5 GPU"), ({"threads": 3}, "3 CPUs")])
def test_jobs_that_no_machine_can_take_are_refused(tmp_path: Path, settings: dict[str, float], wanted: str) -> None:
    """Ray would wait for such a machine without an end."""
    run = Runner(parse_suite(SUITE, "x", "x"), Store(tmp_path / "a", tmp_path / "b"), torch.device("cpu"))
    with pytest.raises(UserError, match=f"no machine of this Ray cluster has the {wanted} that each job takes"):
        run.run(engines.get("ray")(**settings))


@pytest.mark.filterwarnings("ignore")  # those of Ray
@pytest.mark.usefixtures("machine")
def test_ray_gives_the_records_of_one_process(tmp_path: Path) -> None:
    suite, threads = parse_suite(SUITE, "x", "x"), torch.get_num_threads()
    torch.set_num_threads(1)
    for name, engine in (("alone", None), ("ray", engines.get("ray")())):
        store = Store(tmp_path / name / "store", tmp_path / name / "results")
        assert Runner(suite, store, torch.device("cpu")).run(engine).ran == 4
    torch.set_num_threads(threads)
    alone, ray = records(tmp_path / "alone/results"), records(tmp_path / "ray/results")
    assert {n: (r.before, r.after, r.oracle) for n, r in ray.items()} == {
        n: (r.before, r.after, r.oracle) for n, r in alone.items()
    }
