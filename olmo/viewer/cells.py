"""Where the cells of a frame lie in a picture, and where their scores lie on the colour scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from olmo.patch_grid import pooled_grid


@dataclass(frozen=True)
class CellEdges:
    """Borders of the cells of a frame, as shares of its height (``rows``) and width
    (``columns``), 0 and 1 included."""

    rows: tuple[float, ...]
    columns: tuple[float, ...]

    @classmethod
    def even(cls, n_rows: int, n_columns: int) -> CellEdges:
        """Cells of one size."""
        rows, columns = (tuple(i / n for i in range(n + 1)) for n in (n_rows, n_columns))
        return cls(rows, columns)

    @classmethod
    def of_patches(cls, hp: int, wp: int, pool: int) -> CellEdges:
        """Cells of ``pool x pool`` patches; those at the border are smaller where the windows
        reach over the grid of ``hp x wp`` patches (see ``olmo.patch_grid.pooling_windows``)."""

        def edges(n_patches: int, n_cells: int) -> tuple[float, ...]:
            before = (n_cells * pool - n_patches) // 2
            places = (min(max(i * pool - before, 0), n_patches) for i in range(n_cells + 1))
            return tuple(place / n_patches for place in places)

        n_rows, n_columns = pooled_grid(hp, wp, pool, pool)
        return cls(edges(hp, n_rows), edges(wp, n_columns))

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
