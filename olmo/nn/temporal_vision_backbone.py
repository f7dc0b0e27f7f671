"""Vision backbone whose ViT prunes videos; the connector runs on survivors only.

Legend as in ``vision_backbone``; M cells per frame, F real frames of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from olmo.nn.llm import LlmConfig
from olmo.nn.ranges import MOST_POOL, check_counts
from olmo.nn.temporal_image_vit import (
    TemporalVisionTransformer,
    TemporalVitConfig,
    pruning_stats,
)
from olmo.nn.token_layout import CellGrid, FrameTable, frame_table
from olmo.nn.transfer import to_host
from olmo.nn.vision_backbone import (
    VisionBackbone,
    VisionBackboneConfig,
    VisionOutput,
    check_no_masks,
    patch_rows,
    select,
)


@dataclass
class TemporalVisionBackboneConfig(VisionBackboneConfig):
    """Vision backbone with STTS."""

    vit: TemporalVitConfig = field(default_factory=TemporalVitConfig)
    video_pooling: int = 3
    """Side of a video's pooling window in patches: a cell of the scorer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, {"video_pooling": MOST_POOL})

    def build(
        self, llm: LlmConfig, device: torch.device | str | None = None
    ) -> TemporalVisionBackbone:
        """Backbone whose features fit ``llm``. Parameters are uninitialised memory."""
        return TemporalVisionBackbone(self, llm, device)


class TemporalVisionBackbone(VisionBackbone):
    """Scores, prunes and pools. With ``vit.prune=False`` exactly the dense backbone."""

    config: TemporalVisionBackboneConfig
    image_vit: TemporalVisionTransformer

    def build_vit(self, device: torch.device | str | None) -> TemporalVisionTransformer:
        n_layers = max(self.layers) + 1
        return self.config.vit.build(n_layers, device, self.config.video_pooling)

    def forward(
        self,
        images: Tensor,
        image_masks: Tensor | None,
        token_pooling: Tensor,
        num_images: Tensor | None = None,
        multimodal_type: Tensor | None = None,
    ) -> VisionOutput:
        """Encode, prune and pool.

        Args:
            images: [B, T, N, patch_dim] uint8, or float in [-1, 1].
            image_masks: must be None.
            token_pooling: int64 [B, P, S], flat patch of the row, -1 empty.
            num_images: int [B, V] frames of each visual input, padding <= 0. Frames beyond a
                row's sum are padding and are not encoded. Keep it on the CPU to avoid a sync.
            multimodal_type: int [B, V], a ``MultimodalType`` each; only VIDEO is pruned.

        Raises:
            ValueError: pruning is on and ``num_images`` or ``multimodal_type`` is missing.
        """
        vit = self.config.vit
        if not vit.prune:
            return super().forward(images, image_masks, token_pooling, num_images)
        if num_images is None or multimodal_type is None:
            raise ValueError("pruning needs num_images and multimodal_type with every batch")
        check_no_masks(image_masks)
        n_rows, n_slots, n_patches = images.shape[:3]
        grid = self.image_vit.grid(images.device)
        table = self.frames(num_images, multimodal_type, n_slots).to(images.device)
        frames = images.flatten(0, 1)[table.slots]
        index = patch_rows(token_pooling, table.slots, n_slots, n_patches)
        if vit.method.pooled:
            return self._prune_pooled(frames, index, table, grid, n_rows * n_slots)
        valid = (index >= 0).any(-1)
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
            scores=self._all_scores(out.scores, table, n_rows * n_slots, grid),
            aux_loss=out.aux_loss,
            aux_count=out.aux_count,
            stats=out.stats,
        )

    def _prune_pooled(
        self, frames: Tensor, index: Tensor, table: FrameTable, grid: CellGrid, n_slots: int
    ) -> VisionOutput:
        """Dense ViT and connector; then the method compares the pooled tokens of the videos.

        Padding rows are pooled, too: leaving them out would cost a second wait."""
        x = self.image_vit(frames, self.layers)
        keep_cells = torch.ones(len(frames), grid.n_cells, dtype=torch.bool, device=frames.device)
        valid = (index >= 0).any(-1)
        features = self.connect(torch.cat(x, -1).flatten(0, 1), index.flatten(0, 1))
        scores = None
        if table.videos:
            n_cells = keep_cells.numel()
            cell = torch.where(valid, _cell_of_row(index, grid), n_cells).flatten()
            token_of_cell = index.new_zeros(n_cells + 1)
            token_of_cell[cell] = torch.arange(len(features), device=index.device)
            tokens = token_of_cell[:-1].view(keep_cells.shape)[table.prunable]
            scores = self.image_vit.method_scores(
                features[tokens],
                frames[table.prunable],
                table.has_previous,
                table,
                CellGrid.build(*grid.shape, 1, frames.device),
            )
            keep_cells[table.prunable] = self.config.vit.method.select(scores, table)
        keep = _kept_rows(index, keep_cells, grid)
        rows, kept_rows = to_host([valid, keep])
        return VisionOutput(
            select(features.unflatten(0, keep.shape), kept_rows),
            keep,
            rows,
            kept_rows,
            scores=self._all_scores(scores, table, n_slots, grid),
            stats=pruning_stats(table, None, len(frames), grid.n_cells),
        )

    def frames(self, num_images: Tensor, multimodal_type: Tensor, n_slots: int) -> FrameTable:
        """The real frames of a batch with ``n_slots`` frame slots per row."""
        vit = self.config.vit
        return frame_table(
            num_images,
            multimodal_type,
            n_slots,
            self.image_vit.n_cells,
            vit.topk,
            vit.prune_from_frame,
        )

    def n_score_terms(self, num_images: Tensor, multimodal_type: Tensor, n_slots: int) -> int:
        """(Frame pair, cell) terms of the auxiliary loss."""
        table = self.frames(num_images, multimodal_type, n_slots)
        return table.n_pairs * self.image_vit.n_cells

    @staticmethod
    def _all_scores(
        scores: Tensor | None, table: FrameTable, n_slots: int, grid: CellGrid
    ) -> Tensor | None:
        if scores is None:
            return None
        full = scores.new_ones(n_slots, grid.n_cells)
        return full.index_copy(0, table.slots[table.prunable], scores)


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
