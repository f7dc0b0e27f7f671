"""Decoder-only language model with Qwen3 or OLMo3 blocks.

Features: grouped-query attention, q/k RMSNorm (per head or over the projection), pre- or
post-norm, RoPE (YaRN on listed layers), SwiGLU, tied or untied head, a second table for the
visual tokens. Legend: B rows, S tokens, D width, H query and KV key heads, h head dim, V vocab.
State-dict names are those of published Molmo2 checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from torch import Tensor, nn

from olmo.config import Config
from olmo.nn.fused import add_rms_norm, gated, rms_norm, rotated, rotated_norm
from olmo.nn.kv_cache import KVCache
from olmo.nn.llm_mask import Mask
from olmo.nn.ranges import (
    HEADS,
    LAYERS,
    POSITIONS,
    POSITIVE,
    PROBABILITY,
    ROWS,
    WIDTH,
)
from olmo.nn.rope import YarnScaling, rope_tables
from olmo.tokenizer import MolmoTokenizer, TokenizerConfig, special_token_ids

Recomputed = Literal[
    "whole_layer",
    "one_in_two",
    "one_in_three",
    "one_in_four",
    "two_in_three",
    "three_in_four",
    "fine_grained",
]
HeadFunction = Callable[[Tensor, Tensor], Tensor]
"""Final states [..., D] and the head's weight [V, D] to a result; ``linear`` gives logits."""


@dataclass
class LlmConfig(Config):
    """Language model. Key names follow the native ``config.yaml``."""

    d_model: int = 768
    n_heads: int = 12
    n_kv_heads: int | None = None
    head_dim: int | None = None
    n_layers: int = 12
    mlp_hidden_size: int = 3072
    """The fused width: twice the intermediate size."""
    rope_theta: float = 10000.0
    rope_type: Literal["default", "yarn"] = "default"
    rope_factor: float | None = None
    rope_attention_factor: float | None = None
    rope_beta_fast: float | None = None
    rope_beta_slow: float | None = None
    rope_original_max_position_embeddings: int | None = None
    full_attention_layers: tuple[int, ...] | None = None
    """Layers that get ``rope_type``; the others get plain RoPE. None: all layers."""
    sliding_attention_rope_scaling: bool = False
    """Old flag that inverts ``full_attention_layers``."""
    attention_layer_norm_type: Literal["qwen3", "olmo"] = "qwen3"
    """``qwen3``: q/k norm per head; ``olmo``: over the whole projection."""
    norm_after: bool = False
    """Norm the output of a sublayer (OLMo3) instead of its input (Qwen3)."""
    layer_norm_eps: float = 1e-6
    attention_dropout: float = 0.0
    residual_dropout: float = 0.0
    embedding_dropout: float = 0.0
    max_sequence_length: int = 4096
    """Position ids must be smaller."""
    vocab_size: int = 50257
    """Where the ids of the visual tokens start."""
    embedding_size: int | None = None
    """Rows of the main table; None: ``vocab_size``."""
    additional_vocab_size: int = 128
    fix_pad_tokenizer: bool = False
    """The visual ids start at ``embedding_size`` instead (OLMo3)."""
    weight_tying: bool = True
    initializer_range: float = 0.02
    new_embedding_init_range: float = 0.02
    activation_checkpoint: Recomputed | None = "whole_layer"
    """Any value recomputes every block in the backward pass of training; None keeps all of it."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)

    def __post_init__(self) -> None:
        self.in_range(WIDTH, "d_model", "mlp_hidden_size", "head_dim")
        self.in_range(HEADS, "n_heads", "n_kv_heads")
        self.in_range(ROWS, "vocab_size", "embedding_size", "additional_vocab_size")
        self.in_range(LAYERS, "n_layers")
        lengths = ("max_sequence_length", "rope_original_max_position_embeddings")
        self.in_range(POSITIONS, *lengths)
        rope = ("theta", "factor", "attention_factor", "beta_fast", "beta_slow")
        self.in_range(POSITIVE, *(f"rope_{name}" for name in rope), "layer_norm_eps")
        self.in_range(POSITIVE, "initializer_range", "new_embedding_init_range")
        self.in_range(PROBABILITY, "attention_dropout", "residual_dropout", "embedding_dropout")
        if self.head_dim is None and self.d_model % self.n_heads:
            raise ValueError(f"d_model {self.d_model} is not divisible by n_heads {self.n_heads}")
        if self.head_size % 2 or self.mlp_hidden_size % 2:
            raise ValueError(
                f"the head's size {self.head_size} and mlp_hidden_size {self.mlp_hidden_size} "
                "must be even"
            )
        last_id = max(self.special_ids().values())
        if last_id >= self.n_embeddings + self.additional_vocab_size:
            raise ValueError(
                f"vocab_size {self.vocab_size}, embedding_size {self.embedding_size} and "
                f"additional_vocab_size {self.additional_vocab_size} leave no room for the visual "
                f"tokens, whose last id is {last_id}"
            )
        layers = self.full_attention_layers or ()
        if any(not 0 <= i < self.n_layers for i in layers):
            raise ValueError(f"full_attention_layers {layers} do not fit {self.n_layers} layers")
        if self.n_heads % self.kv_heads:
            raise ValueError(
                f"n_heads {self.n_heads} is not divisible by n_kv_heads {self.kv_heads}"
            )
        if self.rope_type == "yarn" and not (
            self.rope_factor and self.rope_original_max_position_embeddings
        ):
            raise ValueError(
                "rope_type 'yarn' needs rope_factor and rope_original_max_position_embeddings"
            )

    @property
    def kv_heads(self) -> int:
        return self.n_kv_heads or self.n_heads

    @property
    def head_size(self) -> int:
        return self.head_dim or self.d_model // self.n_heads

    @property
    def n_embeddings(self) -> int:
        return self.embedding_size or self.vocab_size

    @property
    def visual_token_base(self) -> int:
        """Id of the first visual token."""
        return self.n_embeddings if self.fix_pad_tokenizer else self.vocab_size

    def special_ids(self) -> dict[str, int]:
        return special_token_ids(self.visual_token_base)

    def build_tokenizer(self) -> MolmoTokenizer:
        return self.tokenizer.build(self.visual_token_base)

    def yarn_of_layer(self, layer: int) -> YarnScaling | None:
        """RoPE scaling of one layer, None for plain RoPE."""
        listed = self.full_attention_layers is None or layer in self.full_attention_layers
        if self.sliding_attention_rope_scaling:
            listed = not listed
        if self.rope_type != "yarn" or not listed:
            return None
        assert self.rope_factor and self.rope_original_max_position_embeddings
        return YarnScaling(
            self.rope_factor,
            self.rope_original_max_position_embeddings,
            self.rope_beta_fast or 32.0,
            self.rope_beta_slow or 1.0,
            self.rope_attention_factor,
        )


class RMSNorm(nn.Module):
    """RMS norm in float32, cast back, then scaled by the weight."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(size))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Norm of ``x``; with ``y`` the sum of both, and its norm."""
        if y is None:
            return rms_norm(x, self.weight, self.eps)
        return add_rms_norm(x, y, self.weight, self.eps)


class Embedding(nn.Module):
    """Text table [V, D] and visual-token table; also the head of a tied model."""

    def __init__(self, config: LlmConfig):
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(torch.empty(config.n_embeddings, config.d_model))
        self.new_embedding = nn.Parameter(torch.empty(config.additional_vocab_size, config.d_model))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.embedding, std=self.config.initializer_range)
        nn.init.normal_(self.new_embedding, std=self.config.new_embedding_init_range)

    def forward(self, x: Tensor, head: HeadFunction | None = None) -> Tensor:
        """Ids [B, S] -> [B, S, D]; with ``head`` states [..., D] -> its result.

        Both go through ``forward``, so that a sharded table is gathered for either.
        """
        if head is not None:
            return head(x, self.embedding)
        n = self.embedding.shape[0]
        text = nn.functional.embedding(x.clamp(max=n - 1), self.embedding)
        visual = nn.functional.embedding((x - n).clamp(min=0), self.new_embedding)
        return torch.where((x >= n)[..., None], visual, text)


class OutputHead(nn.Linear):
    """Head of an untied model; a ``head`` function sees its gathered weight."""

    def forward(self, input: Tensor, head: HeadFunction = nn.functional.linear) -> Tensor:
        return head(input, self.weight)


class LlmBlock(nn.Module):
    """One decoder block."""

    def __init__(self, config: LlmConfig, layer: int):
        super().__init__()
        self.config, self.layer = config, layer
        d, h, eps = config.d_model, config.head_size, config.layer_norm_eps
        q_size, kv_size = config.n_heads * h, config.kv_heads * h
        self.split = (q_size, kv_size, kv_size)
        self.att_proj = nn.Linear(d, sum(self.split), bias=False)
        self.attn_out = nn.Linear(q_size, d, bias=False)
        self.ff_proj = nn.Linear(d, config.mlp_hidden_size, bias=False)
        self.ff_out = nn.Linear(config.mlp_hidden_size // 2, d, bias=False)
        self.attn_norm = RMSNorm(d, eps)
        self.ff_norm = RMSNorm(d, eps)
        self.per_head_norm = config.attention_layer_norm_type == "qwen3"
        self.q_norm = RMSNorm(h if self.per_head_norm else q_size, eps)
        self.k_norm = RMSNorm(h if self.per_head_norm else kv_size, eps)
        self.dropout = nn.Dropout(config.residual_dropout)

    def reset_parameters(self) -> None:
        std = self.config.initializer_range
        for layer in (self.att_proj, self.attn_out, self.ff_proj):
            nn.init.normal_(layer.weight, std=std)
        nn.init.normal_(self.ff_out.weight, std=std / (2 * self.config.n_layers) ** 0.5)
        for norm in (self.attn_norm, self.ff_norm, self.q_norm, self.k_norm):
            norm.reset_parameters()

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Mask, cache: KVCache | None = None
    ) -> Tensor:
        """x [B, S, D]; ``mask`` says which keys each token sees, those of ``cache`` included."""
        if self.config.norm_after:
            x = x + self.dropout(self.attn_norm(self.attend(x, rope, mask, cache)))
            return x + self.dropout(self.ff_norm(self.feed_forward(x)))
        y = self.dropout(self.attend(self.attn_norm(x), rope, mask, cache))
        x, y = self.ff_norm(x, y)
        return x + self.dropout(self.feed_forward(y))

    def attend(
        self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Mask, cache: KVCache | None
    ) -> Tensor:
        qk, v = self.att_proj(x).split((sum(self.split[:2]), self.split[2]), -1)
        if not self.per_head_norm:
            q, k = qk.split(self.split[:2], -1)
            qk = torch.cat((self.q_norm(q), self.k_norm(k)), -1)
        qk, v = (t.unflatten(-1, (-1, self.config.head_size)) for t in (qk, v))
        heads = (self.config.n_heads, self.config.kv_heads)
        if self.per_head_norm:
            weights = (self.q_norm.weight, self.k_norm.weight)
            qk = rotated_norm(qk, *weights, heads, self.q_norm.eps, *rope)
        else:
            qk = rotated(qk, *rope)
        q, k = qk.split(heads, -2)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)
        dropout = self.config.attention_dropout if self.training else 0.0
        return self.attn_out(mask.attend(q, k, v, dropout).flatten(2))

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.ff_out(gated(self.ff_proj(x)))


class Transformer(nn.Module):
    """Embedding, blocks, final norm and head; the state dict's ``transformer.`` part."""

    def __init__(self, config: LlmConfig):
        super().__init__()
        self.config = config
        self.wte = Embedding(config)
        self.blocks = nn.ModuleList([LlmBlock(config, i) for i in range(config.n_layers)])
        self.ln_f = RMSNorm(config.d_model, config.layer_norm_eps)
        if not config.weight_tying:
            self.ff_out = OutputHead(config.d_model, config.n_embeddings, bias=False)

    def reset_parameters(self) -> None:
        self.wte.reset_parameters()
        for block in self.blocks:
            cast(LlmBlock, block).reset_parameters()
        self.ln_f.reset_parameters()
        if not self.config.weight_tying:
            nn.init.normal_(self.ff_out.weight, std=self.config.initializer_range)

    def forward(
        self, x: Tensor, position_ids: Tensor, mask: Mask, cache: KVCache | None = None
    ) -> Tensor:
        """Embedded tokens [B, S, D] -> states after the final norm [B, S, D]."""
        ropes = {}
        for layer, block in enumerate(self.blocks):
            yarn = self.config.yarn_of_layer(layer)
            if yarn not in ropes:
                ropes[yarn] = rope_tables(
                    position_ids, self.config.head_size, self.config.rope_theta, yarn
                )
            x = block(x, ropes[yarn], mask, cache)
        return self.ln_f(x)

    def logits(self, x: Tensor, head: HeadFunction = nn.functional.linear) -> Tensor:
        """States [..., D] -> logits [..., V], or whatever ``head`` makes of states and weight.

        The visual tokens cannot be predicted.
        """
        if self.config.weight_tying:
            return self.wte(x, head=head)
        return self.ff_out(x, head=head)
