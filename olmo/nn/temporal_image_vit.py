"""ViT with Spatio-Temporal Token Scoring (STTS, arXiv 2603.18004).

Blocks 0..l run on whole frames; a method scores every cell of block l's output. In block l+1 all
patches are keys, with the log-scores as attention bias; but the lowest cells of each video leave
there, and this block's queries and the remaining blocks are the survivors of all frames, as one
flat row.

Legend: F real frames, P frames of prunable videos, N patches, M cells, E width, K survivors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from olmo.nn.image_vit import VisionTransformer, VitConfig
from olmo.nn.recompute import recomputed
from olmo.nn.token_layout import CellGrid, FrameTable, TokenLayout
from olmo.nn.token_pruning import PRUNE_METHODS, PruneMethod, ScoreInputs
from olmo.nn.token_scorer import (
    TemporalTokenScorer,
    attention_bias,
    neighbour_cosine,
    similarity_loss_sum,
)
from olmo.nn.transfer import to_host
from olmo.patch_grid import pooled_grid


@dataclass
class TemporalVitConfig(VitConfig):
    """ViT plus STTS."""

    single_values: ClassVar[dict[str, tuple[object, ...]]] = {
        **VitConfig.single_values,
        "merge": (False,),
    }

    prune: bool = True
    """False: a dense ViT with the same weights."""
    topk: float = 0.5
    """Share of a video's pooled cells to remove, in [0, 1)."""
    prune_at: int = 3
    """The scorer reads the output of this block (0-based)."""
    prune_method: str = "scorer"
    """A name of ``olmo.nn.token_pruning.PRUNE_METHODS``: ``scorer`` is the learned one; ``easy``,
    ``heuristic``, ``random`` and ``evs`` need no training."""
    sim_reg_loss_coefficient: float = 0.5
    """Weight of the auxiliary loss."""
    rescale_bias_min: float = math.exp(-2)
    """Lower end of the rescaled scores whose log is the attention bias."""
    prune_from_frame: int = 0
    """This many frames of each video do not count for the budget."""
    pruning_in_scorer: bool = True
    """False: score and bias, but remove nothing in the ViT; the cells still leave the LLM."""
    layout: Literal["ragged", "packed"] = "ragged"
    """How survivors lie in the pruned blocks: nothing else, or whole frames in bins of N slots."""
    refill: bool = False
    """``packed`` only: a frame that is alone in its bin keeps its removed patches in the ViT, as
    in the reference; its result then depends on the other frames of the batch."""
    bias_rescale: Literal["row", "frame"] = "row"
    """Where minimum and maximum of the bias are taken; published checkpoints use ``row``."""
    detach_similarity: bool = False
    """Detach the target of the auxiliary loss, so that it cannot move the ViT."""
    new_ref_threshold: float = 0.85
    """``easy`` and ``heuristic``: similarity under which a frame or cell counts as new."""
    random_seed: int = 0
    """Seed of ``prune_method=random``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.topk < 1:
            raise ValueError(f"topk is the share to remove, in [0, 1): got {self.topk}")
        if not 0 < self.rescale_bias_min <= 1:
            raise ValueError(f"rescale_bias_min must be in (0, 1]: got {self.rescale_bias_min}")
        for name in ("prune_from_frame", "prune_at", "sim_reg_loss_coefficient"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative: got {getattr(self, name)}")
        if not math.isfinite(self.new_ref_threshold):
            raise ValueError(f"new_ref_threshold must be a number: got {self.new_ref_threshold}")
        if self.prune and self.attention_dropout:
            raise ValueError("attention_dropout is not supported in a pruning ViT: set it to 0")
        if self.prune_method not in PRUNE_METHODS:
            known = ", ".join(sorted(PRUNE_METHODS))
            raise ValueError(f"prune_method {self.prune_method!r} is not one of {known}")
        if self.layout not in ("ragged", "packed"):
            raise ValueError(f"layout {self.layout!r} is not one of packed, ragged")
        if self.refill and self.layout != "packed":
            raise ValueError(f"refill=True needs layout=packed, got layout={self.layout}")

    @property
    def method(self) -> PruneMethod:
        return PRUNE_METHODS[self.prune_method]

    def build(
        self, n_layers: int, device: torch.device | str | None = None, pool: int = 3
    ) -> TemporalVisionTransformer:
        """ViT with the first ``n_layers`` blocks that prunes in cells of ``pool x pool``."""
        return TemporalVisionTransformer(self, n_layers, pool, device)


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
        stats: named figures for the log.
    """

    features: Tensor
    slot: Tensor | None
    keep_cells: Tensor
    host: list[Tensor]
    scores: Tensor | None = None
    aux_loss: Tensor | None = None
    aux_count: int = 0
    stats: dict[str, float] = field(default_factory=dict)


class TemporalVisionTransformer(VisionTransformer):
    """ViT that drops a video's least useful cells on the way.

    ``ValueError`` when block ``prune_at + 1``, which sees the score bias, is not built.
    """

    config: TemporalVitConfig

    def __init__(
        self,
        config: TemporalVitConfig,
        n_layers: int,
        pool: int,
        device: torch.device | str | None = None,
    ):
        super().__init__(config, n_layers, device)
        if config.prune and not 0 <= config.prune_at < n_layers - 1:
            raise ValueError(
                f"prune_at={config.prune_at}: blocks 0 to {n_layers - 1} are built, and the one "
                f"after prune_at must be among them (0 <= prune_at <= {n_layers - 2})"
            )
        self.pool = pool
        if config.method.learned:
            self.transformer.temporal_token_scorer = TemporalTokenScorer(config, device)

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
        rows, columns = pooled_grid(*self.config.image_num_patch, self.pool, self.pool)
        return rows * columns

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
        x, found = self.embed(images), {}
        for i, block in enumerate(self.blocks[: config.prune_at + 1]):
            x = block(x)
            if i in layers:
                found[i] = x
        state = self._score(x, images, table, grid)
        counts, *host = to_host([grid.spread(state.keep).sum(1), *also(state.keep)])
        layout = None
        if table.videos and config.pruning_in_scorer:
            layout = self._layout(state.keep, grid, counts.tolist())
            found = {i: layout.gather(y) for i, y in found.items()}
        for i, block in enumerate(self.blocks[config.prune_at + 1 :], config.prune_at + 1):
            if layout is not None and x.dim() == 3 and not config.activation_checkpointing:
                # keys and values of all patches serve this block alone: not worth their memory
                x = recomputed(block, x, layout, state.bias, draws=config.residual_dropout > 0)
            else:
                x = block(x, layout, state.bias if x.dim() == 3 else None)
            if i in layers:
                found[i] = x
        features = torch.cat([found[i] for i in layers], -1).flatten(0, -2)
        if self.training:
            features = features + 0.0 * state.anchor.to(features.dtype)
        return TemporalVitOutput(
            features,
            layout.slot if layout else None,
            state.keep,
            host,
            state.scores,
            *self._aux_loss(state, table),
            stats=pruning_stats(table, layout, len(images), grid.n_cells),
        )

    def _layout(self, keep: Tensor, grid: CellGrid, counts: list[int]) -> TokenLayout:
        if self.config.layout == "packed":
            return TokenLayout.packed(keep, grid, self.config.refill, counts)
        return TokenLayout.ragged(keep, grid, counts)

    def _score(self, x: Tensor, images: Tensor, table: FrameTable, grid: CellGrid) -> _ScoreState:
        """Scores, kept cells and attention bias from the output ``x`` [F, N, E] of block l."""
        config = self.config
        n_frames, n_patches = x.shape[:2]
        keep = torch.ones(n_frames, grid.n_cells, dtype=torch.bool, device=x.device)
        rows = table.prunable
        has_previous = table.has_previous
        if not table.videos:
            rows, has_previous = rows.new_zeros(1), has_previous.new_zeros(1)
        whole = len(rows) == n_frames
        video_x, video_images = (x, images) if whole else (x[rows], images[rows])
        scores = self.method_scores(video_x, video_images, has_previous, table, grid)
        if not table.videos:
            return _ScoreState(keep, None, None, None, scores.sum())
        keep[rows] = config.method.select(scores, table)
        bias = None
        if config.method.learned:
            video_bias = attention_bias(
                scores,
                has_previous,
                grid,
                config.rescale_bias_min,
                config.bias_rescale == "row",
            )
            bias = video_bias.new_zeros(n_frames, n_patches).index_copy(0, rows, video_bias)
        aux_sum = None
        if self.training and config.method.learned:
            target_x = video_x.detach() if config.detach_similarity else video_x
            cosine = recomputed(neighbour_cosine, target_x, grid)
            aux_sum = similarity_loss_sum(scores, cosine, has_previous)
        return _ScoreState(keep, scores, bias, aux_sum, scores.sum())

    def method_scores(
        self, x: Tensor, images: Tensor, has_previous: Tensor, table: FrameTable, grid: CellGrid
    ) -> Tensor:
        """What the chosen method makes of the prunable frames: scores [P, M] float32, high = keep.
        They are ranked, and their log is taken: half precision would make many of them equal."""
        config = self.config
        inputs = ScoreInputs(
            x,
            images,
            has_previous,
            grid,
            table.videos,
            config.random_seed,
            config.new_ref_threshold,
            self.scorer,
        )
        with torch.set_grad_enabled(torch.is_grad_enabled() and config.method.learned):
            return config.method.score(inputs).float()

    def _aux_loss(self, state: _ScoreState, table: FrameTable) -> tuple[Tensor | None, int]:
        if not self.training or self.scorer is None:
            return None, 0
        count = table.n_pairs * state.keep.shape[1]
        if state.aux_sum is None or count == 0:
            return 0.0 * state.anchor, 0
        return self.config.sim_reg_loss_coefficient * state.aux_sum / count, count


@dataclass(frozen=True)
class _ScoreState:
    keep: Tensor
    scores: Tensor | None
    bias: Tensor | None
    aux_sum: Tensor | None
    anchor: Tensor
    """Depends on every scorer parameter; ties the scorer into the graph."""


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
