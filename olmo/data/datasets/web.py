"""Files over https: resumed where an earlier run stopped, checked, and unpacked once."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

log = logging.getLogger(__name__)

CHUNK = 1 << 20
TIMEOUT_S = 60
ATTEMPTS = 5
PAUSE_S = 2.0
MARKERS = ".*.unpacked"


class DownloadError(RuntimeError):
    """A source that could not be fetched; the message says which and why."""


def open_url(url: str, start: int = 0, version: str = "") -> Any:
    """Response of a request from byte ``start`` on; of the whole file if it is no longer of that
    ``version`` (its ETag or date)."""
    if not url.startswith(("https://", "http://")):
        raise ValueError(f"not a web address: {url}")
    headers = {"User-Agent": "olmo-stts"} | ({"Range": f"bytes={start}-"} if start else {})
    headers |= {"If-Range": version} if start and version else {}
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)


def download(url: str, target: Path, sha256: str | None = None) -> None:
    """Fetch ``url`` to ``target``, going on with ``target.part`` where an earlier run stopped. A
    wrong checksum or a short file is a ``DownloadError``, and the file is not kept."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            fetch_part(url, part)
            break
        except (OSError, http.client.HTTPException) as e:  # URLError is an OSError
            client_error = isinstance(e, urllib.error.HTTPError) and 400 <= e.code < 500
            if client_error or attempt == ATTEMPTS:
                raise DownloadError(f"{url}: {e}") from e
            log.warning("%s: %s; attempt %d of %d", url, e, attempt + 1, ATTEMPTS)
            time.sleep(PAUSE_S * attempt)
    version_file(part).unlink(missing_ok=True)
    if sha256 is not None and (found := file_sha256(part)) != sha256:
        part.unlink()
        raise DownloadError(f"{url}: SHA-256 is {found}, expected {sha256}")
    os.replace(part, target)


def fetch_part(url: str, part: Path) -> None:
    """Append the rest of ``url`` to ``part``; start over where the server sends it whole, which it
    does if the file has changed since."""
    have = part.stat().st_size if part.exists() else 0
    known = version_file(part)
    try:
        response = open_url(url, have, known.read_text() if known.exists() else "")
    except urllib.error.HTTPError as e:
        if e.code == 416 and e.headers.get("Content-Range") == f"bytes */{have}":
            return  # it was complete
        if e.code == 416:
            part.unlink()  # longer than the file: it was another one
        raise
    with response:
        resumed = response.status == 206
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
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
                file.write(block)
                bar.update(len(block))
    if total is not None and part.stat().st_size != total:
        raise ConnectionError(f"{part.stat().st_size} of {total} bytes came")


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


def marker(archive: Path) -> Path:
    """The file that says that ``archive`` is unpacked; the archive itself may be deleted then."""
    return archive.with_name(f".{archive.name}.unpacked")


def archive_of(found: Path) -> Path:
    """The archive that a marker is about."""
    return found.with_name(found.name.removeprefix(".").removesuffix(".unpacked"))


def unpack(archive: Path, folder: Path) -> None:
    """Unpack once; no entry lands outside ``folder``."""
    if marker(archive).exists():
        return
    log.info("unpacking %s", archive)
    try:
        if archive.name.endswith(".zip"):
            with zipfile.ZipFile(archive) as zipped:
                zipped.extractall(folder)  # it drops leading slashes and ".."
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
    except (zipfile.BadZipFile, tarfile.TarError, OSError) as e:
        raise DownloadError(f"{archive}: cannot be unpacked: {e}") from e
    marker(archive).touch()
