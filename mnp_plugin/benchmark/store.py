"""What a run keeps: trained victims in a cache outside the repository, records under ``results/<suite>/``.

Every write is atomic. Weights are safetensors: nothing is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import platformdirs
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from mnp_plugin.benchmark.suite import Cell, Suite, VictimSpec
from mnp_plugin.core.errors import UserError
from mnp_plugin.core.params import fingerprint
from mnp_plugin.io.atomic import write_atomic
from mnp_plugin.io.tensors import part, prefixed
from mnp_plugin.report.records import Record, from_json, to_json

T = TypeVar("T")


def default_cache() -> Path:
    """Where data and victims are cached unless ``--store`` says otherwise; the folder is not created here."""
    return Path(platformdirs.user_cache_dir("mnp_plugin"))


class Store:
    """Victims and records of one run.

    Args:
        cache: folder for data and victims.
        results: folder that holds one folder per suite.
        create: make the folders now, so that a place that cannot be written to is found out before the work.

    Raises:
        UserError: a folder that cannot be made.
    """

    def __init__(self, cache: Path, results: Path, *, create: bool = True) -> None:
        self.cache, self.results = cache, results
        for folder in (cache, results) if create else ():
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
        tensors = prefixed("model", weights) | prefixed("state", state)
        _write(self._victim_path(victim), tensors, {"spec": victim.plain(), "facts": dict(facts)})
        self._partial_path(victim).unlink(missing_ok=True)

    def load_victim(self, victim: VictimSpec) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]] | None:
        """(weights, trigger state, facts), or None if the victim is not there or its file is damaged."""
        found = _read(self._victim_path(victim))
        if found is None or "facts" not in found[1]:
            return None
        tensors, about = found
        return part("model", tensors), part("state", tensors), about["facts"]

    def _partial_path(self, victim: VictimSpec) -> Path:
        return self._victim_path(victim).with_suffix(".partial")

    def save_partial(self, victim: VictimSpec, tensors: Mapping[str, Tensor]) -> None:
        """Save a training between two epochs; it goes when the victim is saved."""
        _write(self._partial_path(victim), tensors, {"spec": victim.plain()})

    def load_partial(self, victim: VictimSpec) -> dict[str, Tensor] | None:
        """What :meth:`save_partial` saved, or None."""
        found = _read(self._partial_path(victim))
        return found[0] if found else None

    def save_pictures(self, victim: VictimSpec, png: bytes) -> None:
        """Save the picture grid of a victim's trigger beside the victim."""
        write_atomic(self._victim_path(victim).with_suffix(".png"), png)

    # -- what attacks need made

    def _asset_path(self, about: Mapping[str, Any]) -> Path:
        return self.cache / "assets" / f"{fingerprint(about)}.safetensors"

    def save_asset(self, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Save what an attack needs: tensors by name, under all that determines them."""
        _write(self._asset_path(about), tensors, {"about": dict(about)})

    def load_asset(self, about: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """The tensors of an asset, or None if it is not there or its file is damaged."""
        found = _read(self._asset_path(about))
        return found[0] if found else None

    # -- several processes

    def once(self, name: str, load: Callable[[], T | None], make: Callable[[], T], waiting: Callable[[], None]) -> T:
        """The victim or asset ``name``: what ``load`` finds, or else ``make`` makes, in one process at a time.

        Args:
            name: its fingerprint.
            load: looks for it in this store.
            make: makes it and saves it in this store.
            waiting: called if another process is making it, before waiting for that.
        """
        found = load()
        if found is not None:
            return found
        folder = self.cache / "locks"
        folder.mkdir(exist_ok=True)
        lock = FileLock(folder / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waiting()
            lock.acquire()
        try:
            found = load()
            return make() if found is None else found
        finally:
            lock.release()

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


def _write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    meta = {key: json.dumps(value, sort_keys=True) for key, value in about.items()}
    write_atomic(path, save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, metadata=meta))


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and what is said of them; None if there is no such file, or a damaged one (which is made again)."""
    if not path.is_file():
        return None
    content = path.read_bytes()
    try:
        tensors = load(content)
        size = int.from_bytes(content[:8], "little")
        meta = json.loads(content[8 : 8 + size])["__metadata__"]
        return tensors, {key: json.loads(value) for key, value in meta.items()}
    except (SafetensorError, KeyError, ValueError):
        path.unlink()
        return None
