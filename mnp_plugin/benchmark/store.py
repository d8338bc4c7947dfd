"""What a run keeps: trained victims in a cache outside the repository, records under ``results/<suite>/``, and both where other
machines find them, if they share no folder.

Every write is atomic. Weights are safetensors: nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import platformdirs
from torch import Tensor

from mnp_plugin.benchmark.locks import Locks
from mnp_plugin.benchmark.remote import Remote, is_url
from mnp_plugin.benchmark.remote_locks import RemoteLocks
from mnp_plugin.benchmark.suite import AnyVictim, Cell, Suite, VictimSpec
from mnp_plugin.core.errors import UserError
from mnp_plugin.io.atomic import UnwritableError, clear_stale, write_atomic
from mnp_plugin.io.tensors import head_size, packed, part, said_of, unpacked
from mnp_plugin.report.planned import read_plan
from mnp_plugin.report.records import Record, from_json
from mnp_plugin.report.texts import sealed

T = TypeVar("T")

FOLDERS = ("victims", "assets", "repaired", "training_sets")
"""Folders of the cache that hold what jobs made."""

PROBE = 2**16
"""Bytes that must fit on the disk before anything is made."""

DAMAGED = "is damaged"
AWAY = "away"
"""In place of their content: images that cannot be read now."""


def default_cache() -> Path:
    """Where data and victims are cached unless ``--store`` says otherwise; the folder is not created here."""
    return Path(platformdirs.user_cache_dir("mnp_plugin"))


def open_store(place: str | None, results: Path, *, reading: bool = False) -> Store:
    """The store at ``place``: a folder, a URL of fsspec, or, if None, :func:`default_cache`; ``reading``: as in :class:`Store`.

    Raises:
        UserError: a folder that cannot be made, or a URL that cannot be opened.
    """
    if place is None or not is_url(place):
        return Store(Path(place) if place else default_cache(), results, reading=reading)
    own = default_cache() / "remotes" / hashlib.sha256(place.rstrip("/").encode()).hexdigest()[:16]
    remote = Remote(place, own, results)
    remote.known()  # what is wrong with it is said before any work
    return Store(own, results, remote, reading=reading)


@dataclass(frozen=True, eq=False)
class Kept:
    """What a job made: tensors by name, JSON-ready facts, and the PNG that shows it, if any."""

    tensors: Mapping[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)
    picture: bytes | None = None


class Store:
    """Victims and records of one run.

    Args:
        cache: folder for data and victims.
        results: folder that holds one folder per suite.
        remote: where other machines find the files of these folders; None if nowhere.
        reading: only look: leave damaged files where they are, and make no folder, which is otherwise done now, so that a place
            that cannot be written to is found out before the work.

    Raises:
        UserError: a folder that cannot be made.
    """

    def __init__(self, cache: Path, results: Path, remote: Remote | None = None, *, reading: bool = False) -> None:
        self.cache, self.results, self.remote, self.reading = cache, results, remote, reading
        self.locks = Locks(cache / "locks") if remote is None else RemoteLocks(remote)
        self._content: dict[str, str] = {}
        self.damaged: dict[Path, str] = {}
        """Files that were found to be of no use, in order, and what is wrong with each; what they should hold is made anew."""
        for folder in () if reading else (cache, results):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"cannot write to {folder} ({error.strerror}); set --store or --results") from None
        if not reading:
            clear_stale(
                file for folder, depth in ((cache, "*/.*"), (results, "*/.*"), (results, "*/*/.*")) for file in folder.glob(depth)
            )

    def resolved(self) -> Store:
        """The same store for a process in another working directory."""
        cache, results = self.cache.resolve(), self.results.resolve()
        remote = None if self.remote is None else Remote(self.remote.url, cache, results)
        return Store(cache, results, remote, reading=self.reading)

    def probe(self) -> None:
        """Write to the cache and remove it again, so that a full or read-only disk is found out before the work.

        Raises:
            UnwritableError: it cannot be written to, or has no room.
        """
        path = self.cache / f"probe-{os.getpid()}"
        self._put(path, bytes(PROBE))
        self._remove(path)

    # -- the images that things are made from

    def content(self, victim: AnyVictim) -> str:
        """What the images of a victim's data set are now: empty where its settings say that, :data:`AWAY` where they are.

        Looked at once: :meth:`look_again` forgets it.
        """
        key = str(victim.split_identity)
        if key not in self._content:
            try:
                self._content[key] = victim.content(self.cache)
            except UserError:  # whoever needs the images is told why when they are loaded
                self._content[key] = AWAY
        return self._content[key]

    def look_again(self) -> None:
        """Look at the images anew: those of a run are what they are when it begins."""
        self._content.clear()

    def current(self, victim: AnyVictim, content: str) -> bool:
        """Whether what was made from the images ``content`` is of the images of now.

        True where that is not known: records of older versions do not say it, and images that are away cannot be asked.
        """
        return not content or self.content(victim) in (AWAY, content)

    # -- what jobs make

    def path(self, kind: str, fingerprint: str, content: str = "") -> Path:
        """Where a thing is kept, by what it is and the images it is made from.

        ``kind`` is ``victims``, ``assets`` or ``repaired``.
        """
        return self.cache / kind / f"{fingerprint}{'-' if content else ''}{content[:8]}.safetensors"

    def save(self, kind: str, fingerprint: str, identity: Mapping[str, Any], kept: Kept, content: str = "") -> None:
        """Save tensors and facts as one file, under all that determines them; a picture goes beside it."""
        path = self.path(kind, fingerprint, content)
        self._write(
            path, kept.tensors, {"spec": dict(identity), "facts": kept.facts, **({"content": content} if content else {})}
        )
        if kept.picture is not None:
            self._put(path.with_suffix(".png"), kept.picture)

    def load(self, kind: str, fingerprint: str, identity: Mapping[str, Any], content: str = "") -> Kept | None:
        """What :meth:`save` saved; None if it is not there, its file is damaged or holds something else: it is made again."""
        path = self.path(kind, fingerprint, content)
        found = self._read(path)
        if found is None:
            return None
        tensors, about = found
        said = about.get("spec", about.get("about"))  # the assets of older versions
        other = _differing(said, json.loads(json.dumps(identity)))
        if about.get("content", "") != content:
            other.append("images")
        if other:  # it stays until what it should hold is made: it may be all that is left of something else
            self.damaged[path] = f"holds something else than its name says ({', '.join(other)}), as if files were swapped,"
            return None
        if "facts" not in about and kind != "assets":
            self.damaged[path] = DAMAGED
            return None
        return Kept(tensors, about.get("facts", {}))

    def about(self, kind: str, fingerprint: str, content: str = "") -> dict[str, Any] | None:
        """What is said in the file of :meth:`save` (``spec``, ``facts``, checksums), without reading its tensors."""
        path = self.path(kind, fingerprint, content)
        self._bring(path)
        return read_about(path)

    def mark(self, path: Path) -> str:
        """What a file is now, by time stamp and size; empty if there is none."""
        self._bring(path)
        try:
            found = path.stat()
        except OSError:
            return ""
        return f"{found.st_mtime_ns} {found.st_size}"

    def discard(self, kind: str, fingerprint: str, content: str = "") -> None:
        """Remove what :meth:`save` saved, because it is damaged; a store for reading only notes that."""
        self._discard(self.path(kind, fingerprint, content))

    def _discard(self, path: Path) -> None:
        if not self.reading:
            self._remove(path)
        self.damaged[path] = DAMAGED

    def _read(self, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and what is said of them; None if there is no such file, or a damaged one (which is made again)."""
        self._bring(path)
        if not path.is_file():
            return None
        found = unpacked(path.read_bytes())
        if found is None:
            self._discard(path)
        return found

    def drop(self, kind: str, fingerprint: str, content: str = "") -> None:
        """Remove what :meth:`save` saved, if it is there."""
        self._remove(self.path(kind, fingerprint, content))

    def load_victim(self, victim: VictimSpec) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]] | None:
        """(weights, trigger state, facts), or None if the victim is not there or its file is damaged."""
        kept = self.load("victims", victim.fingerprint, victim.plain(), self.content(victim))
        return None if kept is None else (part("model", kept.tensors), part("state", kept.tensors), kept.facts)

    # -- trainings between two epochs

    def _partial_path(self, victim: AnyVictim) -> Path:
        return self.path("victims", victim.fingerprint, self.content(victim)).with_suffix(".partial")

    def save_partial(self, victim: VictimSpec, tensors: Mapping[str, Tensor]) -> None:
        """Save a training between two epochs; it goes when the victim is saved."""
        self._write(self._partial_path(victim), tensors, {"spec": victim.plain()})

    def load_partial(self, victim: VictimSpec) -> dict[str, Tensor] | None:
        """What :meth:`save_partial` saved, or None."""
        found = self._read(self._partial_path(victim))
        return found[0] if found and found[1].get("spec") == json.loads(json.dumps(victim.plain())) else None

    def drop_partial(self, victim: AnyVictim) -> None:
        """Remove what :meth:`save_partial` saved, once the victim is."""
        self._remove(self._partial_path(victim))

    # -- several processes

    def asking(self) -> AbstractContextManager[None]:
        """Meanwhile files that other machines wrote since the last look are found, too."""
        return nullcontext() if self.remote is None else self.remote.asking()

    def exchange(self, suite: str) -> None:
        """Fetch the records of a suite that other machines made, and send what could not be sent before."""
        if self.remote is not None:
            kept = [file for kind in FOLDERS for file in sorted((self.cache / kind).glob("[!.]*"))]
            self.remote.exchange(self.suite_folder(suite), kept)

    def once(self, name: str, load: Callable[[], T | None], make: Callable[[], T], waiting: Callable[[], None]) -> T:
        """The victim or asset ``name``: what ``load`` finds, or else ``make`` makes, in one process at a time.

        Args:
            name: its fingerprint, and that of its images.
            load: looks for it in this store.
            make: makes it and saves it in this store.
            waiting: called if another process is making it, before waiting for that; what it raises ends the attempt.
        """
        found = load()
        if found is not None:
            return found
        try:
            lock = self.locks.acquired(name, waiting)
        except OSError as error:
            raise UnwritableError.of(self.cache / "locks", error) from None
        try:
            with self.asking():
                found = load()
            return make() if found is None else found
        finally:
            lock.release()

    # -- records

    def suite_folder(self, suite: str) -> Path:
        """``results/<suite>``."""
        return self.results / suite

    def load_record(self, suite: str, cell: Cell) -> Record | None:
        """The record of a cell, or None; raises what reading a record raises."""
        found = self.read(suite, "records", cell.file_name)
        return None if found is None else from_json(*found)

    def read(self, suite: str, kind: str, name: str) -> tuple[str, str] | None:
        """(text, path) of ``results/<suite>/<kind>/<name>``, or None."""
        path = self.suite_folder(suite) / kind / name
        self._bring(path)
        return (path.read_text(encoding="utf-8", errors="replace"), str(path)) if path.is_file() else None

    def write(self, suite: str, kind: str, name: str, content: str | bytes) -> None:
        """Write what :meth:`read` reads, or a picture."""
        self._put(self.suite_folder(suite) / kind / name, content.encode() if isinstance(content, str) else content)

    def save_plan(
        self,
        suite: Suite,
        further: Mapping[str, Sequence[str]] = MappingProxyType({}),
        of: Mapping[str, AnyVictim] = MappingProxyType({}),
        older: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    ) -> None:
        """Save what tables need of the suite as it stands: its records, its gate and its labels, on which no number depends.

        ``further`` holds the names of its other records by kind (``verdicts``, ``trials``, ``floors``), ``of`` the victims of
        those among them whose data set and net only the plan says. ``older`` says of records of older versions in the place of
        which record they are shown until that is there (``of``), and the version of each method that is older (``versions``).
        """
        cells = list(suite.cells())
        folder = self.suite_folder(suite.name)
        contents = {self.content(victim) for victim in suite.victims} - {""}
        if AWAY in contents:
            before = read_plan(folder)
            contents = contents - {AWAY} | set(before.contents if before else ())
        content = min(contents) if len(contents) == 1 else sorted(contents)  # of swept folders several
        plan = {
            "suite": suite.name,
            "gate": suite.gate.asr,
            **({"content": content} if content else {}),
            **({"calibration_seeds": list(suite.calibration_seeds)} if suite.calibration_seeds else {}),
            "records": [cell.file_name for cell in cells],
            "labels": {
                name: {"dataset": victim.dataset.label, "net": victim.net.label}
                for name, victim in [*((c.file_name, c.victim) for c in cells), *of.items()]
            },
            **({"older": {name: dict(about) for name, about in older.items()}} if older else {}),
        } | {kind: list(names) for kind, names in further.items() if names}
        _put(folder / "suite.json", (json.dumps(sealed(plan), indent=1) + "\n").encode())

    # -- files

    def _bring(self, path: Path) -> None:
        if self.remote is not None:
            self.remote.bring(path)

    def _write(self, path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        self._put(path, packed(tensors, about))

    def _put(self, path: Path, content: bytes) -> None:
        _put(path, content)
        if self.remote is not None:
            self.remote.send(path, content)

    def _remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        if self.remote is not None:
            self.remote.remove(path)


def read_about(path: Path) -> dict[str, Any] | None:
    """What is said in a file of tensors, without reading them; None if there is none, or a damaged one."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            start = file.read(8)
            size = head_size(start)
            return said_of(start + file.read(size - 8)) if len(start) == 8 and size <= path.stat().st_size else None
    except OSError:
        return None


def _differing(said: object, wanted: Mapping[str, Any]) -> list[str]:
    """In which keys ``said`` is not ``wanted``."""
    if not isinstance(said, dict):
        return ["everything"]
    return sorted(key for key in {*said, *wanted} if key not in said or key not in wanted or said[key] != wanted[key])


def _put(path: Path, content: bytes) -> None:
    try:
        write_atomic(path, content)
    except OSError as error:
        raise UnwritableError.of(path, error) from None
