"""Requests over http(s) that cannot be led to other schemes or into the own network."""

from __future__ import annotations

import http.client
import ipaddress
import os
import re
import socket
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from olmo.outside import OutsideError

TIMEOUT_S = 60
MAX_REDIRECTS = 5
REDIRECTS = (301, 302, 303, 307, 308)
SWITCH = "MOLMO_ALLOW_PRIVATE_ADDRESSES"
"""Set to 1, this environment variable lets addresses of the own network through: for a mirror."""
NAT64 = ipaddress.ip_network("64:ff9b::/96")


class DownloadError(OutsideError):
    """A source that could not be fetched; the message says which and why."""


class AddressError(DownloadError):
    """An address that is not asked; the message names its host."""


def open_url(url: str, headers: dict[str, str] | None = None, *, trusted: bool) -> Any:
    """Response of a request. ``trusted``: ``url`` stands in our tables or comes from the user, and
    may be on the own network. Where it redirects to, and an address that a data set brings, may
    not: :class:`AddressError`, as for other schemes than http and https.

    The addresses that a name resolves to are checked, and those are the ones connected to.
    """
    anywhere = os.environ.get(SWITCH) == "1"
    for _ in range(1 + MAX_REDIRECTS):
        _check(url)
        request = urllib.request.Request(url, headers=headers or {})
        try:
            return _opener(anywhere or trusted).open(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as e:
            target = e.headers.get("Location")
            if e.code not in REDIRECTS or not target:
                raise
            e.close()  # unread: it may have no end
            url, trusted = urljoin(url, target), False
    raise AddressError(f"more than {MAX_REDIRECTS} redirects")


def without_secrets(text: str) -> str:
    """``text`` with the user, the query and the fragment of every address in it left out: they may
    hold passwords and signatures."""
    return re.sub(r"(\w+://)(?:[^\s/@]*@)?([^\s?#'\"]*)(?:[?#][^\s'\"]*)?", r"\1\2", text)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet, also where it wraps an IPv4 address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and (ip in NAT64 or int(ip) < 1 << 32):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        ip = inner or ip
    local = isinstance(ip, ipaddress.IPv6Address) and ip.is_site_local
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or local)


def _check(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise AddressError(f"not a web address: {without_secrets(url)[:200]}")
    if "@" in parts.netloc:
        raise AddressError(f"an address with a user or a password: {parts.hostname}")


def _connect_public(
    address: tuple[str, int], timeout: Any = None, source: Any = None
) -> socket.socket:
    """``socket.create_connection`` to public addresses alone."""
    host, port = address
    found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
    _refuse_private(host, [str(info[4][0]) for info in found])
    error = OSError(f"{host} has no address")
    for *_, target in found:
        try:
            return socket.create_connection((str(target[0]), port), timeout, source)
        except OSError as e:
            error = e
    raise error


def _refuse_private(host: str, addresses: list[str]) -> None:
    private = [a for a in addresses if not is_public(a)]
    if private:
        found = f"{host} is {private[0]}, an address of a private network"
        raise AddressError(f"{found}; {SWITCH}=1 lets a mirror through")


def _refuse_private_literal(host: str) -> None:
    """For requests through a proxy, which resolves the names: the host may be a number."""
    if host.rstrip(".").lower().endswith("localhost"):
        raise AddressError(f"{host} is this machine")
    try:
        found = socket.getaddrinfo(host, 0, flags=socket.AI_NUMERICHOST)
    except OSError:  # a name
        return
    _refuse_private(host, [str(info[4][0]) for info in found])


class _PublicHTTP(http.client.HTTPConnection):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._create_connection = _connect_public


class _PublicHTTPS(http.client.HTTPSConnection):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._create_connection = _connect_public


def _opener(anywhere: bool) -> urllib.request.OpenerDirector:
    """It knows http and https alone, and follows no redirect."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPHandler() if anywhere else _Http(),
        urllib.request.HTTPSHandler() if anywhere else _Https(),
    ):
        opener.add_handler(handler)
    return opener


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_choose(req, http.client.HTTPConnection, _PublicHTTP), req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_choose(req, http.client.HTTPSConnection, _PublicHTTPS), req)


def _choose(request: urllib.request.Request, plain: Any, public: Any) -> Any:
    """The class of the connection for a request."""
    parts = urlsplit(request.full_url)
    if request.host == unquote(parts.netloc):
        return public
    _refuse_private_literal(parts.hostname or "")
    return plain  # to the proxy that the user has set
