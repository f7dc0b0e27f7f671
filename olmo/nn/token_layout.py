"""Plans, built on the host from counts: which frames there are and where survivors lie.

``FrameTable``    the real frames of a batch, which of them form videos, how much each loses
``CellGrid``      patches <-> pooled cells of one frame
``RaggedLayout``  survivors of all frames in one flat row, and how to find a patch in it

Legend: F real frames of the batch (padding left out), P of them in prunable videos, V prunable
videos, N patches and M cells per frame, G slots of a cell, K survivors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from olmo.patch_grid import pooled_grid, pooling_windows
from olmo.token_budget import n_removed_tokens
from olmo.types import MultimodalType


@dataclass(frozen=True)
class VideoSpan:
    """One prunable video: its first frame among the P prunable ones, frame count and budget."""

    start: int
    n_frames: int
    n_remove: int


@dataclass(frozen=True)
class FrameTable:
    """The real frames of a batch, in (row, frame) order. All index tensors are int64.

    Attributes:
        slots: [F] place of each encoded frame in the flat ``B * T`` frame slots: the real
            ones, or one padding frame if there are none.
        prunable: [P] indices into the F frames of the frames that belong to prunable videos.
        has_previous: [P] bool, False for the first frame of a video.
        videos: the prunable videos, in order.
    """

    slots: Tensor
    prunable: Tensor
    has_previous: Tensor
    videos: tuple[VideoSpan, ...]

    @property
    def n_pairs(self) -> int:
        """Pairs of neighbouring frames inside prunable videos."""
        return sum(v.n_frames - 1 for v in self.videos)

    def to(self, device: torch.device) -> FrameTable:
        return FrameTable(
            self.slots.to(device),
            self.prunable.to(device),
            self.has_previous.to(device),
            self.videos,
        )


def frame_table(
    num_images: Tensor,
    multimodal_type: Tensor,
    n_slots: int,
    cells_per_frame: int,
    topk: float,
    prune_from_frame: int = 0,
) -> FrameTable:
    """Read a batch's frame counts.

    Args:
        num_images: int [B, V], frames or crops of each visual input; padding <= 0.
        multimodal_type: int [B, V], a ``MultimodalType`` each.
        n_slots: T, frame slots per row; more frames than slots is a ``ValueError``.
        topk: share to remove; a video whose budget comes to 0 is not prunable.
    """
    n_frames = 0
    prunable: list[int] = []
    has_previous: list[bool] = []
    videos: list[VideoSpan] = []
    for counts, kinds in zip(num_images.tolist(), multimodal_type.tolist(), strict=True):
        for n, kind in zip(counts, kinds, strict=True):
            if n <= 0:
                continue
            if kind == MultimodalType.VIDEO:
                n_remove = n_removed_tokens(n, cells_per_frame, topk, prune_from_frame)
                if n_remove > 0:
                    videos.append(VideoSpan(len(prunable), n, n_remove))
                    prunable.extend(range(n_frames, n_frames + n))
                    has_previous.extend([False] + [True] * (n - 1))
            n_frames += n
    return FrameTable(
        real_slots(num_images, n_slots),
        torch.tensor(prunable, dtype=torch.int64),
        torch.tensor(has_previous, dtype=torch.bool),
        tuple(videos),
    )


def real_slots(num_images: Tensor, n_slots: int) -> Tensor:
    """int64 [F]: places of the real frames among ``B * n_slots`` frame slots.

    A batch without any gives slot 0: a padding frame keeps the ranks of a sharded model in step.
    ``ValueError`` if a row counts more frames than it has slots.
    """
    counts = num_images.clamp(min=0).sum(1).tolist()
    if max(counts) > n_slots:
        raise ValueError(f"num_images counts {max(counts)} frames in a row of {n_slots} slots")
    slots = [row * n_slots + i for row, n in enumerate(counts) for i in range(n)]
    return torch.tensor(slots or [0], dtype=torch.int64)


@dataclass(frozen=True)
class CellGrid:
    """Patches and cells of one frame.

    Attributes:
        shape: cells (rows, columns).
        windows: [M, G] raster patch of each slot, -1 outside the grid.
        cell_of_patch: [N] cell of each patch.
        window_order: [N] the patches cell by cell: a cell's patches are neighbours in it.
    """

    shape: tuple[int, int]
    windows: Tensor
    cell_of_patch: Tensor
    window_order: Tensor

    @classmethod
    def build(cls, hp: int, wp: int, pool: int, device: torch.device) -> CellGrid:
        windows = torch.from_numpy(pooling_windows(hp, wp, pool, pool))
        cell, slot = torch.nonzero(windows >= 0, as_tuple=True)
        order = windows[cell, slot]
        cell_of_patch = torch.empty(hp * wp, dtype=torch.int64)
        cell_of_patch[order] = cell
        return cls(
            pooled_grid(hp, wp, pool, pool),
            windows.to(device),
            cell_of_patch.to(device),
            order.to(device),
        )

    @property
    def n_cells(self) -> int:
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True)
class RaggedLayout:
    """Survivors of all frames in one flat row.

    Frames are sorted by survivor count, so that frames of equal count form a plain batch; inside
    a frame survivors come cell by cell.

    Attributes:
        source: [K] flat patch (frame * N + patch) of each survivor.
        slot: [F * N] row of each patch among the survivors, -1 if it was removed.
        groups: (number of frames, survivors per frame), in the order of the row.
    """

    source: Tensor
    slot: Tensor
    groups: tuple[tuple[int, int], ...]

    @classmethod
    def build(cls, keep_FM: Tensor, grid: CellGrid) -> RaggedLayout:
        """Plan for the kept cells ``keep_FM`` (bool [F, M]). One device sync, for the counts."""
        keep_FN = keep_FM[:, grid.cell_of_patch[grid.window_order]]
        counts = keep_FN.sum(1)
        order = torch.argsort(counts, stable=True)
        frame, position = torch.nonzero(keep_FN[order], as_tuple=True)
        n_patches = keep_FN.shape[1]
        source = order[frame] * n_patches + grid.window_order[position]
        slot = source.new_full((keep_FN.numel(),), -1)
        slot[source] = torch.arange(source.numel(), device=source.device)
        return cls(source, slot, _groups(sorted(counts.tolist())))

    def gather(self, x_FNE: Tensor) -> Tensor:
        """[F, N, E] -> [K, E]."""
        return x_FNE.flatten(0, 1)[self.source]


def _groups(counts: Sequence[int]) -> tuple[tuple[int, int], ...]:
    return tuple((len(list(run)), count) for count, run in groupby(counts) if count > 0)
