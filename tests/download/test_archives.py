"""Archives that are damaged, too large or made to reach elsewhere: all of it or nothing."""

from __future__ import annotations

import gzip
import io
import os
import random
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from olmo.download import archives
from olmo.download.addresses import DownloadError
from olmo.download.archives import marker, unpack

MB = 1 << 20
NOISE = random.Random(0).randbytes(5000)


def zipped(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in files.items():
            out.writestr(name, data)
        for name, target in (links or {}).items():
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o120777 << 16
            out.writestr(info, target)
    return buffer.getvalue()


def tarred(files: dict[str, bytes], *others: tarfile.TarInfo, mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as out:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
        for info in others:
            out.addfile(info)
    return buffer.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


FIRST = {"a/first.txt": b"first"}
GOOD = {"a/first.txt": b"first", "a/b/c.bin": NOISE, "empty/": b"", "top": b""}
ESCAPES = ["../evil", "/tmp/evil", "a/../../evil", "..\\evil", "a/..", "//evil"]

REFUSED: dict[str, bytes] = {
    "no_archive.zip": b"no archive",
    "no_archive.tar": b"no archive" * 100,
    "no_archive.tar.gz": b"no archive",
    "empty.zip": b"",
    "cut.zip": zipped(GOOD)[:-40],
    "cut.tar": tarred(FIRST | GOOD, mode="w")[:3000],
    "cut.tgz": tarred(GOOD)[:-600],
    "ratio.zip": zipped(FIRST | {"zeros": bytes(3 * MB)}),
    "ratio.tar.gz": tarred(FIRST | {"zeros": bytes(3 * MB)}),
    "link.zip": zipped(FIRST, {"a/link": "/etc/passwd"}),
    "symlink.tar": tarred(FIRST, special("a/link", tarfile.SYMTYPE, "../../x"), mode="w"),
    "link_out.zip": zipped(FIRST, {"a/link": "../../x"}),
    "link_is_file.tar": tarred(FIRST, special("a/first.txt", tarfile.LNKTYPE, "a/first.txt")),
    "through_link.tar": tarred(
        {"b/x": b"x", "a/first.txt": b""}, special("a", tarfile.SYMTYPE, "b/x"), mode="w"
    ),
    "hard_link.tar": tarred(FIRST, special("a/link", tarfile.LNKTYPE, "/etc/passwd"), mode="w"),
    "device.tar": tarred(FIRST, special("a/dev", tarfile.CHRTYPE), mode="w"),
    "pipe.tar.gz": tarred(FIRST, special("a/pipe", tarfile.FIFOTYPE)),
    "file_as_folder.tar": tarred(FIRST | {"a/first.txt/below": b"x"}, mode="w"),
    "zero_byte.tar": tarred(FIRST, mode="w").replace(b"first.txt\0", b"first\0txt\0"),
}
for number, escape in enumerate(ESCAPES):
    REFUSED[f"escape{number}.tar"] = tarred(FIRST | {escape: b"x"}, mode="w")
    REFUSED[f"escape{number}.zip"] = zipped(FIRST | {escape: b"x"})


def encrypted() -> bytes:
    """Flags of the entry say that it is encrypted: the reader raises ``RuntimeError``."""
    data = bytearray(zipped(FIRST))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def odd_compression() -> bytes:
    """Method 99, for which it raises ``NotImplementedError``."""
    data = bytearray(zipped(FIRST))
    struct.pack_into("<H", data, 8, 99)
    struct.pack_into("<H", data, data.index(b"PK\x01\x02") + 10, 99)
    return bytes(data)


REFUSED |= {"encrypted.zip": encrypted(), "odd_compression.zip": odd_compression()}
REFUSED.pop("zero_byte.tar")  # the reader ends names there


@pytest.mark.parametrize("name", REFUSED)
def test_nothing_is_left_of_an_archive_that_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "ALWAYS_ALLOWED", 2 * MB)
    home = tmp_path / "in/home"
    home.mkdir(parents=True)
    (home / "kept.txt").write_bytes(b"kept")
    (home / name).write_bytes(REFUSED[name])
    for _ in range(2):
        with pytest.raises(DownloadError, match=f"{name}: cannot be unpacked: "):
            unpack(home / name, home, 1 << 40)
        assert {p.name for p in home.iterdir()} == {"kept.txt", name}
    assert not marker(home / name).exists()
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz"])
def test_all_files_come_and_join_those_that_are_there(name: str, tmp_path: Path) -> None:
    made = zipped(GOOD) if name == "a.zip" else tarred(GOOD, mode="w" + ":gz" * name.endswith("gz"))
    (tmp_path / name).write_bytes(made)
    (tmp_path / "out/a").mkdir(parents=True)
    (tmp_path / "out/a/other.txt").write_bytes(b"other")
    (tmp_path / "out/a/first.txt").write_bytes(b"of an earlier version")
    (tmp_path / f".{name}.part/left").mkdir(parents=True)  # of a run that was killed
    unpack(tmp_path / name, tmp_path / "out", len(NOISE) + 5)
    found = {
        p.relative_to(tmp_path / "out").as_posix(): p.read_bytes()
        for p in (tmp_path / "out").rglob("*")
        if p.is_file()
    }
    assert found["a/other.txt"] == b"other" and found["a/first.txt"] == b"first"
    assert found["a/b/c.bin"] == NOISE and found["top"] == b""
    assert marker(tmp_path / name).exists() and not (tmp_path / f".{name}.part").exists()
    (tmp_path / "out/top").unlink()
    unpack(tmp_path / name, tmp_path / "out", 1)
    assert not (tmp_path / "out/top").exists(), "once"


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_a_link_within_the_archive_becomes_a_file(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    links = {
        "a/beside": "first.txt",
        "b/up": "../a/first.txt",
        "twice": "b/up",
        "a/absent": "gone",
        "folder": "a",
        "self": "self",
    }
    symbolic = [special(n, tarfile.SYMTYPE, target) for n, target in links.items()]
    hard = special("hard", tarfile.LNKTYPE, "a/first.txt")
    with_links = {
        "a.zip": zipped(FIRST, links | {"hard": "a/first.txt"}),
        "a.tar.gz": tarred(FIRST, *symbolic, hard),
    }
    (tmp_path / name).write_bytes(with_links[name])
    unpack(tmp_path / name, tmp_path / "out", 1 << 20)
    found = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*")}
    files = {"a/first.txt", "a/beside", "b/up", "twice", "hard"}
    assert found == files | {"a", "b"}
    for file in files:
        path = tmp_path / "out" / file
        assert path.read_bytes() == b"first" and not path.is_symlink()
    assert caplog.text.count("link left out") == 3 and "a/absent -> a/gone" in caplog.text


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_unpacked_bytes_and_entries_are_bounded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"{n}.bin": NOISE for n in range(4)}
    (tmp_path / name).write_bytes(zipped(files) if name == "a.zip" else tarred(files))
    with pytest.raises(DownloadError, match=r"its files have more than 19999 bytes"):
        unpack(tmp_path / name, tmp_path / "out", 19_999)
    monkeypatch.setattr(archives, "MAX_ENTRIES", 3)
    with pytest.raises(DownloadError, match="more than 3 entries"):
        unpack(tmp_path / name, tmp_path / "out", 20_000)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(archives, "MAX_ENTRIES", 4)
    unpack(tmp_path / name, tmp_path / "out", 20_000)
    assert len(os.listdir(tmp_path / "out")) == 4


def test_a_zip_entry_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    data = bytearray(zipped({"a.bin": bytes(100_000)}))
    at = data.index(b"PK\x01\x02")
    for place in (22, at + 24):
        struct.pack_into("<I", data, place, 10)
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DownloadError, match="BadZipFile"):
        unpack(tmp_path / "a.zip", tmp_path / "out", 1000)


def test_headers_and_holes_of_a_tar_file_are_counted(tmp_path: Path) -> None:
    """A header that unpacks to 256 MiB, a file of holes, a chain of long names."""
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 256 * MB
    with gzip.open(tmp_path / "header.tar.gz", "wb", 1) as file:
        file.write(header.tobuf())
        for _ in range(256):
            file.write(bytes(MB))
    sparse = tarfile.TarInfo("holes")
    sparse.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.map": "0,0",
        "GNU.sparse.size": str(1 << 40),
    }
    (tmp_path / "holes.tar").write_bytes(tarred({}, sparse, mode="w"))
    name = tarfile.TarInfo("n")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 1
    (tmp_path / "names.tar").write_bytes((name.tobuf() + b"n" + bytes(511)) * 5000)
    messages = {
        "header.tar.gz": "a header of 26843",
        "holes.tar": "more than 1000000 bytes",
        "names.tar": "RecursionError",
    }
    for archive, message in messages.items():
        with pytest.raises(DownloadError, match=message):
            unpack(tmp_path / archive, tmp_path / "out", 1_000_000)
    assert not (tmp_path / "out").exists()
