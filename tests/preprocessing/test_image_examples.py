"""Examples with images: token rows, counts and bounds. Crops have 9 x 9 patches of 6 pixels."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from olmo.preprocessing.chat import DataFormatterConfig
from olmo.preprocessing.collator import image_parts
from olmo.preprocessing.images import ImageReadError, patchify, resize_frames
from olmo.preprocessing.multicrop import ImagePreprocessorConfig, image_layout, image_token_ids
from olmo.preprocessing.multimodal import ExamplePreprocessor, Molmo2PreprocessorConfig
from olmo.preprocessing.packing import PackingConfig, n_frames, pack, packed_length
from olmo.preprocessing.video import VideoPreprocessorConfig, video_token_ids
from olmo.token_budget import Budget
from olmo.tokenizer import TokenizerConfig
from olmo.types import MultimodalType, VideoFrames

FIXTURES = Path(__file__).parents[1] / "fixtures" / "data"
MULTI = json.loads((FIXTURES / "image_multicrop.json").read_text())["multi_image"]
SHAPES = json.loads((FIXTURES / "output_shapes.json").read_text())
QA = {"question": "Q", "answer": "A", "style": "user_qa"}
SMALL = {"max_crops": 6, "high_res_max_crops": 12, "overlap_margins": (2, 2), "max_images": 3}


@pytest.fixture(scope="module")
def tokenizer():
    return TokenizerConfig(str(FIXTURES / "byte_tokenizer")).build(151936)


def build(tokenizer, topk=0.0, size=54, patch=6, video=None, **image):
    config = Molmo2PreprocessorConfig(
        image=ImagePreprocessorConfig(**SMALL | image),
        video=VideoPreprocessorConfig(**video or {}),
    )
    budget = Budget(9, topk) if topk else None
    return ExamplePreprocessor(
        config, DataFormatterConfig(), tokenizer, (size, size), patch, budget
    )


def picture(h, w, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def patches_are_covered(tokenizer, out):
    n = (out["input_tokens"] == tokenizer.ids["<im_patch>"]).sum()
    assert n == len(out["token_pooling"]) == (out["token_pooling"] >= 0).any(1).sum()
    parts = image_parts(out)
    assert out["token_pooling"].max() < sum(map(len, parts)) * parts[0].shape[1]


def test_one_image(tokenizer):
    image = picture(70, 130)
    preprocess = build(tokenizer, topk=0.5)
    out = preprocess({"image": image, **QA, "metadata": {"example_id": 3}})
    layout = image_layout(preprocess.config.image, (70, 130), (9, 9), 6, 6)
    assert layout.tiles == (2, 3)
    ids = image_token_ids(preprocess.config.image, tokenizer, layout)
    assert out["input_tokens"][: 1 + len(ids)].tolist() == [tokenizer.bos_id, *ids]
    assert out["visual_end"] == 1 + len(ids)
    assert out["images"].shape == (7, 81, 108) and out["images"].dtype == np.uint8
    whole = patchify(resize_frames(image[None], (54, 54)), 6)
    np.testing.assert_array_equal(out["images"][:1], whole)
    np.testing.assert_array_equal(out["token_pooling"], layout.pooling)
    assert out["token_pooling"].dtype == np.int64
    assert out["num_images"].tolist() == [7]
    assert out["multimodal_type"].tolist() == [MultimodalType.IMAGE]
    assert out["n_pruned"] == 0
    n = len(out["input_tokens"])
    assert out["metadata"] == {
        "example_id": 3,
        "answer": "A",
        "image_size": (130, 70),
        "n_tokens_before": n,
        "n_tokens_after": n,
    }
    patches_are_covered(tokenizer, out)


def test_images_from_files_equal_arrays(tokenizer, tmp_path):
    image = picture(40, 90)
    Image.fromarray(image).save(tmp_path / "a.png")
    preprocess = build(tokenizer)
    one = preprocess({"image": image, **QA})
    two = preprocess({"image": str(tmp_path / "a.png"), **QA})
    for key in ("input_tokens", "images", "token_pooling"):
        np.testing.assert_array_equal(one[key], two[key])
    with pytest.raises(ImageReadError, match=r"b\.png"):
        preprocess({"image": tmp_path / "b.png", **QA})
    config = Molmo2PreprocessorConfig.from_dict({"limits": {"max_pixels": 3599}})
    preprocess = ExamplePreprocessor(config, DataFormatterConfig(), tokenizer, (54, 54), 6)
    for image in (str(tmp_path / "a.png"), [str(tmp_path / "a.png")]):
        with pytest.raises(ImageReadError, match=r"a\.png: 90 x 40 pixels .*max_pixels=3599"):
            preprocess({"image": image, **QA})


def test_a_list_of_images(tokenizer):
    images = [picture(40, 90, 1), picture(90, 40, 2)]
    preprocess = build(tokenizer, topk=0.5, max_multi_image_crops=2)
    example = {"image": images, **QA}
    before = copy.deepcopy(example)
    out = preprocess(example)
    np.testing.assert_array_equal(example["image"][0], before["image"][0])
    assert len(example["image"]) == 2
    alone = [build(tokenizer, max_crops=2)({"image": i, **QA}) for i in images]
    np.testing.assert_array_equal(out["images"], np.concatenate([a["images"] for a in alone]))
    offset = len(alone[0]["images"]) * 81
    second = alone[1]["token_pooling"]
    second = np.where(second >= 0, second + offset, -1)
    np.testing.assert_array_equal(
        out["token_pooling"], np.concatenate([alone[0]["token_pooling"], second])
    )
    ids, want = out["input_tokens"].tolist(), [tokenizer.bos_id]
    for i, a in enumerate(alone):
        want += tokenizer.encode(f"Image {i + 1}") + a["input_tokens"][1 : a["visual_end"]].tolist()
    assert ids[: len(want)] == want and out["visual_end"] == len(want)
    assert out["num_images"].tolist() == [6]
    assert out["multimodal_type"].tolist() == [MultimodalType.MULTI_IMAGE]
    assert out["metadata"]["image_group_size"] == [(90, 40), (40, 90)]
    patches_are_covered(tokenizer, out)


def test_reference_lists(tokenizer):
    preprocess = build(tokenizer, size=378, patch=14, overlap_margins=(4, 4), max_images=5)
    names = {i: t for t, i in tokenizer.ids.items()}

    def blocks(n):
        return preprocess.visual.of_images([picture(378, 378, i) for i in range(n)]).blocks

    for block, want in zip(blocks(3), MULTI["multi_image_3"], strict=True):
        head = "".join(names.get(i) or chr(i) for i in block[:9])
        assert head == want["decoded_prefix"] and len(block) == want["n_tokens"]
    assert len(blocks(7)) == MULTI["multi_image_7_inputs_max_images_5"]
    assert blocks(1)[0][0] == MULTI["multi_image_1_no_prefix_first_token"]


def test_images_beyond_the_limit_are_left_out(tokenizer):
    images = [picture(20, 20, i) for i in range(4)]
    preprocess = build(tokenizer)
    cut, whole = ({"image": i, **QA} for i in (images, images[:3]))
    np.testing.assert_array_equal(preprocess(cut)["images"], preprocess(whole)["images"])
    assert preprocess(cut)["metadata"]["n_images_left_out"] == 1
    assert "n_images_left_out" not in preprocess(whole)["metadata"]
    for scale in ({}, {"point_scale": 20}):
        points = {"style": "multi_image_pointing", "label": "a", "points": [[], [], [], [[1, 1]]]}
        out = preprocess({"image": images, **points, **scale})
        assert tokenizer.decode(out["input_tokens"].tolist()[-15:], False) == "There are none."
    with pytest.raises(ValueError, match=r"image\.max_images is null"):
        build(tokenizer, max_images=None)({"image": images, **QA})
    with pytest.raises(ValueError, match="empty list"):
        preprocess({"image": [], **QA})


def test_placeholders(tokenizer):
    preprocess = build(tokenizer)
    images = [picture(20, 20, i) for i in range(2)]
    blocks = preprocess.visual.of_images(images).blocks

    def row(text):
        example = {"image": images, "messages": [text, "A"], "style": "user_qa"}
        return preprocess(example)["input_tokens"].tolist()

    def near(*parts):
        start = [tokenizer.bos_id, tokenizer.control_id("<|im_start|>")]
        return [*start, *tokenizer.encode("user\n"), *(i for p in parts for i in p)]

    apart = row("one <|image|> two <|image|>")
    want = near(tokenizer.encode("one "), blocks[0], tokenizer.encode(" two "), blocks[1])
    assert apart[: len(want)] == want
    together = row("see <|image|>")
    want = near(tokenizer.encode("see "), *blocks)
    assert together[: len(want)] == want
    text = "<|image|><|image|><|image|>"
    front = [i for block in blocks for i in block]
    assert row(text)[: 1 + len(front)] == [tokenizer.bos_id, *front]
    for messages in (
        {"messages": ["<|image|>", "A"]},
        {"message_list": [{"prompt": "<|image|>", **QA}] * 2},
    ):
        ids = preprocess(messages)["input_tokens"].tolist()
        assert "<|image|>" in tokenizer.decode(ids, truncate_at_eos=False)


def test_several_questions_share_the_images(tokenizer):
    preprocess = build(tokenizer)
    out = preprocess({"image": [picture(20, 20)] * 2, "message_list": [QA, QA]})
    prefix = out["subsegment_ids"] == 10000
    assert prefix.sum() == out["visual_end"] and set(out["subsegment_ids"]) == {0, 1, 10000}


def test_high_resolution_is_drawn_in_training_alone(tokenizer):
    big = {"image": picture(700, 700), **QA}
    preprocess = build(tokenizer, p_high_res=0.5)

    def crops(example, seed, training=True, preprocess=preprocess):
        out = preprocess(example, None, np.random.RandomState(seed) if training else None)
        return int(out["num_images"][0])

    assert {crops(big, s) for s in range(12)} == {5, 10}
    assert {crops(big, s, False) for s in range(12)} == {5}
    assert {crops(big | {"p_high_res": 0.0}, s) for s in range(6)} == {5}
    off = build(tokenizer)
    assert {crops(big, s, preprocess=off) for s in range(6)} == {5}
    assert {crops(big | {"p_high_res": 1.0}, s, preprocess=off) for s in range(6)} == {10}
    many = {"image": [big["image"]], **QA, "p_high_res": 1.0}
    assert crops(many, 0) == 5


def test_an_image_and_a_video(tokenizer):
    video = VideoFrames(picture(20, 20)[None], np.zeros(1), 1.0)
    with pytest.raises(ValueError, match="either a video or images"):
        build(tokenizer)({"video": "v", "image": picture(20, 20), **QA}, video)


def test_points_are_scaled_by_the_size_of_the_picture(tokenizer):
    preprocess = build(tokenizer)

    def answer(example, video=None):
        out = preprocess({"label": "cat", **example}, video)
        return tokenizer.decode(out["input_tokens"].tolist(), False).split("assistant\n")[1]

    shown = {"image": picture(50, 200), "style": "pointing", "points": [[100, 25]]}
    assert answer(shown) == '<points coords="1 1 500 500">cat</points>'
    shown = {"image": [picture(50, 200), picture(100, 100)], "points": [[], [[100, 25]]]}
    text = answer({**shown, "style": "multi_image_pointing"})
    assert text == '<points coords="2 1 1000 250">cat</points>'
    frames = VideoFrames(picture(20, 20)[None], np.zeros(1), 1.0, size=(640, 360))
    shown = {"video": "v", "style": "video_point", "points": [[[10, 20]]], "timestamps": [0.0]}
    assert answer(shown, frames) == '<points coords="0.0 1 100 200">cat</points>'
    assert preprocess({**shown, "label": "a"}, frames)["metadata"]["image_size"] == (640, 360)


def test_margins_larger_than_the_crop(tokenizer):
    preprocess = build(tokenizer, overlap_margins=(5, 4))
    assert preprocess.visual.max_frames() == 64
    with pytest.raises(ValueError, match=r"image\.overlap_margins"):
        preprocess({"image": picture(20, 20), **QA})


@pytest.mark.parametrize("row", SHAPES["max_output_lengths"])
def test_reference_bounds(tokenizer, row):
    video = {k: row[k] for k in ("max_frames", "per_frame_special_token")}
    image = {"max_crops": 8, "high_res_max_crops": 8, "overlap_margins": (4, 4)}
    image["max_images"] = 5 if row["multi_image"] else None
    preprocess = build(tokenizer, size=378, patch=14, video=video, **image)
    assert preprocess.visual.max_frames() == row["video_images"][0]
    times = np.arange(row["max_frames"]) * 32.5
    ids = video_token_ids(preprocess.config.video, tokenizer, times, 81)
    assert len(ids) == row["video_tokens"]


def test_images_count_in_full_when_packed(tokenizer):
    """Of a video its length after pruning counts, of images everything."""
    preprocess = build(tokenizer, topk=0.5, video={"max_frames": 4})
    frames = np.random.default_rng(0).integers(0, 256, (4, 20, 20, 3), dtype=np.uint8)
    video = VideoFrames(frames, np.arange(4.0), 4.0)
    examples = [
        preprocess({"image": picture(70, 130), **QA}),
        preprocess({"video": "v", **QA}, video),
        preprocess({"image": [picture(20, 20)] * 2, **QA}),
        preprocess(QA),
    ]
    assert [packed_length(e) - len(e["input_tokens"]) for e in examples] == [0, -18, 0, 0]
    assert [n_frames(e) for e in examples] == [7, 4, 4, 0]
    row = pack(examples)
    assert row["num_images"].tolist() == [7, 4, 4]
    assert row["multimodal_type"].tolist() == [1, 2, 3]
    assert row["token_pooling"].shape[1] == 9 and row["n_pruned"] == 18
    patches_are_covered(tokenizer, row)
    size = sum(packed_length(e) for e in examples)
    packer = PackingConfig(buffer_size=4, max_images=15).build(size)
    for i, example in enumerate(examples):
        assert packer.add(i, example) is None
    assert sorted(packer.add(4, examples[3]).example_ids) == [0, 1, 2, 3]
    tight = PackingConfig(buffer_size=4, max_images=14).build(size)
    for i, example in enumerate(examples):
        assert tight.add(i, example) is None
    assert 0 < len(tight.add(4, examples[3]).example_ids) < 4


def test_reference_video_token_counts(tokenizer):
    video = VideoPreprocessorConfig()
    for key, times in [
        ("video_token_count_64_frames_0.5s_step", np.arange(64) * 0.5),
        ("video_token_count_64_frames_over_600s", np.linspace(0, 600, 64)),
        ("video_token_count_64_frames_over_3600s", np.linspace(0, 3600, 64)),
    ]:
        assert len(video_token_ids(video, tokenizer, times, 81)) == SHAPES[key]
