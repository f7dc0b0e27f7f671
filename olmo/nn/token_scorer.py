"""The learned scorer of STTS: rates every cell of every frame against the frame before it.

Cells are pooled with the ViT's own attention shape (the query is the cell's mean), joined with
the same cell of the previous frame, and an MLP with a sigmoid gives the score in (0, 1).
Source: STTS, arXiv 2603.18004, section on token scoring.

Legend: P frames of prunable videos, N patches, M cells, G slots per cell, E ViT width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from olmo.nn.connector import pool_windows
from olmo.nn.image_vit import ViTAttention, VitConfig, init_fan_in
from olmo.nn.token_layout import CellGrid


class Float32Linear(nn.Linear):
    """A linear layer whose sums and output are float32, whatever its weights, its input and
    autocast are: bfloat16 has so few values that most scores of a video would be equal."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return nn.functional.linear(x.float(), self.weight.float(), self.bias.float())


class ScorerMLP(nn.Module):
    """2E -> H -> H -> 1 with SiLU; H is the ViT's MLP width. The output is float32."""

    def __init__(self, config: VitConfig):
        super().__init__()
        hidden = config.image_mlp_dim
        self.w1 = nn.Linear(2 * config.image_emb_dim, hidden)
        self.w2 = nn.Linear(hidden, hidden)
        self.w3 = Float32Linear(hidden, 1)

    def reset_parameters(self) -> None:
        for layer in (self.w1, self.w2, self.w3):
            init_fan_in(layer)

    def forward(self, x: Tensor) -> Tensor:
        silu = nn.functional.silu
        return self.w3(silu(self.w2(silu(self.w1(x)))))


class TemporalTokenScorer(nn.Module):
    """Scores cells from the output of one ViT block. Fresh ones are all about ``initial_score``."""

    def __init__(self, config: VitConfig, initial_score: float = 0.5):
        super().__init__()
        self.initial_score = initial_score
        self.patch_token_pooler = ViTAttention(config)
        self.mlp = ScorerMLP(config)

    def reset_parameters(self) -> None:
        self.patch_token_pooler.reset_parameters()
        self.mlp.reset_parameters()
        bias = math.log(self.initial_score / (1 - self.initial_score))  # 0.5: the usual 0
        nn.init.constant_(self.mlp.w3.bias, bias)

    def forward(self, x_PNE: Tensor, has_previous_P: Tensor, grid: CellGrid) -> Tensor:
        """Scores [P, M] float32 in (0, 1), high = keep, for frames in temporal order.

        ``has_previous_P`` is False for the first frame of each video, whose predecessor then
        counts as zeros.
        """
        valid = grid.windows >= 0
        windows = x_PNE[:, grid.windows.clamp(min=0)].flatten(0, 1)
        pooled = pool_windows(
            self.patch_token_pooler, windows, valid.repeat(x_PNE.shape[0], 1)
        ).unflatten(0, (-1, grid.n_cells))
        previous = pooled.roll(1, 0) * has_previous_P[:, None, None].to(pooled.dtype)
        return torch.sigmoid(self.mlp(torch.cat((previous, pooled), -1))).squeeze(-1)


def attention_bias(
    scores_PM: Tensor, has_previous_P: Tensor, grid: CellGrid, minimum: float, per_row: bool
) -> Tensor:
    """Log of the scores, rescaled to [``minimum``, 1], as a bias per patch: [P, N].

    Minimum and maximum are taken per row of the cell grid (``per_row``, as published checkpoints
    were trained) or per frame. The first frame of a video has bias 0.
    """
    rows = scores_PM.unflatten(1, grid.shape) if per_row else scores_PM[:, None]
    low, high = rows.amin(-1, keepdim=True), rows.amax(-1, keepdim=True)
    rescaled = minimum + (1 - minimum) * (rows - low) / (high - low + 1e-6)
    bias = rescaled.log().flatten(1) * has_previous_P[:, None].to(rescaled.dtype)
    return bias[:, grid.cell_of_patch]


def neighbour_cosine(x_PNE: Tensor, grid: CellGrid) -> Tensor:
    """Cosine between each cell and the same cell one frame earlier: [P - 1, M], float32.

    A cell is the concatenation of its patches' features. Only neighbours are compared, so the
    cost is linear in the number of frames.
    """
    x = x_PNE.float()
    dot = grid.cell_sums((x[1:] * x[:-1]).sum(-1))
    norm = grid.cell_sums((x * x).sum(-1)).sqrt().clamp(min=1e-8)
    return dot / (norm[1:] * norm[:-1])


def cell_features(x_PNE: Tensor, grid: CellGrid) -> Tensor:
    """Each cell's patch features side by side, zeros for slots outside the grid: [P, M, G * E]."""
    cells = x_PNE[:, grid.windows.clamp(min=0)].float()
    return (cells * (grid.windows >= 0)[..., None]).flatten(2)


def similarity_loss_sum(scores_PM: Tensor, cosine: Tensor, has_previous_P: Tensor) -> Tensor:
    """Sum over neighbouring frames of one video and their cells of ``(s - (1 - cos))^2``."""
    error = (scores_PM[1:].float() - (1 - cosine)) ** 2
    return (error * has_previous_P[1:, None]).sum()
