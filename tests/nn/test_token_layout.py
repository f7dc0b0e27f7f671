"""Plans of frames, cells and survivors, written out by hand."""

from __future__ import annotations

import pytest
import torch

from olmo.nn.token_layout import CellGrid, TokenLayout, VideoSpan, frame_table, real_slots
from olmo.nn.vision_backbone import patch_rows
from tests.nn.conftest import IMAGE, VIDEO

CPU = torch.device("cpu")


def test_frame_table() -> None:
    """Row 0: an image of two crops, a video of three frames. Row 1: a one-frame video, which
    has nothing to lose, an empty entry and a video of four."""
    table = frame_table(
        torch.tensor([[2, 3, -1], [1, 0, 4]]),
        torch.tensor([[IMAGE, VIDEO, -1], [VIDEO, VIDEO, VIDEO]]),
        n_slots=6,
        cells_per_frame=9,
        topk=0.5,
    )
    assert table.slots.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert table.prunable.tolist() == [2, 3, 4, 6, 7, 8, 9]
    assert table.has_previous.tolist() == [False, True, True, False, True, True, True]
    assert table.videos == (VideoSpan(0, 3, 13), VideoSpan(3, 4, 18))
    assert table.n_pairs == 5


@pytest.mark.parametrize(("topk", "skip", "expected"), [(0.0, 0, ()), (0.5, 3, ()), (0.5, 1, (9,))])
def test_videos_without_a_budget_are_not_prunable(
    topk: float, skip: int, expected: tuple[int, ...]
) -> None:
    counts, kinds = torch.tensor([[3]]), torch.tensor([[VIDEO]])
    table = frame_table(counts, kinds, 3, 9, topk, prune_from_frame=skip)
    assert tuple(v.n_remove for v in table.videos) == expected
    assert len(table.prunable) == 3 * len(expected) and len(table.slots) == 3


def test_frame_table_of_text() -> None:
    """One padding frame is encoded all the same: it keeps the ranks of a sharded model in step."""
    for counts in (torch.full((2, 1), -1), torch.zeros(2, 0, dtype=torch.int64)):
        table = frame_table(counts, torch.full_like(counts, -1), 4, 9, 0.5)
        assert table.slots.tolist() == [0] and table.slots.dtype == torch.int64
        assert len(table.prunable) == table.n_pairs == 0 and table.videos == ()


def test_more_frames_than_slots() -> None:
    counts = torch.tensor([[4, 0], [3, 2]])
    with pytest.raises(ValueError, match="5 frames in a row of 4 slots"):
        frame_table(counts, torch.full((2, 2), IMAGE), 4, 9, 0.5)


def test_patch_rows() -> None:
    """Rows of two frame slots with ten patches each; row 0 has one real frame, row 1 two. An
    index into a padding frame counts as empty."""
    slots = real_slots(torch.tensor([[1, -1], [1, 1]]), 2)
    assert slots.tolist() == [0, 2, 3]
    pooling = torch.tensor([[[3, -1], [12, 4]], [[0, 9], [10, 19]]])
    moved = patch_rows(pooling, slots, n_slots=2, n_patches=10)
    assert moved.tolist() == [[[3, -1], [-1, 4]], [[10, 19], [20, 29]]]


def test_cells_of_a_wide_grid() -> None:
    grid = CellGrid.build(2, 6, 2, CPU)
    assert grid.shape == (1, 3) and grid.n_cells == 3
    assert grid.windows.tolist() == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]
    assert grid.cell_of_patch.tolist() == [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2]
    assert grid.window_order.tolist() == [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]


def test_cells_of_a_grid_that_is_no_multiple_of_the_window() -> None:
    """5 rows: one empty row behind; 4 columns: one empty column on each side."""
    grid = CellGrid.build(5, 4, 3, CPU)
    assert grid.shape == (2, 2)
    assert grid.windows.tolist() == [
        [-1, 0, 1, -1, 4, 5, -1, 8, 9],
        [2, 3, -1, 6, 7, -1, 10, 11, -1],
        [-1, 12, 13, -1, 16, 17, -1, -1, -1],
        [14, 15, -1, 18, 19, -1, -1, -1, -1],
    ]
    assert grid.cell_of_patch.view(5, 4).tolist() == [
        *3 * [[0, 0, 1, 1]],
        *2 * [[2, 2, 3, 3]],
    ]
    assert grid.window_order.tolist() == [
        *[0, 1, 4, 5, 8, 9, 2, 3, 6, 7, 10, 11],
        *[12, 13, 16, 17, 14, 15, 18, 19],
    ]


def test_layout() -> None:
    """Four frames of 2 x 4 patches in two cells. Frames come by survivor count, equal ones in
    their order, and an emptied one not at all; cells in order, their patches side by side."""
    grid = CellGrid.build(2, 4, 2, CPU)
    keep = torch.tensor([[True, True], [False, True], [False, False], [True, False]])
    layout = TokenLayout.ragged(keep, grid)
    assert layout.source.tolist() == [
        *[10, 11, 14, 15],  # frame 1, right cell
        *[24, 25, 28, 29],  # frame 3, left cell
        *[0, 1, 4, 5, 2, 3, 6, 7],  # frame 0
    ]
    assert layout.groups == [((1, 3), 4), ((0,), 8)]
    assert layout.slot.view(4, 8).tolist() == [
        [8, 9, 12, 13, 10, 11, 14, 15],
        [-1, -1, 0, 1, -1, -1, 2, 3],
        [-1] * 8,
        [4, 5, -1, -1, 6, 7, -1, -1],
    ]
    x = torch.arange(4 * 8 * 2).view(4, 8, 2)
    assert layout.gather(x)[:, 0].tolist() == [2 * i for i in layout.source.tolist()]


def test_nothing_survives() -> None:
    grid = CellGrid.build(2, 2, 2, CPU)
    layout = TokenLayout.ragged(torch.zeros(3, 1, dtype=torch.bool), grid)
    assert layout.groups == [] and layout.gather(torch.ones(3, 4, 5)).shape == (0, 5)


@pytest.mark.parametrize("shape", [(9, 9, 3), (5, 4, 3), (4, 7, 2), (6, 6, 1)])
def test_slot_is_the_inverse_of_gather(shape: tuple[int, int, int]) -> None:
    grid = CellGrid.build(*shape, CPU)
    keep = torch.rand(7, grid.n_cells) < 0.5
    layout = TokenLayout.ragged(keep, grid)
    n_patches = shape[0] * shape[1]
    assert torch.equal(layout.slot[layout.source], torch.arange(len(layout.source)))
    kept_patches = keep[:, grid.cell_of_patch].flatten()
    assert torch.equal(layout.slot >= 0, kept_patches)
    x = torch.randn(7, n_patches, 3)
    rows = layout.slot[kept_patches]
    assert torch.equal(layout.gather(x)[rows], x.flatten(0, 1)[kept_patches])
    assert sum(layout.lengths) == len(layout.source)
    frames = layout.source // n_patches
    start = 0
    for frame, length in zip(layout.frames, layout.lengths, strict=True):
        assert (frames[start : start + length] == frame).all()
        start += length
