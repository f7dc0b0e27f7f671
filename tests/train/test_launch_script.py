"""The training command: world sizes, packing, resuming, and what it says about mistakes."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from olmo.train.checkpoint import latest_checkpoint
from tests.train.conftest import (
    REPOSITORY,
    STTS,
    Launcher,
    Run,
    curve,
    read_metrics,
    same_curves,
    wait_until,
    workers,
)

PACKED = ("--seq_len", "1200", "--packing", "--data.packing.buffer_size=2")


@pytest.mark.slow
def test_same_curve_on_one_and_two_processes(run_train: Run, tmp_path: Path) -> None:
    flags = (*STTS, *PACKED, "--max_duration=4")
    run_train(tmp_path / "one", *flags)
    run_train(tmp_path / "two", *flags, "--data.num_workers=1", nproc=2)
    assert len(curve(tmp_path / "one")) == 4
    same_curves(tmp_path / "one", tmp_path / "two")
    last = read_metrics(tmp_path / "two")[-1]
    assert last["stts/pruned_fraction"] == pytest.approx(0.5)
    assert last["stts/vit_tokens_ratio"] == pytest.approx(0.5)


@pytest.mark.slow
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
def test_stop_signal_gives_a_checkpoint_and_exit_code_0(launcher: Launcher, tmp_path: Path) -> None:
    """All processes are signalled, and torchrun was told to ignore SIGUSR1: what a batch system
    does when the time is up. The ranks must agree on the step, with their loaders alive."""
    folder = tmp_path / "run"
    flags = (*STTS, "--max_duration=100000", "--save_interval=0", "--data.num_workers=1")
    command = launcher.command(folder, *flags, nproc=2)
    ignoring = ["sh", "-c", "trap '' USR1; exec \"$@\"", "sh", *command]
    with launcher.popen(ignoring, tmp_path / "log") as process:
        metrics = folder / "metrics.jsonl"
        wait_until(lambda: metrics.is_file() and metrics.read_text().count("\n") > 1)
        ranks = workers(process.pid)
        for pid in (w for rank in ranks for w in workers(rank)):
            os.kill(pid, signal.SIGTERM)  # torchrun does this, to whole process groups
        for pid in (process.pid, *ranks):
            os.kill(pid, signal.SIGUSR1)
        code = process.wait(timeout=300)
    text = (tmp_path / "log").read_text()
    assert code == 0, text[-4000:]
    last = read_metrics(folder)[-1]["step"]
    assert "stopped by a signal" in text and latest_checkpoint(folder) == folder / f"step{last}"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ("--model.mm_preprocessor.topk=0.3", "--model.vision_backbone.vit.topk=0.5"),
            ("mm_preprocessor.topk=0.3", "vision_backbone.vit.topk=0.5"),
        ),
        (("--model.vision_backbone.vit.tokp=0.5",), ("tokp", "did you mean 'topk'?")),
        (("--topk=0.5",), ("did you mean '--model.vision_backbone.vit.topk' or",)),
        (("--packng",), ("--packng", "did you mean '--packing'?")),
        (("--device_batchsize=2",), ("did you mean '--device_batch_size'?",)),
        (("--use_temporal_video_omo",), ("did you mean '--use_temporal_video_olmo'?",)),
        (("--max_duratoin=5",), ("max_duratoin", "did you mean '--max_duration'?")),
        (("--max_durration", "10"), ("--max_durration", "did you mean '--max_duration'?")),
        (("--packing",), ("--seq_len",)),
        (("--model.vision_backbone.vit.prune_at=5",), ("prune_at=5", "0 <= prune_at <= 3")),
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


def test_dry_run_checks_that_ranks_can_share(
    run_script: object, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a real run would, for as many processes as torchrun started."""
    monkeypatch.setenv("WORLD_SIZE", "3")
    for flags, said in (
        (("--global_batch_size", "64"), "must be a multiple of 3 ranks x device_batch_size 2"),
        (("--global_batch_size", "6", "--fsdp.replicas=2"), "replicas=2 does not divide 3 ranks"),
    ):
        code, text = run_script(str(start), "debug", "--dry_run", *flags)  # type: ignore[operator]
        assert code == 2 and said in text


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
    assert code == 2 and "did you mean 'debug'?" in text
    code, text = run_script("qwen4_4b", "debug", f"--save_folder={tmp_path}", "--dry_run")  # type: ignore[operator]
    assert code == 2 and "no preset; did you mean 'qwen3_4b'?" in text


@pytest.mark.slow
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


def test_a_dry_run_refuses_what_the_run_would(run_script: object, start: Path) -> None:
    """Nothing trains: a dense model has no scorer either."""
    frozen = [f"--ft_{group}=False" for group in ("llm", "vit", "connector")]
    code, text = run_script(str(start), "debug", "--dry_run", *frozen)  # type: ignore[operator]
    assert code == 2 and "nothing to train" in text


def test_dry_run_reports_without_data(run_script: object, start: Path, capsys) -> None:
    code, _ = run_script(str(start), "debug", "--dry_run", "--use_temporal_video_olmo")  # type: ignore[operator]
    text = capsys.readouterr().out
    assert code == 0
    for words in (
        "temporal_token_scorer",
        "before pruning 256, after 128",
        "ceiling of the speed-up",
        "Memory of one of 8 GPUs",
        "hours on",
    ):
        assert words in text


MISSION = [
    "--wandb.allow_resume=False",
    "--global_batch_size",
    "64",
    "--device_batch_size=2",
    "--max_duration=6250",
    "--seq_len",
    "9686",
    "--packing",
    "--model.mm_preprocessor.max_frames=64",
    "--model.mm_preprocessor.max_subtitle_tokens=null",
    "--model.mm_preprocessor.use_frame_special_tokens=True",
    "--use_temporal_video_olmo",
    "--model.mm_preprocessor.topk=0.5",
    "--model.vision_backbone.vit.topk=0.5",
    "--model.vision_backbone.vit.prune_at=3",
    "--model.vision_backbone.vit.prune_method=scorer",
    "--model.vision_backbone.vit.sdpa_backend=efficient",
    "--model.vision_backbone.compile_vit=null",
    "--model.vision_backbone.compile_connector=null",
    "--data.num_workers=4",
    "--save_folder=DIR",
]
"""The flags of the published recipe, as they are."""


REPORT = (
    "33,766,769",
    "4,495,679,809",
    "before pruning 5184, after 2592 (50%)",
    "tokens of a step 619,904",
    "FLOPs of a step 3.070e+16",
    "predicted speed-up 1.95x",
    "Memory of one of 8 GPUs, 2 rows at a time: about 43 GiB",
    "sdpa_backend: efficient",
    "compile_vit: null",
)


def test_dry_run_of_the_recipe_flag_for_flag(run_script: object, capsys) -> None:
    """With a preset for the checkpoint and no data."""
    code, _ = run_script("qwen3_4b", "all-v5-video-academic-only", *MISSION, "--dry_run")  # type: ignore[operator]
    text = capsys.readouterr().out
    assert code == 0
    for words in REPORT:
        assert words in text, words


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param([], id="python"),
        pytest.param(["-m", "torch.distributed.run", "--nproc-per-node=8"], id="torchrun"),
    ],
)
def test_dry_run_takes_seconds(launcher: list[str], tmp_path: Path) -> None:
    """As the recipe's command is written: one report, under 20 seconds of CPU time, no file."""
    script = str(REPOSITORY / "launch_scripts" / "train_image_video_sft.py")
    recipe = [script, "qwen3_4b", "all-v5-video-academic-only", *MISSION, "--dry_run"]
    env = {**os.environ, "MOLMO_DATA_DIR": str(tmp_path / "none"), "PYTHONPATH": str(REPOSITORY)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *launcher, *recipe], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr[-4000:]
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 20
    assert all(words in done.stdout for words in REPORT)
    assert done.stdout.count("Trainable parameters") == 1
    assert not list(tmp_path.iterdir())


def test_dry_run_of_a_preset(run_script: object, capsys, caplog) -> None:
    """Names and numbers of the 4B model; no checkpoint, no data, no memory for its weights."""
    recipe = REPOSITORY / "configs" / "stts_50.yaml"
    flags = ("all-v5-video-academic-only", f"--config={recipe}", "--model.mm_preprocessor.topk=0.5")
    assert run_script("qwen3_4b", *flags, "--dry_run")[0] == 0  # type: ignore[operator]
    text = capsys.readouterr().out
    for words in (
        "4,495,679,809",
        "before pruning 5184, after 2592 (50%)",
        "6250 steps of 64 rows",
        "predicted speed-up 1.95x",
    ):
        assert words in text
    code, said = run_script("qwen3_4b", *flags, "--save_folder=x")  # type: ignore[operator]
    assert code == 2 and "preset without weights" in said


@pytest.mark.slow
def test_wandb_offline_with_pictures(run_train: Run, tmp_path: Path) -> None:
    """The last step has one too, be it that of ``stop_at``."""
    flags = ("--max_duration=9", "--stop_at=2", "--wandb.project=test", "--wandb.mode=offline")
    folder = tmp_path / "run"
    run_train(folder, *STTS, *flags, "--in_loop.picture_interval=7", env={"WANDB_MODE": "offline"})
    assert list(folder.rglob("*.wandb"))
    assert (folder / "pictures" / "step2.png").is_file()
    assert list((folder / "wandb").rglob("*.png"))
