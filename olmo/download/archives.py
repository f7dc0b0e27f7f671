"""Archives from outside, unpacked once: all of it, within bounds, or nothing.

An archive is unpacked into a folder beside it, ``.NAME.part``, and its files are moved to their
place when all are there. Only regular files and folders below the target are made, with the
rights that a new file has; a link to a file of the same archive becomes another name of it.
"""

from __future__ import annotations

import contextlib
import gzip
import logging
import os
import posixpath
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from olmo.download.addresses import DownloadError
from olmo.outside import foreign

log = logging.getLogger(__name__)

MARKERS = ".*.unpacked"
CHUNK = 1 << 20
MAX_AT_ONCE = 64 << 20
"""Bytes that the tar reader may ask for at once: it holds headers whole."""
MAX_ENTRIES = 5_000_000
MAX_LINK_BYTES = 4096
MAX_RATIO, ALWAYS_ALLOWED = 200, 1 << 30
"""Unpacked bytes per byte of the archive, and how many need not keep to it. Annotations in JSON
shrink to a fifteenth, media hardly at all."""


@dataclass(frozen=True)
class Entry:
    """A file of an archive, a folder, whose ``open`` is None, or a link to the entry ``link``."""

    name: str
    open: Callable[[], IO[bytes]] | None = None
    link: str | None = None


def marker(archive: Path) -> Path:
    """The file that says that ``archive`` is unpacked; the archive itself may be deleted then."""
    return archive.with_name(f".{archive.name}.unpacked")


def archive_of(found: Path) -> Path:
    """The archive that a marker is about."""
    return found.with_name(found.name.removeprefix(".").removesuffix(".unpacked"))


def unpack(archive: Path, folder: Path, max_bytes: int) -> None:
    """Unpack into ``folder`` once. An archive that is damaged, larger than ``max_bytes`` or than
    ``MAX_RATIO`` allows, or that holds devices, or names or links that lead out of ``folder``, is a
    ``DownloadError``, and nothing of it is left in ``folder``."""
    if marker(archive).exists():
        return
    log.info("unpacking %s", archive)
    part = archive.with_name(f".{archive.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with foreign(lambda reason: DownloadError(f"{archive}: cannot be unpacked: {reason}")):
            ratio = max(ALWAYS_ALLOWED, MAX_RATIO * archive.stat().st_size)
            with _entries(archive) as entries:
                _write(entries, part, min(max_bytes, ratio))
            _move(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    marker(archive).touch()


def _write(entries: Iterator[Entry], part: Path, max_bytes: int) -> None:
    left, links = max_bytes, dict[Path, Path]()
    part.mkdir(parents=True)
    for number, entry in enumerate(entries):
        if number >= MAX_ENTRIES:
            raise ValueError(f"more than {MAX_ENTRIES} entries")
        target = part / _inside(entry.name)
        if entry.link is not None:
            links[target] = part / _inside(entry.link)
            continue
        if entry.open is None:
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with entry.open() as source, open(target, "wb") as file:
            while block := source.read(CHUNK):
                left -= len(block)
                if left < 0:
                    raise ValueError(f"its files have more than {max_bytes} bytes")
                file.write(block)
    _link(links, part)


def _link(links: dict[Path, Path], part: Path) -> None:
    """Make the ``links`` (place to target) when all files are there: no file is written through
    one. Those to folders, or to nothing, are left out."""
    while ready := [place for place, target in links.items() if target.is_file()]:
        for place in ready:
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(links.pop(place), place)
    for place, target in links.items():
        names = place.relative_to(part), target.relative_to(part)
        log.warning("link left out, it leads to no file: %s -> %s", *names)


def _inside(name: str) -> PurePosixPath:
    """The path of an entry, relative to the folder. ``ValueError`` if it leads out of it."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise ValueError(f"the entry {name!r} leads out of the folder")
    return path


def _move(source: Path, target: Path) -> None:
    """Move a folder's content, into folders that may be there already; the same file system."""
    target.mkdir(parents=True, exist_ok=True)
    for item in list(source.iterdir()):
        there = target / item.name
        if item.is_dir() and there.is_dir():
            _move(item, there)
        else:
            os.replace(item, there)


@contextlib.contextmanager
def _entries(archive: Path) -> Iterator[Iterator[Entry]]:
    if archive.name.endswith(".zip"):
        with zipfile.ZipFile(archive) as zipped:
            yield _zip_entries(zipped)
    else:
        opened = gzip.open if archive.name.endswith("gz") else open
        with (
            opened(archive, "rb") as file,
            tarfile.open(fileobj=cast(Any, _Sparing(file)), mode="r:") as tar,
        ):
            yield _tar_entries(tar)


def _zip_entries(zipped: zipfile.ZipFile) -> Iterator[Entry]:
    for info in zipped.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind == stat.S_IFLNK and info.file_size <= MAX_LINK_BYTES:
            yield Entry(info.filename, link=_beside(info.filename, zipped.read(info).decode()))
        elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ValueError(f"the entry {info.filename!r} is not a regular file")
        else:
            yield Entry(info.filename, None if info.is_dir() else partial(zipped.open, info))


def _tar_entries(tar: tarfile.TarFile) -> Iterator[Entry]:
    for member in tar:
        tar.members = []  # type: ignore[attr-defined]  # else it keeps all of them
        if member.issym():
            yield Entry(member.name, link=_beside(member.name, member.linkname))
        elif member.islnk():
            yield Entry(member.name, link=member.linkname)
        elif member.isreg() or member.isdir():
            yield Entry(member.name, None if member.isdir() else partial(_file, tar, member))
        else:
            raise ValueError(f"the entry {member.name!r} is not a regular file")


def _beside(name: str, target: str) -> str:
    """The entry that a symbolic link ``name`` means by ``target``."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), target))


def _file(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(member)
    assert file is not None  # it is a regular file
    return file


class _Sparing:
    """A file that refuses to be read in pieces above ``MAX_AT_ONCE``."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_AT_ONCE:
            raise ValueError(f"a header of {size} bytes")
        data: bytes = self._file.read(size)
        return data
