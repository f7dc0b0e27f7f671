"""Command line of ``launch_scripts/eval_molmo2.py``."""

import logging
from types import SimpleNamespace

import pytest

from launch_scripts import eval_molmo2
from launch_scripts.eval_molmo2 import build_config, build_parser, main
from olmo.config import ConfigError
from olmo.eval.report import Problem
from olmo.eval.run import EvalOutcome
from olmo.eval.settings import EvalConfig, plan_evaluation
from tests.eval.scripts import DENSE
from tests.scored import DENSE_STEP


@pytest.fixture(autouse=True)
def logging_as_before():
    """``main`` sets up logging for a whole process; that must not outlive a test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for log in (eval_molmo2.log, logging.getLogger("olmo.eval")):
        log.setLevel(logging.NOTSET)


def test_documented_command():
    config = build_config(["runs/demo", "--device_batch_size=2", "--mode=synthetic"])
    assert config == EvalConfig(checkpoint="runs/demo", device_batch_size=2, mode="synthetic")


def test_both_spellings_and_overrides():
    config = build_config(
        [
            *("--tasks", "synthetic_video_qa", "--max_examples", "5", "runs/demo"),
            *("--save_folder=out", "--eval_name", "x", "--num_workers=1", "--overwrite"),
            *("--max_new_tokens", "7", "--seed=3", "--model.vision_backbone.vit.topk=0.3"),
            *("--model.mm_preprocessor.max_frames=8", "--fsdp", "--generation=batched"),
            *("--weights", "bf16", "--pictures=0"),
        ]
    )
    assert config == EvalConfig(
        checkpoint="runs/demo",
        tasks="synthetic_video_qa",
        max_examples=5,
        save_folder="out",
        eval_name="x",
        num_workers=1,
        overwrite=True,
        max_new_tokens=7,
        seed=3,
        fsdp=True,
        generation="batched",
        weights="bf16",
        pictures=0,
        model={"vision_backbone": {"vit": {"topk": 0.3}}, "mm_preprocessor": {"max_frames": 8}},
    )


def test_a_gpu_does_not_wait_for_videos(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert build_config(["runs/demo", "--mode=synthetic"]).num_workers == 4
    assert build_config(["runs/demo", "--mode=synthetic", "--num_workers=0"]).num_workers == 0


def test_help_explains_every_flag():
    actions = build_parser()._actions
    assert all(action.help for action in actions)
    assert {"checkpoint", "mode", "tasks", "max_examples"} <= {a.dest for a in actions}


def test_unknown_key():
    with pytest.raises(ConfigError, match=r"'--maks_examples'; did you mean '--max_examples'"):
        build_config(["runs/demo", "--maks_examples=3"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--mode=synthetic", "--modle.x=1"], "unknown argument '--modle'"),
        (["--mode=synthetic", "--max_exmples", "3"], "did you mean '--max_examples'"),
        (["--mode=synthetic", "--topk=0.5"], "did you mean '--model.vision_backbone.vit.topk' or"),
        (["--mode=synthetic", "--vit.topk=0"], "did you mean '--model.vision_backbone.vit.topk'?"),
        (["--mode=synthetic", "--prune-at=2"], "did you mean '--model.vision_backbone.vit.prune_"),
        (["--mode=synthetic", "--max_frames=8"], "'--model.mm_preprocessor.video.max_frames'?"),
        (["--mode=synthetic"], "no such checkpoint"),
        (["--tasks=synthetic_vidoe"], "did you mean 'synthetic_video_qa'"),
        ([], "no task given"),
        (["--mode=synthetic", "--max_examples=0"], "max_examples must be at least 1"),
        (["--mode=synthetic", "stray"], "unexpected argument 'stray'"),
    ],
)
def test_mistakes_get_one_message(tmp_path, capfd, args, message):
    assert main([str(tmp_path / "no_such_run"), *args]) == 2
    err = capfd.readouterr().err
    assert err.count("error: ") == 1 and message in err
    assert "Traceback" not in err


def test_debug_shows_the_traceback(tmp_path, capfd):
    assert main([str(tmp_path), "--mode=synthetic", "--debug"]) == 2
    assert "Traceback" in capfd.readouterr().err


@pytest.mark.parametrize("problems", [[], [Problem("mvbench", "no such files")]])
def test_exit_code_tells_whether_everything_was_scored(monkeypatch, capfd, problems):
    plan = SimpleNamespace(folder="out")
    monkeypatch.setattr("olmo.eval.settings.plan_evaluation", lambda config: plan)
    outcome = EvalOutcome([], problems)
    monkeypatch.setattr("olmo.eval.run.run_evaluation", lambda plan, device: outcome)
    assert main(["runs/demo", "--mode=synthetic"]) == len(problems)
    out, err = capfd.readouterr()
    assert "results in out, with report.html" in out
    assert ("mvbench: no such files" in err) == bool(problems)


def test_only_rank_0_speaks(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    assert main([str(tmp_path / "no_such_run"), "--mode=synthetic"]) == 2
    assert capfd.readouterr().err == ""


def test_a_checkpoint_without_a_scorer(capsys):
    """Nothing is evaluated with random weights; a method without training is the way out."""
    flags = [str(DENSE), "--mode=synthetic", "--model.model_name=temporal_video_olmo"]
    flags += ["--model.vision_backbone.vit.prune_at=1"]
    assert main(flags) == 2
    error = capsys.readouterr().err
    assert f"{DENSE_STEP.name} has no token scorer: 14 missing keys, first 'vision_back" in error
    assert "easy, evs, heuristic, random" in error and error.count("\n") == 1
    easy = build_config([*flags, "--model.vision_backbone.vit.prune_method=easy"])
    assert plan_evaluation(easy).model_config.vision_backbone.vit.prune_method == "easy"
