"""Slow, obvious forms of what pruning computes: nothing leaves, removed items are masked keys.

Legend: F frames, N patches, M cells, K survivors, S tokens of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from olmo.benchmark.work import Inputs
from olmo.models.temporal_video_olmo.temporal_video_olmo import TemporalVideoOlmo
from olmo.nn.attention import force_masks
from olmo.nn.image_vit import ViTBlock
from olmo.nn.llm_mask import DenseMask, TokenMask
from olmo.nn.temporal_image_vit import TemporalVisionTransformer
from olmo.nn.text_row import POSITION_RULES
from olmo.nn.token_layout import CellGrid, FrameTable, first_fit_decreasing
from olmo.nn.token_pruning import select_cells
from olmo.nn.token_scorer import attention_bias


def masked_vit(model: TemporalVideoOlmo, sample: Inputs) -> Tensor:
    """Whole frames in every block; removed patches are masked keys. Features [K, L * E] of the
    survivors, frame by frame in raster order."""
    backbone, vit = model.vision_backbone, model.vision_backbone.image_vit
    images = sample.images.flatten(0, 1)
    grid = vit.grid(images.device)
    table = backbone.frames(sample.num_images, sample.multimodal_type, sample.n_frames)
    table = table.to(images.device)
    x, found = vit.embed(images), []
    for block in vit.blocks[: vit.config.prune_at + 1]:
        x = block(x)
        found.append(x)
    keep, bias = _score(vit, x, images, table, grid)
    with force_masks():
        x = vit.blocks[vit.config.prune_at + 1](x, key_bias=bias)
    found.append(x)
    present = present_patches(vit, keep, grid)
    for block in vit.blocks[vit.config.prune_at + 2 :]:
        x = masked_block(block, x, present)
        found.append(x)
    return torch.cat([found[i] for i in backbone.layers], -1)[grid.spread(keep)]


def _score(
    vit: TemporalVisionTransformer, x: Tensor, images: Tensor, table: FrameTable, grid: CellGrid
) -> tuple[Tensor, Tensor | None]:
    """Kept cells [F, M] and the bias of the next block [F, N]; all frames are of videos."""
    scores = vit.method_scores(vit.score_inputs(x, images, table))
    keep = select_cells(scores, table, vit.config.method.spreads_ties)
    if not vit.config.method.learned:
        return keep, None
    per_row = vit.config.bias_rescale == "row"
    low = vit.config.rescale_bias_min
    return keep, attention_bias(scores, table.has_previous, grid, low, per_row)


def present_patches(vit: TemporalVisionTransformer, keep_FM: Tensor, grid: CellGrid) -> Tensor:
    """bool [F, N]: the survivors, and with ``refill`` all of a frame that is alone in its bin."""
    present = grid.spread(keep_FM)
    if vit.config.refill:
        present = present.clone()
        for members in first_fit_decreasing(present.sum(1).tolist(), present.shape[1]):
            if len(members) == 1:
                present[members[0]] = True
    return present


def masked_block(block: ViTBlock, x_FNE: Tensor, present_FN: Tensor) -> Tensor:
    """A ViT block in which only the patches ``present_FN`` are keys; a frame without any, of
    which nothing is read, sees itself."""
    keys = present_FN | ~present_FN.any(1, keepdim=True)
    y = block.attention(block.attention_norm(x_FNE), mask=keys[:, None])
    x = x_FNE + y
    return x + block.feed_forward(block.ffn_norm(x))


def masked_llm(model: TemporalVideoOlmo, sample: Inputs, kept: Tensor, features: Tensor) -> Tensor:
    """Last states [tokens, D] of the tokens ``kept`` (bool [B, S]) of whole rows in which the
    others are masked keys. ``features`` [K, D] belong to the kept ``<im_patch>`` tokens."""
    ids, mode = sample.input_ids, model.config.bi_directional_attn
    x = model.transformer.wte(ids)
    x[kept & (ids == model.special_ids["<im_patch>"])] += features.to(x.dtype)
    mask = TokenMask.build(ids, model.special_ids, mode).dense() & kept[:, None, None]
    mask |= torch.eye(ids.shape[1], dtype=torch.bool, device=ids.device)
    place = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    rule = POSITION_RULES[model.config.pruned_position_ids]
    positions = rule(place, (~kept).cumsum(1)).clamp(min=0)
    hidden: Tensor = model.transformer(x, positions, DenseMask(mask))
    return hidden[kept]
