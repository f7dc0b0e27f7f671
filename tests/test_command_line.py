"""Spelling of flags, and the exit codes that all scripts share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from launch_scripts.train_image_video_sft import build_config, build_parser
from olmo.command_line import (
    DTYPE_NAMES,
    Parser,
    RunError,
    exit_code,
    path,
    positive,
    seed,
    underscored,
)
from olmo.config import parse_overrides
from olmo.outside import OutsideError
from olmo.train.config import TrainConfig
from tests.eval.scripts import DENSE, EVALUATE, command, environment, run

SCRIPTS = sorted((Path(__file__).parents[1] / "scripts").glob("*.py")) + sorted(
    (Path(__file__).parents[1] / "launch_scripts").glob("*.py")
)


def parser() -> Parser:
    out = Parser("Text.")
    out.add_argument("name")
    out.add_argument("--batch_size", type=positive)
    out.add_argument("--out", type=path)
    out.add_argument("--fast", action="store_true")
    return out


@pytest.mark.parametrize(
    "flags",
    [
        ["--batch_size", "2"],
        ["--batch-size", "2"],
        ["--batch_size=2"],
        ["--batch-size=2"],
    ],
)
def test_both_spellings(flags: list[str]) -> None:
    assert parser().parse_args(["x-y", *flags]).batch_size == 2


def test_only_the_flag_is_respelt() -> None:
    assert underscored("--a-b.c-d=e-f") == "--a_b.c_d=e-f"
    assert [underscored(a) for a in ("a-b", "-a-b", "--", "-1")] == ["a-b", "-a-b", "--", "-1"]
    found = parser().parse_args(["--batch-size=1", "--", "--a-b"])
    assert found.name == "--a-b"


def test_wrong_flags(capsys: pytest.CaptureFixture[str]) -> None:
    for argument, message in (
        ("--batch-siez=2", "did you mean '--batch_size'"),
        ("--batch=2", "did you mean '--batch_size'"),
        ("--batch_size=0", "must be at least 1, got 0"),
        ("--batch_size=x", "invalid int value: 'x'"),
        ("--fast=1", "--fast: expected bool (true or false), got '1'"),
        ("stray", "unknown argument 'stray'"),
    ):
        with pytest.raises(SystemExit) as stopped:
            parser().parse_args(["name", argument])
        assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_switches() -> None:
    """The last one holds."""
    for on in ("--fast", "--fast=True", "--fast=no --fast"):
        assert parser().parse_args(["name", *on.split()]).fast is True
    for off in ("", "--fast=no", "--fast --fast=False"):
        assert parser().parse_args(["name", *off.split()]).fast is False


def test_numbers_and_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    plain = Parser(None)
    plain.add_argument("--n", type=int)
    plain.add_argument("--share", type=float)
    found = plain.parse_args(["--n=1e3", "--share", "1_0"])
    assert (found.n, found.share) == (1000, 10.0) and isinstance(found.n, int)
    assert parser().parse_args(["x", "--out=~/y"]).out == Path("/home/me/y")
    assert seed("0") == 0 and seed("1e3") == seed("1_000") == 1000
    with pytest.raises(Exception, match="at least 0"):
        seed("-1")


def ending(error: BaseException | None) -> int:
    @exit_code()
    def main() -> int:
        if error is not None:
            raise error
        return 0

    return main()


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (None, 0, ""),
        (ValueError("no such thing"), 2, "test_command_line.py: error: no such thing\n"),
        (OutsideError("a.mp4: broken"), 2, "error: a.mp4: broken\n"),
        (FileNotFoundError(2, "No such file or directory", "x"), 2, "error: x: No such file"),
        (RunError("stopped early"), 2, "error: stopped early\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
    ],
)
def test_codes(
    error: BaseException | None, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending(error) == code
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err


@pytest.mark.parametrize("error", [KeyError, TypeError, RuntimeError, AssertionError])
def test_a_fault_of_the_program_keeps_its_traceback(error: type[Exception]) -> None:
    with pytest.raises(error):
        ending(error("x"))


def test_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OLMO_DEBUG", "1")
    assert ending(ValueError("x")) == 2 and "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.name)
def test_every_script_follows_the_rule(script: Path) -> None:
    text = script.read_text()
    assert "@exit_code(" in text and "Parser(" in text and "ArgumentParser(" not in text
    assert "sys.exit(main())" in text


def test_a_closed_pipe_and_an_interrupt(tmp_path: Path) -> None:
    script = tmp_path / "endless.py"
    script.write_text(
        "import sys, time\n"
        "from olmo.command_line import exit_code\n"
        "@exit_code()\n"
        "def main():\n"
        "    while True:\n"
        "        print('x' * 1000, flush=True)\n"
        "        time.sleep(0.001)\n"
        "sys.exit(main())\n"
    )
    for stop, code in (("pipe", 141), ("signal", 130)):
        process = subprocess.Popen(
            [sys.executable, str(script)],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # a shell that started the tests in the background has them ignore it
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline()
        if stop == "pipe":
            process.stdout.close()
        else:
            process.send_signal(signal.SIGINT)
        err = process.stderr.read().decode()
        process.wait(60)
        assert process.returncode == code and "Traceback" not in err and "Exception" not in err


@pytest.mark.slow
def test_help_into_a_closed_pipe() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        command("scripts/compare_runs.py", "--help"),
        env=environment(),
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write)
    assert done.returncode in (0, 141) and done.stderr == b""


@pytest.mark.slow
def test_evaluation_without_any_data(tmp_path: Path) -> None:
    """The list of what is absent, and exit code 1."""
    out = tmp_path / "new" / "folder"
    flags = ("--tasks=mvbench,nextqa_mc", "--max-examples=1", f"--save-folder={out}")
    text = run(EVALUATE, DENSE, *flags, code=1, MOLMO_DATA_DIR=str(tmp_path / "none"))
    assert "mvbench: missing under" in text and "problems.json" not in text
    assert list(out.rglob("problems.json")) and "Traceback" not in text


@pytest.mark.slow
def test_an_evaluation_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    flags = ("--mode=synthetic", f"--save_folder={tmp_path / 'file'}")
    text = run(EVALUATE, DENSE, *flags, code=2)
    assert "Not a directory" in text and "Traceback" not in text


def test_training_flags_that_contradict(tmp_path: Path) -> None:
    def config(*flags: str) -> TrainConfig:
        given = (
            str(DENSE),
            "debug",
            f"--save_folder={tmp_path / 'x #2'}",
            "--wandb.name=0612",
            *flags,
        )
        args, rest = build_parser().parse_known_args(given)
        return build_config(args, parse_overrides(rest))

    same = ("--global-batch-size=8", "--global_train_batch_size=8")
    for flags in (same[:1], same):
        found = config(*flags)
        assert found.global_train_batch_size == 8 and found.save_folder == f"{tmp_path}/x #2"
        assert found.wandb is not None and found.wandb.name == "0612"
    with pytest.raises(ValueError, match=r"global_batch_size=8 and global_train_batch_size=4 con"):
        config(same[0], "--global_train_batch_size=4")
    file = tmp_path / "more.yaml"
    file.write_text("optimizer.eps: 1e-7\noptimizer: {llm_eps: 1e-5}\n")
    optimizer = config(f"--config={file}").optimizer
    assert (optimizer.eps, optimizer.llm_eps) == (1e-7, 1e-5), "dotted keys are nested ones"
    with pytest.raises(ValueError, match=r"write --save_interval=-1$"):
        config("--save_interval", "-1")
    with pytest.raises(ValueError, match=r"expected float, got 'None'; null is allowed$"):
        config("--lora.alpha=None")
    with pytest.raises(ValueError, match=r"lora: rank must be at least 1, got 0$"):
        config("--lora.rank=0")


HELP = """
import contextlib, io, runpy, sys
for script in sys.argv[1:]:
    sys.argv = [script, "--help"]
    try:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            runpy.run_path(script, run_name="__main__")
    except SystemExit as stopped:
        assert not stopped.code and "usage:" in out.getvalue(), script
    for heavy in ("torch", "transformers", "scipy"):
        assert heavy not in sys.modules, f"{script} imports {heavy} before its arguments are read"
"""


def test_help_is_not_kept_waiting() -> None:
    """``import torch`` alone takes seconds."""
    told = subprocess.run(
        [sys.executable, "-c", HELP, *map(str, SCRIPTS)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr


def test_help_tells_the_true_defaults() -> None:
    """Written out there, because their classes are slow to import."""
    from launch_scripts import eval_molmo2
    from olmo.device import DTYPES
    from olmo.eval.settings import EvalConfig
    from olmo.hf_model.pretrained import StartOptions
    from olmo.models.hf_layout.keys import HF_RULES
    from olmo.nn.temporal_image_vit import TemporalVitConfig
    from olmo.nn.token_pruning import PRUNE_METHODS
    from olmo.preprocessing.video import VideoPreprocessorConfig
    from scripts import benchmark, convert_to_hf, prepare_pretrained_model, visualize_pruning

    def words(text: str) -> str:
        return " ".join(text.split())

    evaluation, vit = EvalConfig(checkpoint=""), TemporalVitConfig()
    told = words(eval_molmo2.build_parser().format_help())
    assert f"seeds the data (default {evaluation.seed})" in told
    assert f"(default {evaluation.pictures})" in told
    told = words(visualize_pruning.build_parser().format_help())
    assert f"in [0, 1) ({vit.topk})" in told and f"is new ({vit.new_ref_threshold})" in told
    assert f"seed of random ({vit.random_seed})" in told
    assert f"without one, {VideoPreprocessorConfig().max_frames})" in told
    assert f"one of {', '.join(sorted(PRUNE_METHODS))}, or of" in told
    told = words(prepare_pretrained_model.build_parser().format_help())
    first, second = StartOptions.vit_layers
    assert f"({first} {second})" in told and f"({StartOptions.max_sequence_length})" in told
    assert sorted(benchmark.METHODS) == sorted(PRUNE_METHODS)
    assert tuple(HF_RULES) == convert_to_hf.LAYOUTS and set(DTYPE_NAMES) <= set(DTYPES)
