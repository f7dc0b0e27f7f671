"""A web server in the test, and a data set of given sources."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from olmo.data.datasets.catalogue import DatasetRow
from olmo.data.datasets.sources import Source
from olmo.download import web
from olmo.download.addresses import SWITCH

CONTENT = bytes(range(256)) * 40
Requests = list[tuple[str, str | None]]


class Handler(BaseHTTPRequestHandler):
    """``/short...`` breaks off once, ``/cut...`` always, ``/slow...`` stops in the middle the first
    time, ``/whole...`` knows no ranges, other names serve ranges."""

    files: dict[str, bytes]
    seen: Requests
    hold: threading.Event

    def do_GET(self) -> None:
        name, wanted = self.path.lstrip("/"), self.headers.get("Range")
        first_time = all(n != name for n, _ in self.seen)
        self.seen.append((name, wanted))
        data = self.files.get(name)
        if data is None:
            self.send_error(404)
            return
        tag = f'"{hashlib.sha256(data).hexdigest()}"'
        start, changed = 0, self.headers.get("If-Range", tag) != tag
        if wanted and not name.startswith("whole") and not changed:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", tag)
        self.end_headers()
        broken = name.startswith("cut") or (name.startswith("short") and first_time)
        self.wfile.write(data[start : start + 3000] if broken else data[start:-1])
        if not broken:
            self.wfile.flush()
            if name.startswith("slow") and first_time:
                self.hold.wait(30)
            self.wfile.write(data[-1:])

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, type[Handler]]]:
    monkeypatch.setattr(web, "PAUSE_S", 0.0)
    monkeypatch.setenv(SWITCH, "1")  # the server is on this machine
    handler = type("TestHandler", (Handler,), {"files": {}, "seen": [], "hold": threading.Event()})
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}", handler
    handler.hold.set()
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def row(*sources: Source, name: str = "mine") -> DatasetRow:
    given = [source.to_dict() for source in sources]
    return DatasetRow(name, "home", {"train": "train"}, given, files=["f"], row="none.of_these")
