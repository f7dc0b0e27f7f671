"""Vision transformer of the SigLIP family.

Features: pre-norm blocks, learned positions, no CLS token, no final norm, only the blocks that
the connector reads are built.

Legend: F frames or crops, N patches, E width, H heads, K tokens of a flat row.
State-dict names are those of published Molmo2 checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from olmo.config import Config, FilePath
from olmo.nn.attention import attention, segment_attention
from olmo.nn.fused import add_layer_norm, window_attention
from olmo.nn.ranges import HEADS, LAYERS, PIXELS, POSITIVE, PROBABILITY, WIDTH
from olmo.nn.recompute import recomputed
from olmo.nn.token_layout import TokenLayout


@dataclass
class VitConfig(Config):
    """SigLIP ViT. The defaults are SigLIP2 so400m at 378 pixels, as in the released models."""

    image_default_input_size: tuple[int, int] = (378, 378)
    """Height and width of a frame or crop, in pixels."""
    image_patch_size: int = 14
    image_emb_dim: int = 1152
    image_num_heads: int = 16
    image_num_key_value_heads: int = 16
    image_num_layers: int = 27
    image_head_dim: int = 72
    image_mlp_dim: int = 4304
    image_num_pos: int = 729
    image_norm_eps: float = 1e-6
    attention_dropout: float = 0.0
    residual_dropout: float = 0.0
    initializer_range: float = 0.02
    float32_attention: bool = True
    sdpa_backend: Literal["all", "math", "efficient", "cudnn", "flash"] = "all"
    """Kernels allowed for the pooling attention on a GPU."""
    activation_checkpointing: bool = True
    init_path: FilePath | None = None

    def __post_init__(self) -> None:
        widths = ("image_emb_dim", "image_head_dim", "image_mlp_dim", "image_num_pos")
        self.in_range(WIDTH, *widths)
        self.in_range(HEADS, "image_num_heads", "image_num_key_value_heads")
        self.in_range(LAYERS, "image_num_layers")
        self.in_range(PIXELS, "image_default_input_size")
        self.in_range(f"[1, {min(self.image_default_input_size)}]", "image_patch_size")
        self.in_range(POSITIVE, "image_norm_eps", "initializer_range")
        self.in_range(PROBABILITY, "attention_dropout", "residual_dropout")
        if self.image_num_heads * self.image_head_dim != self.image_emb_dim:
            raise ValueError(
                f"image_num_heads ({self.image_num_heads}) * image_head_dim "
                f"({self.image_head_dim}) must equal image_emb_dim ({self.image_emb_dim})"
            )
        if self.image_num_key_value_heads != self.image_num_heads:
            raise ValueError(
                f"image_num_key_value_heads ({self.image_num_key_value_heads}) must equal "
                f"image_num_heads ({self.image_num_heads})"
            )
        hp, wp = self.image_num_patch
        if hp * wp != self.image_num_pos:
            raise ValueError(
                f"image_num_pos ({self.image_num_pos}) must equal the patch grid {hp} x {wp}"
            )

    @property
    def image_num_patch(self) -> tuple[int, int]:
        """Patch grid (rows, columns)."""
        h, w = self.image_default_input_size
        return h // self.image_patch_size, w // self.image_patch_size

    @property
    def draws(self) -> bool:
        """Whether a forward pass of training draws random numbers."""
        return self.attention_dropout > 0 or self.residual_dropout > 0

    @property
    def n_patches(self) -> int:
        """Patches per frame."""
        return self.image_num_patch[0] * self.image_num_patch[1]

    @property
    def patch_dim(self) -> int:
        """Values per patch (RGB)."""
        return 3 * self.image_patch_size**2


class ViTAttention(nn.Module):
    """Multi-head attention with biases; ``input_dim`` differs from the width in the connector.

    Both kinds of dropout are here, so that they act in ViT blocks, connector and scorer alike.
    """

    def __init__(self, config: VitConfig, input_dim: int | None = None):
        super().__init__()
        self.config = config
        width, d_in = config.image_emb_dim, input_dim or config.image_emb_dim
        self.wq = nn.Linear(d_in, width)
        self.wk = nn.Linear(d_in, width)
        self.wv = nn.Linear(d_in, width)
        self.wo = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.residual_dropout)

    def reset_parameters(self) -> None:
        for layer in (self.wq, self.wk, self.wv, self.wo):
            nn.init.normal_(layer.weight, std=self.config.initializer_range)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        x_q: Tensor,
        x_kv: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        key_bias: Tensor | None = None,
        backend: str = "all",
    ) -> Tensor:
        """``x_q`` [B, Sq, D_in], ``x_kv`` [B, Sk, D_in] (default ``x_q``) -> [B, Sq, E].

        ``mask`` bool [B, Sq or 1, Sk]; ``key_bias`` [B, Sk] is added to the logits.
        """
        x_kv = x_q if x_kv is None else x_kv
        q, k, v = (y.transpose(1, 2) for y in self._heads(x_q, x_kv))
        mask = None if mask is None else mask[:, None]
        plain = q.is_cuda and backend == "all" and not self._dropout_p
        if plain and mask is not None and q.shape[2] == 1:
            out = window_attention(q, k, v, mask)
        else:
            out = attention(
                q,
                k,
                v,
                mask=mask,
                key_bias=key_bias,
                dropout_p=self._dropout_p,
                float32=self.config.float32_attention,
                backend=backend,
            )
        return self._project(out.transpose(1, 2).flatten(2))

    def forward_flat(
        self, x: Tensor, layout: TokenLayout, key_bias: Tensor | None = None
    ) -> Tensor:
        """Tokens of a flat row attend inside their segment, ``x`` [K, E] -> [K, E]; or, given
        whole frames ``x`` [F, N, E], to all patches of their frame under ``key_bias`` [F, N]."""
        x_q = x if x.dim() == 2 else layout.gather(x)
        q, k, v = self._heads(x_q, x)
        return segment_attention(
            q,
            k,
            v,
            layout,
            key_bias=key_bias,
            dropout_p=self._dropout_p,
            float32=self.config.float32_attention,
            project=self._project,
        )

    @property
    def _dropout_p(self) -> float:
        return self.config.attention_dropout if self.training else 0.0

    def _project(self, x: Tensor) -> Tensor:
        return self.dropout(self.wo(x))

    def _heads(self, x_q: Tensor, x_kv: Tensor) -> list[Tensor]:
        """Queries, keys and values, [..., H, head dim] each."""
        shape = (self.config.image_num_heads, self.config.image_head_dim)
        return [y.unflatten(-1, shape) for y in (self.wq(x_q), self.wk(x_kv), self.wv(x_kv))]


class ViTMLP(nn.Module):
    """Two linear layers with GELU (tanh form)."""

    def __init__(self, config: VitConfig):
        super().__init__()
        self.w1 = nn.Linear(config.image_emb_dim, config.image_mlp_dim)
        self.w2 = nn.Linear(config.image_mlp_dim, config.image_emb_dim)

    def reset_parameters(self) -> None:
        for layer in (self.w1, self.w2):
            init_fan_in(layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(nn.functional.gelu(self.w1(x), approximate="tanh"))


class LayerNorm(nn.LayerNorm):
    """In the type of its input and weights, if they share one: the kernel computes in float32, and
    autocast would only add the way there and back."""

    def forward(  # type: ignore[override]
        self, x: Tensor, y: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Norm of ``x``; with ``y`` the sum of both, and its norm."""
        if x.dtype != self.weight.dtype:
            x = x if y is None else x + y
            out = super().forward(x)
            return out if y is None else (x, out)
        if y is not None:
            return add_layer_norm(x, y, self.weight, self.bias, self.eps)
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x)


class ViTBlock(nn.Module):
    """Pre-norm block on whole frames [F, N, E], or on a flat row of tokens [K, E].

    Whole frames together with a ``layout`` give the flat row: all patches are keys and values, but
    only the layout's tokens ask and go on. What the others would become is never computed.
    """

    def __init__(self, config: VitConfig):
        super().__init__()
        eps = config.image_norm_eps
        self.attention = ViTAttention(config)
        self.feed_forward = ViTMLP(config)
        self.attention_norm = LayerNorm(config.image_emb_dim, eps=eps)
        self.ffn_norm = LayerNorm(config.image_emb_dim, eps=eps)

    def reset_parameters(self) -> None:
        for part in (self.attention, self.feed_forward, self.attention_norm, self.ffn_norm):
            part.reset_parameters()

    def forward(
        self, x: Tensor, layout: TokenLayout | None = None, key_bias: Tensor | None = None
    ) -> Tensor:
        if layout is None:
            y = self.attention(self.attention_norm(x), key_bias=key_bias)
        else:
            y = self.attention.forward_flat(self.attention_norm(x), layout, key_bias)
            x = x if x.dim() == 2 else layout.gather(x)
        x, y = self.ffn_norm(x, y)
        return x + self.feed_forward(y)


class BlockStack(nn.Module):
    """Holder of the blocks; gives the state dict its ``transformer.resblocks`` prefix."""

    def __init__(self, config: VitConfig, n_layers: int):
        super().__init__()
        self.resblocks = nn.ModuleList([ViTBlock(config) for _ in range(n_layers)])


class VisionTransformer(nn.Module):
    """Dense ViT: every frame by itself, all patches in every block."""

    def __init__(self, config: VitConfig, n_layers: int):
        super().__init__()
        if not 0 < n_layers <= config.image_num_layers:
            raise ValueError(f"{n_layers} ViT blocks asked for, of {config.image_num_layers}")
        self.config = config
        self.positional_embedding = nn.Parameter(
            torch.empty(config.image_num_pos, config.image_emb_dim)
        )
        self.patch_embedding = nn.Linear(config.patch_dim, config.image_emb_dim)
        self.transformer = BlockStack(config, n_layers)

    @property
    def blocks(self) -> list[ViTBlock]:
        return cast(list[ViTBlock], list(self.transformer.resblocks))

    @property
    def n_layers(self) -> int:
        return len(self.transformer.resblocks)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.positional_embedding, std=self.config.image_emb_dim**-0.5)
        nn.init.normal_(self.patch_embedding.weight, std=0.02)
        nn.init.zeros_(self.patch_embedding.bias)
        for block in self.blocks:
            block.reset_parameters()

    def embed(self, images: Tensor) -> Tensor:
        """Pixels [F, N, patch_dim], uint8 or float in [-1, 1] -> [F, N, E] with positions added."""
        x = recomputed(self._embed_patches, images)
        return x + self.positional_embedding.to(x.dtype)

    def _embed_patches(self, images: Tensor) -> Tensor:
        """Recomputed, so that the backward pass keeps bytes and no floats."""
        return self.patch_embedding(normalize_pixels(images).to(self.patch_embedding.weight.dtype))

    def forward(self, images: Tensor, layers: tuple[int, ...]) -> list[Tensor]:
        """Outputs [F, N, E] of the blocks ``layers`` (0-based), in that order, for the pixels
        ``images`` [F, N, patch_dim], uint8 or float in [-1, 1]."""
        _, found = self.first_blocks(images, self.n_layers, layers)
        return [found[i] for i in layers]

    def first_blocks(
        self, images: Tensor, n_blocks: int, layers: tuple[int, ...] = ()
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Output of the last of the first ``n_blocks``, and by number those of ``layers``."""
        x, found = self.embed(images), {}
        for i, block in enumerate(self.blocks[:n_blocks]):
            x = block(x)
            if i in layers:
                found[i] = x
        return x, found


PIXEL_SLACK = 0.02
"""How far rounding and resizing may carry a pixel out of [-1, 1]."""


def normalize_pixels(images: Tensor) -> Tensor:
    """Pixels to [-1, 1]: whole numbers by ``v / 255 * 2 - 1``, floats must lie there already.

    ``ValueError`` for values of another range: the model would answer, but to noise. uint8 cannot
    have them, so nothing is looked at there.
    """
    if images.dtype == torch.uint8:
        return images.float().div_(255).mul_(2).sub_(1)
    is_float = images.is_floating_point()
    if images.dtype == torch.bool or images.is_complex():
        raise ValueError(f"pixels must be uint8, or float in [-1, 1], got {images.dtype}")
    if images.numel():
        low, high = (float(v) for v in images.aminmax())
        least, most = (-1 - PIXEL_SLACK, 1 + PIXEL_SLACK) if is_float else (0, 255)
        if not (least <= low and high <= most):  # not a number is outside as well
            raise ValueError(
                f"{images.dtype} pixels from {low:g} to {high:g}, expected "
                + ("-1 to 1; give pixels from 0 to 255 as uint8" if is_float else "0 to 255")
            )
    return images if is_float else normalize_pixels(images.to(torch.uint8))


def init_fan_in(layer: nn.Linear) -> None:
    """Truncated normal with std ``1 / sqrt(fan_in)``, cut at +-2; bias 0."""
    nn.init.trunc_normal_(layer.weight, std=layer.in_features**-0.5, a=-2.0, b=2.0)
    nn.init.zeros_(layer.bias)
