"""ViT + connector: frames in, one feature vector per pooled token out (dense form).

Legend: B rows, T frame slots per row, N patches per frame, P pooled tokens (``token_pooling``
rows) per row, S slots of a pooling window, L read ViT layers, E ViT width, D LLM width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from olmo.config import Config
from olmo.nn.connector import ImageProjector, pool_windows
from olmo.nn.image_vit import VisionTransformer, ViTAttention, VitConfig
from olmo.nn.llm import LlmConfig
from olmo.nn.ranges import PROBABILITY
from olmo.nn.token_layout import real_slots
from olmo.nn.transfer import built_on, to_device, to_host
from olmo.patch_grid import n_cells
from olmo.token_budget import Budget


@dataclass
class VisionBackboneConfig(Config):
    """ViT, connector and which ViT layers feed it."""

    vit: VitConfig = field(default_factory=VitConfig)
    vit_layers: tuple[int, ...] = (-3, -9)
    """Layers whose outputs are concatenated, in this order; negative ones count from
    ``vit.image_num_layers``."""
    pooling_attention_mask: bool = True
    image_feature_dropout: float = 0.0
    connector_activation_checkpointing: bool = True
    compile_vit: Literal["blocks"] | None = None
    """``blocks`` compiles every ViT block in training."""
    compile_connector: Literal["dynamic", "default"] | None = None
    """Compile pooling and projector in training: ``dynamic`` for any number of windows from the
    start, ``default`` once a second number turns up."""
    normalize_on_gpu: bool = True
    """Images arrive as uint8 and are normalised here (floats are taken as normalised)."""

    def __post_init__(self) -> None:
        self.read_layers()
        self.in_range(PROBABILITY, "image_feature_dropout")

    def read_layers(self) -> tuple[int, ...]:
        """``vit_layers`` as 0-based block numbers; ``ValueError`` if one does not exist."""
        n = self.vit.image_num_layers
        layers = tuple(i if i >= 0 else n + i for i in self.vit_layers)
        if not layers or any(not 0 <= i < n for i in layers):
            raise ValueError(f"vit_layers {self.vit_layers} do not fit a ViT of {n} layers")
        return layers

    def budget(self, pool_h: int, pool_w: int) -> Budget:
        """What a video loses whose frames are pooled in windows of ``pool_h x pool_w`` patches."""
        return Budget(n_cells(*self.vit.image_num_patch, pool_h, pool_w))

    def build(self, llm: LlmConfig, device: torch.device | str | None = None) -> VisionBackbone:
        """Backbone whose features fit ``llm``. Parameters are uninitialised memory."""
        with built_on(device):
            return VisionBackbone(self, llm)


@dataclass
class VisionOutput:
    """What a vision backbone returns.

    Attributes:
        features: [K, D] features of the kept pooled tokens, in (row, token_pooling row) order.
        keep: bool [B, P] which ``token_pooling`` rows survive; False for padding rows.
        rows: bool [B, P] on the host, which rows are real.
        kept_rows: ``keep`` on the host; None where nothing is to be removed.
        scores: [B * T, M] scores of the cells, 1 for frames that are not scored; None if dense.
        aux_loss: auxiliary loss, already weighted; None outside training or if dense.
        aux_count: number of (frame pair, cell) terms the auxiliary loss is a mean of.
        change: sum of 1 - cosine over these terms; None outside training or without any.
        stats: named figures for the log.
    """

    features: Tensor
    keep: Tensor
    rows: Tensor
    kept_rows: Tensor | None = None
    scores: Tensor | None = None
    aux_loss: Tensor | None = None
    aux_count: int = 0
    change: Tensor | None = None
    stats: dict[str, float] = field(default_factory=dict)


class VisionBackbone(nn.Module):
    """Dense backbone; ``TemporalVisionBackbone`` adds pruning."""

    def __init__(self, config: VisionBackboneConfig, llm: LlmConfig):
        super().__init__()
        self.config = config
        self.layers = config.read_layers()
        self.projector_std = llm.initializer_range
        self.image_vit = self.build_vit()
        self.image_pooling_2d = ViTAttention(
            config.vit, len(self.layers) * config.vit.image_emb_dim
        )
        self.image_projector = ImageProjector(
            config.vit.image_emb_dim, llm.mlp_hidden_size // 2, llm.d_model
        )
        self.feature_dropout = nn.Dropout(config.image_feature_dropout)

    def build_vit(self) -> VisionTransformer:
        return VisionTransformer(self.config.vit, max(self.layers) + 1)

    def reset_parameters(self) -> None:
        self.image_vit.reset_parameters()
        self.image_pooling_2d.reset_parameters()
        self.image_projector.reset_parameters(self.projector_std)

    def forward(
        self,
        images: Tensor,
        image_masks: Tensor | None,
        token_pooling: Tensor,
        num_images: Tensor | None = None,
        multimodal_type: Tensor | None = None,
        topk: float | None = None,
    ) -> VisionOutput:
        """Encode frames and pool them.

        Args:
            images: [B, T, N, patch_dim] uint8, or float in [-1, 1].
            image_masks: accepted for the reference's signature; must be None.
            token_pooling: int64 [B, P, S], flat patch of the row (frame * N + patch), -1 empty.
            num_images: int [B, V] frames of each visual input, padding <= 0. Frames beyond a
                row's sum are padding and are not encoded. None: all frames are.
            multimodal_type: not used by the dense backbone.
            topk: must be 0 or None: nothing can be removed.
        """
        if topk:
            raise ValueError(f"topk={topk}: the model is dense and cannot remove tokens")
        check_no_masks(image_masks)
        if num_images is None:
            slots = torch.arange(images.shape[0] * images.shape[1], device=images.device)
        else:
            (slots,) = to_device([real_slots(num_images, images.shape[1])], images.device)
        index = patch_rows(token_pooling, slots, images.shape[1], images.shape[2])
        keep = (index >= 0).any(-1)
        (rows,) = to_host([keep])
        features = self.encode(images.flatten(0, 1)[slots], select(index, rows))
        return VisionOutput(features, keep, rows)

    def encode(self, frames: Tensor, index_RS: Tensor) -> Tensor:
        """Pooled tokens [R, D] of ``frames`` [F, N, patch_dim], none removed."""
        x = torch.cat(self.image_vit(frames, self.layers), -1)
        return self.connect(x.flatten(0, 1), index_RS)

    def connect(self, x_KE: Tensor, index_RS: Tensor) -> Tensor:
        """Connector over flat patch features [*, L * E]; ``index_RS`` names the slots' rows."""
        x_KE = self.feature_dropout(x_KE)
        windows = x_KE[index_RS.clamp(min=0)]
        pooled = pool_windows(
            self.image_pooling_2d, windows, index_RS >= 0, self.config.pooling_attention_mask
        )
        return self.image_projector(pooled)


def select(x_BPS: Tensor, host_BP: Tensor) -> Tensor:
    """Rows [n, S] of ``x_BPS`` that a mask on the host names. One on the device costs a wait."""
    (places,) = to_device([host_BP.flatten().nonzero()[:, 0]], x_BPS.device)
    return x_BPS.flatten(0, 1)[places]


def check_no_masks(image_masks: Tensor | None) -> None:
    if image_masks is not None:
        raise ValueError("image_masks belong to padding embeddings, which are not supported")


def patch_rows(token_pooling: Tensor, slots: Tensor, n_slots: int, n_patches: int) -> Tensor:
    """Patch indices within a row [B, P, S] -> over the patches of the frames ``slots``; -1 stays.

    A slot that is not encoded counts as empty.
    """
    n_rows = token_pooling.shape[0]
    frame_of_slot = slots.new_full((n_rows * n_slots,), -1)
    frame_of_slot[slots] = torch.arange(len(slots), device=slots.device)
    row = torch.arange(n_rows, device=slots.device)[:, None, None]
    patch = token_pooling.clamp(min=0)
    frame = frame_of_slot[row * n_slots + patch // n_patches]
    moved = frame * n_patches + patch % n_patches
    return torch.where((token_pooling >= 0) & (frame >= 0), moved, -1)
