"""Planning a run: checkpoint, tasks, overrides at test time, folder."""

from pathlib import Path

import pytest

from olmo.config import ConfigError, merge
from olmo.eval.settings import EvalConfig, plan_evaluation, results_folder
from tests.scored import DENSE_STEP

CHECKPOINT = Path(__file__).parents[2] / "checkpoints" / "tiny-dense"
PRUNING = {
    "model_name": "temporal_video_olmo",
    "vision_backbone": {"vit": {"prune_at": 1, "prune_method": "easy"}},
}


def plan(model=None, **settings):
    config = {"checkpoint": str(CHECKPOINT), "mode": "synthetic", "model": model or {}}
    return plan_evaluation(EvalConfig.from_dict({**config, **settings}))


def test_overrides_reach_the_model():
    made = plan(
        {
            **merge(PRUNING, {"vision_backbone": {"vit": {"topk": 0.3}}}),
            "mm_preprocessor": {"max_frames": 128},
        }
    )
    assert made.model_config.mm_preprocessor.video.max_frames == 128
    assert made.model_config.budget.topk == 0.3
    flat = plan({**PRUNING, "mm_preprocessor": {"topk": 0.7}})
    assert flat.model_config.budget.topk == 0.7
    with pytest.raises(ConfigError, match="maks_frames"):
        plan({"mm_preprocessor": {"maks_frames": 1}})


def test_long_prompts_are_allowed_unless_the_user_says_otherwise():
    assert plan().model_config.llm.max_sequence_length == 64_000
    short = plan({"llm": {"max_sequence_length": 100}})
    assert short.model_config.llm.max_sequence_length == 100
    assert short.overrides["llm"] == {"max_sequence_length": 100}


def test_images_are_shown_as_in_published_evaluations_unless_the_user_says_otherwise():
    image = plan().model_config.mm_preprocessor.image
    assert (image.max_crops, image.max_images) == (24, 20)
    own = plan({"mm_preprocessor": {"max_images": 3, "image": {"max_crops": 4}}})
    image = own.model_config.mm_preprocessor.image
    assert (image.max_crops, image.max_images) == (4, 3)
    assert plan({"mm_preprocessor": {"image": None}}).model_config.mm_preprocessor.image is None
    more = plan({"mm_preprocessor": {"image": {"max_images": 40}}})
    assert more.model_config.mm_preprocessor.image.max_images == 40


def test_folders(tmp_path):
    elsewhere = Path("runs", "eval", "tiny-dense")
    assert plan().folder == elsewhere / DENSE_STEP.name
    step = tmp_path / "mine" / DENSE_STEP.name
    step.parent.mkdir()
    step.symlink_to(CHECKPOINT.resolve() / step.name)  # where it leads is not that run's
    assert plan(checkpoint=str(step)).folder == elsewhere / step.name
    assert results_folder(tmp_path / "Molmo2") == Path("runs", "eval", "Molmo2")
    (tmp_path / "mine" / "metrics.jsonl").touch()
    step = tmp_path / "mine" / "step5"
    assert results_folder(step) == tmp_path / "mine" / "eval"
    assert plan({"mm_preprocessor": {"max_frames": 4}}).folder.name.endswith("-max_frames=4")
    assert plan(eval_name="x", save_folder=str(tmp_path)).folder == tmp_path / "x"


def test_mistakes():
    with pytest.raises(FileNotFoundError, match="nowhere"):
        plan(checkpoint="nowhere")
    with pytest.raises(ValueError, match="unknown evaluation task 'vidoe'"):
        plan(mode="vidoe")
    with pytest.raises(ValueError, match="frame_sample_mode 'uniform' takes no max_fps"):
        plan({"mm_preprocessor": {"video": {"frame_sample_mode": "uniform", "max_fps": [2.0]}}})
