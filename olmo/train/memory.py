"""Peak memory of one GPU, estimated from shapes alone; good to about a fifth.

Counted: sharded weights, gradients and Adam state, the weights that are gathered at one time,
what the forward pass keeps for the backward pass, and the logits of one chunk. Not counted: the
CUDA context, kernels' workspaces and fragmentation, together some GiB.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import nn

from olmo.models.molmo2.molmo2 import Molmo2, Molmo2Config
from olmo.models.parallel import n_shards
from olmo.nn.image_vit import VitConfig
from olmo.nn.llm import LlmConfig
from olmo.nn.temporal_image_vit import TemporalVitConfig
from olmo.train.config import TrainConfig

GIB = 2**30
FLOAT, BFLOAT = 4, 2
"""Bytes of a number: weights between steps are float32, the rest follows the precision."""


@dataclass(frozen=True)
class RowShape:
    """What one row of a batch holds: video frames, visual tokens left, all tokens left."""

    frames: float
    kept_cells: float
    tokens: float


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU."""

    weights: float
    gradients: float
    optimizer: float
    gathered: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        return sum(float(getattr(self, f.name)) for f in fields(self))


def estimate_memory(config: TrainConfig, model: Molmo2, row: RowShape, n_gpus: int) -> Memory:
    """Memory of training ``model`` (on any device, also meta) with rows like ``row``."""
    shards = n_shards(n_gpus, config.fsdp.replicas)
    n_all = sum(p.numel() for p in model.parameters())
    n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    size = FLOAT if config.precision == "fp32" else BFLOAT
    largest = max(_numel(unit) for unit in _units(model))
    rows = config.device_train_microbatch_size
    vision = vision_activations(config.model, row, size)
    llm = llm_activations(config.model.llm, rows, row.tokens, size)
    # soft-max and gradient of a chunk, each in float32, beside the logits themselves
    logits = 3 * config.train.loss_chunk * config.model.llm.n_embeddings * FLOAT
    return Memory(
        weights=FLOAT * n_all / shards,
        gradients=FLOAT * n_trained / shards,
        optimizer=2 * FLOAT * n_trained / shards,
        # the unit at work, the one fetched ahead, and the gradients of the one at work
        gathered=0.0 if n_gpus == 1 else 3 * largest * size,
        activations=rows * vision + llm,
        logits=logits,
    )


def vision_activations(config: Molmo2Config, row: RowShape, size: int) -> float:
    """Bytes that the vision tower keeps for one row."""
    backbone, vit = config.vision_backbone, config.vision_backbone.vit
    n_blocks = max(backbone.read_layers()) + 1
    tokens, slots = row.frames * vit.n_patches, config.mm_preprocessor.video.pooling_h**2
    full, share, scorer = n_blocks, 1.0, 0.0
    if isinstance(vit, TemporalVitConfig) and vit.prune:
        full = min(vit.prune_at + 2, n_blocks)
        share = 1.0 - config.removed_share
        cells = tokens / slots
        scorer = cells * (3 * slots * vit.image_emb_dim + 5 * vit.image_mlp_dim)
    block = _vit_block(vit)
    kept = vit.image_emb_dim if vit.activation_checkpointing else block
    blocks = tokens * kept * (full + (n_blocks - full) * share)
    one = tokens * block if vit.activation_checkpointing else 0.0
    wide = vit.image_emb_dim * len(backbone.vit_layers)
    connector = row.kept_cells * (
        slots * (wide + 2 * vit.image_emb_dim) + 3 * config.llm.mlp_hidden_size // 2
    )
    features = tokens * share * wide
    return size * (blocks + one + scorer + connector + features)


def llm_activations(llm: LlmConfig, rows: int, tokens: float, size: int) -> float:
    """Bytes that the language model keeps for ``rows`` rows of ``tokens`` tokens."""
    q, kv = llm.n_heads * llm.head_size, llm.kv_heads * llm.head_size
    inside = 5 * llm.d_model + 2 * (q + 2 * kv) + q + 2 * llm.mlp_hidden_size
    if llm.activation_checkpoint:
        per_token = llm.n_layers * llm.d_model + inside
    else:
        per_token = llm.n_layers * inside
    mask = tokens * tokens * (1 + size)
    return rows * (tokens * per_token * size + mask)


def _vit_block(vit: VitConfig) -> float:
    """Numbers per token that one block keeps: norms, q, k, v, attention, MLP."""
    return 7 * vit.image_emb_dim + 2 * vit.image_mlp_dim


def _units(model: Molmo2) -> list[nn.Module]:
    """What is gathered at one time."""
    vision, llm = model.vision_backbone, model.transformer
    units = [*vision.image_vit.transformer.resblocks, vision.image_projector, *llm.blocks, llm.wte]
    return units if model.config.llm.weight_tying else [*units, llm.ff_out]


def _numel(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
