"""What token pruning does to one video, for pictures: scored once, then cut at any budget.

``score_with_model`` takes the scores of a checkpoint's vision backbone, ``score_pixels`` those of
a training-free method on raw pixels. Budget and selection are the rules that the model follows
(``Budget``, ``select_cells``).
"""

from __future__ import annotations

import copy
import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from olmo.models.loading import load_weights
from olmo.models.temporal_video_olmo.temporal_video_olmo import (
    TemporalVideoOlmo,
    TemporalVideoOlmoConfig,
)
from olmo.nn.image_vit import normalize_pixels
from olmo.nn.temporal_image_vit import TemporalVitConfig
from olmo.nn.token_layout import CellGrid, FrameTable, VideoSpan
from olmo.nn.token_pruning import (
    ScoreInputs,
    select_cells,
    training_free_methods,
)
from olmo.preprocessing.images import patchify, resize_frames
from olmo.preprocessing.video import video_token_pooling
from olmo.token_budget import Budget
from olmo.types import VideoFrames
from olmo.viewer.cells import CellEdges, HeatScale
from olmo.viewer.kept import KeptVideo

CODING_NOISE = 12
"""Frames that differ by so many of 255 levels at most show the same."""
LATER_LLM_BLOCKS = re.compile(r"transformer\.blocks\.\d+\..*")


@dataclass(frozen=True)
class ScoreLevel:
    """Scores float32 ``[frames, cells]`` that hold for budgets up to ``max_remove`` cells."""

    max_remove: int
    scores: np.ndarray


@dataclass(frozen=True)
class ScoredVideo:
    """A video with scores for every budget.

    Attributes:
        video: the frames, at the size of the file.
        edges: where the cells lie in a frame.
        levels: by ascending budget; more than one for methods that protect new frames while the
            others hold enough cells. Empty for a video of one frame, which is never pruned.
        rule: what leaves by the settings.
        vit: the other settings.
        source: what was scored, in words.
    """

    video: VideoFrames
    edges: CellEdges
    levels: tuple[ScoreLevel, ...]
    rule: Budget
    vit: TemporalVitConfig
    source: str

    @property
    def n_frames(self) -> int:
        return len(self.video.frames)

    @property
    def scores(self) -> np.ndarray | None:
        """``[frames, cells]`` as the method gives them when it protects no frame."""
        return self.levels[-1].scores if self.levels else None

    def budget(self, topk: float | None = None) -> Budget:
        """What leaves at ``topk`` (default: the one of the settings)."""
        return self.rule.at(topk)

    def kept(self, topk: float | None = None) -> KeptVideo:
        """What stays at ``topk``."""
        n_remove = self.budget(topk).removed(self.n_frames)
        if self.scores is None or n_remove == 0:
            keep = np.ones((self.n_frames, self.edges.n_cells), dtype=bool)
            return KeptVideo(self.video, self.edges, keep, self.scores)
        scores = next(level.scores for level in self.levels if level.max_remove >= n_remove)
        table = _one_video(self.n_frames, n_remove)
        keep = select_cells(torch.from_numpy(scores), table, self.vit.method.spreads_ties).numpy()
        protected = _raised(scores, self.scores)
        return KeptVideo(self.video, self.edges, keep, self.scores, protected)

    def in_words(self) -> str:
        """The budget of the settings."""
        budget, n = self.budget(), self.n_frames
        removed, total, kept = budget.removed(n), budget.total(n), budget.kept(n)
        return (
            f"topk {budget.topk:g}: {removed} of {total} visual tokens removed, {kept} kept "
            f"({1 - removed / total:.0%})"
        )

    def note(self) -> str:
        """Why there is little to see, in a sentence; mostly empty."""
        if self.scores is None:
            return "A video of one frame is never pruned, so all of it is kept."
        if HeatScale.of(self.scores).flat:
            return (
                "All cells after the first frame have the same score (but for rounding), as when "
                "nothing changes in the video, so it means nothing which of them are removed."
            )
        first = self.video.frames[0].astype(np.int16)
        if all(np.abs(frame - first).max() <= CODING_NOISE for frame in self.video.frames[1:]):
            return (
                "Nothing changes in this video: its frames differ by coding noise at most, so "
                "scores of change are close together and say little."
            )
        return ""

    def caption(self) -> list[tuple[str, str]]:
        """Labelled lines for below a picture: budget, source of the scores, ``note``."""
        lines = [("budget", self.in_words()), ("scores", self.source), ("note", self.note())]
        return [line for line in lines if line[1]]


def score_pixels(video: VideoFrames, vit: TemporalVitConfig, pool: int) -> ScoredVideo:
    """Score with a training-free method that compares raw pixels, scaled to [-1, 1].

    Of ``vit``, frame size, patch size and the settings of pruning count. ``ValueError`` for a
    learned method.
    """
    if vit.method.learned:
        raise ValueError(
            f"prune_method={vit.prune_method} needs the weights of a checkpoint; without one, "
            f"choose a training-free method: {', '.join(training_free_methods())}"
        )
    images = torch.from_numpy(patchify(_resized(video, vit), vit.image_patch_size))
    n_frames = len(images)
    inputs = ScoreInputs(
        x=normalize_pixels(images),
        images=images,
        has_previous=torch.arange(n_frames) > 0,
        grid=CellGrid.build(*vit.image_num_patch, pool, images.device),
        videos=(),
        config=vit,
    )
    h, w = vit.image_default_input_size
    source = (
        f"prune_method {vit.prune_method} on raw pixels ({h} x {w}, patch {vit.image_patch_size}, "
        f"pool {pool})"
    )
    rule = Budget(inputs.grid.n_cells, vit.topk, vit.prune_from_frame)
    return _scored(video, inputs, pool, rule, source)


def load_for_scoring(
    config: TemporalVideoOlmoConfig, folder: Path, device: torch.device | str
) -> TemporalVideoOlmo:
    """The model of a checkpoint folder, its language model cut to one layer.

    ``CheckpointError`` if ``config`` asks for the learned scorer and the checkpoint has none.
    """
    config = copy.deepcopy(config)
    config.llm.n_layers = 1  # no token reaches it
    config.llm.full_attention_layers = None
    model = config.build("meta").to_empty(device=device)
    load_weights(model, folder, unread=LATER_LLM_BLOCKS)
    return model.eval()


def score_with_model(model: TemporalVideoOlmo, video: VideoFrames, name: str) -> ScoredVideo:
    """Score with a model's own ``prune_method``; ``name`` says which model it is."""
    backbone, settings = model.vision_backbone, model.vision_backbone.config.vit
    what = "the pooled tokens" if settings.method.pooled else f"ViT block {settings.prune_at}"
    source = f"prune_method {settings.prune_method} on {what} of {name}"
    frames = _resized(video, settings)
    images = torch.from_numpy(patchify(frames, settings.image_patch_size))
    preprocessing = model.config.mm_preprocessor.video
    pooling = video_token_pooling(preprocessing, len(images), *settings.image_num_patch)
    with torch.no_grad():
        inputs = backbone.score_inputs(
            images.to(model.device),
            torch.from_numpy(pooling).to(model.device),
            _one_video(len(images), n_remove=1).to(model.device),
        )
    return _scored(video, inputs, backbone.config.video_pooling, backbone.budget(), source)


@torch.no_grad()
def _scored(
    video: VideoFrames, inputs: ScoreInputs, pool: int, rule: Budget, source: str
) -> ScoredVideo:
    """``video`` with its scores under every budget.

    A method may protect whole frames as long as the others hold as many cells as must go, fewer
    frames the more must go: its scores then stay the same up to that budget. A frame is protected
    when its scores differ from those under the largest budget.
    """
    vit = inputs.config
    edges = CellEdges.of_patches(vit.image_num_patch, (pool, pool))
    n_frames, n_cells = len(inputs.images), edges.n_cells
    largest = n_cells * (n_frames - 1)

    def score(n_remove: int) -> np.ndarray:
        one = dataclasses.replace(inputs, videos=(VideoSpan(0, n_frames, n_remove),))
        scores = vit.method.score(one).float().cpu().numpy()
        if not np.isfinite(scores[1:]).all():
            raise ValueError(f"prune_method={vit.prune_method} gives scores that are not finite")
        return scores

    levels: list[ScoreLevel] = []
    last = score(largest) if largest else None
    while last is not None and (not levels or levels[-1].max_remove < largest):
        n_remove = levels[-1].max_remove + 1 if levels else 1
        scores = score(n_remove)
        free = int((~_raised(scores, last)[1:]).sum()) * n_cells
        levels.append(ScoreLevel(max(n_remove, free), scores))
    return ScoredVideo(video, edges, tuple(levels), rule, vit, source)


def _raised(scores: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Frames with other scores than in ``base``, bool ``[frames]``; never the first."""
    raised = (scores != base).any(1)
    raised[0] = False
    return raised


def _resized(video: VideoFrames, vit: TemporalVitConfig) -> np.ndarray:
    """uint8 ``[frames, h, w, 3]``, as the model gets them."""
    return resize_frames(video.frames, vit.image_default_input_size)


def _one_video(n_frames: int, n_remove: int) -> FrameTable:
    rows = torch.arange(n_frames)
    return FrameTable(rows, rows, rows > 0, (VideoSpan(0, n_frames, n_remove),))
