"""ViT with Spatio-Temporal Token Scoring (STTS, arXiv 2603.18004).

Blocks 0..l run on whole frames; a method scores every cell of block l's output. In block l+1 all
patches are keys, with the log-scores as attention bias; but the lowest cells of each video leave
there, and this block's queries and the remaining blocks are the survivors of all frames, as one
flat row.

Legend: F real frames, P frames of prunable videos, N patches, M cells, E width, K survivors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from olmo.nn.image_vit import VisionTransformer
from olmo.nn.recompute import recomputed
from olmo.nn.token_layout import CellGrid, FrameTable, TokenLayout
from olmo.nn.token_pruning import ScoreInputs, TemporalVitConfig, select_cells
from olmo.nn.token_scorer import (
    TemporalTokenScorer,
    attention_bias,
    neighbour_cosine,
    similarity_loss_sum,
)
from olmo.nn.transfer import to_host
from olmo.patch_grid import n_cells

__all__ = ["TemporalVisionTransformer", "TemporalVitConfig", "TemporalVitOutput"]


@dataclass
class TemporalVitOutput:
    """Survivors of the ViT.

    Attributes:
        features: [*, L * E] outputs of the read layers, concatenated: one row per survivor.
        slot: [F * N] row of each patch in ``features``, -1 if it was removed; None = identity.
        keep_cells: bool [F, M], False for cells that leave.
        host: what ``also`` of ``forward_pruned`` asked for, on the host.
        scores: [P, M] or None when there is nothing to prune.
        aux_loss: weighted mean over ``aux_count`` terms; None outside training.
        change: sum of 1 - cosine over these terms; None without one.
        stats: named figures for the log.
    """

    features: Tensor
    slot: Tensor | None
    keep_cells: Tensor
    host: list[Tensor]
    scores: Tensor | None = None
    aux_loss: Tensor | None = None
    aux_count: int = 0
    change: Tensor | None = None
    stats: dict[str, float] = field(default_factory=dict)


class TemporalVisionTransformer(VisionTransformer):
    """ViT that drops a video's least useful cells on the way.

    ``ValueError`` when block ``prune_at + 1``, which sees the score bias, is not built.
    """

    config: TemporalVitConfig

    def __init__(self, config: TemporalVitConfig, n_layers: int, pool: int):
        super().__init__(config, n_layers)
        self.pool = pool
        if config.prune:
            self.check_prune_at()
        if config.method.learned:
            self.transformer.temporal_token_scorer = TemporalTokenScorer(
                config, config.initial_score
            )

    def check_prune_at(self) -> None:
        if not 0 <= self.config.prune_at < self.n_layers - 1:
            raise ValueError(
                f"prune_at={self.config.prune_at}: blocks 0 to {self.n_layers - 1} are built, and "
                f"the one after prune_at must be among them (0 <= prune_at <= {self.n_layers - 2})"
            )

    @property
    def scorer(self) -> TemporalTokenScorer | None:
        return getattr(self.transformer, "temporal_token_scorer", None)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.scorer is not None:
            self.scorer.reset_parameters()

    @property
    def n_cells(self) -> int:
        """Cells per frame."""
        return n_cells(*self.config.image_num_patch, self.pool, self.pool)

    def grid(self, device: torch.device) -> CellGrid:
        return CellGrid.build(*self.config.image_num_patch, self.pool, device)

    def forward_pruned(
        self,
        images: Tensor,
        table: FrameTable,
        layers: tuple[int, ...],
        also: Callable[[Tensor], list[Tensor]] = lambda cells: [],
    ) -> TemporalVitOutput:
        """Encode the real frames ``images`` [F, N, patch_dim] and drop cells.

        ``table`` says which frames form prunable videos. Without any, the scorer still runs on
        one frame, so that every rank of a sharded model does the same collectives. The host waits
        once, for the survivors of each frame; what ``also`` makes of the kept cells [F, M] (bool or
        integers) comes with them.
        """
        config, grid = self.config, self.grid(images.device)
        self.check_prune_at()
        x, found = self.first_blocks(images, config.prune_at + 1, layers)
        # 1. Score the cells, and choose those that stay.
        scores, aux_loss, change = self._score(x, images, table)
        keep = self.kept_cells(scores, table, len(images))
        # 2. Plan where their patches lie.
        counts, *host = to_host([grid.spread(keep).sum(1), *also(keep)])
        layout, bias = None, self._bias(scores, table, x)
        if table.videos and config.pruning_in_scorer:
            layout = self.layout(keep, grid, counts.tolist())
            found = {i: layout.gather(y) for i, y in found.items()}
        # 3. Go on with the survivors.
        for i, block in enumerate(self.blocks[config.prune_at + 1 :], config.prune_at + 1):
            if layout is not None and x.dim() == 3 and not config.activation_checkpointing:
                # keys and values of all patches serve this block alone: not worth their memory
                x = recomputed(block, x, layout, bias, draws=config.draws)
            else:
                x = block(x, layout, bias if x.dim() == 3 else None)
            if i in layers:
                found[i] = x
        features = torch.cat([found[i] for i in layers], -1).flatten(0, -2)
        if self.training:  # ties the scorer into the graph of a batch without videos
            features = features + 0.0 * scores.sum().to(features.dtype)
        return TemporalVitOutput(
            features,
            layout.slot if layout else None,
            keep,
            host,
            scores if table.videos else None,
            aux_loss,
            0 if aux_loss is None else self.n_score_terms(table),
            change,
            stats=pruning_stats(table, layout, len(images), grid.n_cells),
        )

    def kept_cells(self, scores: Tensor, table: FrameTable, n_frames: int) -> Tensor:
        """bool [F, M]: the cells of all frames that stay, by the ``scores`` of prunable ones."""
        keep = torch.ones(n_frames, self.n_cells, dtype=torch.bool, device=scores.device)
        if table.videos:
            keep[table.prunable] = select_cells(scores, table, self.config.method.spreads_ties)
        return keep

    def layout(self, keep: Tensor, grid: CellGrid, counts: list[int] | None = None) -> TokenLayout:
        """The layout that the config asks for."""
        if self.config.layout == "packed":
            return TokenLayout.packed(keep, grid, self.config.refill, counts)
        return TokenLayout.ragged(keep, grid, counts)

    def score_inputs(
        self, x: Tensor, images: Tensor, table: FrameTable, grid: CellGrid | None = None
    ) -> ScoreInputs:
        """What the method is given of ``x`` and ``images`` of the real frames: those of prunable
        videos, or one frame if there are none."""
        rows, has_previous = table.prunable, table.has_previous
        if not table.videos:
            rows, has_previous = rows.new_zeros(1), has_previous.new_zeros(1)
        if len(rows) < len(x):
            x, images = x[rows], images[rows]
        grid = self.grid(x.device) if grid is None else grid
        return ScoreInputs(x, images, has_previous, grid, table.videos, self.config, self.scorer)

    def method_scores(self, inputs: ScoreInputs) -> Tensor:
        """What the chosen method makes of the prunable frames: scores [P, M] float32, high = keep.
        They are ranked, and their log is taken: half precision would make many of them equal."""
        method = self.config.method
        with torch.set_grad_enabled(torch.is_grad_enabled() and method.learned):
            return method.score(inputs).float()

    def _bias(self, scores: Tensor, table: FrameTable, x: Tensor) -> Tensor | None:
        """Attention bias [F, N] of the next block; None without one."""
        config = self.config
        if not table.videos or not config.method.learned:
            return None
        per_row, grid = config.bias_rescale == "row", self.grid(x.device)
        bias = attention_bias(scores, table.has_previous, grid, config.rescale_bias_min, per_row)
        return bias.new_zeros(x.shape[:2]).index_copy(0, table.prunable, bias)

    def _score(
        self, x: Tensor, images: Tensor, table: FrameTable
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Scores [P, M], or of one frame without videos; auxiliary loss and ``change`` of
        training."""
        inputs = self.score_inputs(x, images, table)
        scores = self.method_scores(inputs)
        if not self.training or self.scorer is None:
            return scores, None, None
        if not (count := self.n_score_terms(table)):
            return scores, 0.0 * scores.sum(), None
        compared = inputs.x.detach() if self.config.detach_similarity else inputs.x
        cosine = recomputed(neighbour_cosine, compared, inputs.grid)
        total = similarity_loss_sum(scores, cosine, inputs.has_previous)
        change = ((1 - cosine.detach()) * inputs.has_previous[1:, None]).sum()
        return scores, self.config.sim_reg_loss_coefficient * total / count, change

    def n_score_terms(self, table: FrameTable) -> int:
        """(Frame pair, cell) terms that the auxiliary loss is a mean of."""
        return table.n_pairs * self.n_cells if self.config.method.learned else 0


def pruning_stats(
    table: FrameTable, layout: TokenLayout | None, n_frames: int, n_cells: int
) -> dict[str, float]:
    """Named figures of one forward; ``refill_ratio`` is refilled patches per surviving one."""
    removed = sum(v.n_remove for v in table.videos)
    stats = {
        "stts/prunable_videos": float(len(table.videos)),
        "stts/pruned_fraction": removed / max(len(table.prunable) * n_cells, 1),
        "stts/kept_tokens_per_frame": n_cells - removed / max(n_frames, 1),
        "stts/vit_tokens_ratio": 1.0,
        "stts/refill_ratio": 0.0,
    }
    if layout is not None:
        stats["stts/vit_tokens_ratio"] = len(layout.source) / len(layout.slot)
        stats["stts/refill_ratio"] = layout.n_refilled / layout.n_survivors
    return stats
