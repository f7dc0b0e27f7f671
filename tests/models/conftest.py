"""Tiny models with large random weights, and rows of text and frames for them.

Frames have 9 x 9 patches of 2 x 2 pixels, so 9 cells of 3 x 3 patches.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from olmo.config import merge
from olmo.models.molmo2.molmo2 import Molmo2
from olmo.models.registry import model_config_from_dict
from olmo.tokenizer import special_token_ids
from tests.nn.conftest import IMAGE, VIDEO, pooling, randomise

FIXTURES = Path(__file__).parents[1] / "fixtures"
VOCAB = 40
IDS = special_token_ids(VOCAB)
PATCH = IDS["<im_patch>"]
CELLS = 9
Row = dict[str, Tensor]

DENSE: dict[str, Any] = {
    "model_name": "video_olmo",
    "llm": {
        "d_model": 24,
        "n_heads": 4,
        "n_kv_heads": 2,
        "head_dim": 8,
        "n_layers": 2,
        "mlp_hidden_size": 48,
        "max_sequence_length": 256,
        "vocab_size": VOCAB,
        "additional_vocab_size": 16,
    },
    "vision_backbone": {
        "vit": {
            "image_default_input_size": [18, 18],
            "image_patch_size": 2,
            "image_emb_dim": 16,
            "image_num_heads": 2,
            "image_num_key_value_heads": 2,
            "image_head_dim": 8,
            "image_num_layers": 5,
            "image_mlp_dim": 24,
            "image_num_pos": 81,
        },
        "vit_layers": [-1, -3],
    },
    "mm_preprocessor": {},
}
OLMO3 = {
    "n_kv_heads": 4,
    "head_dim": 6,
    "attention_layer_norm_type": "olmo",
    "norm_after": True,
    "weight_tying": False,
    "rope_type": "yarn",
    "rope_factor": 8.0,
    "rope_original_max_position_embeddings": 32,
    "full_attention_layers": [1],
}
PRUNING = {"model_name": "temporal_video_olmo", "vision_backbone": {"vit": {"prune_at": 1}}}


def config_dict(*changes: dict[str, Any]) -> dict[str, Any]:
    out = DENSE
    for change in changes:
        out = merge(out, change)
    return out


def build(*changes: dict[str, Any]) -> Molmo2:
    """Model in evaluation mode; the same weights for the same parameter names."""
    model = model_config_from_dict(config_dict(*changes)).build()
    randomise(model)
    return model.eval()


def pruning(**vit: Any) -> Molmo2:
    """Pruning model with these fields of its ViT."""
    return build(PRUNING, {"vision_backbone": {"vit": vit}})


def text_row(n: int, seed: int) -> Row:
    generator = torch.Generator().manual_seed(seed)
    return {"input_ids": torch.randint(1, VOCAB, (n,), generator=generator)}


def video_row(n_frames: int, seed: int, n_before: int = 1, n_after: int = 4) -> Row:
    """Text, a video with a time text before each frame, text."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(1, VOCAB, (n_before + n_frames + n_after,), generator=generator)
    before, times, after = text.split((n_before, n_frames, n_after))
    frame = torch.tensor([IDS["<frame_start>"]] + [PATCH] * CELLS + [IDS["<frame_end>"]])
    frames = torch.cat([torch.cat((t[None], frame)) for t in times])
    pixels = torch.randint(0, 256, (n_frames, 81, 12), generator=generator, dtype=torch.uint8)
    return {
        "input_ids": torch.cat((before, frames, after)),
        "images": pixels,
        "token_pooling": pooling(n_frames),
        "num_images": torch.tensor([n_frames]),
        "multimodal_type": torch.tensor([VIDEO]),
    }


def image_row(seed: int) -> Row:
    """One image of two crops: the first pooled 3 x 3, the second in 2 x 2 windows that cross no
    border (four of nine slots)."""
    row = video_row(2, seed)
    small = torch.full((16, 9), -1)
    corner = torch.arange(0, 8, 2)
    corner = (corner[:, None] * 9 + corner).flatten() + 81
    small[:, :4] = corner[:, None] + torch.tensor([0, 1, 9, 10])
    name = [IDS["<low_res_im_start>"], *[PATCH] * 9, IDS["<im_end>"], IDS["<im_start>"]]
    grid = [PATCH] * 4 + [IDS["<im_col>"]]
    visual = torch.tensor(name + 4 * grid + [IDS["<im_end>"]])
    return row | {
        "input_ids": torch.cat((row["input_ids"][:1], visual, row["input_ids"][-5:])),
        "token_pooling": torch.cat((pooling(1), small)),
        "multimodal_type": torch.tensor([IMAGE]),
    }


def collate(*rows: Row) -> Row:
    """Stack rows; ids, pooling and counts are padded with -1, frames with black ones."""
    empty = {
        "images": torch.zeros(0, 81, 12, dtype=torch.uint8),
        "token_pooling": torch.zeros(0, 9, dtype=torch.int64),
        "num_images": torch.zeros(0, dtype=torch.int64),
        "multimodal_type": torch.zeros(0, dtype=torch.int64),
    }
    keys = ["input_ids", *(empty if any("images" in r for r in rows) else ())]
    out = {}
    for key in keys:
        parts = [row[key] if key in row else empty[key] for row in rows]
        size = max(len(p) for p in parts)
        fill = 0 if key == "images" else -1
        padded = [p.new_full((size, *p.shape[1:]), fill) for p in parts]
        for target, part in zip(padded, parts, strict=True):
            target[: len(part)] = part
        out[key] = torch.stack(padded)
    return out
