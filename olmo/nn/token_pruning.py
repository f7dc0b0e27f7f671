"""Which cells a video loses: scores by a registered method, then one selection rule.

A method is a function ``(ScoreInputs) -> scores [P, M]`` (float, high = keep) and one
``@prune_method`` line. Selection, budget and first-frame rule are the same for all of them.
Source: STTS, arXiv 2603.18004.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from olmo.nn.token_layout import CellGrid, FrameTable

if TYPE_CHECKING:
    from olmo.nn.token_scorer import TemporalTokenScorer


@dataclass(frozen=True)
class ScoreInputs:
    """What a method may look at.

    Attributes:
        x: [P, N, E] output of ViT block ``prune_at`` for the frames of prunable videos.
        has_previous: [P] bool, False for the first frame of each video.
        grid: patches and cells of a frame.
        frame_keys: [P] int64, a number made from each frame's pixels.
        seed: of the random draws.
        scorer: the learned module; None for the training-free methods.
    """

    x: Tensor
    has_previous: Tensor
    grid: CellGrid
    frame_keys: Tensor
    seed: int
    scorer: TemporalTokenScorer | None


ScoreFunction = Callable[[ScoreInputs], Tensor]
PRUNE_METHODS: dict[str, ScoreFunction] = {}


def prune_method(name: str) -> Callable[[ScoreFunction], ScoreFunction]:
    """Register a scoring function under the value of ``TemporalVitConfig.prune_method``."""

    def add(function: ScoreFunction) -> ScoreFunction:
        PRUNE_METHODS[name] = function
        return function

    return add


@prune_method("scorer")
def learned_scores(inputs: ScoreInputs) -> Tensor:
    """The trained scorer."""
    assert inputs.scorer is not None
    return inputs.scorer(inputs.x, inputs.has_previous, inputs.grid)


@prune_method("random")
def random_scores(inputs: ScoreInputs) -> Tensor:
    """Uniform scores from a hash of (seed, frame pixels, cell).

    The draw of a video depends on nothing but the video and the seed: not on the rank, the
    device, the batch, or what was drawn before.
    """
    cells = torch.arange(inputs.grid.n_cells, device=inputs.x.device)
    keys = _mix(_mix(inputs.frame_keys + inputs.seed)[:, None] + cells)
    return ((keys >> 11) & 0xFFFFFF).float() / float(1 << 24)


def select_cells(scores_PM: Tensor, table: FrameTable) -> Tensor:
    """Kept cells, bool [P, M]: every video loses its ``n_remove`` lowest scores.

    The first frame of a video always stays whole. Of equal scores the earlier cell goes first,
    on every device.
    """
    n_frames, n_cells = scores_PM.shape
    keep = torch.ones(n_frames, n_cells, dtype=torch.bool, device=scores_PM.device)
    for video in table.videos:
        rows = slice(video.start + 1, video.start + video.n_frames)
        order = torch.argsort(scores_PM[rows].detach().float().flatten(), stable=True)
        later = keep[rows].flatten()
        later[order[: video.n_remove]] = False
        keep[rows] = later.view(-1, n_cells)
    return keep


def frame_keys(images: Tensor) -> Tensor:
    """A number from the pixels of each frame, equal on every device for uint8 input.

    ``images`` [F, N, patch_dim] uint8, or float in [-1, 1]; returns int64 [F].
    """
    if images.dtype != torch.uint8:
        images = ((images.float() + 1) * 127.5).round()
    weights = torch.arange(1, images.shape[1] + 1, device=images.device)
    return (images.to(torch.int64).sum(-1) * weights).sum(-1)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64 finaliser (Steele et al., 2014) on int64, with wrap-around."""
    x = x + _signed(0x9E3779B97F4A7C15)
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _signed(0x94D049BB133111EB)
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
