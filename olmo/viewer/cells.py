"""What pruning keeps of a video: where its cells lie in a picture, their scores on a colour scale.

``kept_cells`` asks the vision backbone of a model; ``KeptVideo`` is what pictures are drawn from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from olmo.nn.vision_backbone import VisionOutput
from olmo.patch_grid import pooled_grid
from olmo.types import MultimodalType, VideoFrames

if TYPE_CHECKING:
    from olmo.models.molmo2.molmo2 import Molmo2, Molmo2Config


@dataclass(frozen=True)
class CellEdges:
    """Borders of the cells of a frame, as shares of its height (``rows``) and width
    (``columns``), 0 and 1 included."""

    rows: tuple[float, ...]
    columns: tuple[float, ...]

    @classmethod
    def of_patches(cls, grid: tuple[int, int], window: tuple[int, int]) -> CellEdges:
        """Cells of ``window`` patches (rows, columns) of ``grid``; those at the border are smaller
        where the windows reach over the grid (see ``olmo.patch_grid.pooling_windows``)."""

        def edges(n_patches: int, n_cells: int, pool: int) -> tuple[float, ...]:
            before = (n_cells * pool - n_patches) // 2
            places = (min(max(i * pool - before, 0), n_patches) for i in range(n_cells + 1))
            return tuple(place / n_patches for place in places)

        return cls(*map(edges, grid, pooled_grid(*grid, *window), window))

    @classmethod
    def of_video(cls, config: Molmo2Config) -> CellEdges:
        """Cells of a video frame in a model of ``config``."""
        video = config.mm_preprocessor.video
        window = (video.pooling_h, video.pooling_w)
        return cls.of_patches(config.vision_backbone.vit.image_num_patch, window)

    @property
    def shape(self) -> tuple[int, int]:
        """Cells (rows, columns)."""
        return len(self.rows) - 1, len(self.columns) - 1

    @property
    def n_cells(self) -> int:
        return self.shape[0] * self.shape[1]

    def pixels(self, size: tuple[int, int]) -> tuple[list[int], list[int]]:
        """The borders in an image of ``size`` (width, height): (of the rows, of the columns)."""
        return [round(y * size[1]) for y in self.rows], [round(x * size[0]) for x in self.columns]

    def spread(self, cells: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """``cells`` [rows, columns] as an image [height, width]."""
        heights, widths = (np.diff(edges) for edges in self.pixels(size))
        return cells.repeat(heights, 0).repeat(widths, 1)


@dataclass(frozen=True)
class HeatScale:
    """Where scores lie on the colour scale.

    Attributes:
        values: ``[frames, cells]`` in [0, 1]; the first frame's have no meaning if there are more,
            because it is never pruned.
        low, high: what the ends of the scale are.
        flat: all scores are equal but for float32 rounding, so the colours say nothing.
    """

    values: np.ndarray
    low: str
    high: str
    flat: bool

    @classmethod
    def of(cls, scores: np.ndarray | None, by_rank: bool) -> HeatScale | None:
        """By the values of the scores, or by their order; None where nothing is scored."""
        if scores is None:
            return None
        return cls.of_ranks(scores) if by_rank else cls.of_scores(scores)

    @classmethod
    def of_scores(cls, scores: np.ndarray) -> HeatScale:
        """From the lowest to the highest of the ``scores`` [frames, cells]."""
        later = scores[1:] if len(scores) > 1 else scores
        low, high = float(later.min()), float(later.max())
        width = max(high - low, 1e-12)
        rounding = 2 * float(np.finfo(np.float32).eps) * max(abs(low), abs(high), 1)
        digits = max(1 - math.floor(math.log10(width)), 0)
        form = f".{digits}f" if digits < 5 else ".2g"
        start, end = ("0" if float(f"{v:{form}}") == 0 else f"{v:{form}}" for v in (low, high))
        return cls(((scores - low) / width).clip(0, 1), start, end, high - low <= rounding)

    @classmethod
    def of_ranks(cls, scores: np.ndarray) -> HeatScale:
        """By the order of the scores: of equal ones the earlier cell is lower."""
        first = 1 if len(scores) > 1 else 0
        values = np.zeros(scores.shape)
        order = scores[first:].argsort(axis=None, kind="stable")
        values[first:].flat[order] = np.linspace(0, 1, order.size)
        return cls(values, "lowest", "highest", cls.of_scores(scores).flat)

    def cut(self, keep: np.ndarray) -> float | None:
        """Place of the highest score outside ``keep`` (bool [frames, cells]); None if all stay.
        Cells above it stay, and those at it or below only for an equal score or a new frame."""
        return float(self.values[~keep].max()) if not keep.all() else None


@dataclass(frozen=True)
class KeptVideo:
    """What is left of a video. ``ValueError`` if the numbers of frames, cells and time stamps do
    not agree.

    Attributes:
        video: the sampled frames.
        edges: where the cells lie in a frame.
        keep: bool ``[frames, cells]``, cells in raster order.
        scores: ``[frames, cells]``, high = keep; None if nothing was scored.
        protected: bool ``[frames]``, those that the method keeps whole although they have scores.
    """

    video: VideoFrames
    edges: CellEdges
    keep: np.ndarray
    scores: np.ndarray | None = None
    protected: np.ndarray | None = None

    def __post_init__(self) -> None:
        n, n_cells = len(self.video.frames), self.edges.n_cells
        for name, cells in (("keep", self.keep), ("scores", self.scores)):
            if cells is not None and cells.shape != (n, n_cells):
                raise ValueError(f"{name} is {cells.shape}, expected {n} frames of {n_cells} cells")
        if len(self.video.timestamps) != n or n == 0:
            raise ValueError(f"{len(self.video.timestamps)} time stamps for {n} frames")


@torch.no_grad()
def kept_cells(model: Molmo2, batch: dict[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
    """``cells_of`` what the vision backbone of ``model`` makes of ``batch``, a collated batch of
    one row with one video. ``ValueError`` for any other batch."""
    real = batch["num_images"].flatten() > 0
    n_rows, kinds = len(batch["images"]), batch["multimodal_type"].flatten()[real].tolist()
    if n_rows != 1 or kinds != [MultimodalType.VIDEO]:
        raise ValueError(f"expected one row with one video, got {n_rows} rows and inputs {kinds}")
    backbone, was_training = model.vision_backbone.eval(), model.training
    images, pooling = (batch[k].to(model.device) for k in ("images", "token_pooling"))
    try:
        out = backbone(images, None, pooling, batch["num_images"], batch["multimodal_type"])
    finally:
        backbone.train(was_training)
    return cells_of(out, int(batch["num_images"].flatten()[real]))


def cells_of(vision: VisionOutput, n_frames: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Of a batch with one video: keep, bool ``[frames, cells]``, and the scores, float32 of the
    same shape (high = keep), or None if nothing was scored."""
    keep = vision.keep.cpu()[vision.rows].view(n_frames, -1).numpy()
    scores = vision.scores
    return keep, None if scores is None else scores[:n_frames].float().cpu().numpy()
