"""Vision backbone whose ViT prunes videos; the connector runs on survivors only.

Legend as in ``vision_backbone``; M cells per frame, F real frames of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, replace

import torch
from torch import Tensor

from olmo.nn.llm import LlmConfig
from olmo.nn.temporal_image_vit import TemporalVisionTransformer, pruning_stats
from olmo.nn.token_layout import CellGrid, FrameTable, frame_table
from olmo.nn.token_pruning import ScoreInputs, TemporalVitConfig
from olmo.nn.transfer import built_on, to_host
from olmo.nn.vision_backbone import (
    VisionBackbone,
    VisionBackboneConfig,
    VisionOutput,
    check_no_masks,
    patch_rows,
    select,
)
from olmo.patch_grid import POOL
from olmo.token_budget import Budget, check_topk


@dataclass
class TemporalVisionBackboneConfig(VisionBackboneConfig):
    """Vision backbone with STTS."""

    vit: TemporalVitConfig = field(default_factory=TemporalVitConfig)
    video_pooling: int = 3
    """Side of a video's pooling window in patches: a cell of the scorer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.in_range(POOL, "video_pooling")

    def budget(self, pool_h: int, pool_w: int) -> Budget:
        topk = self.vit.topk if self.vit.prune else 0.0
        return replace(
            super().budget(pool_h, pool_w), topk=topk, prune_from_frame=self.vit.prune_from_frame
        )

    def build(
        self, llm: LlmConfig, device: torch.device | str | None = None
    ) -> TemporalVisionBackbone:
        """Backbone whose features fit ``llm``. Parameters are uninitialised memory."""
        with built_on(device):
            return TemporalVisionBackbone(self, llm)


class TemporalVisionBackbone(VisionBackbone):
    """Scores, prunes and pools. With ``vit.prune=False`` exactly the dense backbone."""

    config: TemporalVisionBackboneConfig
    image_vit: TemporalVisionTransformer

    def build_vit(self) -> TemporalVisionTransformer:
        n_layers, pool = max(self.layers) + 1, self.config.video_pooling
        return TemporalVisionTransformer(self.config.vit, n_layers, pool)

    def forward(
        self,
        images: Tensor,
        image_masks: Tensor | None,
        token_pooling: Tensor,
        num_images: Tensor | None = None,
        multimodal_type: Tensor | None = None,
        topk: float | None = None,
    ) -> VisionOutput:
        """Encode, prune and pool.

        Args:
            images, image_masks, token_pooling, num_images: as in ``VisionBackbone.forward``. Keep
                ``num_images`` on the CPU to avoid a sync.
            multimodal_type: int [B, V], a ``MultimodalType`` each; only VIDEO is pruned.
            topk: share of a video's cells to remove, in [0, 1); None is the config's, 0 the dense
                backbone.

        Raises:
            ValueError: pruning is on and ``num_images`` or ``multimodal_type`` is missing, or the
                config's ``prune_at`` does not fit.
        """
        vit = self.config.vit
        if not (vit.prune if topk is None else check_topk(topk)):
            return super().forward(images, image_masks, token_pooling, num_images)
        if num_images is None or multimodal_type is None:
            raise ValueError("pruning needs num_images and multimodal_type with every batch")
        check_no_masks(image_masks)
        n_rows, n_slots, n_patches = images.shape[:3]
        table = self.frames(num_images, multimodal_type, n_slots, topk).to(images.device)
        frames = images.flatten(0, 1)[table.slots]
        index = patch_rows(token_pooling, table.slots, n_slots, n_patches)
        out = (self._prune_pooled if vit.method.pooled else self._prune)(frames, index, table)
        if self.budget(topk).topk == 0:
            out.kept_rows = None
        if out.scores is not None:
            full = out.scores.new_ones(n_rows * n_slots, out.scores.shape[1])
            out.scores = full.index_copy(0, table.slots[table.prunable], out.scores)
        return out

    def _prune(self, frames: Tensor, index: Tensor, table: FrameTable) -> VisionOutput:
        """Cells leave inside the ViT."""
        valid, grid = (index >= 0).any(-1), self.image_vit.grid(frames.device)
        out = self.image_vit.forward_pruned(
            frames, table, self.layers, lambda cells: [valid, _kept_rows(index, cells, grid)]
        )
        rows, kept_rows = out.host
        kept = select(index, kept_rows)
        if out.slot is not None:
            kept = torch.where(kept >= 0, out.slot[kept.clamp(min=0)], kept)
        return VisionOutput(
            self.connect(out.features, kept),
            _kept_rows(index, out.keep_cells, grid),
            rows,
            kept_rows,
            out.scores,
            out.aux_loss,
            out.aux_count,
            out.change,
            out.stats,
        )

    def _prune_pooled(self, frames: Tensor, index: Tensor, table: FrameTable) -> VisionOutput:
        """Dense ViT and connector; then the method compares the pooled tokens of the videos.

        Padding rows are pooled, too: leaving them out would cost a second wait."""
        vit, features = self.image_vit, self.encode(frames, index.flatten(0, 1))
        grid, scores = vit.grid(frames.device), features.new_zeros(0, vit.n_cells)
        if table.videos:
            scores = vit.method_scores(self._pooled_inputs(frames, index, table, features))
        keep = _kept_rows(index, vit.kept_cells(scores, table, len(frames)), grid)
        rows, kept_rows = to_host([(index >= 0).any(-1), keep])
        return VisionOutput(
            select(features.unflatten(0, keep.shape), kept_rows),
            keep,
            rows,
            kept_rows,
            scores if table.videos else None,
            stats=pruning_stats(table, None, len(frames), grid.n_cells),
        )

    def _pooled_inputs(
        self, frames: Tensor, index: Tensor, table: FrameTable, features: Tensor
    ) -> ScoreInputs:
        """What a method is given that compares pooled tokens: each is a patch by itself."""
        grid = self.image_vit.grid(frames.device)
        n_cells = len(frames) * grid.n_cells
        cell = torch.where((index >= 0).any(-1), _cell_of_row(index, grid), n_cells).flatten()
        token_of_cell = index.new_zeros(n_cells + 1)
        token_of_cell[cell] = torch.arange(len(features), device=index.device)
        x = features[token_of_cell[:-1].view(len(frames), -1)]
        single = CellGrid.build(*grid.shape, 1, frames.device)
        return self.image_vit.score_inputs(x, frames, table, single)

    def score_inputs(self, images: Tensor, token_pooling: Tensor, table: FrameTable) -> ScoreInputs:
        """What the method is given of one row of frames: ``images`` [F, N, patch_dim] and
        ``token_pooling`` [P, S]. No later block runs."""
        if self.config.vit.method.pooled:
            features = self.encode(images, token_pooling)
            return self._pooled_inputs(images, token_pooling[None], table, features)
        self.image_vit.check_prune_at()
        x, _ = self.image_vit.first_blocks(images, self.config.vit.prune_at + 1)
        return self.image_vit.score_inputs(x, images, table)

    def budget(self, topk: float | None = None) -> Budget:
        """What a video loses, by the config or at another ``topk``."""
        pool = self.config.video_pooling
        return self.config.budget(pool, pool).at(topk)

    def frames(
        self,
        num_images: Tensor,
        multimodal_type: Tensor,
        n_slots: int,
        topk: float | None = None,
    ) -> FrameTable:
        """The real frames of a batch with ``n_slots`` frame slots per row."""
        cells, share, first = astuple(self.budget(topk))
        return frame_table(num_images, multimodal_type, n_slots, cells, share, first)

    def batch_frames(self, batch: Mapping[str, Tensor]) -> FrameTable:
        """The real frames of a collated batch."""
        counts, n_slots = (batch["num_images"], batch["multimodal_type"]), batch["images"].shape[1]
        return self.frames(*counts, n_slots)

    def n_score_terms(self, batch: Mapping[str, Tensor]) -> int:
        """(Frame pair, cell) terms of the auxiliary loss."""
        return self.image_vit.n_score_terms(self.batch_frames(batch))


def _cell_of_row(index_BPS: Tensor, grid: CellGrid) -> Tensor:
    """[B, P] flat cell (frame * M + cell) of each ``token_pooling`` row of a video; 0 if empty.

    A pooled token of a video is one cell, so any of its patches names it.
    """
    patch = index_BPS.amax(-1).clamp(min=0)
    n_patches = grid.cell_of_patch.numel()
    return patch // n_patches * grid.n_cells + grid.cell_of_patch[patch % n_patches]


def _kept_rows(index_BPS: Tensor, keep_FM: Tensor, grid: CellGrid) -> Tensor:
    """bool [B, P]: valid ``token_pooling`` rows whose cell survives.

    Rows of other inputs than videos have their own windows; their frames keep all cells.
    """
    return (index_BPS >= 0).any(-1) & keep_FM.flatten()[_cell_of_row(index_BPS, grid)]
