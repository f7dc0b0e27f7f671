import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from olmo.config import ConfigError, read_settings
from olmo.preprocessing.chat import DataFormatterConfig
from olmo.preprocessing.collator import Collator
from olmo.preprocessing.images import patchify, resize_frames
from olmo.preprocessing.multicrop import ImagePreprocessorConfig
from olmo.preprocessing.multimodal import ExamplePreprocessor, Molmo2PreprocessorConfig
from olmo.preprocessing.packing import pack
from olmo.preprocessing.video import VideoPreprocessorConfig
from olmo.token_budget import Budget, n_removed_tokens
from olmo.tokenizer import TokenizerConfig
from olmo.types import VideoFrames

FIXTURES = Path(__file__).parents[1] / "fixtures" / "data"
MC = {
    "video": "v.mp4",
    "style": "video_multiple_choice",
    "question": "Which?",
    "options": ["x", "y"],
    "answer_idx": 1,
    "metadata": {"example_id": "e1"},
}


@pytest.fixture(scope="module")
def tokenizer():
    return TokenizerConfig(str(FIXTURES / "byte_tokenizer")).build(151936)


def build(tokenizer, topk=0.0, limit=None, image=None, **video):
    config = Molmo2PreprocessorConfig(video=VideoPreprocessorConfig(**video), image=image)
    return ExamplePreprocessor(
        config, DataFormatterConfig(), tokenizer, (54, 54), 6, Budget(9, topk), limit
    )


def frames(n, h=20, w=30):
    pixels = np.random.default_rng(n).integers(0, 256, (n, h, w, 3), dtype=np.uint8)
    return VideoFrames(pixels, np.arange(n) * 0.5, n * 0.5)


def same(a, b):
    assert a.keys() == b.keys()
    for k in a:
        np.testing.assert_array_equal(a[k], b[k])


def test_one_video_example(tokenizer):
    video = frames(3)
    out = build(tokenizer)(MC, video)
    assert {k: (v.shape, str(v.dtype)) for k, v in out.items() if isinstance(v, np.ndarray)} == {
        **dict.fromkeys(
            ["input_tokens", "target_tokens", "position_ids"],
            (out["input_tokens"].shape, "int64"),
        ),
        "loss_masks": (out["input_tokens"].shape, "float32"),
        "images": ((3, 81, 108), "uint8"),
        "token_pooling": ((27, 9), "int64"),
        "num_images": ((1,), "int64"),
        "multimodal_type": ((1,), "int64"),
    }
    assert out["num_images"].tolist() == [3] and out["multimodal_type"].tolist() == [2]
    np.testing.assert_array_equal(out["images"], patchify(resize_frames(video.frames, (54, 54)), 6))
    patch = tokenizer.ids["<im_patch>"]
    assert (out["input_tokens"] == patch).sum() == len(out["token_pooling"])
    ids = out["input_tokens"]
    assert out["visual_end"] == np.flatnonzero(ids == tokenizer.ids["<frame_end>"])[-1] + 1
    text = tokenizer.decode(ids.tolist()[out["visual_end"] :], truncate_at_eos=False)
    assert text == (
        "<|im_start|>user\nWhich?\nOnly return the correct answer option.\nA. x\nB. y"
        "<|im_end|>\n<|im_start|>assistant\nB. y"
    )
    assert out["n_pruned"] == 0
    n = len(ids)
    assert out["metadata"] == {
        "example_id": "e1",
        "answer_idx": 1,
        "options": ["x", "y"],
        "option_names": "AB",
        "image_size": (30, 20),
        "n_tokens_before": n,
        "n_tokens_after": n,
    }


def test_inputs_are_not_modified(tokenizer):
    subtitle = {(0.0, 1.0): "hi"}
    example = {**copy.deepcopy(MC), "subtitle": subtitle}
    tree = {"video": "v", "message_list": [copy.deepcopy(MC), copy.deepcopy(MC)]}
    before = copy.deepcopy((example, tree))
    video = frames(2)
    pixels = video.frames.copy()
    build(tokenizer)(example, video, np.random.RandomState(0))
    build(tokenizer)(tree, video, np.random.RandomState(0))
    assert (example, tree) == before
    np.testing.assert_array_equal(video.frames, pixels)


@pytest.mark.parametrize("topk", [0.3, 0.5, 0.7])
def test_pruned_tokens_follow_the_one_rule(tokenizer, topk):
    preprocess = build(tokenizer, topk, max_frames=8)
    for n in (1, 2, 5, 8):
        out = preprocess(MC, frames(n))
        assert out["n_pruned"] == n_removed_tokens(n, 9, topk)
        length = len(out["input_tokens"])
        assert out["metadata"]["n_tokens_after"] == length - out["n_pruned"]
    assert preprocess.visual.max_frames() == 8
    assert preprocess({"question": "Q", "answer": "A"})["n_pruned"] == 0


def test_tree_and_shuffle(tokenizer):
    messages = [{"question": f"q{i}", "answer": f"a{i}", "weight": 1} for i in range(4)]
    example = {"message_list": messages, "video": "v"}
    preprocess = build(tokenizer)
    plain = preprocess(example, frames(2))
    assert sorted(set(plain["subsegment_ids"].tolist())) == [0, 1, 2, 3, 10000]
    assert plain["subsegment_ids"].dtype == np.int64
    same(plain, preprocess(example, frames(2)))
    rows = {
        tuple(preprocess(example, frames(2), np.random.default_rng(s))["input_tokens"])
        for s in range(8)
    }
    assert len(rows) > 1
    same(
        preprocess(example, frames(2), np.random.default_rng(5)),
        preprocess(example, frames(2), np.random.default_rng(5)),
    )


def test_limit_of_a_tree_counts_after_pruning(tokenizer):
    messages = [{"question": "q" * 40, "answer": "a" * 5} for _ in range(6)]
    example = {"message_list": messages, "video": "v"}

    def branches(topk, limit):
        out = build(tokenizer, topk, limit)(example, frames(4))
        return out["subsegment_ids"][-1] + 1, out["n_pruned"]

    assert branches(0.0, None)[0] == 6
    dense, _ = branches(0.0, 300)
    _, n_pruned = branches(0.5, 300)
    assert branches(0.5, 300 - n_pruned)[0] == dense < 6


def test_text_only(tokenizer):
    out = build(tokenizer, 0.5)({"messages": ["Q", "A"], "style": "user_qa"})
    assert "images" not in out and "token_pooling" not in out
    for key in ("num_images", "multimodal_type"):
        assert out[key].shape == (0,) and out[key].dtype == np.int64
    assert out["visual_end"] == 0 and out["n_pruned"] == 0


def test_subtitles_follow_the_video(tokenizer):
    example = {**MC, "subtitle": {(0.0, 1.0): "hi"}}
    out = build(tokenizer)(example, frames(2))
    text = tokenizer.decode(out["input_tokens"].tolist()[out["visual_end"] :])
    assert text.startswith("subtitle\n0.0 - 1.0 hi\n<|im_start|>user\n")


def test_inference(tokenizer):
    out = build(tokenizer)(MC, frames(2), for_inference=True)
    assert not out["loss_masks"].any()
    assert tokenizer.decode(out["input_tokens"].tolist()[-11:], False).endswith("assistant\n")
    assert out["metadata"]["answer_idx"] == 1


def test_weights(tokenizer):
    plain = build(tokenizer)(MC, frames(1))["loss_masks"]
    weighted = build(tokenizer)({**MC, "weight": 0.25}, frames(1))["loss_masks"]
    np.testing.assert_allclose(weighted, plain * 0.25)
    fields = {"weight": 0.2, "root_subsegments": False, "root_length": False}
    flat = build(tokenizer)({**MC, "weight": fields}, frames(1))["loss_masks"]
    assert set(flat.tolist()) == {0.0, np.float32(0.2)}


def test_bad_examples(tokenizer):
    preprocess = build(tokenizer, max_frames=2)
    with pytest.raises(ValueError, match=r"mm_preprocessor\.image is null"):
        preprocess({"image": "a.png", "question": "Q", "answer": "A"})
    with pytest.raises(ValueError, match=r"v\.mp4 were not given"):
        preprocess(MC)
    with pytest.raises(ValueError, match=r"3 frames .*max_frames=2"):
        preprocess(MC, frames(3))
    with pytest.raises(ValueError, match="0 frames"):
        preprocess(MC, frames(0))


def test_bad_settings(tokenizer):
    with pytest.raises(ValueError, match=r"54x54.* 7"):
        ExamplePreprocessor(
            Molmo2PreprocessorConfig(), DataFormatterConfig(), tokenizer, (54, 54), 7
        )


def test_flat_spellings():
    flat = {
        "max_frames": 32,
        "max_fps": 2,
        "topk": 0.5,
        "max_subtitle_tokens": 7,
        "use_frame_special_tokens": False,
        "loading_method": "av",
        "cache_videos": True,
        "candidate_sampling_fps": [1.0],
        "image": {"crop_mode": "resize"},
        "max_images": 3,
        "crop_mode": "overlap-and-resize-c2",
        "max_crops": 1,
        "max_answer_len": 5,
    }
    before = copy.deepcopy(flat)
    config = Molmo2PreprocessorConfig.from_dict(flat)
    assert flat == before
    assert config.video == VideoPreprocessorConfig(
        max_frames=32,
        max_fps=[2.0],
        topk=0.5,
        max_subtitle_tokens=7,
        use_frame_special_tokens=False,
        per_frame_special_token=True,
    )
    assert config.image == ImagePreprocessorConfig(crop_mode="resize", max_images=3)
    assert config.max_answer_len == 5
    assert Molmo2PreprocessorConfig.from_dict(config.to_dict()) == config


def test_flat_and_nested():
    both = {"max_frames": 32, "video": {"max_frames": 32, "per_frame_special_token": False}}
    config = Molmo2PreprocessorConfig.from_dict(both)
    assert (config.video.max_frames, config.video.per_frame_special_token) == (32, False)
    assert Molmo2PreprocessorConfig.from_dict(
        {"max_fps": 2.0, "video": {"max_fps": [2.0]}}
    ).video.max_fps == [2.0]
    with pytest.raises(
        ConfigError, match=r"max_frames=32 contradicts mm_preprocessor\.video\.max_frames=64"
    ):
        Molmo2PreprocessorConfig.from_dict({"max_frames": 32, "video": {"max_frames": 64}})
    with pytest.raises(ConfigError, match=r"video\.max_crops: 24 is not supported, only 1"):
        Molmo2PreprocessorConfig.from_dict({"max_crops": 24})
    with pytest.raises(ConfigError, match="max_frmes"):
        Molmo2PreprocessorConfig.from_dict({"max_frmes": 32})


def test_image_settings():
    section = Molmo2PreprocessorConfig.from_dict
    assert section({"image": None, "crop_mode": "resize"}).image is None
    assert section({"high_res_max_crops": 4}).image.high_res_max_crops == 4
    nested = {"image": {"max_crops": 24, "overlap_margins": [2, 3]}, "overlap_margins": [1, 1]}
    image = section(nested).image
    assert (image.max_crops, image.overlap_margins) == (24, (2, 3))
    assert section(section(nested).to_dict()).image == image
    with pytest.raises(ConfigError, match=r"image\.max_crosp.*'max_crops'"):
        section({"image": {"max_crosp": 2}})


def test_image_settings_that_the_reference_wrote():
    file = FIXTURES.parent / "molmo2_tiny_dcp" / "step10" / "config.yaml"
    section = read_settings(file)["model"]["mm_preprocessor"]
    image = Molmo2PreprocessorConfig.from_dict(section).image
    written = {k: tuple(v) if isinstance(v, list) else v for k, v in section["image"].items()}
    assert dataclasses.asdict(image) == written


def test_defaults():
    config = Molmo2PreprocessorConfig.from_dict({})
    assert config.loss_token_weighting == "root_subsegments_root_tokens"
    assert Molmo2PreprocessorConfig.from_dict({"loss_token_weighting": None}) is not None


def test_from_example_to_batch(tokenizer):
    """The k-th <im_patch> of a row and its k-th pooling row are the same cell of a frame."""
    preprocess = build(tokenizer, 0.5, max_frames=8)
    counts = [3, 0, 5]
    videos = [frames(n) if n else None for n in counts]
    text = {"question": "Q", "answer": "A"}
    examples = [preprocess(MC if v else text, v) for v in videos]
    row = pack(examples)
    max_removed = preprocess.visual.rule.removed(8)
    collate = Collator(len(row["input_tokens"]), "to_max", 81, 108, 8, max_removed)
    batch = collate([row, pack([examples[1]])])
    assert batch["input_ids"].shape == (2, len(row["input_tokens"]) + max_removed)
    assert batch["images"].shape == (2, 8, 81, 108)
    assert batch["num_images"].tolist() == [[3, 5], [-1, -1]]
    assert batch["multimodal_type"].tolist() == [[2, 2], [-1, -1]]
    n_patches = (batch["input_ids"] == tokenizer.ids["<im_patch>"]).sum(1).tolist()
    assert n_patches == (batch["token_pooling"] >= 0).any(-1).sum(1).tolist() == [8 * 9, 0]
    assert batch["token_pooling"][0].flatten().sort().values.tolist() == list(range(8 * 81))
    second = examples[2]["token_pooling"] + 3 * 81
    assert batch["token_pooling"][0, 27:].tolist() == second.tolist()
