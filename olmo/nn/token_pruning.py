"""Which cells a video loses: settings, scores by a registered method, then one selection rule.

A method is a function ``(ScoreInputs) -> scores [P, M]`` (float, high = keep) and one
``@prune_method`` line; what a video's first frame gets is ignored. Selection, budget and
first-frame rule are the same for all of them.
Source: STTS, arXiv 2603.18004.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from olmo.nn.image_vit import VitConfig
from olmo.nn.recompute import recomputed
from olmo.nn.token_layout import CellGrid, FrameTable, VideoSpan
from olmo.nn.token_scorer import TemporalTokenScorer, cell_features, neighbour_cosine
from olmo.token_budget import check_topk


@dataclass
class TemporalVitConfig(VitConfig):
    """ViT plus STTS. A method reads its own settings here: see ``ScoreInputs.config``."""

    prune: bool = True
    """False: a dense ViT with the same weights."""
    topk: float = 0.5
    """Share of a video's pooled cells to remove, in [0, 1)."""
    prune_at: int = 3
    """The scorer reads the output of this block (0-based)."""
    prune_method: str = "scorer"
    """A name of ``PRUNE_METHODS``: ``scorer`` is the learned one; ``easy``, ``heuristic``,
    ``random`` and ``evs`` need no training."""
    sim_reg_loss_coefficient: float = 0.5
    """Weight of the auxiliary loss."""
    initial_score: float = 0.5
    """About what a fresh scorer gives every cell. Where most cells repeat the frame before, the
    mean of 1 - cosine is better: on the way down from 0.5 the scores may fall to 0 for good."""
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
        check_topk(self.topk)
        self.in_range("(0, 1]", "rescale_bias_min")
        self.in_range("(0, 1)", "initial_score")
        self.in_range("[0, inf)", "prune_from_frame", "prune_at", "sim_reg_loss_coefficient")
        self.in_range("[-10, 10]", "new_ref_threshold")
        if self.prune_method not in PRUNE_METHODS:
            known = ", ".join(sorted(PRUNE_METHODS))
            raise ValueError(
                f"prune_method {self.prune_method!r} is not one of {known}; one of your own needs "
                "--plugin FILE, or in Python its module imported first"
            )
        if self.layout not in ("ragged", "packed"):
            raise ValueError(f"layout {self.layout!r} is not one of packed, ragged")
        if self.refill and self.layout != "packed":
            raise ValueError(f"refill=True needs layout=packed, got layout={self.layout}")

    @property
    def method(self) -> PruneMethod:
        return PRUNE_METHODS[self.prune_method]


@dataclass(frozen=True)
class ScoreInputs:
    """What a method may look at.

    Attributes:
        x: [P, N, E] what is compared, for the frames of prunable videos: the output of ViT block
            ``prune_at``, or the pooled tokens, one patch each, for a method with ``pooled``.
        images: [P, patches, patch_dim] the frames' pixels, uint8 or float in [-1, 1].
        has_previous: [P] bool, False for the first frame of each video.
        grid: the N patches and M cells of ``x``.
        videos: frames and budget of each prunable video.
        config: every setting of the ViT and of pruning.
        scorer: the learned module; None for the training-free methods.
    """

    x: Tensor
    images: Tensor
    has_previous: Tensor
    grid: CellGrid
    videos: tuple[VideoSpan, ...]
    config: TemporalVitConfig
    scorer: TemporalTokenScorer | None = None


ScoreFunction = Callable[[ScoreInputs], Tensor]


@dataclass(frozen=True)
class PruneMethod:
    """A registered method.

    Attributes:
        score: gives scores [P, M], high = keep.
        learned: uses the trained scorer; its scores bias block ``prune_at + 1``.
        pooled: scores the connector's output, so tokens leave only before the language model.
    """

    score: ScoreFunction
    learned: bool = False
    pooled: bool = False

    @property
    def spreads_ties(self) -> bool:
        """Whether equal scores are chosen from all over the video. A still picture gives a
        training-free method nothing but equal scores; published scorers take the earlier cell."""
        return not self.learned


PRUNE_METHODS: dict[str, PruneMethod] = {}


def prune_method(
    name: str, learned: bool = False, pooled: bool = False
) -> Callable[[ScoreFunction], ScoreFunction]:
    """Register a scoring function under the value of ``TemporalVitConfig.prune_method``. A
    module may define its method anew, but take no other's name."""

    def add(function: ScoreFunction) -> ScoreFunction:
        taken = PRUNE_METHODS.get(name)
        if taken and taken.score.__module__ != function.__module__:
            of = taken.score.__module__
            raise ValueError(f"prune_method {name!r} is that of {of}: take another name")
        PRUNE_METHODS[name] = PruneMethod(function, learned, pooled)
        return function

    return add


def training_free_methods() -> list[str]:
    """Names of the methods that need no trained scorer."""
    return sorted(name for name, method in PRUNE_METHODS.items() if not method.learned)


@prune_method("scorer", learned=True)
def learned_scores(inputs: ScoreInputs) -> Tensor:
    """The trained scorer. It is cheap but wide, so its activations are not kept."""
    assert inputs.scorer is not None
    given, draws = (inputs.x, inputs.has_previous, inputs.grid), inputs.config.draws
    return recomputed(inputs.scorer, *given, draws=draws)


@prune_method("random")
def random_scores(inputs: ScoreInputs) -> Tensor:
    """Uniform scores from a hash of (seed, frame pixels, frame of the video, cell).

    The draw of a video depends on nothing but the video and the seed: not on the rank, the
    device, the batch, or what was drawn before.
    """
    cells = torch.arange(inputs.grid.n_cells, device=inputs.x.device)
    keys = _mix(frame_keys(inputs.images) + inputs.config.random_seed)
    keys = _mix(_mix(keys + _index_in_video(inputs.has_previous))[:, None] + cells)
    return ((keys >> 11) & 0xFFFFFF).float() / float(1 << 24)


@prune_method("easy")
def frame_difference(inputs: ScoreInputs) -> Tensor:
    """1 - cosine between a cell and the same cell one frame earlier; new frames are protected."""
    return _protect_new_frames(_similarity_to_previous(inputs), inputs)


@prune_method("evs", pooled=True)
def pooled_frame_difference(inputs: ScoreInputs) -> Tensor:
    """1 - cosine between a pooled token and the one at its place one frame earlier.

    Efficient Video Sampling, arXiv 2510.14624, with the budget and first-frame rule used here.
    """
    return 1 - _similarity_to_previous(inputs)


@prune_method("heuristic")
def reference_difference(inputs: ScoreInputs) -> Tensor:
    """1 - cosine between a cell and the last one at its place that was new.

    A cell is new when its similarity to its place's reference falls under ``new_ref_threshold``;
    it then becomes the reference. When the mean of a whole frame falls under it, all its cells do.
    """
    cells = cell_features(inputs.x, inputs.grid)
    similarity = cells.new_zeros(cells.shape[:2])
    threshold = inputs.config.new_ref_threshold
    for video in inputs.videos:
        reference = cells[video.start]
        for t in range(video.start + 1, video.start + video.n_frames):
            similarity[t] = torch.cosine_similarity(cells[t], reference, dim=-1)
            new = (similarity[t] < threshold) | (similarity[t].mean() < threshold)
            reference = torch.where(new[:, None], cells[t], reference)
    return _protect_new_frames(similarity, inputs)


def _similarity_to_previous(inputs: ScoreInputs) -> Tensor:
    """[P, M]; what it says of a video's first frame has no meaning."""
    cosine = neighbour_cosine(inputs.x, inputs.grid)
    return torch.cat((cosine.new_zeros(1, inputs.grid.n_cells), cosine))


def _protect_new_frames(similarity_PM: Tensor, inputs: ScoreInputs) -> Tensor:
    """Scores 1 - similarity; 2 more, past any other score, in frames that are new as a whole.

    A frame is new when its mean similarity is under the threshold. While the frames that are not
    new hold fewer cells than the video must lose, the threshold of that video steps down by 0.05.
    """
    scores = 1 - similarity_PM
    threshold = inputs.config.new_ref_threshold
    n_steps = max(0, math.ceil((threshold + 1) / 0.05)) + 2
    steps = torch.arange(n_steps, device=scores.device)
    thresholds = threshold - 0.05 * steps
    for video in inputs.videos:
        rows = slice(video.start + 1, video.start + video.n_frames)
        new = similarity_PM[rows].mean(1) < thresholds[:, None]
        enough = (~new).sum(1) * inputs.grid.n_cells >= video.n_remove
        first_enough = enough.to(torch.int8).argmax()
        scores[rows] += 2.0 * new.index_select(0, first_enough[None])[0, :, None]
    return scores


def select_cells(scores_PM: Tensor, table: FrameTable, spread_ties: bool = False) -> Tensor:
    """Kept cells, bool [P, M]: every video loses its ``n_remove`` lowest scores.

    The first frame of a video always stays whole. Of equal scores the earlier cell goes first, or
    with ``spread_ties`` one here and one there over the whole video; the same on every device.
    """
    n_frames, n_cells = scores_PM.shape
    keep = torch.ones(n_frames, n_cells, dtype=torch.bool, device=scores_PM.device)
    for video in table.videos:
        rows = slice(video.start + 1, video.start + video.n_frames)
        order = removal_order(scores_PM[rows].detach(), spread_ties)
        later = keep[rows].flatten()
        later.index_fill_(0, order[: video.n_remove], False)
        keep[rows] = later.view(-1, n_cells)
    return keep


def removal_order(scores_PM: Tensor, spread_ties: bool) -> Tensor:
    """Indices of the flattened ``scores_PM`` from the lowest on; equal ones by their place, or
    spread.

    Spread: by the fractional part of frame x golden ratio + cell x sqrt(2), in 32-bit integers.
    Multiples of both lie evenly (Knuth, The Art of Computer Programming 3, 6.4), so any first few
    are shared out among the frames, and in them among the places.
    """
    scores = scores_PM.float().flatten()
    if not spread_ties:
        return torch.argsort(scores, stable=True)
    frame = torch.arange(scores_PM.shape[0], device=scores.device)[:, None] * 0x9E3779B1
    cell = torch.arange(scores_PM.shape[1], device=scores.device) * 0x6A09E667
    spread = torch.argsort(((frame + cell) & 0xFFFFFFFF).flatten(), stable=True)
    return spread[torch.argsort(scores[spread], stable=True)]


def _index_in_video(has_previous_P: Tensor) -> Tensor:
    """int64 [P]: 0 for a video's first frame, then 1, 2, ..."""
    place = torch.arange(len(has_previous_P), device=has_previous_P.device)
    return place - place.masked_fill(has_previous_P, 0).cummax(0).values


def frame_keys(images: Tensor) -> Tensor:
    """A number from the pixels of each frame, equal on every device for uint8 input.

    ``images`` [F, N, patch_dim] uint8, or float in [-1, 1]; returns int64 [F].
    """
    if images.dtype != torch.uint8:
        images = ((images.float() + 1) * 127.5).round()
    weights = torch.arange(1, images.shape[1] + 1, device=images.device)
    return (images.sum(-1, dtype=torch.int64) * weights).sum(-1)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64 finaliser (Steele et al., 2014) on int64, with wrap-around."""
    x = x + _signed(0x9E3779B97F4A7C15)
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _signed(0x94D049BB133111EB)
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
