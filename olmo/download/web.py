"""Files over https: resumed where an earlier run stopped, checked, of bounded size."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import time
import urllib.error
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from olmo.download.addresses import DownloadError, open_url, without_secrets
from olmo.outside import foreign

log = logging.getLogger(__name__)

CHUNK = 1 << 20
ATTEMPTS = 5
PAUSE_S = 2.0
MAX_SECONDS = 300.0
"""Time for one image; a large file may take as long as it comes."""
CONNECTION_ERRORS = (OSError, http.client.HTTPException)  # URLError is an OSError
AGENT = {"User-Agent": "olmo-stts"}


class _BrokenOff(DownloadError):
    """Fewer bytes came than the server had stated."""


@dataclass(frozen=True)
class WebLimits:
    """The most that one file of a source may cost, in bytes."""

    max_file: int = 500 << 30
    """A downloaded file; a server that states no length may send for ever."""
    max_unpacked: int = 1000 << 30
    """All files of one archive."""
    max_image: int = 64 << 20
    """An image that a table links to."""


DEFAULT_LIMITS = WebLimits()


def download(
    url: str, target: Path, sha256: str | None = None, limits: WebLimits = DEFAULT_LIMITS
) -> None:
    """Fetch ``url`` to ``target``, going on with ``target.part`` where an earlier run stopped. A
    wrong checksum or a short file is a ``DownloadError``, and the file is not kept."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    shown = without_secrets(url)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with foreign(lambda reason: DownloadError(f"{shown}: {without_secrets(reason)}")):
                fetch_part(url, part, limits.max_file)
            break
        except DownloadError as e:
            cause = e.__cause__
            client_error = isinstance(cause, urllib.error.HTTPError) and 400 <= cause.code < 500
            again = isinstance(e, _BrokenOff) or isinstance(cause, CONNECTION_ERRORS)
            if client_error or not again or attempt == ATTEMPTS:
                raise
            log.warning("%s; attempt %d of %d", e, attempt + 1, ATTEMPTS)
            time.sleep(PAUSE_S * attempt)
    version_file(part).unlink(missing_ok=True)
    if sha256 is not None and (found := file_sha256(part)) != sha256:
        part.unlink()
        raise DownloadError(f"{shown}: SHA-256 is {found}, expected {sha256}")
    os.replace(part, target)


def fetch_part(url: str, part: Path, max_bytes: int) -> None:
    """Append the rest of ``url`` to ``part``; start over where the server sends it whole, which it
    does if the file has changed since. Of a file above ``max_bytes`` nothing is kept."""
    have = part.stat().st_size if part.exists() else 0
    known = version_file(part)
    headers = AGENT | ({"Range": f"bytes={have}-"} if have else {})
    if have and known.exists() and (version := known.read_text()):
        headers["If-Range"] = version  # its ETag or date: the whole file if it has another now
    try:
        response = open_url(url, headers, trusted=True)
    except urllib.error.HTTPError as e:
        if e.code == 416 and e.headers.get("Content-Range") == f"bytes */{have}":
            return  # it was complete
        if e.code == 416:
            part.unlink()  # longer than the file: it was another one
        raise
    with response:
        resumed = response.status == 206
        have = have if resumed else 0
        total = None if response.length is None else have + response.length
        if total is not None and total > max_bytes:
            raise DownloadError(f"{without_secrets(url)}: {_too_large(total, max_bytes)}")
        if not resumed:
            part.unlink(missing_ok=True)  # first, so that old bytes never pass for the new version
            known.write_text(_version(response.headers))
        with (
            open(part, "ab" if resumed else "wb") as file,
            tqdm(
                desc=f"  {part.name.removesuffix('.part')}",
                initial=have,
                total=total,
                unit="B",
                unit_scale=True,
            ) as bar,
        ):
            while block := response.read(CHUNK):
                have += len(block)
                if have > max_bytes:
                    break
                file.write(block)
                bar.update(len(block))
    if have > max_bytes:
        part.unlink()
        raise DownloadError(f"{without_secrets(url)}: {_too_large(have, max_bytes)}")
    if total is not None and part.stat().st_size != total:
        raise _BrokenOff(f"{without_secrets(url)}: {part.stat().st_size} of {total} bytes came")


def fetch_bytes(url: str, max_bytes: int) -> bytes:
    """What is at an address that a data set brings, whole."""
    until = time.monotonic() + MAX_SECONDS
    data = bytearray()
    with open_url(url, AGENT, trusted=False) as response:
        while block := response.read1(CHUNK):
            data += block
            if len(data) > max_bytes:
                raise DownloadError(_too_large(len(data), max_bytes))
            if time.monotonic() > until:
                raise DownloadError(f"it takes longer than {MAX_SECONDS} s")
        if response.length:
            raise DownloadError(f"{response.length} bytes did not come")
    return bytes(data)


def _too_large(found: int, allowed: int) -> str:
    return f"{found} bytes or more, {allowed} are allowed"


def version_file(part: Path) -> Path:
    """Says of which version of a file ``part`` is a part."""
    return part.with_name(part.name + ".version")


def _version(headers: Any) -> str:
    """A strong ETag, else the date; nothing where the server states neither."""
    tag = headers.get("ETag") or ""
    return "" if tag.startswith("W/") else tag or headers.get("Last-Modified") or ""


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
