"""The command line of the benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from olmo.benchmark.checks import Bench
from olmo.benchmark.plan import DENSE
from scripts import benchmark as script


def test_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    grid = ["--preset", "tiny", "--stages", "vit,train_vit", "--frames", "4", "--topk", "0.3,0.5"]
    flags = ["--device", "cpu", "--threads", "1", "--repeats", "1", "--no_cpu_memory"]
    flags += ["--baseline", "transformers"]
    args = [*grid, *flags, "--out", str(tmp_path), "--model.vision_backbone.vit.prune_at=2"]
    assert script.main(args) == 0
    shown = capsys.readouterr().out
    data = json.loads((tmp_path / "benchmark.json").read_text())
    assert [r["label"] for r in data["results"]] == [
        *("dense", "scorer ragged 0.3", "scorer ragged 0.5") * 2
    ]
    assert data["model"]["overrides"] == {"vision_backbone": {"vit": {"prune_at": 2}}}
    text = (tmp_path / "benchmark.md").read_text()
    for result in data["results"]:
        assert f"{result['seconds']['median']:.3f}" in shown
        assert f"| {result['seconds']['median']:.3f} |" in text
    assert "pruned blocks" in text and "--topk 0.3,0.5" in text and "TFLOP/s" in text
    assert all(f"{case}: {name}" in shown for case, name in data["attention"].items())
    assert "train_vit: transformers was not run, only for whole models" in shown
    assert "ms/token" not in text and {r["shapes"] for r in data["results"]} == {"fixed"}
    assert Image.open(tmp_path / "benchmark.png").width > 500


def test_script_tells_what_it_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        Bench, "problem", lambda self, setting, stage: None if setting == DENSE else "not so"
    )
    flags = ["--preset", "tiny", "--frames", "2", "--repeats", "1", "--device", "cpu"]
    assert script.main([*flags, "--threads", "1", "--out", str(tmp_path)]) == 1
    assert "vit, 2 frames, batch 1, scorer ragged 0.5: not so" in capsys.readouterr().out
    assert "- vit, 2 frames, batch 1" in (tmp_path / "benchmark.md").read_text()
    (dense, refused) = json.loads((tmp_path / "benchmark.json").read_text())["results"]
    assert dense["seconds"] and refused["speedup"] is None and refused["problem"] == "not so"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--suite", "cpu", "--frames", "8"], "--suite cpu has its own --frames"),
        (["--suite", "cpu", "--vary"], "--suite cpu has its own --vary"),
        (["--device", "cpu", "--repeats", "0"], "at least 1"),
        (["--device", "cpu", "--model.llm.d_modl=3"], "did you mean 'd_model'"),
        (["--device", "cpu", "--model.vision_backbone.vit.prune_at=11"], "0 <= prune_at <= 10"),
        (["--device", "cpu", "--speed=3"], "unknown flags --speed=3"),
        (["--device", "cpu", "--preset", "large"], "preset 'large' is not one of tiny, small"),
        (["--frames", "8,x"], "invalid integers value: '8,x'"),
    ],
)
def test_script_refuses_wrong_calls(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as stopped:
        script.main(args)
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_help_names_the_tables(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        script.main(["--help"])
    shown = capsys.readouterr().out
    assert "--suite cpu" in shown and "--suite gpu-train" in shown
