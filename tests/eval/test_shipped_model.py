"""What the shipped dense model can, and what must not be enough: the test clips are worth their
questions only if pictures of the right moments are needed."""

import numpy as np
import pytest
import torch

from olmo.config import merge
from olmo.data.datasets.synthetic.draw import informative_cells
from olmo.data.examples import decode_video
from olmo.data.registry import get_dataset
from olmo.eval import clips
from olmo.eval.clips import accuracies, answer_clips, recall
from olmo.eval.tasks import SYNTHETIC
from olmo.models.loading import load_model
from tests.scored import DENSE, PRUNED

pytestmark = pytest.mark.slow
N = 60
CHANCE = {"moves": 1 / 3, "direction": 1 / 4, "count": 1 / 4, "reading": 1 / 12}
COLOUR = 1 / 6
"""Of seven colours, some are seen to be out of the question."""


@pytest.fixture(scope="module")
def data():
    return get_dataset(SYNTHETIC, "test")


def accuracy(data, change=None):
    model, config = load_model(DENSE, {}, torch.device("cpu"))
    return accuracies(answer_clips(model, config, data, range(N), change=change))


def test_it_sees(data):
    found = accuracy(data)
    assert found.pop("all") > 0.85
    assert all(right > 2 * CHANCE.get(name, COLOUR) for name, right in found.items())


@pytest.mark.parametrize("change", [clips.no_video, clips.first_frame], ids=lambda f: f.__name__)
def test_without_the_events_there_is_no_answer(data, change):
    found = accuracy(data, change)
    assert found.pop("all") < 0.4
    assert all(right < CHANCE.get(name, COLOUR) + 0.25 for name, right in found.items())


def test_an_order_needs_the_order(data):
    assert accuracy(data, clips.shuffled)["order"] < 0.6 < 0.8 < accuracy(data)["order"]


def pixel_recall(data, config):
    """Of events, when the cells stay whose pixels differ most from the frame before."""
    preprocessor = config.build_preprocessor(config.build_tokenizer())
    kept = total = 0
    for clip in range(N):
        video = decode_video(data.whole(clip), preprocessor)
        cells = np.abs(np.diff(video.frames.astype(np.float32), axis=0)).mean(-1)
        change = cells.reshape(-1, 8, 16, 8, 16).mean((2, 4)).ravel()
        order = np.argsort(change)[config.budget.removed(len(video.frames)) :]
        events = informative_cells(data.scenes[clip], video.timestamps, (8, 8))[1:].ravel()
        kept, total = kept + events[order].sum(), total + events.sum()
    return kept / total


@pytest.mark.parametrize("topk", [0.5, 0.8])
def test_its_features_tell_what_changed(data, topk):
    vit = {"prune_method": "easy", "topk": topk}
    overrides = merge(PRUNED, {"vision_backbone": {"vit": vit}})
    model, config = load_model(DENSE, overrides, torch.device("cpu"))
    found = recall(answer_clips(model, config, data, range(N)))
    assert found >= 0.95 * pixel_recall(data, config)
