"""``mnp-bench serve``: the page of a suite while it runs, on this machine alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

from mnp_plugin.core.errors import UserError
from mnp_plugin.report.page.data import suite_data
from mnp_plugin.report.page.render import embedded, render
from mnp_plugin.report.shown import shown

LOOPBACK = "127.0.0.1"
FILES: Mapping[str, str] = {
    ".csv": "text/csv; charset=utf-8",
    ".md": "text/markdown; charset=utf-8",
    ".tex": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".pdf": "application/pdf",
}
"""Files that are handed out from the folder of the suite and its ``figures/``, by their ending; no other is."""
NAME = re.compile(r"/((?:figures/)?[A-Za-z0-9_-]+(\.[a-z]{2,3}))")


class Source:
    """The data of a suite, read anew when its records change.

    Args:
        folder: ``results/<suite>``, which need not be there yet.
        published: a file of published figures.
    """

    def __init__(self, folder: Path, published: Path | None = None) -> None:
        self.folder, self.published = folder, published
        self._lock = Lock()
        self._state: object = None
        self._data: dict[str, Any] = {}

    def data(self) -> dict[str, Any]:
        """As :func:`~mnp_plugin.report.page.data.suite_data`; without records, an empty page that says why."""
        with self._lock:
            state = self._looked()
            if state != self._state:
                try:
                    self._data = suite_data(shown(self.folder, self.published))
                except UserError as error:
                    self._data = empty(self.folder.name, str(error))
                self._state = state
            return self._data

    def _looked(self) -> list[tuple[str, int]]:
        """What changes with every record: files are renamed into their folders, which changes the folders' times."""
        places = [self.folder / name for name in ("suite.json", "records", "floors", "trials", "verdicts", "samples", "details")]
        return [(place.name, place.stat().st_mtime_ns) for place in places if place.exists()]


def empty(title: str, notice: str) -> dict[str, Any]:
    """Data of a suite without records."""
    none: dict[str, Any] = {"columns": [], "data": []}
    return {
        "kind": "suite", "title": title, "notices": [notice], "progress": {"done": 0, "planned": 0, "failed": 0},
        "looks": {"defenses": {}, "detectors": {}}, "groups": [], "rows": none, "records": [], "pool": [], "pictures": {},
        "detection": {}, "samples": {}, "published": none, "published differ": "",
        "damaged": [], "left out": [],
        "provenance": {"methods": [], "versions": [], "hardware": [], "images": [], "seconds": 0.0},
    }  # fmt: skip


def server(source: Source, port: int = 0, pause: int = 4000) -> ThreadingHTTPServer:
    """A server on the loopback address; ``serve_forever`` runs it.

    Args:
        source: what it shows.
        port: 0 takes any that is free.
        pause: milliseconds after which an open page looks for newer data.

    Raises:
        UserError: the port is taken, or not one that may be used.
    """

    class Handler(_Handler):
        shows = source
        every = pause

    try:
        return ThreadingHTTPServer((LOOPBACK, port), Handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"port {port} of {LOOPBACK} cannot be used ({reason}); give another one with --port") from None


class _Handler(BaseHTTPRequestHandler):
    """Page, data and files, to who asks for this very machine: a page from elsewhere, whose own name leads here, is refused."""

    shows: Source
    every: int

    def do_GET(self) -> None:
        assert isinstance(self.server, ThreadingHTTPServer)
        port = self.server.server_port
        if self.headers.get("Host") not in (f"{LOOPBACK}:{port}", f"localhost:{port}"):
            return self.send_error(HTTPStatus.FORBIDDEN, "only for this machine")
        path = self.path.partition("?")[0]
        if path in ("/", "/index.html"):
            return self._send("text/html; charset=utf-8", render(self.shows.data(), live=self.every).encode())
        if path == "/data.json":
            return self._send("application/json", embedded(self.shows.data()).encode())
        named = NAME.fullmatch(path)
        file = self.shows.folder / named[1] if named else None
        if named is None or file is None or named[2] not in FILES or file.is_symlink() or not file.is_file():
            return self.send_error(HTTPStatus.NOT_FOUND)
        return self._send(FILES[named[2]], file.read_bytes())

    def _send(self, kind: str, content: bytes) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("X-Frame-Options", "DENY")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: a page looks every few seconds."""
