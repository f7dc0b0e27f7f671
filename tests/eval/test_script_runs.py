"""The evaluation script as a user runs it: one checkpoint at several shares of tokens, and runs in
which something is missing or broken."""

from __future__ import annotations

import html
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from olmo.eval.tasks import SYNTHETIC, TASKS
from tests.eval.miniatures import CLIP, write_files
from tests.eval.scripts import COMPARE, DENSE, EVALUATE, TRAIN, results, run

pytestmark = pytest.mark.slow
VIT = "--model.vision_backbone.vit"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """``MOLMO_DATA_DIR`` of these tests, where clips are rendered once."""
    return str(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data) -> Path:
    """A run of two training steps with a scorer, at a share of 0.5."""
    folder = tmp_path_factory.mktemp("runs") / "stts"
    batch = ("--global_batch_size=2", "--device_batch_size=2", "--max_duration=2")
    scorer = ("--use_temporal_video_olmo", f"{VIT}.topk=0.5", f"{VIT}.prune_at=1")
    run(TRAIN, DENSE, "debug", f"--save_folder={folder}", *batch, *scorer, MOLMO_DATA_DIR=data)
    return folder


def test_several_shares_by_overrides_and_their_table(trained, data):
    shares = ("0", "0.3", "0.5", "0.8")
    limits = ("--mode=synthetic", "--max_examples=12", "--pictures=1")
    for topk in shares:
        run(EVALUATE, trained, *limits, f"{VIT}.topk={topk}", MOLMO_DATA_DIR=data)
    folders = [trained / "eval" / f"step2-topk={topk}" for topk in shares]
    metrics = [json.loads((f / SYNTHETIC / "metrics.json").read_text()) for f in folders]
    assert [m["model"]["topk"] for m in metrics] == [0.0, 0.3, 0.5, 0.8]
    kept = [m["tokens_after"] for m in metrics]
    assert kept[0] == metrics[0]["tokens_before"] and kept == sorted(kept, reverse=True)
    failed = [m["accuracy"] < 1 for m in metrics]
    assert [(f / SYNTHETIC / "pictures").is_dir() for f in folders] == failed and failed[-1]

    text = run(COMPARE, *folders)
    first, second = text.split("Differences from dense:")
    settings = [line.split("  ")[0] for line in first.strip().splitlines()[2:]]
    assert settings == ["dense", "scorer 30%", "scorer 50%", "scorer 80%"]
    assert second.count("scorer ") == 3

    rows = json.loads(run(COMPARE, trained, "--format=json"))["runs"]
    assert [row["setting"] for row in rows] == settings
    scores = [row["tasks"][SYNTHETIC]["accuracy"] for row in rows]
    assert scores == [100 * m["accuracy"] for m in metrics]

    other = trained / "eval" / "other"
    name = f"--eval_name={other.name}"
    run(EVALUATE, trained, *limits, name, "--model.mm_preprocessor.topk=0.3", MOLMO_DATA_DIR=data)
    other_rows = json.loads(results(other / SYNTHETIC)[0])
    rows = json.loads(results(folders[1] / SYNTHETIC)[0])
    assert other_rows == rows  # the other spelling of the same share

    frames = "--model.mm_preprocessor.max_frames"
    run(EVALUATE, trained, *limits, f"{frames}=4", "--weights=bf16", MOLMO_DATA_DIR=data)
    fewer = json.loads(
        (trained / "eval" / "step2-max_frames=4" / SYNTHETIC / "metrics.json").read_text()
    )
    assert (
        fewer["model"]["max_frames"] == 4 and fewer["tokens_before"] < metrics[0]["tokens_before"]
    )


def test_what_fails_is_listed_and_costs_no_other_task(trained, data, tmp_path):
    """Every other clip of a split is cut off, or no video at all; a data set is absent."""
    run(EVALUATE, trained, "--mode=synthetic", "--max_examples=1", MOLMO_DATA_DIR=data)  # renders
    clips = sorted(Path(data, SYNTHETIC).rglob("full-seed0/test/*.mp4"))
    whole = {clip: clip.read_bytes() for clip in clips[::2]}
    for clip, content in whole.items():
        clip.write_bytes(b"no video" if clip == clips[0] else content[: len(content) // 3])
    folder, tasks = tmp_path / "out", f"{SYNTHETIC}:validation,mvbench,{SYNTHETIC}"
    flags = (f"--tasks={tasks}", f"--save_folder={folder}", "--eval_name=x", "--max_examples=30")
    try:
        text = run(EVALUATE, trained, *flags, code=1, MOLMO_DATA_DIR=data)
    finally:
        for clip, content in whole.items():
            clip.write_bytes(content)
    problems = json.loads((folder / "x" / "problems.json").read_text())
    assert [p["task"] for p in problems] == ["mvbench", SYNTHETIC]
    assert "action_sequence.json" in problems[0]["reason"]
    assert "of 30 examples left out" in problems[1]["reason"]
    listed = text.partition("problems:")[2]
    assert all(f"{p['task']}: {p['reason']}" in listed for p in problems)
    scored = {f.parent.name: json.loads(f.read_text()) for f in folder.rglob("metrics.json")}
    left_out = scored[SYNTHETIC]["skipped_examples"]
    assert {name: (m["n"], m["skipped"]) for name, m in scored.items()} == {
        f"{SYNTHETIC}_validation": (30, 0),
        SYNTHETIC: (30 - len(left_out), len(left_out)),
    }
    assert 5 < len(left_out) < 25 and all(".mp4" in s["error"] for s in left_out)
    report = (folder / "x" / "report.html").read_text()
    assert "mvbench" in report and all(s["error"] in html.unescape(report) for s in left_out)


def test_every_task_of_the_table_in_one_run(tmp_path):
    """On the cases of all data sets, where one clip range lies outside its video."""
    data, folder = tmp_path / "data", tmp_path / "out"
    tasks = [task for task in TASKS if task.dataset != SYNTHETIC]
    for task in tasks:
        write_files(task, data, CLIP)
    names = ",".join(task.name for task in tasks)
    flags = (f"--tasks={names}", "--max_new_tokens=8", f"--save_folder={folder}", "--eval_name=x")
    text = run(EVALUATE, DENSE, *flags, code=1, MOLMO_DATA_DIR=str(data))
    (problem,) = json.loads((folder / "x" / "problems.json").read_text())
    assert "clip 7.0 to 70.0 s is not inside its 5.000 s" in problem["reason"]
    found = {f.parent.name: json.loads(f.read_text()) for f in folder.rglob("metrics.json")}
    assert set(found) == {task.folder for task in tasks}
    assert all(m["n"] > 0 for m in found.values())
    for group, n in (("video", 14), ("short_video", 7), ("tracking", 5), ("multi_image", 3)):
        assert f"mean of {group} ({n} tasks)" in text
    again = run(EVALUATE, DENSE, *flags, code=1, MOLMO_DATA_DIR=str(data))
    assert again.count("is up to date") == len(tasks) - 1  # what was left out is tried again
    assert "VideoMME-Sub" in run(COMPARE, folder / "x")


def test_a_checkpoint_that_generates_nothing(data, tmp_path):
    """Its first hidden feature is a positive constant, and only the stop token answers to it."""
    silent = tmp_path / "silent"
    (dense,) = DENSE.glob("step*")
    weights = load_file(dense / "model.safetensors")
    for name, value in weights.items():
        if name.endswith(("attn_out.weight", "ff_out.weight", "image_projector.w2.weight")):
            value[0] = 0
    weights["transformer.wte.embedding"][:, 0] = 1
    weights["transformer.wte.new_embedding"][:, 0] = 1
    weights["transformer.wte.embedding"][-1, 0] = 4
    weights["transformer.ln_f.weight"] = torch.eye(len(weights["transformer.ln_f.weight"]))[0]
    silent.mkdir()
    save_file(weights, silent / "model.safetensors")
    (silent / "config.yaml").write_text((dense / "config.yaml").read_text())
    flags = ("--mode=synthetic", "--max_examples=5", "--eval_name=x", f"--out={tmp_path / 'eval'}")
    text = run(EVALUATE, silent, *flags, code=1, MOLMO_DATA_DIR=data)
    assert f"{SYNTHETIC}: the model generated nothing for any of 5 examples" in text
    metrics = json.loads((tmp_path / "eval" / "x" / SYNTHETIC / "metrics.json").read_text())
    assert (metrics["accuracy"], metrics["unparsed"], metrics["empty"]) == (0.0, 5, 5)
