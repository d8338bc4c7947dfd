"""A store that machines without a common folder share: its files are kept at a URL of fsspec (``s3://``, ``gs://``, ``sftp://``).

Each machine works in folders of its own. What is asked for and not there is fetched, what is written is sent, and records that
others made are fetched when a run begins and ends. Files are named after what they are, so copies of one file are alike; only
records may be made again, and of these the later one counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from mnp_plugin.core.errors import UserError
from mnp_plugin.io.atomic import UnwritableError, write_atomic

T = TypeVar("T")


def is_url(place: str) -> bool:
    """Whether ``place`` is a URL and no folder."""
    return "://" in place


class Remote:
    """The files at a URL, for folders of this machine.

    Args:
        url: of a folder that fsspec can write to.
        cache: what ``<url>/store`` is here.
        results: what ``<url>/results`` is here.
    """

    def __init__(self, url: str, cache: Path, results: Path) -> None:
        self.url, self.places = url.rstrip("/"), {"store": cache, "results": results}
        self._known: dict[str, dict[str, Any]] | None = None
        self._asking = False

    def __reduce__(self) -> tuple[type[Remote], tuple[Any, ...]]:
        return Remote, (self.url, self.places["store"], self.places["results"])

    # -- files of this machine

    def bring(self, path: Path) -> None:
        """Fetch ``path`` if it is not here and is there."""
        name = self._name(path)
        if not path.exists() and (self._asking or name in self.known()):
            content = self.get(name)
            if content is not None:
                write_atomic(path, content)

    def send(self, path: Path, content: bytes) -> None:
        """Keep ``content``, which ``path`` holds here, there as well."""
        name = self._name(path)
        self.put(name, content)
        self.known()[name] = {}
        with suppress(FileNotFoundError):  # another process of this machine has removed it
            os.utime(path)  # not older than the copy there

    def remove(self, path: Path) -> None:
        """Remove what is there of ``path``."""
        name = self._name(path)
        self.known().pop(name, None)
        self.delete(name)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Meanwhile :meth:`bring` asks for files that were not there when it looked at all names."""
        before, self._asking = self._asking, True
        try:
            yield
        finally:
            self._asking = before

    def exchange(self, folder: Path, kept: Iterable[Path]) -> None:
        """Fetch what ``folder``, a suite's, lacks or has older; send of it and of ``kept`` what lacks there or is older there."""
        self._known = None
        start = self._name(folder) + "/"
        self._fetch(
            [name for name, about in self.known().items() if name.startswith(start) and _outdated(self._path(name), about)]
        )
        own = [path for path in sorted(folder.glob("*/[!.]*")) if path.parent.name != "figures"]  # drawn from the others
        for path in [*own, *kept]:
            if path.is_file() and _unsent(path, self.known().get(self._name(path))):
                self.send(path, path.read_bytes())

    def fetch_all(self) -> None:
        """Fetch every file that is missing here."""
        self._known = None
        kept = [name for name in self.known() if name.startswith(("store/", "results/")) and not name.startswith("store/locks/")]
        self._fetch([name for name in kept if not self._path(name).exists()])

    def _fetch(self, names: list[str]) -> None:
        for start in range(0, len(names), 100):  # at once, as the file system can, but not all in memory

            def read(files: Any, root: str, part: list[str] = names[start : start + 100]) -> dict[str, bytes]:
                found = files.cat([f"{root}/{name}" for name in part], on_error="omit")
                return {str(path).removeprefix(root).lstrip("/"): content for path, content in found.items()}

            for name, content in self._do(read).items():
                write_atomic(self._path(name), content)

    def known(self) -> dict[str, dict[str, Any]]:
        """The files there, as they were when last looked at, with what the file system says of each.

        Whoever can write there can give a file any name: one that would lead out of this machine's folders is passed over.
        """
        if self._known is None:

            def look(files: Any, root: str) -> dict[str, dict[str, Any]]:
                try:
                    found = files.find(root, detail=True)
                except FileNotFoundError:  # nothing was written yet
                    found = {}
                names = {str(path).removeprefix(root).lstrip("/"): dict(about) for path, about in found.items()}
                return {name: about for name, about in names.items() if _inside(name)}

            self._known = self._do(look)
        return self._known

    # -- files there

    def get(self, name: str) -> bytes | None:
        """The content of a file, or None."""

        def read(files: Any, root: str) -> bytes | None:
            try:
                content: bytes = files.cat_file(f"{root}/{name}")
            except FileNotFoundError:
                return None
            return content

        return self._do(read)

    def put(self, name: str, content: bytes) -> None:
        """Write a file."""
        self._do(lambda files, root: files.pipe_file(f"{root}/{name}", content))

    def create(self, name: str, content: bytes) -> bool:
        """Write a file unless it is there already; whether it was written."""

        def write(files: Any, root: str) -> bool:
            try:
                files.pipe_file(f"{root}/{name}", content, mode="create")
            except FileExistsError:
                return False
            return True

        return self._do(write)

    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""

        def remove(files: Any, root: str) -> None:
            with suppress(FileNotFoundError):
                files.rm_file(f"{root}/{name}")

        self._do(remove)

    def names(self, folder: str) -> list[str]:
        """The names of the files in ``folder``, as they are now."""

        def look(files: Any, root: str) -> list[str]:
            try:
                return [str(path).rpartition("/")[2] for path in files.ls(f"{root}/{folder}", detail=False)]
            except FileNotFoundError:
                return []

        return self._do(look)

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        try:
            files, root = url_to_fs(self.url, use_listings_cache=False)
        except ImportError as error:
            extra = " (s3: pip install 'mnp_plugin[s3]')" if self.url.startswith("s3:") else ""
            raise UserError(f"cannot open {self.url}: {error}{extra}") from None
        except ValueError as error:
            raise UserError(f"cannot open {self.url}: {error}") from None
        return files, root.rstrip("/")

    def _do(self, what: Callable[[Any, str], T]) -> T:
        try:
            return what(*self._opened)
        except UserError:
            raise
        except Exception as error:  # each file system has errors of its own
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise UnwritableError(
                f"{self.url} cannot be reached: {reason}. Mend that and run the same command again: what was finished is kept"
            ) from None

    def _name(self, path: Path) -> str:
        for start, folder in self.places.items():
            if path.is_relative_to(folder):
                return f"{start}/{path.relative_to(folder).as_posix()}"
        raise AssertionError(path)

    def _path(self, name: str) -> Path:
        start, _, rest = name.partition("/")
        return self.places[start] / rest


def _inside(name: str) -> bool:
    return not any(part in ("", ".", "..") or "\\" in part or ":" in part for part in name.split("/"))


def _outdated(path: Path, about: dict[str, Any]) -> bool:
    """Whether ``path`` is missing, or was written before what ``about`` tells of; where that gives no time, sizes decide."""
    try:
        here = path.stat()
    except OSError:
        return True
    if not about:  # sent by this process
        return False
    there = _time(about)
    return there > here.st_mtime if there is not None else about.get("size") != here.st_size


def _unsent(path: Path, about: dict[str, Any] | None) -> bool:
    """Whether what ``about`` tells of is missing, or another file, written before ``path``: the connection broke meanwhile."""
    if about is None:
        return True
    there, here = _time(about), path.stat()
    return there is not None and about.get("size") != here.st_size and here.st_mtime > there


def _time(about: dict[str, Any]) -> float | None:
    """When a file was written, as far as its file system says so."""
    found = next((about[key] for key in ("LastModified", "mtime", "updated", "created") if key in about), None)
    if isinstance(found, datetime):
        return found.timestamp()
    return float(found) if isinstance(found, int | float) else None
