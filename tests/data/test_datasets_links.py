"""Images that tables only link to, fetched from a server in the test."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from olmo.data.datasets.sources import LinkedImages
from olmo.data.datasets.tables import address_name
from olmo.download.addresses import SWITCH
from olmo.download.web import WebLimits
from scripts import download_datasets
from tests.data.file_server import row
from tests.data.worlds import write_table


def test_linked_images(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address, handler = server
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "PNG")
    handler.files.update({"a.png": buffer.getvalue(), "page.html": b"<html>"})
    links = [f"{address}/{name}" for name in ("a.png", "page.html", "gone.png", "a.png")]
    (tmp_path / "local.png").write_bytes(buffer.getvalue())
    links.append(f"file://{tmp_path}/local.png")
    write_table(tmp_path / "home/table.arrow", {"train": [{"image_url": link} for link in links]})
    source = LinkedImages("table", "images")
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    for _ in range(2):
        job = download_datasets.Job(row(source), workers=2)
        download_datasets.fetch_images(job, source)
        assert len(job.notes) == 1 and job.notes[0].startswith("3 of 4 images not fetched")
    assert [p.name for p in (tmp_path / "home/images").iterdir()] == [address_name(links[0])]
    assert [n for n, _ in handler.seen].count("a.png") == 1


def test_linked_images_that_have_changed(server: Any, tmp_path: Path, monkeypatch: Any) -> None:
    address, handler = server
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "PNG")
    handler.files.update({"a.png": buffer.getvalue(), "b.png": buffer.getvalue()})
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    rows = [
        {"image_url": f"{address}/a.png", "image_sha256": digest},
        {"image_url": f"{address}/b.png", "image_sha256": "00ff"},
    ]
    write_table(tmp_path / "home/table.arrow", {"train": rows})
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    source = LinkedImages("table", "images")
    job = download_datasets.Job(row(source), workers=2)
    download_datasets.fetch_images(job, source)
    assert [p.name for p in (tmp_path / "home/images").iterdir()] == [
        address_name(f"{address}/a.png")
    ]
    assert f"SHA-256 is {digest}, expected 00ff" in job.notes[0]


def test_linked_lists_of_images(server: Any, tmp_path: Path, monkeypatch: Any) -> None:
    address, handler = server
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "PNG")
    handler.files.update({"a.png": buffer.getvalue(), "b.png": buffer.getvalue()})
    a, b = f"{address}/a.png", f"{address}/b.png"
    rows = [{"image_urls": [a, b]}, {"image_urls": [b]}, {"image_urls": None}]
    write_table(tmp_path / "home/table.arrow", {"train": rows})
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    source = LinkedImages("table", "images", column="image_urls")
    job = download_datasets.Job(row(source), workers=2)
    download_datasets.fetch_images(job, source)
    assert {p.name for p in (tmp_path / "home/images").iterdir()} == set(map(address_name, (a, b)))
    assert len(handler.seen) == 2 and job.notes == []


def damaged_images() -> dict[str, bytes]:
    """Pictures that their decoders cannot read, or that are none of the formats that are read."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    found = {}
    for kind in ("AVIF", "JPEG", "PNG", "WEBP", "DDS", "SPIDER", "TGA"):
        buffer = io.BytesIO()
        image = Image.fromarray(noise)
        (image.convert("F") if kind == "SPIDER" else image).save(buffer, kind)
        data = buffer.getvalue()
        found[f"{kind}.jpg"] = data if kind in ("DDS", "SPIDER", "TGA") else data[:-200]
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    check = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    found["bomb.png"] = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + header + check
    return found | {"large.png": bytes(2000), "empty.jpg": b""}


def test_only_images_that_can_be_read_are_kept(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, handler = server
    handler.files.update(damaged_images())
    links = [f"{address}/{name}?Signature=secret" for name in handler.files]
    handler.files.update({f"{n}?Signature=secret": d for n, d in list(handler.files.items())})
    links += ["not an address", "http://me:secret@127.0.0.1/a.png", "http://[::1", "ftp://x/a.png"]
    write_table(tmp_path / "home/table.arrow", {"train": [{"image_url": link} for link in links]})
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    job = download_datasets.Job(row(), workers=2, limits=WebLimits(max_image=20_000))
    download_datasets.fetch_images(job, LinkedImages("table", "images"))
    assert list((tmp_path / "home/images").iterdir()) == []
    assert job.notes[0].startswith(f"{len(links)} of {len(links)} images not fetched")
    for link in links:
        reason = download_datasets.fetch_image(link, tmp_path / "x", max_bytes=20_000)
        assert reason and "secret" not in reason and not (tmp_path / "x").exists()


def test_addresses_of_tables_may_not_be_private(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SWITCH)
    address, handler = server
    handler.files["a.png"] = b"x"
    reason = download_datasets.fetch_image(f"{address}/a.png", tmp_path / "x")
    assert "127.0.0.1, an address of a private network" in reason and handler.seen == []
