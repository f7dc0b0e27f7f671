"""Fetching: over http from a server in the test, from a hub whose one function is replaced."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from olmo.data.arrow import ArrowRows
from olmo.data.datasets.catalogue import dataset_rows
from olmo.data.datasets.sources import FrameClips, HubFiles, Manual, Source, WebFile
from olmo.download import web
from olmo.download.web import DownloadError, download
from scripts import download_datasets
from tests.data.file_server import CONTENT, row
from tests.data.worlds import write_world


def fetch(root: Path, monkeypatch: pytest.MonkeyPatch, *sources: Source) -> list[str]:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(root))
    return download_datasets.fetch([row(*sources)], workers=2)


def test_a_stopped_download_goes_on(server: Any, tmp_path: Path) -> None:
    address, handler = server
    handler.files["a.bin"] = CONTENT
    target = tmp_path / "d/a.bin"
    target.parent.mkdir()
    (tmp_path / "d/a.bin.part").write_bytes(CONTENT[:1000])
    download(f"{address}/a.bin", target, hashlib.sha256(CONTENT).hexdigest())
    assert target.read_bytes() == CONTENT and not (tmp_path / "d/a.bin.part").exists()
    assert handler.seen == [("a.bin", "bytes=1000-")]
    download(f"{address}/a.bin", target)
    assert len(handler.seen) == 1, "a finished file is not asked for again"


def test_a_complete_part_is_only_renamed(server: Any, tmp_path: Path) -> None:
    address, handler = server
    handler.files["a.bin"] = CONTENT
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    download(f"{address}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_fetched_anew(server: Any, tmp_path: Path) -> None:
    address, handler = server
    handler.files["a.bin"] = CONTENT
    (tmp_path / "a.bin.part").write_bytes(CONTENT + b"rest of another file")
    with pytest.raises(DownloadError, match="416"):
        download(f"{address}/a.bin", tmp_path / "a.bin")
    download(f"{address}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_broken_connection_is_tried_again(server: Any, tmp_path: Path) -> None:
    address, handler = server
    handler.files["short.bin"] = CONTENT
    download(f"{address}/short.bin", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert handler.seen == [("short.bin", None), ("short.bin", "bytes=3000-")]


def test_a_file_that_has_changed_is_fetched_anew(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "ATTEMPTS", 1)
    address, handler = server
    handler.files["cut.bin"] = CONTENT
    target = tmp_path / "x"
    with pytest.raises(DownloadError, match="3000 of"):
        download(f"{address}/cut.bin", target)
    assert len((tmp_path / "x.part").read_bytes()) == 3000
    handler.files["cut.bin"] = CONTENT[::-1][:2500]  # a new version, shorter than what cuts off
    download(f"{address}/cut.bin", target)
    assert target.read_bytes() == CONTENT[::-1][:2500]
    assert handler.seen[1] == ("cut.bin", "bytes=3000-")
    assert [p.name for p in tmp_path.iterdir()] == ["x"], "no traces are left"


def test_a_server_without_ranges_starts_over(server: Any, tmp_path: Path) -> None:
    address, handler = server
    handler.files["whole.bin"] = CONTENT
    (tmp_path / "x.part").write_bytes(b"old bytes")
    download(f"{address}/whole.bin", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT


FETCH = """
import sys
from pathlib import Path
from olmo.download.web import download
download(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
"""


def test_a_killed_download_goes_on(server: Any, tmp_path: Path) -> None:
    """SIGKILL while bytes come; the next run asks for the rest alone."""
    address, handler = server
    content = bytes(range(256)) * 4096 * 3  # three blocks of 1 MiB
    handler.files["slow.bin"] = content
    digest = hashlib.sha256(content).hexdigest()
    target, part = tmp_path / "x", tmp_path / "x.part"
    command = [sys.executable, "-c", FETCH, f"{address}/slow.bin", str(target), digest]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size >= 1 << 20):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    assert process.wait(30) == -signal.SIGKILL
    have = part.stat().st_size
    assert 0 < have < len(content) and not target.exists()
    handler.hold.set()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, timeout=60)
    assert target.read_bytes() == content and not part.exists()
    assert handler.seen == [("slow.bin", None), ("slow.bin", f"bytes={have}-")]


def test_a_file_that_always_breaks_off_is_given_up(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "ATTEMPTS", 2)
    address, handler = server
    handler.files["cut.bin"] = CONTENT
    with pytest.raises(DownloadError, match=rf"cut.bin: 6000 of {len(CONTENT)} bytes came"):
        download(f"{address}/cut.bin", tmp_path / "x")
    assert not (tmp_path / "x").exists()
    assert (tmp_path / "x.part").read_bytes() == CONTENT[:6000], "kept for the next run"


def test_wrong_checksum_and_absent_file(server: Any, tmp_path: Path) -> None:
    address, handler = server
    handler.files["a.bin"] = CONTENT
    with pytest.raises(DownloadError, match=r"SHA-256 is .*expected 00ff"):
        download(f"{address}/a.bin", tmp_path / "a.bin", "00ff")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DownloadError, match="404"):
        download(f"{address}/nothing", tmp_path / "b.bin")
    assert [n for n, _ in handler.seen] == ["a.bin", "nothing"], "a 404 is final"


def archive(kind: str, names: list[str]) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as zipped:
            for name in names:
                zipped.writestr(name, name)
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = len(name)
                tar.addfile(info, io.BytesIO(name.encode()))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_archives_are_unpacked_once(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    address, handler = server
    handler.files[f"a.{kind}"] = archive(kind, ["videos/x.mp4"])
    source = WebFile(f"{address}/a.{kind}", "set", unpack=True)
    assert fetch(tmp_path, monkeypatch, source) == []
    video = tmp_path / "home/set/videos/x.mp4"
    assert video.read_text() == "videos/x.mp4"
    video.unlink()
    (tmp_path / f"home/set/a.{kind}").unlink()  # a user may make room
    assert fetch(tmp_path, monkeypatch, source) == []
    assert not video.exists() and len(handler.seen) == 1


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_archives_stay_in_their_folder(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    address, handler = server
    handler.files[f"a.{kind}"] = archive(kind, ["../../../evil.txt"])
    fetch(tmp_path, monkeypatch, WebFile(f"{address}/a.{kind}", "set", unpack=True))
    outside = [p for p in tmp_path.rglob("evil.txt") if (tmp_path / "home/set") not in p.parents]
    assert not outside and not (tmp_path.parent / "evil.txt").exists()


def test_limits_of_the_command_line(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, handler = server
    handler.files.update({"a.zip": archive("zip", ["0123456789"]), "b.json": bytes(5000)})
    sources = WebFile(f"{address}/a.zip", "set", unpack=True), WebFile(f"{address}/b.json", "b")
    monkeypatch.setattr(download_datasets, "select_rows", lambda names: [row(*sources)])
    failures: list[str] = []
    real = download_datasets.fetch
    monkeypatch.setattr(download_datasets, "fetch", lambda *a: failures.extend(real(*a)))
    gb = [f"{n / (1 << 30):.20f}" for n in (9, 4999)]
    limits = ["--max_unpacked_gb", gb[0], "--max_download_gb", gb[1]]
    download_datasets.main(["mine", "--root", str(tmp_path), *limits])
    assert len(failures) == 2 and "more than 9 bytes" in failures[0]
    assert "5000 bytes or more, 4999 are allowed" in failures[1]
    assert sorted(p.name for p in (tmp_path / "home").rglob("*")) == ["a.zip", "set"]


def test_a_failure_does_not_stop_the_others(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    address, handler = server
    handler.files.update({"bad.zip": b"no archive", "good.json": b"[]"})
    failures = fetch(
        tmp_path,
        monkeypatch,
        WebFile(f"{address}/bad.zip", "set", unpack=True),
        WebFile(f"{address}/good.json", "set/good.json"),
        Manual("ask for the videos", "https://example.org"),
    )
    assert len(failures) == 1 and "bad.zip: cannot be unpacked" in failures[0]
    assert (tmp_path / "home/set/good.json").read_bytes() == b"[]"
    shown = capsys.readouterr().out
    assert "By hand:\n  mine: ask for the videos (https://example.org)" in shown
    assert "Failed:\n  mine: " in shown


def test_a_failure_is_not_repeated_for_each_data_set(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, handler = server
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    source = WebFile(f"{address}/gone.json", "gone.json")
    failures = download_datasets.fetch([row(source), row(source, name="other")], workers=1)
    assert [f.split(":")[0] for f in failures] == ["mine", "other"] and len(handler.seen) == 1


class Hub:
    """Stands in for ``snapshot_download``: copies matching files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[tuple[str, list[str], str]] = []
        self.ignored: list[list[str]] = []

    def __call__(self, repo: str, **kwargs: Any) -> str:
        self.calls.append((repo, kwargs["allow_patterns"], kwargs["token"]))
        self.ignored.append(kwargs["ignore_patterns"])
        assert kwargs["repo_type"] == "dataset"
        shutil.copytree(self.folder, kwargs["local_dir"], dirs_exist_ok=True)
        return str(kwargs["local_dir"])


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    found = Hub(tmp_path / "hub")
    found.folder.mkdir()
    monkeypatch.setattr("huggingface_hub.snapshot_download", found)
    monkeypatch.setenv("HF_ACCESS_TOKEN", "secret")
    return found


def test_hub_files_with_archives(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (hub.folder / "part").mkdir()
    (hub.folder / "part/v.zip").write_bytes(archive("zip", ["x.mp4"]))
    source = HubFiles("owner/name", "set", ["part/*"], unpack=True)
    assert fetch(tmp_path, monkeypatch, source) == []
    assert (tmp_path / "home/set/part/x.mp4").exists()
    assert hub.calls == [("owner/name", ["part/*"], "secret")] and hub.ignored == [[]]
    assert fetch(tmp_path, monkeypatch, source) == []
    assert hub.ignored[1] == ["part/v.zip"], "an unpacked archive is not fetched again"


def test_hub_table_becomes_arrow(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("train-0", "train-1", "test-0")
    write_world(hub.folder, {f"data/{name}.parquet": {"rows": [{"x": name}]} for name in names})
    splits = {"train": "data/train-*.parquet", "test": "data/test-*.parquet"}
    source = HubFiles("owner/name", "set", table=splits)
    assert fetch(tmp_path, monkeypatch, source) == []
    table = tmp_path / "home/set"
    assert ArrowRows.open(table, "train").column("x") == ["train-0", "train-1"]
    assert ArrowRows.open(table, "test")[0] == {"x": "test-0"}
    assert fetch(tmp_path, monkeypatch, source) == [] and len(hub.calls) == 1
    wrong = HubFiles("owner/name", "other", table={"train": "nothing-*.parquet"})
    (failure,) = fetch(tmp_path, monkeypatch, wrong)
    assert "no file nothing-*.parquet among ['data/test-0.parquet'" in failure


def test_clips_are_made_from_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Spans without frames are listed, each by its times as they are written, and left out from
    then on; a broken picture costs its clip alone."""
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    home = tmp_path / "video_datasets"
    question = {"q": "?", "answer_idx": 0, **{f"a{i}": "x" for i in range(5)}}
    spans = [("a", "0-1"), ("a", "0-1.1"), ("b", "0-1"), ("b", "0.0-1"), ("b", "nan-nan")]
    spans += [("c", "0-1")]
    rows = [
        {"vid_name": f"house_{n}", "show_name": "House M.D.", "ts": ts, **question}
        for n, ts in spans
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    write_world(home, {"TVQA/tvqa_train.jsonl": {"text": lines}})
    frames = home / "TVQA/video-frames/frames_hq/house_frames"
    declared = dataset_rows()["tvqa"]
    assert FrameClips("tvqa") in declared.origins

    def make() -> list[str]:
        job = download_datasets.Job(declared)
        download_datasets.make_frame_clips(job, FrameClips("tvqa"))
        return job.notes

    note = "have no frames yet: run this again when they are there"
    assert make() == [f"3 clips {note}"], "as long as there are none, none is listed"
    for name in ("house_a", "house_c"):
        (frames / name).mkdir(parents=True)
        for n in (1, 2, 3):
            Image.new("RGB", (16, 16)).save(frames / name / f"{n:05d}.jpg")
    (frames / "house_c/00002.jpg").write_bytes(b"no picture")
    broken, listed = make()
    assert broken.startswith("1 clips could not be made, first: TVQA/video-frames")
    assert listed.startswith("1 clips have no frames yet: delete TVQA/missing_clips.txt")
    assert (frames / "house_a/video_00001_00003.mp4").stat().st_size > 0
    assert "1 clips made" in capsys.readouterr().out
    missing = (home / "TVQA/missing_clips.txt").read_text().split()
    assert missing == [f"house_frames/house_{n}" for n in ("b:0-1", "b:0.0-1", "c:0-1")]
    (example,) = declared.records("train")[1]
    assert len(example["message_list"]) == 2 and "house_a" in example["video"]
    assert make() == []


def test_declared_addresses_are_secure() -> None:
    sources = [s for r in dataset_rows().values() for s in r.origins]
    assert all(s.web.startswith("https://") for s in sources if isinstance(s, WebFile))
    assert all(s.hub.count("/") == 1 for s in sources if isinstance(s, HubFiles))
    assert set(map(type, sources)) <= set(download_datasets.FETCHERS)


def test_command_line(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("MOLMO_DATA_DIR", "unused")
    assert download_datasets.main(["tomato", "motionbench", "--root", str(tmp_path)]) == 0
    assert [repo for repo, *_ in hub.calls] == ["zai-org/MotionBench"]
    shown = capsys.readouterr().out
    assert f"tomato -> {tmp_path / 'video_datasets'}" in shown and "By hand" in shown
    assert download_datasets.main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(dataset_rows())
    with pytest.raises(SystemExit):
        download_datasets.main(["tomatoe"])
    assert "unknown data set or group 'tomatoe'" in capsys.readouterr().err
