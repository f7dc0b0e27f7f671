"""Videos with a share of their own, by how much changes in them."""

import numpy as np
import pytest
import torch

from olmo.config import ConfigError
from olmo.preprocessing.chat import DataFormatterConfig
from olmo.preprocessing.collator import Collator
from olmo.preprocessing.multimodal import ExamplePreprocessor, Molmo2PreprocessorConfig
from olmo.preprocessing.packing import pack
from olmo.preprocessing.video import CHANGE_LIMITS, VideoPreprocessorConfig, changed_cells
from olmo.token_budget import Budget
from olmo.tokenizer import TokenizerConfig
from olmo.types import VideoFrames

QUESTION = {"video": "v.mp4", "style": "demo", "question": "Which?", "answer": "this one"}
N = 8


def preprocessor(topk=0.5, **video):
    config = Molmo2PreprocessorConfig(video=VideoPreprocessorConfig(**video), image=None)
    formatter, tokenizer = DataFormatterConfig(), TokenizerConfig().build(512)
    return ExamplePreprocessor(config, formatter, tokenizer, (48, 48), 8, Budget(4, topk))


def clip(n_changed=0):
    """Eight frames; in each, another ``n_changed`` of 36 squares is bright."""
    frames = np.zeros((N, 6, 8, 6, 8, 3), dtype=np.uint8)
    for t in range(1, N, 2):
        for i in range(n_changed):
            frames[t, i // 6, :, i % 6] = 200
    return VideoFrames(frames.reshape(N, 48, 48, 3), np.arange(N) / 2, N / 2)


def test_busy_videos_keep_more():
    prepare = preprocessor(topk=0.75, usual_change=6 / 36)
    kept = {}
    for n in (0, 3, 6, 9, 36):
        video = clip(n)
        assert changed_cells(video.frames) == pytest.approx(n / 36)
        kept[n] = 4 * N - int(prepare(QUESTION, video, for_inference=True)["n_removed"][0])
    first = usual = 4  # cells of the first frame, and those that 0.75 leaves of the others
    assert kept == {0: first + 1, 3: first + 2, 6: first + usual, 9: first + 6, 36: first + 8}
    assert CHANGE_LIMITS == (0.25, 2.0)


def test_packer_and_collator_carry_the_counts():
    some = preprocessor(usual_change=6 / 36)
    one, other = (some(QUESTION, clip(n), np.random.RandomState(0)) for n in (3, 9))
    plain = preprocessor()(QUESTION, clip(), np.random.RandomState(0))
    text = some({k: v for k, v in QUESTION.items() if k != "video"}, rng=np.random.RandomState(0))
    row = pack([one, plain, text, other])
    counts = [int(e["n_removed"][0]) for e in (one, other)]
    assert counts == [
        22,
        10,
    ]  # half a video stays, of which a frame whole: 16 - 4 cells times factor
    assert row["n_removed"].tolist() == [counts[0], -1, counts[1]]
    assert row["n_pruned"] == counts[0] + 16 + counts[1]
    batch = Collator(None, "longest", 36, 192)([row, one, text])
    expected = [[counts[0], -1, counts[1]], [counts[0], -1, -1], [-1, -1, -1]]
    assert batch["n_removed"].tolist() == expected and batch["n_removed"].dtype == torch.int64
    assert "n_removed" not in Collator(None, "longest", 36, 192)([plain, text])


def test_bounds_hold_for_every_video():
    rule = Budget(4, 0.5)
    assert VideoPreprocessorConfig().most_removed(rule) is rule or rule.topk == 0.5
    adaptive = VideoPreprocessorConfig(usual_change=0.1)
    assert adaptive.most_removed(rule).topk == 0.875
    assert adaptive.most_removed(Budget(4)).topk == 0  # dense


@pytest.mark.parametrize("wrong", [{"usual_change": 0.0}, {"usual_change": 1.1}])
def test_wrong_values(wrong):
    with pytest.raises((ConfigError, ValueError), match="usual_change"):
        VideoPreprocessorConfig(**wrong)
