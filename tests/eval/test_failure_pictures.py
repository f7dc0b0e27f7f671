"""Pictures of failures: which are drawn, and in what colours."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from olmo.eval import failure_pictures
from olmo.eval.failure_pictures import COLOURS, draw_failures, picture_path
from olmo.types import VideoFrames
from olmo.viewer.cells import CellEdges
from tests.eval.fakes import prediction


@pytest.mark.parametrize("scored", [True, False])
def test_one_outlier_does_not_decide_the_colours(tmp_path, monkeypatch, scored):
    keep = np.arange(8).reshape(2, 4) % 2 == 0
    scores = np.array([[1.0, 2, 3, 4], [1000, 2, 3, 4]]) if scored else None
    video = VideoFrames(np.full((2, 64, 64, 3), 200, dtype=np.uint8), np.arange(2.0), 1.0)
    settings = SimpleNamespace(video=SimpleNamespace(decoder="av"), limits=None)
    model = SimpleNamespace(config=SimpleNamespace(mm_preprocessor=settings))
    edges = CellEdges.of_patches((2, 2), (1, 1))
    draw, drawn = failure_pictures.pruning_picture, []
    for name, function in {
        "raw_example": lambda dataset, index, seed: {"video": "v.mp4"} if index else {},
        "collate_examples": lambda *about: {},
        "kept_cells": lambda model, batch: (keep, scores),
        "load_video": lambda *about, **more: video,
        "FrameSampling": SimpleNamespace(from_config=lambda config: None),
        "CellEdges": SimpleNamespace(of_video=lambda config: edges),
        "pruning_picture": lambda kept, **how: drawn.append((kept, how)) or draw(kept, **how),
    }.items():
        monkeypatch.setattr(failure_pictures, name, function)
    answers = [prediction(i, correct) for i, correct in enumerate((0, 1, 0, None, 0))]
    draw_failures(model, None, answers, tmp_path, limit=1, seed=0)
    ((kept, how),) = drawn
    if scored:
        scale = kept.heat_scale(how["by_rank"])
        np.testing.assert_allclose(scale.values[1], [1, 0, 1 / 3, 2 / 3])
    assert how["caption"] == ([COLOURS] if scored else [])
    assert [path.name for path in tmp_path.rglob("*.jpg")] == ["2.jpg"]
    assert Image.open(picture_path(tmp_path, answers[2])).width > 400
