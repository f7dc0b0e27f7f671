"""From examples to the model's output: text, images and videos packed in one row and side by side
in a batch give what each example gives alone.

Frames and crops have 9 x 9 patches of 2 x 2 pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from olmo.models.molmo2.molmo2 import Molmo2
from olmo.preprocessing.packing import pack, packed_length
from olmo.types import VideoFrames
from tests.models.conftest import PRUNING, build

QA = {"question": "What is this?", "answer": "A cat.", "style": "user_qa"}
SETTINGS: dict[str, Any] = {
    "llm": {
        "vocab_size": 512,
        "max_sequence_length": 1024,
        "tokenizer": {"identifier": "olmo/tiny"},
    },
    "mm_preprocessor": {
        "video": {"max_frames": 8},
        "image": {"max_crops": 4, "max_multi_image_crops": 3, "overlap_margins": [2, 1]},
    },
}
TOLERANCE = 5e-5
"""Of logits up to 5 in float32; the largest difference measured is 6e-6."""

Example = dict[str, Any]


def pixels(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def raw_examples() -> dict[str, tuple[Example, VideoFrames | None]]:
    videos = {n: VideoFrames(pixels(n, 20, 30, seed=n), np.arange(n) / 2, n / 2) for n in (1, 3, 5)}
    images = [pixels(60, 25, seed=10), pixels(12, 12, seed=11), pixels(25, 70, seed=12)]
    return {
        "text": (QA, None),
        "video": ({"video": "v", **QA}, videos[5]),
        "image": ({"image": images[0], **QA}, None),
        "one frame": ({"video": "v", **QA}, videos[1]),
        "images": ({"image": images, **QA}, None),
        "two questions": ({"image": images[1], "message_list": [QA, QA]}, None),
        "video, two questions": ({"video": "v", "message_list": [QA, QA]}, videos[3]),
        "more text": ({**QA, "answer": "Nothing."}, None),
    }


def examples_of(model: Molmo2) -> dict[str, Example]:
    preprocess = model.config.build_preprocessor(model.config.build_tokenizer())
    return {name: preprocess(*args) for name, args in raw_examples().items()}


def logits(model: Molmo2, rows: list[Example]) -> list[torch.Tensor]:
    """[kept tokens, V] of every row."""
    batch = model.config.build_collator()(rows)
    batch = {k: v for k, v in batch.items() if k not in ("metadata", "labels", "loss_masks")}
    with torch.no_grad():
        out = model(**batch)
    return [out.logits[i, out.valid[i]] for i in range(len(rows))]


def model_of(**changes: Any) -> Molmo2:
    return build(PRUNING, SETTINGS, *([changes] if changes else []))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"vision_backbone": {"vit": {"prune": False}}},
        {"vision_backbone": {"vit": {"prune_method": "evs"}}},
        {"bi_directional_attn": "within_image"},
        {"pruned_position_ids": "original"},
    ],
    ids=["pruned", "dense", "evs", "within_image", "original positions"],
)
def test_neighbours_change_nothing(changes: dict[str, Any]) -> None:
    model = model_of(**changes)
    examples = examples_of(model)
    alone = {name: logits(model, [e])[0] for name, e in examples.items()}
    for name, e in examples.items():
        assert len(alone[name]) == packed_length(e), name
    names = list(examples)
    # side by side, one packed row, and two packed rows of different length
    for rows in ([[n] for n in names], [names], [names[::-1]], [names[:5], names[5:]]):
        packed = len(rows) < len(names)
        outs = logits(
            model, [pack([examples[n] for n in r]) if packed else examples[r[0]] for r in rows]
        )
        for row, out in zip(rows, outs, strict=True):
            parts = out.split([packed_length(examples[n]) for n in row])
            for name, part in zip(row, parts, strict=True):
                torch.testing.assert_close(part, alone[name], rtol=0, atol=TOLERANCE)


def test_only_videos_lose_tokens() -> None:
    model = model_of()
    lost = {
        name: len(e["input_tokens"]) - len(logits(model, [e])[0])
        for name, e in examples_of(model).items()
    }
    assert lost == dict.fromkeys(lost, 0) | {"video": 22, "video, two questions": 13}


def test_answers_of_a_batch() -> None:
    """Prompts of different length and kind, generated together and one by one."""
    model = model_of()
    preprocess = model.config.build_preprocessor(model.config.build_tokenizer())
    prompts = [
        preprocess(e, v, for_inference=True)
        for e, v in raw_examples().values()
        if "message_list" not in e
    ]
    collate, never = model.config.build_collator(), model.special_ids["<|vit_loc|>"]
    together = model.generate(collate(prompts), 6, [never])
    assert together.n_prompt_tokens.tolist() == [packed_length(p) for p in prompts]
    for prompt, tokens in zip(prompts, together.token_ids, strict=True):
        assert (
            model.generate(collate([prompt]), 6, [never]).token_ids[0].tolist() == tokens.tolist()
        )


def test_pixels_of_every_crop_count() -> None:
    """Changing any crop of an image changes the answer; changing a padding frame does not."""
    model = model_of()
    example = examples_of(model)["images"]
    want = logits(model, [example])[0][-1]
    for crop in range(len(example["images"])):
        changed = example["images"].copy()
        changed[crop] = 255 - changed[crop]
        assert (logits(model, [example | {"images": changed}])[0][-1] - want).abs().max() > 1e-3
    spare = np.concatenate([example["images"], 255 - example["images"][:2]])
    same = logits(model, [example | {"images": spare}])[0][-1]
    torch.testing.assert_close(same, want, rtol=0, atol=TOLERANCE)


def test_gradients_of_a_mixed_row() -> None:
    """A training step on a packed row reaches scorer, connector and language model."""
    model = model_of().train()
    batch = model.config.build_collator()([pack(list(examples_of(model).values()))])
    labels, weights = batch.pop("labels"), batch.pop("loss_masks")
    batch.pop("metadata")
    out = model(**batch, response_mask=weights > 0)
    loss = torch.nn.functional.cross_entropy(out.logits.float(), labels[weights > 0])
    assert out.vision is not None and out.vision.aux_loss is not None
    (loss + out.vision.aux_loss).backward()
    for part in ("temporal_token_scorer", "image_projector", "blocks.0"):
        grads = [p.grad for n, p in model.named_parameters() if part in n]
        assert grads and all(g is not None and g.isfinite().all() for g in grads), part
        assert any(g.abs().max() > 0 for g in grads if g is not None), part
