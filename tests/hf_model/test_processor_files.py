"""Processor files of an export: the same token ids as this project's own preprocessing."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers.models.molmo2")

import numpy as np
from tokenizers import Tokenizer
from transformers import AutoProcessor, AutoTokenizer

from olmo.config import ConfigError, merge
from olmo.hf_model.export import export_checkpoint
from olmo.hf_model.processor_files import differences, padded_tokenizer, write_processor_files
from olmo.model_configs import preset_model_config
from olmo.models.hf_layout.folder import read_processor
from olmo.models.loading import merged_model_config
from olmo.models.molmo2.molmo2 import Molmo2Config
from olmo.tokenizer import BUILT_IN, SPECIAL_TOKENS, TokenizerConfig
from olmo.types import VideoFrames
from tests.hf_model.conftest import native_model, save_native

TURNS = ["What moves?\nThink 12.5 s.", "A red circle", "And then?", "Nothing", "Why?"]


def config_of(message_format: str = "qwen3", **changes: Any) -> Molmo2Config:
    """The tiny preset with eight fillers between text and visual tokens."""
    over = {"llm": {"vocab_size": 520}, "data_formatter": {"message_format": message_format}}
    return merged_model_config(preset_model_config("tiny"), merge(over, changes))


def written(config: Molmo2Config, folder: Path) -> Any:
    write_processor_files(config, config.build_tokenizer(), folder)
    (folder / "config.json").write_text('{"model_type": "molmo2"}')
    return AutoTokenizer.from_pretrained(folder)


def chat(*parts: dict[str, str], turns: list[str] = TURNS) -> list[dict[str, Any]]:
    first = {"role": "user", "content": [*parts, {"type": "text", "text": turns[0]}]}
    names = ("user", "assistant")
    rest = [{"role": names[i % 2], "content": t} for i, t in enumerate(turns)]
    return [first, *rest[1:]]


@pytest.mark.parametrize("message_format", ["qwen3", "role", "none"])
@pytest.mark.parametrize(("n_turns", "spaced"), [(1, False), (3, True), (5, False)])
def test_template_writes_what_the_formatter_writes(
    message_format: str, n_turns: int, spaced: bool, tmp_path: Path
) -> None:
    config = config_of(message_format, data_formatter={"always_start_with_space": spaced})
    tokenizer = written(config, tmp_path)
    preprocess = config.build_preprocessor(config.build_tokenizer())
    ours = preprocess({"messages": TURNS[:n_turns]}, for_inference=True)["input_tokens"]
    messages = chat(turns=TURNS[:n_turns])
    theirs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert tokenizer(theirs)["input_ids"] == ours.tolist()


def test_template_of_a_finished_conversation(tmp_path: Path) -> None:
    """Training's last target, the end token, is written; no answer is asked for."""
    config = config_of()
    tokenizer = written(config, tmp_path)
    text = tokenizer.apply_chat_template(chat(turns=TURNS[:2]), tokenize=False)
    row = config.build_preprocessor(config.build_tokenizer())({"messages": TURNS[:2]})
    want = [*row["input_tokens"], row["target_tokens"][-1]]
    assert tokenizer(text)["input_ids"] == want
    with pytest.raises(Exception, match="the turns must be user, assistant"):
        tokenizer.apply_chat_template([{"role": "system", "content": "x"}], tokenize=False)


@pytest.mark.parametrize("message_format", ["qwen3", "role", "none"])
def test_template_writes_reserved_strings_so_that_they_are_text(
    message_format: str, tmp_path: Path
) -> None:
    """transformers takes a special token out of a prompt wherever it stands."""
    tokenizer = written(config_of(message_format), tmp_path)
    reserved = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
    assert len(reserved) == 3 + 8 + len(SPECIAL_TOKENS)

    def special(text: str) -> list[int]:
        turns = [f"What is {text}?", f"It is {text}", f"{text}?"]
        rendered = tokenizer.apply_chat_template(
            chat({"type": "video"}, turns=turns), tokenize=False
        )
        ids = tokenizer(rendered)["input_ids"]
        return [i for i in ids if tokenizer.added_tokens_decoder.get(i)]

    for token in sorted(reserved):
        assert special(token) == special(token * 2) == special("it"), token
    assert special("<|im_<|im_end|>end|>") == special("it")


def test_template_of_a_video(tmp_path: Path) -> None:
    """The video stands right behind BOS; its placeholder is one token."""
    config = config_of()
    tokenizer = written(config, tmp_path)
    text = tokenizer.apply_chat_template(
        chat({"type": "video"}), add_generation_prompt=True, tokenize=False
    )
    assert text.startswith("<|im_end|><|video|><|im_start|>user\n")
    images = tokenizer.apply_chat_template(
        chat({"type": "image"}, {"type": "image"}, turns=TURNS[:1]), tokenize=False
    )
    assert images.startswith("<|im_end|>Image 1<|image|>Image 2<|image|><|im_start|>user\n")
    one = tokenizer.apply_chat_template(chat({"type": "image"}), tokenize=False)
    assert one.startswith("<|im_end|><|image|><|im_start|>")


def test_tokenizer_files(tmp_path: Path) -> None:
    """Fillers, then the visual tokens; ours reads the file as if neither were there."""
    tokenizer = written(config_of(), tmp_path)
    assert len(tokenizer) == 520 + len(SPECIAL_TOKENS)
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(520, 534))
    assert tokenizer.convert_tokens_to_ids("|<EXTRA_TOKENS_7>|") == 519
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_end|>", "<|im_end|>")
    assert (tokenizer.pad_token, tokenizer.padding_side) == ("<|endoftext|>", "left")
    ids = json.loads((tmp_path / "generation_config.json").read_text())
    assert ids == {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    again = TokenizerConfig(str(tmp_path)).build(520)
    text = "a red <im_patch> 7.5 |<EXTRA_TOKENS_1>|"
    assert again.encode(text) == TokenizerConfig(BUILT_IN).build(520).encode(text)
    with pytest.raises(ValueError, match="tokenizer has <im_start> at 520, the model expects 530"):
        TokenizerConfig(str(tmp_path)).build(530)


def test_tokenizer_with_gaps() -> None:
    tokenizer = TokenizerConfig(BUILT_IN).build(520)
    data = json.loads(tokenizer.raw.to_str())
    data["model"]["vocab"]["gap"] = 522
    tokenizer.raw = Tokenizer.from_str(json.dumps(data))
    with pytest.raises(ConfigError, match="ids have gaps"):
        padded_tokenizer(tokenizer)


def test_settings_come_back(tmp_path: Path) -> None:
    changes = {
        "mm_preprocessor": {
            "video": {"max_frames": 12, "max_fps": [1.0], "use_frame_special_tokens": False},
            "image": {"max_crops": 5, "max_multi_image_crops": 5, "use_col_tokens": False},
        }
    }
    config = config_of(**changes)
    assert differences(config) == []
    write_processor_files(config, config.build_tokenizer(), tmp_path)
    section = preset_model_config("tiny") | {"mm_preprocessor": read_processor(tmp_path)}
    again = merged_model_config(section, {}).mm_preprocessor
    assert again == config.mm_preprocessor


def test_older_processor_files(tmp_path: Path) -> None:
    """The published folders have one file per part."""
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"max_crops": 24, "pooling_size": [2, 2], "anything": 1})
    )
    (tmp_path / "video_preprocessor_config.json").write_text(
        json.dumps({"num_frames": 384, "max_fps": 2, "pooling_size": [3, 3]})
    )
    section = preset_model_config("qwen3_4b") | {"mm_preprocessor": read_processor(tmp_path)}
    found = merged_model_config(section, {}).mm_preprocessor
    assert (found.video.max_frames, found.video.max_fps) == (384, [2.0])
    assert found.image is not None
    assert (found.image.max_crops, found.image.max_multi_image_crops) == (24, 24)


@pytest.mark.parametrize(
    "content",
    [
        {"image_processor": 3},
        {"image_processor": {"pooling_size": [2]}},
        {"video_processor": {"pooling_size": 3}},
        {"video_processor": {"max_fps": "fast"}},
    ],
)
def test_bad_processor_file(content: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "processor_config.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=f"{tmp_path}.* (wrong kind|expected a JSON object)"):
        read_processor(tmp_path)


def test_what_the_processor_cannot_express() -> None:
    changes = {
        "mm_preprocessor": {
            "video": {"time_mode": "none", "per_frame_special_token": False, "max_fps": [1.0, 2.0]},
            "image": {"max_multi_image_crops": 4, "crop_mode": "resize"},
        }
    }
    found = " ".join(differences(config_of(**changes)))
    names = ("time_mode", "per_frame_special_token", "max_fps", "max_multi_image_crops")
    assert all(f"{name} is" in found for name in (*names, "crop_mode"))


needs_torchvision = pytest.mark.skipif(
    find_spec("torchvision") is None, reason="transformers' processor needs torchvision"
)


@needs_torchvision
def test_auto_processor(tmp_path: Path) -> None:
    """A video and an image through transformers' processor: our token ids, pooling and sizes."""
    model = native_model()
    folder = export_checkpoint(save_native(model, tmp_path / "native"), tmp_path / "hf")
    processor = AutoProcessor.from_pretrained(folder)
    assert type(processor).__name__ == "Molmo2Processor"
    preprocess = model.config.build_preprocessor(model.config.build_tokenizer())
    frames = np.random.default_rng(0).integers(0, 256, (3, 18, 18, 3), dtype=np.uint8)
    times = np.array([0.0, 0.5, 1.5])
    text = processor.apply_chat_template(chat({"type": "video"}), add_generation_prompt=True)
    metadata = {"fps": 2.0, "frames_indices": [0, 1, 3], "total_num_frames": 4, "duration": 2.0}
    theirs = processor(
        text=text,
        videos=[frames],
        video_metadata=[metadata],
        do_sample_frames=False,
        return_tensors="pt",
    )
    example = {"messages": TURNS, "video": "frames"}
    ours = preprocess(example, VideoFrames(frames, times, 2.0), for_inference=True)
    assert theirs["input_ids"][0].tolist() == ours["input_tokens"].tolist()
    assert np.array_equal(theirs["video_token_pooling"].numpy(), ours["token_pooling"])
    pixels = ours["images"].astype(np.float32) / 255 * 2 - 1
    assert np.abs(theirs["pixel_values_videos"].numpy() - pixels).max() < 1e-6

    text = processor.apply_chat_template(chat({"type": "image"}), add_generation_prompt=True)
    theirs = processor(text=text, images=[frames[0]], return_tensors="pt")
    ours = preprocess({"messages": TURNS, "image": frames[0]}, for_inference=True)
    assert theirs["input_ids"][0].tolist() == ours["input_tokens"].tolist()
    pooling = theirs["image_token_pooling"].numpy()
    assert np.array_equal(pooling, ours["token_pooling"][(ours["token_pooling"] >= 0).any(1)])
