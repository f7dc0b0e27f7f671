"""The files that make transformers' ``Molmo2Processor`` write the same prompts as this project.

processor_config.json     sizes, crops, pooling, frames
tokenizer.json, tokenizer_config.json
chat_template.jinja       the message format of the data formatter
generation_config.json    ids of the first, last and padding token
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as RawTokenizer

from olmo.config import ConfigError
from olmo.files import write_json
from olmo.models.hf_layout.folder import PROCESSOR_FILE, PROCESSOR_KEYS
from olmo.models.molmo2.molmo2 import Molmo2Config
from olmo.preprocessing.chat import DataFormatterConfig
from olmo.preprocessing.multicrop import ImagePreprocessorConfig
from olmo.tokenizer import EOS_TOKENS, FILLER, SPECIAL_TOKENS, MolmoTokenizer

PIXELS: dict[str, Any] = {
    "do_convert_rgb": True,
    "do_resize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
}
"""Bilinear resizing and pixels in [-1, 1]."""


def write_processor_files(config: Molmo2Config, tokenizer: MolmoTokenizer, folder: Path) -> None:
    """Write all of them into ``folder``."""
    write_json(folder / PROCESSOR_FILE, processor_config(config))
    template = chat_template(config.data_formatter, tokenizer.reserved())
    (folder / "chat_template.jinja").write_text(template)
    hf = hf_tokenizer(tokenizer, config.llm.max_sequence_length)
    hf.save_pretrained(folder)
    ids = {f"{name}_token_id": getattr(hf, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    write_json(folder / "generation_config.json", ids)


def processor_config(config: Molmo2Config) -> dict[str, Any]:
    """``processor_config.json``; see ``differences`` for what it cannot express."""
    vit, video = config.vision_backbone.vit, config.mm_preprocessor.video
    height, width = vit.image_default_input_size
    image = config.mm_preprocessor.image or ImagePreprocessorConfig()
    shared = PIXELS | {
        "size": {"height": height, "width": width},
        "patch_size": vit.image_patch_size,
    }
    own = {"image": image, "video": video}
    return {
        "processor_class": "Molmo2Processor",
        **{key: getattr(own[part], name) for key, (part, name) in PROCESSOR_KEYS.items()},
        "video_use_col_tokens": False,
        "image_processor": {
            **shared,
            "image_processor_type": "Molmo2ImageProcessor",
            "max_crops": image.max_crops,
            "overlap_margins": list(image.overlap_margins),
            "pooling_size": [image.pooling_h, image.pooling_w],
        },
        "video_processor": {
            **shared,
            "video_processor_type": "Molmo2VideoProcessor",
            "pooling_size": [video.pooling_h, video.pooling_w],
            "num_frames": video.max_frames,
            "max_fps": _number(video.max_fps[0]) if video.max_fps else None,
            "do_sample_frames": True,
        },
    }


def differences(config: Molmo2Config) -> list[str]:
    """Settings of the preprocessor that transformers' processor does not have, in words."""
    video, image = config.mm_preprocessor.video, config.mm_preprocessor.image
    expected: dict[str, dict[str, object]] = {
        "video": {
            **{"time_mode": "per-frame-compact", "per_frame_special_token": True},
        }
    }
    if image is not None:
        expected["image"] = {
            "crop_mode": "overlap-and-resize-c2",
            "max_multi_image_crops": image.max_crops,
            "multi_image_pooling_h": image.pooling_h,
            "multi_image_pooling_w": image.pooling_w,
        }
    own = {"video": video, "image": image}
    found = [
        f"mm_preprocessor.{part}.{key} is {getattr(own[part], key)!r}, there it is {value!r}"
        for part, values in expected.items()
        for key, value in values.items()
        if getattr(own[part], key) != value
    ]
    if len(video.max_fps or []) > 1:
        found.append(f"mm_preprocessor.video.max_fps is {video.max_fps!r}, there it is the first")
    return found


TEMPLATE = """\
{{- bos_token -}}
{%- set seen = namespace(images=0, image=0) -%}
{%- for message in messages if message['content'] is not string -%}
{%- for part in message['content'] if part['type'] == 'image' -%}
{%- set seen.images = seen.images + 1 -%}
{%- endfor -%}
{%- endfor -%}
{%- for message in messages if message['content'] is not string -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}
{%- set seen.image = seen.image + 1 -%}
{%- if seen.images > 1 -%}{{- 'Image ' ~ seen.image -}}{%- endif -%}
{{- '<|image|>' -}}
{%- elif part['type'] == 'video' -%}
{{- '<|video|>' -}}
{%- endif -%}
{%- endfor -%}
{%- endfor -%}
{%- for message in messages -%}
{%- set asks = loop.index0 % 2 == 0 -%}
{%- if message['role'] != ('user' if asks else 'assistant') -%}
{{- raise_exception('the turns must be user, assistant, user, ...') -}}
{%- endif -%}
{%- if asks -%}{{- (@first@ if loop.first else @between@) ~ @user@ -}}
{%- else -%}{{- @turn@ -}}{%- endif -%}
{%- set said = namespace(text='') -%}
{%- if message['content'] is string -%}
{%- set said.text = message['content'] -%}
{%- else -%}
{%- for part in message['content'] if part['type'] == 'text' -%}
{%- set said.text = said.text ~ part['text'] -%}
{%- endfor -%}
{%- endif -%}
{%- for token in @reserved@ -%}
{%- set said.text = said.text.replace(token, token[0] ~ ' ' ~ token[1:]) -%}
{%- endfor -%}
{{- said.text -}}
{%- if asks -%}
{{- @user_end@ -}}
{%- if not loop.last or add_generation_prompt -%}{{- @answer@ -}}{%- endif -%}
{%- else -%}{{- eos_token -}}{%- endif -%}
{%- endfor -%}
"""
"""All images and videos first, then the turns, as ``olmo.preprocessing`` writes them. What is
said is made plain as ``written_as_text`` does it."""


def chat_template(formatter: DataFormatterConfig, reserved: Sequence[str]) -> str:
    """Jinja template of the formatter's message format. ``reserved``: strings that the tokenizer
    would take for a token."""
    texts = formatter.texts()
    out = TEMPLATE.replace("@reserved@", json.dumps(list(reserved)))
    for name in ("first", "between", "user", "turn", "user_end", "answer"):
        out = out.replace(f"@{name}@", json.dumps(texts.get(name, "")))
    return out


def written_as_text(text: str, tokenizer: MolmoTokenizer) -> str:
    """``text`` with a space after the first character of every reserved string: in a prompt that
    is one string, what a user has typed must not read like what the template has written."""
    for token in tokenizer.reserved():
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def hf_tokenizer(tokenizer: MolmoTokenizer, max_length: int) -> Any:
    """transformers' ``PreTrainedTokenizerFast`` of a tokenizer; it pads on the left."""
    from transformers import PreTrainedTokenizerFast

    raw = padded_tokenizer(tokenizer)
    ids = [i for i in map(raw.token_to_id, EOS_TOKENS) if i is not None]
    eos = raw.id_to_token(tokenizer.eos_id)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=eos,
        eos_token=eos,
        pad_token=raw.id_to_token(ids[-1]),
        padding_side="left",
        model_max_length=max_length,
    )


def padded_tokenizer(tokenizer: MolmoTokenizer) -> RawTokenizer:
    """A copy with fillers up to the padded vocabulary and then the visual tokens, which adds
    nothing of its own to a text."""
    data = json.loads(tokenizer.raw.to_str())
    data["post_processor"] = None
    raw = RawTokenizer.from_str(json.dumps(data))
    ids = raw.get_vocab(with_added_tokens=True).values()
    if sorted(ids) != list(range(len(ids))):
        raise ConfigError(f"the tokenizer's {len(ids)} ids have gaps: the largest is {max(ids)}")
    raw.add_special_tokens([FILLER.format(i) for i in range(tokenizer.vocab_size - len(ids))])
    raw.add_special_tokens(list(SPECIAL_TOKENS))
    assert all(raw.token_to_id(token) == i for token, i in tokenizer.ids.items())
    return raw


def _number(value: float) -> float:
    """2.0 as 2: transformers declares the rate as an int."""
    return int(value) if float(value).is_integer() else value
