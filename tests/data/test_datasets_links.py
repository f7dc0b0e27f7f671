"""Images that tables only link to, fetched from a server in the test."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from olmo.data.datasets.sources import LinkedImages
from olmo.data.datasets.tables import address_name
from scripts import download_datasets
from tests.data.datasets_miniature import write_arrow
from tests.data.file_server import row


def test_linked_images(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address, handler = server
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "PNG")
    handler.files.update({"a.png": buffer.getvalue(), "page.html": b"<html>"})
    links = [f"{address}/{name}" for name in ("a.png", "page.html", "gone.png", "a.png")]
    (tmp_path / "local.png").write_bytes(buffer.getvalue())
    links.append(f"file://{tmp_path}/local.png")
    write_arrow(tmp_path / "home/table", {"train": [{"image_url": link} for link in links]})
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
    write_arrow(tmp_path / "home/table", {"train": rows})
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
    write_arrow(tmp_path / "home/table", {"train": rows})
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    source = LinkedImages("table", "images", column="image_urls")
    job = download_datasets.Job(row(source), workers=2)
    download_datasets.fetch_images(job, source)
    assert {p.name for p in (tmp_path / "home/images").iterdir()} == set(map(address_name, (a, b)))
    assert len(handler.seen) == 2 and job.notes == []
