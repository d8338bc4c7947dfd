"""One thread for torch, also in processes that tests start: their nets are tiny, and threads that wait for a core which is busy
elsewhere make them many times slower."""

import os
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

BRIEF: dict[str, dict[str, Any]] = {
    "rnp": {"unlearning_epochs": 3, "recovering_epochs": 3, "batch_size": 20},
    "clp": {},
    "ft-sam": {"epochs": 3, "batch_size": 20},
    "i-bau": {"rounds": 1, "batch_size": 20},
    "sau": {"rounds": 2, "batch_size": 20},
    "mcr": {"tuning_epochs": 2, "epochs": 2, "batch_size": 20},
    "fst": {"epochs": 2, "batch_size": 20},
    "ims": {"first_rounds": 2, "rounds": 2, "perturbation_steps": 2},
    "nft": {"iterations": 10},
    "npd": {"epochs": 2, "warm_epochs": 1},
    "bnp": {},
    "nc": {"inversion_epochs": 2, "epochs": 2, "outlier": 0.5},
    "awm": {"outer": 1, "inner": 1, "batch_size": 20},
    "tsbd": {"unlearning_steps": 8, "shares": (0.1, 0.3), "epochs": 2, "batch_size": 20},
    "ulrl": {"unlearning_epochs": 3, "epochs": 2, "batch_size": 20},
    "neural_cleanse": {"epochs": 2},
    "mm-bd": {"starts": 4, "steps": 5},
    "mm-bd-features": {"starts": 4, "steps": 5},
    "ban": {"mask_steps": 5, "noise_steps": 3},
    "trojan-signature": {"samples": 200},
    "trodo": {"images": 20, "steps": 2},
    "strip": {"overlays": 5},
    "scale-up": {},
    "ibd-psc": {},
    "spectral-signatures": {},
    "activation-clustering": {},
    "scan": {},
    "d3": {"epochs": 3, "batch_size": 20},
    "bti-dbf": {"rounds": 2, "width": 4, "pretrain_epochs": 2, "mask_epochs": 1, "generator_epochs": 1, "epochs": 1},
    "ep": {"images": 100},
    "ac": {},
    "spectral": {},
    "abl": {"isolation_epochs": 2, "epochs": 2, "unlearning_epochs": 1},
    "d-br": {"epochs": 1, "apart_epochs": 1, "unlearning_epochs": 1, "batch_size": 20},
    "pam": {"rounds": 2, "width": 4, "pretrain_epochs": 2, "mask_epochs": 1, "generator_epochs": 1, "epochs": 1},
}
"""Settings for a run of a second or less."""


LONG = (
    "benchmark/test_engines.py",
    "test_testing.py",
    "api/test_checkpoint.py",
    "io/test_malicious.py",
    "defenses/test_rivals.py",
    "defenses/test_mnp.py",
    "report/test_page_in_browser.py",
    "benchmark/test_content.py",
    "integrations/backdoorbench/test_backdoorbench.py",
    "benchmark/test_faults.py",
    "benchmark/test_interrupted.py",
    "api/test_caller.py",
    "attacks/test_learned_attacks.py",
    "cli/test_startup.py",
    "cli/test_cli.py",
    "report/test_figures.py",
    "test_docs.py",
    "test_plugin.py",
)
"""The files that take longest, longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that two processes end together; xdist would begin with the files of most tests."""
    rank = {Path(__file__).parent / name: i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.fixture(scope="session")
def brief() -> dict[str, dict[str, Any]]:
    """Settings for a brief run of the slower defenses, by name."""
    return BRIEF
