"""The table of ``scripts/data_status.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("av")

from olmo.data.datasets.frame_clips import encode
from olmo.data.datasets.synthetic.video import cache_folder, make_clip
from scripts import data_status

INTENT = "video_id,question,a0,a1,a2,a3,a4,answer\n" + "".join(
    f"{i},why,a,b,c,d,e,1\n" for i in range(4)
)


def write(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def lines(capsys: Any, *args: str) -> list[str]:
    assert data_status.main(list(args)) == 0
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("MOLMO_DATA_DIR", "unused")
    videos = [f"IntentQA/videos/{i}.mp4" for i in range(3)]
    home = tmp_path / "video_datasets"
    write(home / "IntentQA/train.csv", INTENT)
    for video in videos:
        write(home / video)
    frame = tmp_path / "frame.png"
    Image.new("RGB", (16, 16)).save(frame)
    for video in videos[:2]:
        encode([frame] * 9, home / video)  # 3 s; the third file is no video
    write(home / "STAR/STAR_train_qa.json", '[{"video_id": "a"}]')
    images = tmp_path / "torch_datasets"
    write(images / "tabmwp/problems_train.json", '{"1": {"question": "Q", "answer": "1"}, "2": 3}')
    write(images / "tabmwp/tables/1.png")
    root = str(tmp_path)
    shown = lines(capsys, "intent_qa", "star", "tabwmp_da", "--root", root)
    (left_out,) = [line for line in shown if line.startswith("1 of 2 rows left out: 1 ")]
    assert f"(first {images / 'tabmwp/problems_train.json'}: key '2')" in left_out
    shown.remove(left_out)
    assert shown[0] == f"data folder: {tmp_path}"
    table = dict.fromkeys(" ".join(line.split()[:3]) for line in shown[2:-1])
    assert list(table) == [
        "intent_qa train partial",
        "intent_qa validation missing",
        "intent_qa test missing",
        "star train unreadable",
        "star validation missing",
        "star test missing",
        "tabwmp_da train present",
        "tabwmp_da validation missing",
        "tabwmp_da test missing",
    ]
    assert f"3/4 ~0.0 {home / 'IntentQA/videos'}" in shown[2]
    assert str(home / "IntentQA/val.csv") in shown[3]
    assert "no field 'start' (first" in shown[5] and "row 0" in shown[5]
    assert shown[8].split()[3] == "1"
    assert shown[-1] == "1 present, 1 partial, 6 missing, 1 unreadable"


def test_hours(tmp_path: Path) -> None:
    frame = tmp_path / "frame.png"
    Image.new("RGB", (16, 16)).save(frame)
    videos = []
    for i, n in enumerate((9, 18, 27, 36)):
        videos.append(str(tmp_path / f"{i}.mp4"))
        encode([frame] * n, Path(videos[-1]))
    assert data_status.hours_of(videos, 4) == (pytest.approx(30 / 3600), False)
    assert data_status.hours_of(videos, 2) == (pytest.approx(4 * (3 + 9) / 2 / 3600), True)
    assert data_status.hours_of(videos, 0) == (None, False)


def test_of_a_mixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("MOLMO_DATA_DIR", "unused")
    shown = lines(capsys, "--mixture", "molmo2", "--root", str(tmp_path))
    assert any(line.startswith("tulu4 train missing") for line in shown)
    own = tmp_path / "own.yaml"
    own.write_text("groups: [{rate: 1, datasets: [{name: tulu4}, {name: no_such_set}]}]")
    shown = lines(capsys, "--mixture", str(own), "--root", str(tmp_path))
    assert shown[-1] == "without a reader: no_such_set"
    with pytest.raises(SystemExit):
        data_status.main(["nothing"])


def test_of_an_embedded_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("MOLMO_DATA_DIR", "unused")
    folder = cache_folder("short", "test", 0, tmp_path)
    folder.mkdir(parents=True)
    for i in range(3):
        make_clip((folder, 0, "short", "test", i))
    shown = lines(capsys, "--mixture", "debug", "--root", str(tmp_path))
    name = "synthetic_video_qa_debug"
    assert shown[2].startswith(f"{name} train missing") and "rendered on first use" in shown[2]
    assert shown[4].startswith(f"{name} test partial 3/8")
    for i in range(3, 8):
        make_clip((folder, 0, "short", "test", i))
    shown = lines(capsys, name, "--root", str(tmp_path))
    assert shown[4] == f"{name} test present 8 0.0 {folder}"
    shown = lines(capsys, "synthetic_video_qa_text", "--root", str(tmp_path))
    assert shown[2] == "synthetic_video_qa_text all present made on the fly, without files"
