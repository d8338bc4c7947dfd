"""The page while a suite runs: to this machine alone, nothing but page, data and tables, and fresh when records come."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPConnection
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from mnp_plugin.core.errors import UserError
from mnp_plugin.report.build import build_tables
from mnp_plugin.report.page.serve import Source, server
from mnp_plugin.report.records import Record

Make = Callable[..., list[Record]]
Write = Callable[[Path, Sequence[Record]], Path]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    with server(Source(tmp_path / "made")) as found:
        thread = Thread(target=found.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def get(running: ThreadingHTTPServer, path: str, host: str = "") -> tuple[int, bytes, dict[str, str]]:
    connection = HTTPConnection("127.0.0.1", running.server_port, timeout=120)
    connection.request("GET", path, headers={"Host": host or f"127.0.0.1:{running.server_port}"})
    answer = connection.getresponse()
    found = answer.status, answer.read(), dict(answer.getheaders())
    connection.close()
    return found


def test_it_listens_to_this_machine_alone(running: ThreadingHTTPServer) -> None:
    assert running.server_address[0] == "127.0.0.1"
    assert get(running, "/", host=f"localhost:{running.server_port}")[0] == 200
    for name in ("example.org", f"example.org:{running.server_port}", "127.0.0.1", f"192.168.0.1:{running.server_port}"):
        assert get(running, "/data.json", host=name)[0] == 403, "a name that was made to lead here"


def test_the_data_are_fresh_when_records_come(
    running: ThreadingHTTPServer, tmp_path: Path, make_records: Make, write_suite: Write
) -> None:
    status, text, _ = get(running, "/")
    assert status == 200
    assert b"no records in" in text
    assert b"connect-src" in text
    assert json.loads(get(running, "/data.json")[1])["progress"] == {"done": 0, "planned": 0, "failed": 0}
    write_suite(tmp_path / "made", make_records(2))
    assert json.loads(get(running, "/data.json")[1])["progress"]["done"] == 8
    first = get(running, "/data.json")[1]
    assert get(running, "/data.json")[1] == first
    assert first.decode() in get(running, "/")[1].decode(), "so the page finds nothing new at once"
    next((tmp_path / "made" / "records").iterdir()).unlink()
    assert json.loads(get(running, "/data.json")[1])["progress"]["done"] == 7


def test_tables_and_figures_are_handed_out_and_nothing_else(
    running: ThreadingHTTPServer, tmp_path: Path, make_records: Make, write_suite: Write
) -> None:
    folder = write_suite(tmp_path / "made", make_records(3))
    build_tables(folder, figures=True)
    (tmp_path / "secret.csv").write_text("secret")
    (folder / "link.csv").symlink_to(tmp_path / "secret.csv")
    for path, kind in (
        ("/leaderboard.csv", "text/csv"),
        ("/figures/ranks.svg", "image/svg+xml"),
        ("/statistics.md?x", "text/mark"),
    ):
        status, _, headers = get(running, path)
        assert status == 200
        assert headers["Content-Type"].startswith(kind)
        assert headers["X-Content-Type-Options"] == "nosniff"
    file = next((folder / "records").iterdir()).name
    for path in (
        "/suite.json", f"/records/{file}", "/../secret.csv", "/%2e%2e/secret.csv", "/figures/../../secret.csv", "/link.csv",
        "/figures/", "/.hidden.csv", "//etc/passwd", "/absent.csv",
    ):  # fmt: skip
        assert get(running, path)[0] == 404, path


def test_other_methods_are_refused(running: ThreadingHTTPServer) -> None:
    connection = HTTPConnection("127.0.0.1", running.server_port, timeout=120)
    connection.request("POST", "/data.json", body=b"{}")
    assert connection.getresponse().status == 501
    connection.close()


def test_a_port_that_is_taken_is_named(running: ThreadingHTTPServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"port {running.server_port} of 127.0.0.1 cannot be used"):
        server(Source(tmp_path), running.server_port)
    with pytest.raises(UserError, match="port 99999999"):
        server(Source(tmp_path), 99999999)


def test_the_command_prints_its_address_and_ends_by_ctrl_c(tmp_path: Path, make_records: Make, write_suite: Write) -> None:
    write_suite(tmp_path / "made", make_records(1))
    command = [sys.executable, "-m", "mnp_plugin", "serve", "made", "--results", str(tmp_path), "--port", "0"]
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child of nohup's would inherit that it is ignored
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, ours)
    with process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("made: http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
