"""Where the cells of a frame lie in a picture, and where their scores lie on the colour scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from olmo.patch_grid import pooled_grid

if TYPE_CHECKING:
    from olmo.models.molmo2.molmo2 import Molmo2Config


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
    def of(cls, scores: np.ndarray, by_rank: bool = False) -> HeatScale:
        """From the lowest to the highest of the ``scores`` [frames, cells], or by their order: of
        equal ones the earlier cell is lower."""
        first = min(len(scores) - 1, 1)
        later = scores[first:]
        low, high = float(later.min()), float(later.max())
        flat = high - low <= 2 * float(np.finfo(np.float32).eps) * max(abs(low), abs(high), 1)
        if by_rank:
            values, order = np.zeros(scores.shape), later.argsort(axis=None, kind="stable")
            values[first:].flat[order] = np.linspace(0, 1, order.size)
            return cls(values, "lowest", "highest", flat)
        width = max(high - low, 1e-12)
        digits = max(1 - math.floor(math.log10(width)), 0)
        form = f".{digits}f" if digits < 5 else ".2g"
        start, end = ("0" if float(f"{v:{form}}") == 0 else f"{v:{form}}" for v in (low, high))
        return cls(((scores - low) / width).clip(0, 1), start, end, flat)

    def cut(self, keep: np.ndarray) -> float | None:
        """Place of the highest score outside ``keep`` (bool [frames, cells]); None if all stay.
        Cells above it stay, and those at it or below only for an equal score or a new frame."""
        return float(self.values[~keep].max()) if not keep.all() else None
