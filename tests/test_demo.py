"""The demo: its command line, its training command, the table, and a whole run without training."""

import json
import logging
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from launch_scripts import demo, train_image_video_sft
from launch_scripts.demo import DemoError, Options, main, parse_args, training_command
from olmo.config import merge, parse_overrides, read_settings
from olmo.data.datasets.synthetic.video import SyntheticVideoQA
from olmo.eval.timing import Prefill, compare_prefill
from olmo.models.loading import merged_model_config
from olmo.train.checkpoint import save_unsharded
from olmo.train.config import TrainConfig

TINY = demo.ROOT / "configs" / "tiny.yaml"
SMALLER = {
    "llm": {"d_model": 32, "n_heads": 2, "n_kv_heads": 1, "head_dim": 16, "n_layers": 1},
    "vision_backbone": {
        "vit": {
            **{"image_default_input_size": [24, 24], "image_patch_size": 4, "image_num_pos": 36},
            **{"image_emb_dim": 32, "image_num_heads": 2, "image_num_key_value_heads": 2},
            **{"image_head_dim": 16, "image_mlp_dim": 32, "image_num_layers": 4},
        }
    },
    "mm_preprocessor": {"video": {"max_frames": 4}},
}


def write_checkpoint(folder, overrides=None):
    model = merge(read_settings(TINY)["model"], SMALLER)
    config = merged_model_config(model, overrides or {})
    built = config.build("cpu")
    built.reset_parameters()
    save_unsharded(built, TrainConfig(model=config), folder)


@pytest.fixture
def start(tmp_path):
    write_checkpoint(tmp_path / "dense" / "step7-unsharded")
    return tmp_path / "dense"


@pytest.fixture
def options(tmp_path, start):
    return Options(tmp_path / "out", 3, 2, start, (0.5, 0.75), None, fresh=False)


@pytest.fixture(autouse=True)
def logging_as_before():
    """``main`` sets up logging for a whole process; that must not outlive a test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_defaults():
    options = parse_args([])
    assert options.out == Path("demo_output") and options.run == Path("demo_output/stts")
    assert options.checkpoint.resolve() == demo.START and not options.checkpoint.is_absolute()
    assert options.topk == (0.5, 0.8) and not options.fresh


@pytest.mark.parametrize("args", [["--topk=1"], ["--topk=0"], ["--steps=0"], ["--clips=0"]])
def test_wrong_values(args, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_args(args)
    assert stop.value.code == 2 and args[0].partition("=")[0] in capsys.readouterr().err


def test_the_training_script_reads_the_command(options, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    command = training_command(replace(options, topk=(0.3,), seed=5))
    assert command[1:6] == ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    assert Path(command[6]).resolve() == Path(train_image_video_sft.__file__).resolve()
    args, rest = train_image_video_sft.build_parser().parse_known_args(command[7:])
    config = train_image_video_sft.build_config(args, parse_overrides(rest))
    vit = config.model.vision_backbone.vit
    assert config.model.model_name == "temporal_video_olmo" and config.model.budget.topk == 0.3
    assert config.seed == 5
    assert (vit.prune_method, vit.prune_at) == ("scorer", 1)
    assert config.max_duration == 3 and Path(config.save_folder) == options.run
    assert config.optimizer.of("temporal_token_scorer", "learning_rate") == 4e-3
    assert (config.ft_embedding, config.model.llm.residual_dropout) == ("all", 0.0)
    assert config.global_train_batch_size == 2 * config.device_train_microbatch_size == 8


# --- the run -----------------------------------------------------------------------------------


@pytest.fixture
def trainings(monkeypatch, options):
    """Commands that were started; each leaves a checkpoint instead of training."""
    started = []

    def run(command, check):
        started.append(command)
        overrides = {
            "model_name": "temporal_video_olmo",
            "vision_backbone": {"vit": {"topk": options.topk[0], "prune_at": 1}},
        }
        write_checkpoint(options.run / f"step{options.steps}", overrides)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(demo.subprocess, "run", run)
    return started


def test_a_finished_run_is_used_again(options, start, trainings, capsys):
    for _ in range(2):
        tuned = demo.fine_tune(options, start)
        assert tuned == options.run / "step3" and len(trainings) == 1
    assert "finished already" in capsys.readouterr().out
    demo.fine_tune(replace(options, fresh=True), start)
    assert len(trainings) == 2


def test_an_unfinished_run_is_resumed(options, start, trainings):
    demo.prepare_run(options, start, training_command(options))
    (options.run / "step2").mkdir()
    demo.fine_tune(options, start)
    assert len(trainings) == 1 and (options.run / "step2").exists()


def test_a_run_of_other_settings_is_not_taken(options, start, trainings):
    demo.fine_tune(options, start)
    with pytest.raises(DemoError, match="--fresh"):
        demo.fine_tune(replace(options, topk=(0.3,)), start)
    weights = start / "step7-unsharded" / "model.safetensors"
    os.utime(weights, ns=(0, 0))
    with pytest.raises(DemoError, match="from another checkpoint"):
        demo.fine_tune(options, start)
    demo.fine_tune(replace(options, fresh=True), start)
    assert len(trainings) == 2


def test_a_strange_folder_is_not_deleted(options, start, trainings):
    options.run.mkdir(parents=True)
    (options.run / "thesis.tex").touch()
    with pytest.raises(DemoError, match="not from this demo"):
        demo.fine_tune(replace(options, fresh=True), start)
    assert (options.run / "thesis.tex").exists() and not trainings


def test_failed_training(options, start, monkeypatch):
    monkeypatch.setattr(demo.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=7))
    with pytest.raises(DemoError, match="exit code 7"):
        demo.fine_tune(options, start)


@pytest.mark.parametrize("shipped", [True, False])
def test_missing_checkpoint(tmp_path, monkeypatch, capsys, shipped):
    monkeypatch.setattr(demo, "START", tmp_path / "lost")
    args = ["--out", str(tmp_path / "out")]
    args += [] if shipped else [f"--checkpoint={tmp_path / 'mine'}"]
    assert main(args) == 2
    err = capsys.readouterr().err
    assert err.startswith("demo.py: error: no start checkpoint") and "Traceback" not in err
    assert ("git checkout" in err) == shipped and ("--checkpoint" in err) != shipped
    assert not (tmp_path / "out").exists()


def test_start_must_be_dense(tmp_path):
    write_checkpoint(
        tmp_path, {"model_name": "temporal_video_olmo", "vision_backbone": {"vit": {"prune_at": 1}}}
    )
    with pytest.raises(DemoError, match=r"prunes already \(topk 0.5\)"):
        demo.find_start(tmp_path)


def test_whole_demo(tmp_path, options, trainings, monkeypatch, capsys):
    def open_small(name, split):
        return SyntheticVideoQA(split, 2, root=tmp_path / "data")

    monkeypatch.setattr(demo, "get_dataset", open_small)
    monkeypatch.setattr(demo, "REPEATS", 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    arguments = ["--steps=3", "--clips=2", "--topk", "0.5", "0.75"]
    arguments += [f"--checkpoint={options.checkpoint}", f"--out={options.out}"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert [line[:5] for line in printed.splitlines() if line.startswith("[")] == [
        f"[{i}/6]" for i in range(1, 7)
    ]
    results = json.loads((options.out / "results.json").read_text())
    names = ["dense", "STTS 50%", "random 50%", "STTS 75%", "random 75%"]
    assert list(results["settings"]) == names
    dense, *pruned = results["settings"].values()
    n_cells = 4 * 3 * 3  # 4 frames of 6 x 6 patches in windows of 2 x 2
    assert dense["visual_tokens_per_video"] == n_cells and dense["recall"] == 1
    counts = [one["visual_tokens_per_video"] for one in pruned]
    assert counts == [n_cells - int(n_cells * t) for t in (0.5, 0.5, 0.75, 0.75)]
    assert len({one["n"] for one in (dense, *pruned)}) == 1 and dense["n"] > 4
    assert all(one["prefill_seconds_per_video"] > 0 and 0 <= one["recall"] <= 1 for one in pruned)
    assert results["command"] == trainings[0]
    gap = results["differences_in_points"]["STTS 75% - random 75%"]
    assert gap["points"] == pytest.approx(100 * (pruned[2]["accuracy"] - pruned[3]["accuracy"]))
    text = (options.out / "results.md").read_text()
    assert "| STTS 50% |" in text and "STTS 50% - dense: " in text and "--standalone" in text
    assert str(options.out / "results.json") in printed
    assert Image.open(options.out / "pruning.png").width > 800


# --- times -------------------------------------------------------------------------------------


class FakeModel:
    special_ids = {"<im_patch>": 9}  # noqa: RUF012

    def __init__(self, times, removed):
        self.times, self.removed, self.calls = iter(times), removed, 0

    def generate(self, batch, max_new_tokens, stop_ids):
        assert max_new_tokens == 1 and stop_ids == [0]
        self.calls += 1
        lengths = (batch["input_ids"] >= 0).sum(1) - self.removed
        return SimpleNamespace(n_prompt_tokens=lengths, timings={"prefill": next(self.times)})


def test_prefill_takes_the_median_without_the_first_pass():
    batch = {"input_ids": torch.tensor([[1, 9, 9, 9, 2], [9, 9, 9, 3, -1]])}
    models = {"a": FakeModel([50, 2, 8, 4], 0), "b": FakeModel([50, 1, 1, 1], 2)}
    found = compare_prefill(models, [batch], stop_id=0, repeats=3)
    assert found == {"a": Prefill(2.0, 3.0), "b": Prefill(0.5, 1.0)}
    assert models["a"].calls == models["b"].calls == 4
