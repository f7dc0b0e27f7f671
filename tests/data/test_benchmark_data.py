"""``scripts/benchmark_data.py``: its figures add up, and packs are as full as the docs say."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from olmo.benchmark.clock import Clock
from tests.data.broken_media import write_video
from tests.eval.scripts import script_module


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return script_module("benchmark_data")


def test_stages_exclude_what_runs_inside() -> None:
    now = [0.0]
    clock = Clock(lambda: now[0])

    class Work:
        def outer(self) -> None:
            now[0] += 1
            self.inner()
            now[0] += 2

        def inner(self) -> None:
            now[0] += 10

    work, original = Work(), Work.inner
    with clock.watch((Work, "outer", "out"), (Work, "inner", "in")), clock.stage("rest"):
        now[0] += 100
        work.outer()
        work.inner()
    assert dict(clock.seconds) == {"rest": 100, "out": 3, "in": 20}
    assert Work.inner is original
    now[0] += 1000
    work.outer()
    assert sum(clock.seconds.values()) == 123


def test_packs_are_full(script: ModuleType, tmp_path: Path) -> None:
    """At least 97% on the lengths of the recipe; packs that hold only long videos, unpruned,
    cannot be: two of them do not fit into a row."""
    args = ["--packing", "--examples", "600", "--out", str(tmp_path)]
    assert script.main(args) == 0
    rows = json.loads((tmp_path / "packing.json").read_text())["rows"]
    mixed = [row for row in rows if row["videos"] == "2 to 64 frames"]
    assert len(mixed) == 3 and all(row["fill"] >= 0.97 for row in mixed)
    assert all(row["longest_wait"] <= 512 + 100 for row in rows)


def test_loading(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = write_video(tmp_path / "a.mp4", list(range(30)))
    args = ["--video", str(video), str(tmp_path / "gone.mp4"), "--seconds", "0.3"]
    args += ["--seq_len", "1500", "--buffer_size", "4", "--out", str(tmp_path)]
    assert script.main(args) == 0
    found = json.loads((tmp_path / "loading.json").read_text())
    assert sum(found["share"].values()) == pytest.approx(1.0)
    assert {"decode", "resize", "tokenise", "pack", "collate"} <= set(found["share"])
    assert found["skipped"] > 0 and found["tokens_per_second"] > found["examples_per_second"]
    assert "| decode |" in capsys.readouterr().out
    assert script.main(["no_such_set", "--out", str(tmp_path)]) == 2
    assert "unknown data set 'no_such_set'" in capsys.readouterr().err


def test_decoders(script: ModuleType, tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", list(range(100)))
    args = ["--decoders", "--video", str(video), "--repeats", "1", "--out", str(tmp_path)]
    assert script.main(args) == 0
    found = json.loads((tmp_path / "decoders.json").read_text())
    ours = found["rows"][0]
    assert ours["frames_that_differ"] == 0 and ours["seconds"] > 0
