"""Names that other programs import stay where they are."""

import importlib

import pytest

from olmo.eval.scorers import score_example
from olmo.eval.tasks import resolve_tasks

NAMES = {
    "olmo": ["load_model"],
    "olmo.data.frame_sampling": ["FrameSampling"],
    "olmo.data.registry": ["get_dataset"],
    "olmo.data.video_loading": ["load_video"],
    "olmo.eval.scorers": ["score_example"],
    "olmo.eval.tasks": ["resolve_tasks"],
    "olmo.models.temporal_video_olmo.temporal_video_olmo": [
        "TemporalVideoOlmo",
        "TemporalVideoOlmoConfig",
    ],
    "olmo.nn.temporal_image_vit": ["TemporalVitConfig"],
    "olmo.nn.temporal_vision_backbone": [
        "TemporalVisionBackbone",
        "TemporalVisionBackboneConfig",
    ],
    "olmo.nn.token_layout": ["CellGrid", "frame_table"],
    "olmo.nn.token_pruning": ["select_cells"],
    "olmo.nn.token_scorer": ["TemporalTokenScorer"],
    "olmo.preprocessing.chat": ["style_prefix"],
    "olmo.preprocessing.images": ["load_image"],
}


@pytest.mark.parametrize("module", NAMES)
def test_names(module):
    found = importlib.import_module(module)
    assert all(callable(getattr(found, name)) for name in NAMES[module])


def test_scores_are_plain_values():
    right = score_example("a dog", {"answers": ["dog"]}, "anls")
    assert set(right) == {"correct", "unparsed", "parsed", "reference", "scores", "labels"}
    assert score_example("", {"answers": ["dog"]}, "anls")["unparsed"] == 1
    with pytest.raises(ValueError, match="unknown metric"):
        score_example("a", {}, "ansl")


def test_tasks_say_how_they_are_scored():
    (task,) = resolve_tasks(None, "mvbench")
    assert (task.name, task.split, task.metric) == ("mvbench", "validation", "em_start")
    assert task.max_new_tokens == 32
