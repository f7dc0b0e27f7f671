"""FLOPs of a forward pass, by stage, for any config, number of frames and share removed; and what
decoding takes: FLOPs, and the bytes that a step must read, by which it is bound.

A multiply-add counts as two. Norms, activations, soft-max and element-wise work are left out, as
in ``torch.utils.flop_counter``, which a test compares with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from olmo.nn.image_vit import VitConfig
from olmo.nn.llm import LlmConfig
from olmo.nn.temporal_image_vit import TemporalVitConfig
from olmo.nn.vision_backbone import VisionBackboneConfig

TRAINING = 3
"""A step costs this many forward passes: the backward pass counts twice. Recomputed activations
are no useful work and do not count."""

PEAK_FLOPS = {
    "B200": 2.25e15,
    "H200": 9.89e14,
    "H100": 9.89e14,
    "A100": 3.12e14,
    "L40S": 3.62e14,
    "A6000": 1.55e14,
    "4090": 1.65e14,
}
"""Dense bf16 FLOP/s by a part of the device name, as the makers state them."""
PEAK_BANDWIDTH = {"H200": 4.8e12, "H100 80GB HBM3": 3.35e12}
"""Bytes per second of the memory, by a part of the device name; the second card is the SXM one."""


def peak_of(table: Mapping[str, float], device: torch.device) -> float | None:
    """The entry of a table such as ``PEAK_FLOPS`` for ``device``, None if unknown."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((value for part, value in table.items() if part in name), None)


@dataclass(frozen=True)
class StageFlops:
    """Forward FLOPs of the stages for one video and its text."""

    vit: float
    scorer: float
    connector: float
    llm: float

    @property
    def total(self) -> float:
        return self.vit + self.scorer + self.connector + self.llm


def model_flops(
    backbone: VisionBackboneConfig,
    llm: LlmConfig,
    n_frames: int,
    n_text_tokens: int,
    n_logits: int = 1,
    pool: int = 3,
) -> StageFlops:
    """One video of ``n_frames`` frames with ``n_text_tokens`` other tokens in its row."""
    vit = backbone.vit
    budget, n_blocks = backbone.budget(pool, pool), max(backbone.read_layers()) + 1
    kept, total = budget.kept(n_frames), budget.total(n_frames)
    full_blocks, scorer, connected = n_blocks, 0.0, kept
    if isinstance(vit, TemporalVitConfig) and vit.prune:
        if vit.method.pooled:
            connected = total
        elif kept < total and vit.pruning_in_scorer:
            full_blocks = vit.prune_at + 1
        if kept < total and vit.method.learned:
            scorer = scorer_flops(vit, total, pool)
    n, n_kept = vit.n_patches, vit.n_patches * kept / total
    blocks = full_blocks * vit_block_flops(vit, n, n)
    if full_blocks < n_blocks:
        # survivors are spread unevenly over frames; their mean is taken for the attention term
        blocks += vit_block_flops(vit, n_kept, n)
        blocks += (n_blocks - full_blocks - 1) * vit_block_flops(vit, n_kept, n_kept)
    embed = 2.0 * n_frames * vit.n_patches * vit.patch_dim * vit.image_emb_dim
    connector = connected * connector_flops(backbone, llm, pool)
    return StageFlops(
        embed + n_frames * blocks, scorer, connector, llm_flops(llm, kept + n_text_tokens, n_logits)
    )


def vit_block_flops(vit: VitConfig, n_tokens: float, n_keys: float) -> float:
    """One ViT block on a frame: ``n_keys`` patches, ``n_tokens`` of which ask and go on."""
    e, mlp = vit.image_emb_dim, vit.image_mlp_dim
    linear = 2.0 * n_tokens * (2 * e * e + 2 * e * mlp) + 2.0 * n_keys * 2 * e * e
    return linear + 4.0 * n_tokens * n_keys * e


def scorer_flops(vit: VitConfig, n_cells: int, pool: int) -> float:
    """Scorer on ``n_cells`` cells: pooling attention (one query per cell) and MLP."""
    e, hidden, slots = vit.image_emb_dim, vit.image_mlp_dim, pool * pool
    pooling = 2.0 * e * e * (2 + 2 * slots) + 4.0 * slots * e
    mlp = 2.0 * (2 * e * hidden + hidden * hidden + hidden)
    return n_cells * (pooling + mlp)


def connector_flops(backbone: VisionBackboneConfig, llm: LlmConfig, pool: int) -> float:
    """Pooling attention and projector for one pooled token."""
    vit = backbone.vit
    e, slots = vit.image_emb_dim, pool * pool
    wide = e * len(backbone.vit_layers)
    pooling = 2.0 * (wide * e * (1 + 2 * slots) + e * e) + 4.0 * slots * e
    hidden = llm.mlp_hidden_size // 2
    return pooling + 2.0 * (2 * e * hidden + hidden * llm.d_model)


def llm_flops(llm: LlmConfig, n_tokens: int, n_logits: int = 1) -> float:
    """Forward pass over a row of ``n_tokens`` (attention over the full square, as computed
    under a mask) with logits at ``n_logits`` positions."""
    block = 2.0 * n_tokens * block_weights(llm)
    block += 4.0 * n_tokens * n_tokens * llm.n_heads * llm.head_size
    return llm.n_layers * block + 2.0 * n_logits * llm.d_model * llm.n_embeddings


def decode_flops(llm: LlmConfig, n_prompt: int, n_steps: int) -> float:
    """``n_steps`` tokens of one row, one at a time, behind a cache of ``n_prompt`` tokens."""
    n_keys = n_steps * n_prompt + n_steps * (n_steps + 1) / 2
    attention = 4.0 * n_keys * llm.n_layers * llm.n_heads * llm.head_size
    return 2.0 * n_steps * _decode_weights(llm) + attention


def decode_bytes(llm: LlmConfig, n_prompt: int, n_steps: int, n_rows: int, itemsize: int) -> float:
    """Bytes that the steps of ``decode_flops`` must read for ``n_rows`` rows: in every step all
    weights, once for all rows, and the keys and values of every earlier token and its own. A
    number takes ``itemsize`` bytes."""
    n_keys = n_rows * (n_steps * n_prompt + n_steps * (n_steps + 1) / 2)
    cache = 2.0 * n_keys * llm.n_layers * llm.kv_heads * llm.head_size
    return itemsize * (n_steps * _decode_weights(llm) + cache)


def _decode_weights(llm: LlmConfig) -> int:
    """Numbers in the matrices that a new token meets."""
    return llm.n_layers * block_weights(llm) + llm.d_model * llm.n_embeddings


def block_weights(llm: LlmConfig) -> int:
    """Numbers in the matrices of one block."""
    d, h = llm.d_model, llm.head_size
    q, kv = llm.n_heads * h, llm.kv_heads * h
    return d * (q + 2 * kv) + q * d + d * llm.mlp_hidden_size + llm.mlp_hidden_size // 2 * d
