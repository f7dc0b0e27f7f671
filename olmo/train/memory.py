"""Peak memory of one GPU, estimated from shapes alone; good to about a fifth.

Counted: sharded weights, gradients and Adam state, the weights that are gathered at one time (on
one GPU the copies in half precision that autocast keeps), what the forward pass keeps for the
backward pass, and the logits of one chunk. Attention is taken to keep queries, keys, values, its
output and the log-sum-exp of every query, but no mask. Not counted: the CUDA context, kernels'
workspaces and fragmentation, together some GiB.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from torch import nn

from olmo.models.lora import LAYERS, LoraConfig
from olmo.models.molmo2.molmo2 import Molmo2
from olmo.models.parallel import n_shards
from olmo.nn.image_vit import VitConfig
from olmo.nn.llm import LlmConfig
from olmo.nn.temporal_image_vit import TemporalVitConfig
from olmo.train.config import TrainConfig

GIB = 2**30
FLOAT, BFLOAT = 4, 2
"""Bytes of a number: weights between steps are float32, the rest follows the precision."""


@dataclass(frozen=True)
class Sizes:
    """Bytes of a number in products, and in the weights as a block sees them: float32 ones on one
    GPU, and with ``fsdp.precision=float``."""

    product: int
    weight: int

    @classmethod
    def of(cls, config: TrainConfig, n_gpus: int) -> Sizes:
        product = FLOAT if config.precision == "fp32" else BFLOAT
        gathered = n_gpus > 1 and config.fsdp.precision != "float"
        return cls(product, product if gathered else FLOAT)


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
        return float(sum(vars(self).values()))


def estimate_memory(config: TrainConfig, model: Molmo2, row: RowShape, n_gpus: int) -> Memory:
    """Memory of training ``model`` (on any device, also meta) with rows like ``row``."""
    shards = n_shards(n_gpus, config.fsdp.replicas)
    n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    n_frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    if config.lora is not None:
        n_trained += n_adapters(model, config.lora)
    frozen = BFLOAT if config.frozen_precision == "bf16" else FLOAT
    sizes = Sizes.of(config, n_gpus)
    largest = max(_numel(unit) for unit in _units(model))
    rows = config.device_train_microbatch_size
    vision = vision_activations(config, row, sizes)
    llm = llm_activations(config.model.llm, rows, row.tokens, sizes)
    # soft-max and gradient of a chunk, each in float32, beside the logits themselves
    logits = 3 * config.train.loss_chunk * config.model.llm.n_embeddings * FLOAT
    copies = sizes.product * n_trained if sizes.product < sizes.weight else 0.0
    return Memory(
        weights=(FLOAT * n_trained + frozen * n_frozen) / shards,
        gradients=FLOAT * n_trained / shards,
        optimizer=2 * config.optimizer.bits / 8 * n_trained / shards,
        # the unit at work, the one fetched ahead, and the gradients of the one at work
        gathered=copies if n_gpus == 1 else 3 * largest * sizes.weight,
        activations=rows * vision + llm,
        logits=logits,
    )


def most_rows(
    config: TrainConfig, model: Molmo2, row: RowShape, n_gpus: int, available: float
) -> int:
    """The largest micro-batch of rows like ``row`` for which ``available`` bytes of one GPU are
    enough; 0 if not even one is."""
    one, two = (
        estimate_memory(replace(config, device_train_microbatch_size=n), model, row, n_gpus).total
        for n in (1, 2)
    )
    return max(int((available - one) // (two - one)) + 1, 0)


def vision_activations(config: TrainConfig, row: RowShape, sizes: Sizes) -> float:
    """Bytes that the vision tower keeps for one row. Where the ViT is frozen, nothing is kept of
    the blocks before the scorer."""
    model, backbone = config.model, config.model.vision_backbone
    vit, n_blocks = backbone.vit, max(backbone.read_layers()) + 1
    tokens, slots = row.frames * vit.n_patches, model.mm_preprocessor.video.pooling_h**2
    full, share, scorer = n_blocks, 1.0, 0.0
    if isinstance(vit, TemporalVitConfig) and vit.prune:
        full = min(vit.prune_at + 2, n_blocks)
        share = 1.0 - model.budget.topk
        cells = tokens / slots
        scorer = cells * (3 * slots * vit.image_emb_dim + 5 * vit.image_mlp_dim)
    size, block = sizes.product, vit_block_bytes(vit, sizes)
    kept = size * vit.image_emb_dim if vit.activation_checkpointing else block
    trains = "vit" not in config.frozen or "vit" in config.adapted
    blocks = tokens * kept * (full * trains + (n_blocks - full) * share)
    one = tokens * block if vit.activation_checkpointing else 0.0
    wide = vit.image_emb_dim * len(backbone.vit_layers)
    connector = row.kept_cells * (
        slots * (wide + 2 * vit.image_emb_dim) + 3 * model.llm.mlp_hidden_size // 2
    )
    features = tokens * share * wide
    return blocks + one + size * (scorer + connector + features)


def llm_activations(llm: LlmConfig, rows: int, tokens: float, sizes: Sizes) -> float:
    """Bytes that the language model keeps for ``rows`` rows of ``tokens`` tokens."""
    block = llm_block_bytes(llm, sizes)
    if llm.activation_checkpoint:
        return rows * tokens * (llm.n_layers * sizes.weight * llm.d_model + block)
    return rows * tokens * llm.n_layers * block


def vit_block_bytes(vit: VitConfig, sizes: Sizes) -> float:
    """Bytes per token that one block keeps.

    With float32 weights a GPU's autocast computes both norms in float32, which keep their input so,
    and rounds the first one's output for each of the query, key and value projections, and keeps
    all three.
    """
    rounded = 1 if sizes.weight == sizes.product else 3
    in_products = (rounded + 1 + 4) * vit.image_emb_dim + 2 * vit.image_mlp_dim
    return 2 * sizes.weight * vit.image_emb_dim + sizes.product * in_products


def llm_block_bytes(llm: LlmConfig, sizes: Sizes) -> float:
    """As ``vit_block_bytes``. An RMS norm keeps its input as float32 and its result before the
    weight. What goes past the block has the type of the weights."""
    q, kv = llm.n_heads * llm.head_size, llm.kv_heads * llm.head_size
    size = sizes.product
    norms = 2 * (FLOAT + sizes.weight + size) * llm.d_model  # with the input of the next product
    head_norms = (q + kv) * (size if size == FLOAT else size + FLOAT)
    attention = size * ((q + 2 * kv) + (q + kv) + q) + FLOAT * llm.n_heads
    return norms + head_norms + attention + size * 2 * llm.mlp_hidden_size


def n_adapters(model: Molmo2, lora: LoraConfig) -> int:
    """Numbers in the adapters of a model that has none yet."""
    targets = [re.compile(LAYERS[group]) for group in lora.groups]
    return sum(
        lora.rank * (module.in_features + module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and any(t.fullmatch(name) for t in targets)
    )


def _units(model: Molmo2) -> list[nn.Module]:
    """What is gathered at one time."""
    vision, llm = model.vision_backbone, model.transformer
    units = [*vision.image_vit.transformer.resblocks, vision.image_projector, *llm.blocks, llm.wte]
    return units if model.config.llm.weight_tying else [*units, llm.ff_out]


def _numel(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
