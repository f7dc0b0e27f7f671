import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from olmo.config import ConfigError
from olmo.patch_grid import join_pooling, pooling_windows
from olmo.preprocessing.video import (
    VideoPreprocessorConfig,
    subtitle_text,
    subtitle_token_ids,
    video_token_ids,
    video_token_pooling,
)
from olmo.tokenizer import TokenizerConfig

FIXTURES = Path(__file__).parents[1] / "fixtures" / "data"
REFERENCE = json.loads((FIXTURES / "video_tokens.json").read_text())
SUBTITLE = {(0.0, 1.0): "hello", (1.2, 2.0): "there", (10.0, 11.0): "far away"}


@pytest.fixture(scope="module")
def tokenizer():
    return TokenizerConfig(str(FIXTURES / "byte_tokenizer")).build(151936)


def readable(tokenizer, ids, cells):
    names = {i: t for t, i in tokenizer.ids.items()}
    text = "".join(names.get(i) or chr(i) for i in ids)
    return text.replace("<im_patch>" * cells, f"[{cells} x <im_patch>]")


@pytest.mark.parametrize("case", REFERENCE["video_tokens_byte_tokenizer"])
def test_special_token_settings(tokenizer, case):
    config = VideoPreprocessorConfig(
        use_frame_special_tokens=case["use_frame_special_tokens"],
        per_frame_special_token=case["per_frame_special_token"],
    )
    ids = video_token_ids(config, tokenizer, np.array(case["timestamps"]), 81)
    assert ids == [t for t, n in case["tokens_run_length"] for _ in range(n)]
    assert len(ids) == case["n_tokens"]
    assert readable(tokenizer, ids, 81) == case["decoded"]


@pytest.mark.parametrize("mode", ["none", "numbered-frames", "per-frame"])
def test_time_modes(tokenizer, mode):
    config = VideoPreprocessorConfig(time_mode=mode)
    ids = video_token_ids(config, tokenizer, np.array([0.0, 1.5]), 81)
    assert readable(tokenizer, ids, 81) == REFERENCE[f"video_tokens_time_mode_{mode}"]


def test_pooling_reference():
    config = VideoPreprocessorConfig()
    pooling = video_token_pooling(config, 3, 27, 27)
    expected = REFERENCE["video_3_frames"]
    assert list(pooling.shape) == expected["token_pooling_shape"]
    assert pooling.dtype == np.int64
    assert pooling[:81].tolist() == REFERENCE["frame_378_3x3"]["rows"]
    assert pooling[81].tolist() == expected["row_81"]
    assert pooling[242].tolist() == expected["row_242"]


@pytest.mark.parametrize("w", [2, 4])
def test_pooling_of_other_windows(w):
    expected = REFERENCE[f"crop_378_{w}x{w}"]
    windows = pooling_windows(27, 27, w, w)
    assert hashlib.sha256(windows.astype("<i8").tobytes()).hexdigest() == expected["sha256_int64"]
    assert (windows == -1).sum() == expected["n_minus1"]


def test_padding_stays_padding_in_later_frames():
    config = VideoPreprocessorConfig(pooling_h=2, pooling_w=2)
    pooling = video_token_pooling(config, 2, 1, 3)
    assert pooling.tolist() == [[0, 1, -1, -1], [2, -1, -1, -1], [3, 4, -1, -1], [5, -1, -1, -1]]


def test_windows_of_several_inputs_are_joined():
    wide, narrow = np.array([[0, 1, 2], [3, -1, -1]]), np.array([[1], [-1], [0]])
    joined = join_pooling([wide, narrow, np.zeros((0, 2), dtype=np.int64), wide], [4, 2, 0, 4])
    want = [[0, 1, 2], [3, -1, -1], [5, -1, -1], [-1, -1, -1], [4, -1, -1], [6, 7, 8], [9, -1, -1]]
    assert joined.tolist() == want and joined.dtype == np.int64
    assert wide.tolist() == [[0, 1, 2], [3, -1, -1]]


def test_pooling_and_tokens_agree(tokenizer):
    for h, w in [(3, 3), (2, 4), (5, 1)]:
        config = VideoPreprocessorConfig(pooling_h=h, pooling_w=w)
        pooling = video_token_pooling(config, 4, 5, 7)
        ids = video_token_ids(config, tokenizer, np.arange(4), len(pooling) // 4)
        assert ids.count(tokenizer.ids["<im_patch>"]) == len(pooling)
        assert sorted(pooling[pooling >= 0].tolist()) == list(range(4 * 35))


@pytest.mark.parametrize(
    ("mode", "subtitle", "name"),
    [
        ("frame_1", SUBTITLE, "subtitle_frame_1"),
        ("frame_3", SUBTITLE, "subtitle_frame_3"),
        ("all", SUBTITLE, "subtitle_all"),
        ("ignore", SUBTITLE, "subtitle_ignore"),
        ("truncate_12", SUBTITLE, "subtitle_truncate_12_byte_tokens"),
        ("all", "plain text", "subtitle_plain_string"),
    ],
)
def test_subtitles(tokenizer, mode, subtitle, name):
    config = VideoPreprocessorConfig(subtitle_mode=mode)
    ids = subtitle_token_ids(config, tokenizer, subtitle, np.array([0.0, 1.5]))
    assert tokenizer.decode(ids, truncate_at_eos=False) == REFERENCE[name]


def test_subtitle_limits(tokenizer):
    config = VideoPreprocessorConfig(subtitle_mode="all", max_subtitle_tokens=12)
    ids = subtitle_token_ids(config, tokenizer, SUBTITLE, np.array([0.0]))
    assert tokenizer.decode(ids) == REFERENCE["subtitle_all_max_subtitle_tokens_12"]
    config = VideoPreprocessorConfig(subtitle_mode="truncate_5", max_subtitle_tokens=12)
    assert len(subtitle_token_ids(config, tokenizer, SUBTITLE, np.array([0.0]))) == 5
    config = VideoPreprocessorConfig(max_subtitle_tokens=0)
    assert subtitle_token_ids(config, tokenizer, SUBTITLE, np.array([0.0])) == []


def test_nothing_to_show_gives_no_header():
    assert subtitle_text("frame_1", SUBTITLE, np.array([50.0])) == ""
    assert subtitle_text("all", {}, np.array([0.0])) == ""
    assert subtitle_text("all", None, np.array([0.0])) == ""
    assert subtitle_text("frame_1", SUBTITLE, np.array([12.0])).endswith("far away\n")
    assert subtitle_text("frame_0.9", SUBTITLE, np.array([12.0])) == ""


def test_config():
    config = VideoPreprocessorConfig.from_dict({})
    assert (config.max_frames, config.frame_sample_mode) == (64, "uniform_last_frame")
    assert config.max_fps == [2.0] and config.time_sampling and config.per_frame_special_token
    assert config.topk is None
    assert VideoPreprocessorConfig.from_dict({"max_fps": 4}).max_fps == [4.0]
    assert VideoPreprocessorConfig.from_dict({"max_fps": None}).max_fps is None
    old = {"candidate_sampling_fps": [0.25], "cache_videos": True, "loading_method": "av"}
    assert VideoPreprocessorConfig.from_dict(old) == config
    with pytest.raises(ConfigError, match=r"subtitle_mode 'frame_x'"):
        VideoPreprocessorConfig.from_dict({"subtitle_mode": "frame_x"})
    with pytest.raises(ConfigError, match="max_frames"):
        VideoPreprocessorConfig.from_dict({"max_frames": 0})
    with pytest.raises(ConfigError, match="time_mode"):
        VideoPreprocessorConfig.from_dict({"time_mode": "hourly"})
