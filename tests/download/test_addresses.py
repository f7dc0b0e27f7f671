"""Requests that a table or a server would like to lead elsewhere."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from olmo.download import web
from olmo.download.addresses import (
    SWITCH,
    AddressError,
    DownloadError,
    is_public,
    open_url,
    without_secrets,
)
from olmo.download.web import WebLimits, download, fetch_bytes

PRIVATE = """127.0.0.1 127.8.8.8 10.1.2.3 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254
0.0.0.0 100.64.1.1 198.18.0.1 224.0.0.1 240.0.0.1 255.255.255.255 ::1 :: fc00::1 fd12::1 fe80::1
fe80::1%eth0 fec0::1 ff02::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::127.0.0.1 2002:7f00:1::
64:ff9b::7f00:1"""
PUBLIC = "8.8.8.8 1.1.1.1 172.32.0.1 2606:4700::1111 64:ff9b::808:808 2002:808:808::"
HOSTS = """127.0.0.1 127.1 2130706433 0x7f000001 0x7f.1 017700000001 0 10.0.0.1 169.254.169.254
localhost LOCALHOST [::1] [::ffff:127.0.0.1] [::ffff:a00:1] [fe80::1] [fd00::1] 192.168.0.1"""
OTHERS = ["file:///etc/passwd", "ftp://h/x", "data:text/plain,x", "gopher://h"]


class Handler(BaseHTTPRequestHandler):
    """``/to/CODE/ADDRESS`` redirects there (``/then/N``: N times), ``/endless`` states no length
    and sends on and on, ``/length/N`` states one."""

    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.path)
        kind, _, rest = self.path.lstrip("/").partition("/")
        again = kind == "then" and rest != "0"
        self.send_response(int(rest[:3]) if kind == "to" else 302 if again else 200)
        if kind == "to":
            self.send_header("Location", rest[4:])
        if again:
            self.send_header("Location", str(int(rest) - 1))
        if kind == "length":
            self.send_header("Content-Length", rest)
        self.end_headers()
        try:
            for _ in range(3000 if kind == "endless" or kind == "to" or again else 1):
                self.wfile.write(bytes(1 << 16))
        except OSError:
            pass  # the other side has had enough

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    monkeypatch.delenv(SWITCH, raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(web, "PAUSE_S", 0.0)
    handler = type("RedirectHandler", (Handler,), {"seen": []})
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}", handler.seen
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def test_addresses_of_own_networks() -> None:
    assert [a for a in PRIVATE.split() if is_public(a)] == []
    assert all(map(is_public, PUBLIC.split()))


def test_an_address_of_a_table_cannot_be_private(server: Any) -> None:
    port = server[0].rpartition(":")[2]
    for host in HOSTS.split():
        with pytest.raises(AddressError, match="a private network"):
            open_url(f"http://{host}:{port}/secret", trusted=False)
    assert server[1] == []


def test_a_name_is_checked_after_it_is_resolved(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, seen = server
    port = int(address.rpartition(":")[2])

    def resolve(host: str, *args: Any, **kwargs: Any) -> list[Any]:
        inner = [("8.8.8.8", port), ("127.0.0.1", port)]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", target) for target in inner]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(AddressError, match=r"innocent.example is 127.0.0.1"):
        open_url(f"http://innocent.example:{port}/", trusted=False)
    assert seen == []


def test_an_address_of_ours_may_be_private(server: Any, tmp_path: Path) -> None:
    download(f"{server[0]}/a", tmp_path / "a")
    assert (tmp_path / "a").stat().st_size == 1 << 16


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_no_redirect_leads_into_the_own_network(server: Any, tmp_path: Path, code: int) -> None:
    address, seen = server
    for target in (address + "/secret", "/secret", "http://10.0.0.1/", "http://[::1]/"):
        with pytest.raises(AddressError, match="private network"):
            download(f"{address}/to/{code}/{target}", tmp_path / "a")
    assert not any(path == "/secret" for path in seen) and not list(tmp_path.iterdir())


def test_no_redirect_leads_to_another_scheme(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, "1")
    for target in OTHERS:
        with pytest.raises(AddressError, match="not a web address"):
            download(f"{server[0]}/to/302/{target}", tmp_path / "a")
        with pytest.raises(AddressError, match="not a web address"):
            fetch_bytes(target, 1000)
    with pytest.raises(AddressError, match=r"a user or a password: example.org"):
        fetch_bytes("http://me:secret@example.org/", 1000)
    with pytest.raises(AddressError, match="not a web address"):
        fetch_bytes("http:///etc/passwd", 1000)


def test_redirects_are_counted_and_their_bodies_left_unread(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, "1")
    address, seen = server
    assert len(fetch_bytes(f"{address}/then/5", 1 << 20)) == 1 << 16
    seen.clear()
    with pytest.raises(AddressError, match="more than 5 redirects"):
        fetch_bytes(f"{address}/then/6", 1 << 20)
    assert len(seen) == 6


def test_a_proxy_may_be_private_but_is_not_asked_for_private_numbers(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, seen = server
    monkeypatch.setenv("http_proxy", address)
    with open_url("http://example.org/a", trusted=False) as response:
        assert response.status == 200
    assert seen == ["http://example.org/a"]
    for host in HOSTS.split():
        with pytest.raises(AddressError):
            open_url(f"http://{host}/secret", trusted=False)
    assert len(seen) == 1


def test_a_server_may_not_send_for_ever(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = WebLimits(max_file=1 << 20)
    for path in ("endless", f"length/{1 << 40}"):
        with pytest.raises(DownloadError, match=r"bytes or more, 1048576 are allowed"):
            download(f"{server[0]}/{path}", tmp_path / "a", limits=limits)
        assert not (tmp_path / "a").exists() and not (tmp_path / "a.part").exists()
    monkeypatch.setenv(SWITCH, "1")
    with pytest.raises(DownloadError, match="1000 are allowed"):
        fetch_bytes(f"{server[0]}/endless", 1000)
    monkeypatch.setattr(web, "MAX_SECONDS", 0.0)
    with pytest.raises(DownloadError, match=r"longer than 0.0 s"):
        fetch_bytes(f"{server[0]}/endless", 1 << 40)


def test_messages_hold_no_secrets() -> None:
    text = (
        "GET https://me:pw@h.org/a/b.zip?X-Sig=abc#t failed, see http://h.org/x and 'ftp://u@h/?k'"
    )
    expected = "GET https://h.org/a/b.zip failed, see http://h.org/x and 'ftp://h/'"
    assert without_secrets(text) == expected
