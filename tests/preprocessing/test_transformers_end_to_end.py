"""From pixels to logits and greedy tokens: our preprocessing and model against transformers' own.

Frames and crops have 9 x 9 patches of 2 x 2 pixels; both models have the same random weights.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

pytest.importorskip("transformers.models.molmo2")

import numpy as np
import torch
from torch import Tensor
from transformers import Molmo2ForConditionalGeneration

from olmo.models.molmo2.molmo2 import Molmo2
from olmo.types import VideoFrames
from tests.models.conftest import OLMO3, build
from tests.models.test_transformers_parity import transformers_model
from tests.preprocessing.transformers_processor import replace_torchvision, transformers_processor

SETTINGS: dict[str, Any] = {
    "llm": {
        "vocab_size": 512,
        "max_sequence_length": 1024,
        "tokenizer": {"identifier": "olmo/tiny"},
    },
    "mm_preprocessor": {
        "video": {"max_frames": 8},
        "image": {"max_crops": 4, "max_multi_image_crops": 4, "overlap_margins": [2, 1]},
    },
}
PARTS = {"size": {"height": 18, "width": 18}, "patch_size": 2}
FORMS = {"qwen3": {}, "olmo3": {"llm": OLMO3}}
PROMPT = "<|im_start|>user\nWhat is this?<|im_end|>\n<|im_start|>assistant\n"
QUESTION = {"question": "What is this?", "style": "user_qa"}
N_NEW = 5

Pair = tuple[dict[str, Tensor], dict[str, Tensor]]


@pytest.fixture(autouse=True)
def torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_torchvision(monkeypatch)


def picture(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def inputs(model: Molmo2, kind: str) -> Pair:
    """The batch of one prompt, ours and theirs."""
    tokenizer = model.config.build_tokenizer()
    image = {**PARTS, "max_crops": 4, "overlap_margins": [2, 1]}
    processor = transformers_processor(tokenizer, image=image, video=PARTS)
    images = [picture(31, 47, seed=1), picture(60, 21, seed=2), picture(19, 20, seed=3)]
    video: VideoFrames | None = None
    example: dict[str, Any] = dict(QUESTION)
    if kind == "image":
        example["image"] = images[0]
        theirs = processor(images=images[:1], text="<|image|>" + PROMPT, return_tensors="pt")
    elif kind == "images":
        example["image"] = images
        names = "".join(f"Image {i + 1}<|image|>" for i in range(3))
        theirs = processor(images=images, text=names + PROMPT, return_tensors="pt")
    elif kind == "video":
        example["video"] = "v"
        video = VideoFrames(picture(4, 20, 30, seed=4), np.array([0.0, 0.5, 1.0, 2.0]), 2.5)
        metadata = {"fps": 2.0, "total_num_frames": 5, "frames_indices": [0, 1, 2, 4]}
        theirs = processor(
            videos=[video.frames],
            text="<|video|>" + PROMPT,
            return_tensors="pt",
            videos_kwargs={"do_sample_frames": False, "video_metadata": [metadata]},
        )
    else:
        theirs = processor(text=PROMPT, return_tensors="pt")
    preprocess = model.config.build_preprocessor(tokenizer)
    batch = model.config.build_collator()([preprocess(example, video, for_inference=True)])
    ours = {k: v for k, v in batch.items() if k not in ("metadata", "labels", "loss_masks")}
    return ours, {k: v for k, v in theirs.items() if k != "image_num_crops"}


@cache
def both_models(form: str) -> tuple[Molmo2, Molmo2ForConditionalGeneration]:
    model = build(SETTINGS, FORMS[form])
    other = transformers_model(model)
    patch = model.special_ids["<im_patch>"]
    for module in other.modules():
        if hasattr(module, "config") and hasattr(module.config, "image_patch_id"):
            module.config.image_patch_id = patch
    return model, other


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        ("qwen3", "text"),
        ("qwen3", "image"),
        ("qwen3", "images"),
        ("qwen3", "video"),
        ("olmo3", "images"),
        ("olmo3", "video"),
    ],
)
def test_logits_and_greedy_tokens(form: str, kind: str) -> None:
    model, other = both_models(form)
    ours, theirs = inputs(model, kind)
    with torch.no_grad():
        logits, want = model(**ours).logits, other(**theirs).logits
        # measured 9e-6, of logits up to 5
        torch.testing.assert_close(logits, want, atol=5e-5, rtol=0)
        tokens = other.generate(
            **theirs, max_new_tokens=N_NEW, min_new_tokens=N_NEW, do_sample=False
        )
    never = model.special_ids["<|vit_loc|>"]
    generated = model.generate(ours, N_NEW, [never])
    assert generated.token_ids[0].tolist() == tokens[0, -N_NEW:].tolist()
