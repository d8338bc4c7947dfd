"""What a run keeps: trained victims in a cache outside the repository, records under ``results/<suite>/``.

Every write is atomic. Weights are safetensors: nothing is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from mnp_plugin.benchmark.suite import Cell, Suite, VictimSpec
from mnp_plugin.errors import UserError
from mnp_plugin.files import write_atomic
from mnp_plugin.records import Record, from_json, to_json


def default_cache() -> Path:
    """Where data and victims are cached unless ``--store`` says otherwise; the folder is not created here."""
    return Path(platformdirs.user_cache_dir("mnp_plugin"))


class Store:
    """Victims and records of one run.

    Args:
        cache: folder for data and victims.
        results: folder that holds one folder per suite.
    """

    def __init__(self, cache: Path, results: Path) -> None:
        self.cache, self.results = cache, results
        for folder in (cache, results):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"cannot write to {folder} ({error.strerror}); set --store or --results") from None

    # -- victims

    def _victim_path(self, victim: VictimSpec) -> Path:
        return self.cache / "victims" / f"{victim.fingerprint}.safetensors"

    def save_victim(
        self, victim: VictimSpec, weights: Mapping[str, Tensor], state: Mapping[str, Tensor], facts: Mapping[str, Any]
    ) -> None:
        """Save weights, trigger state and JSON-ready facts of a trained victim as one file."""
        tensors = {f"model.{k}": v.detach().cpu().contiguous() for k, v in weights.items()}
        tensors |= {f"state.{k}": v.detach().cpu().contiguous() for k, v in state.items()}
        meta = {"spec": json.dumps(victim.plain(), sort_keys=True), "facts": json.dumps(dict(facts), sort_keys=True)}
        write_atomic(self._victim_path(victim), save(tensors, metadata=meta))

    def load_victim(self, victim: VictimSpec) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]] | None:
        """(weights, trigger state, facts), or None if the victim is not there or its file is damaged."""
        path = self._victim_path(victim)
        if not path.is_file():
            return None
        content = path.read_bytes()
        try:
            tensors = load(content)
            size = int.from_bytes(content[:8], "little")
            facts = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["facts"])
        except (SafetensorError, KeyError, ValueError):
            path.unlink()  # a damaged cache entry is made again
            return None
        weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        state = {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}
        return weights, state, facts

    # -- records

    def suite_folder(self, suite: str) -> Path:
        """``results/<suite>``."""
        return self.results / suite

    def _record_path(self, suite: str, cell: Cell) -> Path:
        return self.suite_folder(suite) / "records" / cell.file_name

    def load_record(self, suite: str, cell: Cell) -> Record | None:
        """The record of a cell, or None."""
        path = self._record_path(suite, cell)
        return from_json(path.read_text(encoding="utf-8", errors="replace"), str(path)) if path.is_file() else None

    def save_record(self, suite: str, cell: Cell, record: Record) -> None:
        """Save the record of a cell."""
        write_atomic(self._record_path(suite, cell), to_json(record).encode())

    def save_plan(self, suite: Suite) -> None:
        """Save which records belong to the suite as it stands, so that tables leave out those of other settings."""
        plan = {"suite": suite.name, "records": [cell.file_name for cell in suite.cells()]}
        write_atomic(self.suite_folder(suite.name) / "suite.json", (json.dumps(plan, indent=1) + "\n").encode())
