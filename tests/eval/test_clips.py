"""Clips with all their questions in one pass, against the questions one by one."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from olmo.data.datasets.synthetic.video import SyntheticVideoQA
from olmo.eval import clips
from olmo.eval.answer import collate_examples
from olmo.eval.clips import ClipResult, accuracies, answer_clips, paired, recall
from olmo.models.loading import load_model
from olmo.types import VideoFrames
from tests.scored import DENSE

PRUNED = {
    "model_name": "temporal_video_olmo",
    "vision_backbone": {"vit": {"prune_method": "easy", "prune_at": 1, "topk": 0.5}},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return SyntheticVideoQA("test", 3, level="short", root=tmp_path_factory.mktemp("clips"))


@pytest.mark.parametrize("overrides", [{}, PRUNED], ids=["dense", "pruned"])
def test_as_greedy_answers_one_by_one(data, overrides):
    model, config = load_model(DENSE, overrides, torch.device("cpu"))
    found = answer_clips(model, config, data, range(3), batch_size=2)
    tokenizer = config.build_tokenizer()
    expected = []
    for i in range(len(data)):
        batch = collate_examples(config, data, [i], 0)
        out = model.generate(batch, 8, [tokenizer.eos_id])
        said = tokenizer.decode(tokenizer.before_end(out.token_ids[0].tolist()))
        metadata = data.get(i, np.random.RandomState(0))["metadata"]
        expected.append((metadata["category"], said.strip() == metadata["answer"]))
    assert [pair for result in found for pair in result.correct] == expected
    assert {right for _, right in expected} == {True, False}, "tells nothing"
    for result in found:
        assert result.keep.shape == result.informative.shape == (6, 64)
        assert result.keep.mean() == (0.5 if overrides else 1.0)


def test_what_is_done_to_the_frames():
    frames = np.arange(8, dtype=np.uint8)[:, None, None, None] * np.ones((2, 2, 3), np.uint8)
    video = VideoFrames(frames, np.arange(8.0), 8.0)

    def values(changed):
        assert changed.frames.dtype == np.uint8 and changed.timestamps is video.timestamps
        return changed.frames[:, 0, 0, 0].tolist()

    assert values(clips.no_video(video)) == [128] * 8
    assert values(clips.first_frame(video)) == [0] * 8
    mixed = values(clips.shuffled(video))
    assert mixed[0] == 0 and sorted(mixed) == list(range(8)) and mixed != list(range(8))


def test_summaries():
    keep = np.array([[True, True], [True, False]])
    events = np.array([[False, False], [True, True]])
    one = ClipResult(0, (("brief", True), ("count", False)), keep, events)
    other = replace(one, clip=1, correct=(("brief", True), ("count", True)))
    assert recall([one, other]) == 0.5
    assert accuracies([one, other]) == {"all": 0.75, "brief": 1.0, "count": 0.5}
    gap = paired([other, other], [one, other])
    assert (gap.points, gap.n) == (25.0, 4) and gap.low <= 25 <= gap.high
    with pytest.raises(ValueError):
        paired([one], [one, other])
