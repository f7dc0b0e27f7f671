"""The training command: world sizes, packing, resuming, and what it says about mistakes."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.train.conftest import Run, curve, read_metrics

STTS = (
    "--model.mm_preprocessor.max_frames=4",
    "--model.mm_preprocessor.max_subtitle_tokens=null",
    "--model.mm_preprocessor.use_frame_special_tokens=True",
    "--model.vision_backbone.vit.sdpa_backend=efficient",
    "--model.vision_backbone.compile_vit=null",
    "--model.vision_backbone.compile_connector=null",
    "--wandb.allow_resume=False",
    "--use_temporal_video_olmo",
    "--model.mm_preprocessor.topk=0.5",
    "--model.vision_backbone.vit.topk=0.5",
    "--model.vision_backbone.vit.prune_at=3",
    "--model.vision_backbone.vit.prune_method=scorer",
)
"""The documented flags, with fewer frames."""
PACKED = ("--seq_len", "1200", "--packing", "--data.packing.buffer_size=2")


def same_curves(a: Path, b: Path) -> None:
    for name in ("train/CrossEntropyLoss", "train/AuxLoss", "optim/llm_grad_norm"):
        assert curve(a, name) == pytest.approx(curve(b, name), rel=2e-5, abs=1e-7), name


@pytest.mark.parametrize("packing", [(), PACKED], ids=["rows", "packed"])
def test_same_curve_on_one_and_two_processes(
    run_train: Run, tmp_path: Path, packing: tuple[str, ...]
) -> None:
    flags = (*STTS, *packing, "--max_duration=4")
    run_train(tmp_path / "one", *flags)
    run_train(tmp_path / "two", *flags, "--data.num_workers=1", nproc=2)
    assert len(curve(tmp_path / "one")) == 4
    same_curves(tmp_path / "one", tmp_path / "two")
    last = read_metrics(tmp_path / "two")[-1]
    assert last["stts/pruned_fraction"] == pytest.approx(0.5)
    assert last["stts/vit_tokens_ratio"] == pytest.approx(0.5)


def test_resumed_curve_equals_the_uninterrupted_one(run_train: Run, tmp_path: Path) -> None:
    flags = (*STTS, *PACKED, "--save_interval=2", "--scheduler.alpha_f=1.0")
    run_train(tmp_path / "whole", *flags, "--max_duration=4")
    part = tmp_path / "part"
    shutil.copytree(tmp_path / "whole", part)
    shutil.rmtree(part / "step4")
    done = run_train(part, *flags, "--max_duration=4")
    assert "resumed from" in done.stderr
    same_curves(tmp_path / "whole", part)


@pytest.mark.slow
@pytest.mark.parametrize("packing", [(), PACKED], ids=["rows", "packed"])
@pytest.mark.parametrize("nproc", [1, 2])
def test_kill_9_then_the_same_command(
    run_train: Run, tmp_path: Path, packing: tuple[str, ...], nproc: int
) -> None:
    """Killed at some moment after a checkpoint, and resumed on the other number of processes."""
    flags = (*STTS, *packing, "--max_duration=30", "--save_interval=3")
    run_train(tmp_path / "whole", *flags)
    folder = tmp_path / "killed"

    def kill_when_saved() -> None:
        deadline = time.time() + 120
        while time.time() < deadline and not list(folder.glob("step*[0-9]")):
            time.sleep(0.02)
        subprocess.run(["pkill", "-9", "-f", f"save_folder={folder}"], check=False)

    killer = threading.Thread(target=kill_when_saved)
    killer.start()
    killed = run_train(folder, *flags, nproc=nproc, check=False)
    killer.join()
    assert killed.returncode != 0 and not (folder / "step30").exists()
    done = run_train(folder, *flags, nproc=3 - nproc)
    assert "resumed from" in done.stderr
    assert [m["step"] for m in read_metrics(folder)] == list(range(1, 31))
    same_curves(tmp_path / "whole", folder)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ("--model.mm_preprocessor.topk=0.3", "--model.vision_backbone.vit.topk=0.5"),
            ("mm_preprocessor.topk=0.3", "vision_backbone.vit.topk=0.5"),
        ),
        (("--model.vision_backbone.vit.tokp=0.5",), ("tokp", "Did you mean 'topk'?")),
        (("--max_duratoin=5",), ("max_duratoin", "Did you mean 'max_duration'?")),
        (("--packing",), ("--seq_len",)),
        (("--model.vision_backbone.vit.prune_at=5",), ("prune_at=5", "0 <= prune_at <= 4")),
    ],
)
def test_mistakes_end_in_one_clear_message(
    run_script: object, flags: tuple[str, ...], said: tuple[str, ...], start: Path, tmp_path: Path
) -> None:
    code, text = run_script(  # type: ignore[operator]
        str(start), "debug", f"--save_folder={tmp_path}", "--use_temporal_video_olmo", *flags
    )
    assert code == 2
    for words in said:
        assert words in text
    assert "Traceback" not in text


def test_missing_checkpoint_and_missing_data(
    run_script: object, start: Path, tmp_path: Path
) -> None:
    code, text = run_script(str(tmp_path / "none"), "debug", f"--save_folder={tmp_path}")  # type: ignore[operator]
    assert code == 2 and str(tmp_path / "none") in text
    code, text = run_script(  # type: ignore[operator]
        str(start), "all-v5-video-academic-only", f"--save_folder={tmp_path}"
    )
    assert code == 2 and "tgif" in text and str(os.environ["MOLMO_DATA_DIR"]) in text
    code, text = run_script(str(start), "debgu", f"--save_folder={tmp_path}")  # type: ignore[operator]
    assert code == 2 and "Did you mean 'debug'?" in text


@pytest.fixture()
def run_script(data_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """Call the script's ``main`` in this process; returns exit code and log text."""
    import sys

    import launch_scripts.train_image_video_sft as script

    monkeypatch.setenv("MOLMO_DATA_DIR", str(data_dir))
    monkeypatch.setattr("olmo.distributed.setup_logging", lambda: None)

    def run(*argv: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["train", *argv])
        caplog.clear()
        return script.main(), caplog.text

    return run


@pytest.mark.parametrize("packing", [(), PACKED], ids=["rows", "packed"])
def test_unreadable_videos_are_skipped_and_counted(
    run_train: Run, tmp_path: Path, packing: tuple[str, ...], data_dir: Path
) -> None:
    """One truncated mp4 and one text file named .mp4 among the training clips."""
    own = tmp_path / "data"
    shutil.copytree(data_dir, own) if any(data_dir.iterdir()) else own.mkdir()
    run_train(tmp_path / "warm", "--max_duration=1", env={"MOLMO_DATA_DIR": str(own)})
    clips = sorted((own / "synthetic_video_qa").rglob("train/*.mp4"))
    clips[3].write_bytes(clips[3].read_bytes()[:4000])
    clips[5].write_text("no video at all")
    flags = (*STTS, *packing, "--max_duration=6")
    done = run_train(tmp_path / "run", *flags, env={"MOLMO_DATA_DIR": str(own)})
    assert clips[3].name in done.stderr and clips[5].name in done.stderr
    last = read_metrics(tmp_path / "run")[-1]
    assert last["step"] == 6 and last["data/examples_skipped"] >= 2
    refused = run_train(
        tmp_path / "strict",
        *flags,
        "--data.max_skipped=0",
        env={"MOLMO_DATA_DIR": str(own)},
        check=False,
    )
    assert refused.returncode != 0 and "data.max_skipped=0" in refused.stderr


def test_dry_run_reports_without_data(run_script: object, start: Path, capsys) -> None:
    code, _ = run_script(str(start), "debug", "--dry_run", "--use_temporal_video_olmo")  # type: ignore[operator]
    text = capsys.readouterr().out
    assert code == 0
    for words in (
        "temporal_token_scorer",
        "before pruning 64, after 32",
        "ceiling of the speed-up",
    ):
        assert words in text


def test_wandb_offline_writes_a_run(run_train: Run, tmp_path: Path) -> None:
    flags = ("--max_duration=2", "--wandb.project=test", "--wandb.mode=offline")
    run_train(tmp_path / "run", *flags, env={"WANDB_MODE": "offline"})
    assert list((tmp_path / "run").rglob("*.wandb"))
