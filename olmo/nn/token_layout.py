"""Plans, built on the host from counts: which frames there are and where survivors lie.

``FrameTable``    the real frames of a batch, which of them form videos, how much each loses
``CellGrid``      patches <-> pooled cells of one frame
``TokenLayout``   survivors of all frames in one flat row, and how to find a patch in it

Legend: F real frames of the batch (padding left out), P of them in prunable videos, V prunable
videos, N patches and M cells per frame, G slots of a cell, K survivors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby

import torch
from torch import Tensor

from olmo.nn.transfer import to_device
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
        tensors = (self.slots, self.prunable, self.has_previous)
        slots, prunable, has_previous = to_device(tensors, device)
        return FrameTable(slots, prunable, has_previous, self.videos)


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
    prunable: list[int] = []
    has_previous: list[bool] = []
    videos: list[VideoSpan] = []
    start = 0
    given = (x.flatten().tolist() for x in (num_images.clamp(min=0), multimodal_type))
    for n, kind in zip(*given, strict=True):
        n_remove = n_removed_tokens(n, cells_per_frame, topk, prune_from_frame)
        if kind == MultimodalType.VIDEO and n_remove > 0:
            videos.append(VideoSpan(len(prunable), n, n_remove))
            prunable += range(start, start + n)
            has_previous += [False] + [True] * (n - 1)
        start += n
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
    @cache
    @torch.inference_mode(False)
    def build(cls, hp: int, wp: int, pool: int, device: torch.device) -> CellGrid:
        """Grid of ``hp x wp`` patches in windows of ``pool x pool``; the same object every time."""
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

    def cell_sums(self, x_FN: Tensor) -> Tensor:
        """Sum of a value per patch over each cell: [F, N] -> [F, M]."""
        return (x_FN[:, self.windows.clamp(min=0)] * (self.windows >= 0)).sum(-1)

    def cell_means(self, x_FN: Tensor) -> Tensor:
        """Mean of a value per patch over each cell's patches: [F, N] -> [F, M]."""
        return self.cell_sums(x_FN) / (self.windows >= 0).sum(-1)

    def spread(self, x_FM: Tensor) -> Tensor:
        """A value per cell to each of its patches: [F, M] -> [F, N]."""
        return x_FM[:, self.cell_of_patch]


@dataclass(frozen=True)
class TokenLayout:
    """Where the tokens of the pruned blocks lie: one flat row, cut into segments.

    Attention stays inside a segment; everything else does not see them. ``ragged`` and ``packed``
    differ in nothing but the order of the row and in what fills it.

    Attributes:
        source: [K] flat patch (frame * N + patch) of each token; 0 in filler slots.
        slot: [F * N] token of each surviving patch, -1 if it was removed.
        lengths: tokens of each segment, in the order of the row; their sum is K.
        frames: the frame that each segment belongs to; 0 for filler.
        cu_seqlens: int32 [segments + 1] on the device, where each segment starts.
        frame_index: int64 [segments], ``frames`` on the device.
        n_survivors: patches of kept cells.
        n_refilled: removed patches that take part nevertheless.
    """

    source: Tensor
    slot: Tensor
    lengths: tuple[int, ...]
    frames: tuple[int, ...]
    cu_seqlens: Tensor
    frame_index: Tensor
    n_survivors: int
    n_refilled: int = 0

    @classmethod
    def ragged(
        cls, keep_FM: Tensor, grid: CellGrid, counts: list[int] | None = None
    ) -> TokenLayout:
        """Survivors and nothing else, frames sorted by their number of survivors.

        ``keep_FM`` bool [F, M] are the kept cells, ``counts`` each frame's surviving patches; None
        reads them, for which the host waits.
        """
        keep_FN = grid.spread(keep_FM)
        counts = keep_FN.sum(1).tolist() if counts is None else counts
        order = sorted((f for f in range(len(counts)) if counts[f]), key=counts.__getitem__)
        segments = [(f, counts[f]) for f in order]
        return cls._place(keep_FN, keep_FN, grid, segments, sum(counts))

    @classmethod
    def packed(
        cls, keep_FM: Tensor, grid: CellGrid, refill: bool = False, counts: list[int] | None = None
    ) -> TokenLayout:
        """Whole frames in bins of N slots, first fit decreasing, as in the reference.

        A bin's free slots are filler, a segment of its own whose results are never read. With
        ``refill`` the removed patches of a frame that is alone in its bin take part.
        """
        keep_FN = grid.spread(keep_FM)
        counts = keep_FN.sum(1).tolist() if counts is None else list(counts)
        n_patches = keep_FN.shape[1]
        present, n_survivors = keep_FN, sum(counts)
        bins = first_fit_decreasing(counts, n_patches)
        if refill:
            alone = {b[0] for b in bins if len(b) == 1}
            whole = torch.tensor([[f in alone] for f in range(len(counts))])
            present = keep_FN | to_device([whole], keep_FN.device)[0]
            for f in alone:
                counts[f] = n_patches
        segments: list[tuple[int | None, int]] = []
        for members in bins:
            segments += [(f, counts[f]) for f in members]
            segments.append((None, n_patches - sum(counts[f] for f in members)))
        segments = [s for s in segments if s[1]]
        return cls._place(keep_FN, present, grid, segments, n_survivors)

    @classmethod
    def _place(
        cls,
        keep_FN: Tensor,
        present_FN: Tensor,
        grid: CellGrid,
        segments: Sequence[tuple[int | None, int]],
        n_survivors: int,
    ) -> TokenLayout:
        """Give each present patch its token: (frame, length) of the segments say where each
        frame's tokens start; inside a frame they come cell by cell.

        How many patches are present in all is not read from the device, for which the host would
        wait. So no index is made of a mask: an absent patch gets a token, too, the one behind the
        row, and that token is cut off.
        """
        device, (n_frames, n_patches) = keep_FN.device, keep_FN.shape
        starts, position, ends = [0] * n_frames, 0, [0]
        for frame, length in segments:
            if frame is not None:
                starts[frame] = position
            position += length
            ends.append(position)
        frames = tuple(frame or 0 for frame, _ in segments)
        plan = [torch.tensor(x, dtype=torch.int64) for x in (starts, frames, ends)]
        start, frame_index, cu_seqlens = to_device([*plan[:2], plan[2].to(torch.int32)], device)
        by_cell = present_FN[:, grid.window_order]
        rank = by_cell.cumsum(1) - 1 + start[:, None]
        token = torch.empty_like(rank)
        token[:, grid.window_order] = rank
        token = torch.where(present_FN, token, position).flatten()
        source = token.new_zeros(position + 1)
        source[token] = torch.arange(n_frames * n_patches, device=device)
        return cls(
            source[:position],
            torch.where(keep_FN.flatten(), token, -1),
            tuple(length for _, length in segments),
            frames,
            cu_seqlens,
            frame_index,
            n_survivors,
            sum(length for frame, length in segments if frame is not None) - n_survivors,
        )

    @property
    def groups(self) -> list[tuple[tuple[int, ...], int]]:
        """Runs of segments of equal length: (their frames, the length)."""
        runs = groupby(zip(self.lengths, self.frames, strict=True), key=lambda s: s[0])
        return [(tuple(frame for _, frame in run), length) for length, run in runs]

    def gather(self, x_FNE: Tensor) -> Tensor:
        """[F, N, E] -> [K, E]."""
        return x_FNE.flatten(0, 1)[self.source]


def first_fit_decreasing(counts: Sequence[int], capacity: int) -> list[list[int]]:
    """Place items into bins of ``capacity``: largest first, each in the first bin with room.

    Equal counts keep their order; items of 0 are left out. Returns each bin's items.
    """
    bins: list[list[int]] = []
    room: list[int] = []
    for item in sorted(range(len(counts)), key=lambda i: -counts[i]):
        if counts[item] == 0:
            continue
        b = next((b for b, free in enumerate(room) if counts[item] <= free), len(bins))
        if b == len(bins):
            bins.append([])
            room.append(capacity)
        bins[b].append(item)
        room[b] -= counts[item]
    return bins
