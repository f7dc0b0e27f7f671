"""What must hold for any grid, window, batch, share, method and layout."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from olmo.nn.temporal_vision_backbone import TemporalVisionBackbone
from olmo.nn.token_layout import CellGrid, TokenLayout
from olmo.nn.token_pruning import PRUNE_METHODS
from olmo.nn.vision_backbone import VisionOutput
from olmo.token_budget import n_removed_tokens
from tests.nn.conftest import IMAGE, VIDEO, backbone, pooling

CPU = torch.device("cpu")
LAYOUTS = [{"layout": "ragged"}, {"layout": "packed"}, {"layout": "packed", "refill": True}]
Row = list[tuple[int, int, int]]
"""Visual inputs of a row: (multimodal type, frames, seed of the pixels)."""


@dataclass(frozen=True)
class Case:
    """A model's settings and a batch."""

    grid: tuple[int, int]
    pool: int
    fields: dict[str, object]
    rows: list[Row]

    @property
    def topk(self) -> float:
        return float(str(self.fields["topk"]))

    def model(self, **fields: object) -> TemporalVisionBackbone:
        return backbone(self.grid, self.pool, **{**self.fields, **fields})

    def run(self, rows: list[Row] | None = None, **fields: object) -> VisionOutput:
        with torch.no_grad():
            x = batch(self.rows if rows is None else rows, self.grid, self.pool)
            return self.model(**fields)(
                x["images"], None, x["token_pooling"], x["num_images"], x["multimodal_type"]
            )


def batch(rows: list[Row], grid: tuple[int, int], pool: int) -> dict[str, Tensor]:
    """Rows padded to equal length, with one frame slot of padding."""
    n_patches = grid[0] * grid[1]
    n_slots = max(sum(n for _, n, _ in row) for row in rows) + 1
    n_inputs = max(1, *(len(row) for row in rows))
    images = torch.zeros(len(rows), n_slots, n_patches, 12, dtype=torch.uint8)
    one_row = pooling(n_slots, grid, pool)
    index = torch.full((len(rows), *one_row.shape), -1)
    counts = torch.full((len(rows), n_inputs), -1)
    kinds = torch.full((len(rows), n_inputs), -1)
    for r, row in enumerate(rows):
        start = 0
        for i, (kind, n_frames, seed) in enumerate(row):
            generator = torch.Generator().manual_seed(seed)
            pixels = torch.randint(0, 256, (n_frames, n_patches, 12), generator=generator)
            images[r, start : start + n_frames] = pixels.to(torch.uint8)
            counts[r, i], kinds[r, i] = n_frames, kind
            start += n_frames
        n_tokens = start * len(one_row) // n_slots
        index[r, :n_tokens] = one_row[:n_tokens]
    return {
        "images": images,
        "token_pooling": index,
        "num_images": counts,
        "multimodal_type": kinds,
    }


inputs = st.tuples(st.sampled_from([VIDEO, VIDEO, IMAGE]), st.integers(1, 5), st.integers(0, 99))


@st.composite
def cases(draw: st.DrawFn, refill: bool = True) -> Case:
    rows = draw(st.lists(st.lists(inputs, max_size=3), min_size=1, max_size=3))
    return Case(
        (draw(st.integers(1, 6)), draw(st.integers(1, 6))),
        draw(st.integers(1, 3)),
        {
            "topk": draw(st.floats(0, 0.999)),
            "prune_method": draw(st.sampled_from(["scorer", *PRUNE_METHODS])),
            **draw(st.sampled_from(LAYOUTS if refill else LAYOUTS[:2])),
        },
        rows,
    )


def close(a: Tensor, b: Tensor) -> None:
    # measured: 4e-6
    torch.testing.assert_close(a, b, atol=5e-5, rtol=1e-4)


def split(out: VisionOutput) -> list[Tensor]:
    """Features of each row."""
    return list(out.features.split(out.keep.sum(1).tolist()))


property_test = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@property_test
@given(cases())
def test_budget_first_frames_and_images(case: Case) -> None:
    out = case.run()
    n_cells = len(pooling(1, case.grid, case.pool))
    assert out.features.isfinite().all() and len(out.features) == out.keep.sum()
    for row, keep in zip(case.rows, out.keep.unflatten(1, (-1, n_cells)), strict=True):
        start = 0
        for kind, n_frames, _ in row:
            kept = keep[start : start + n_frames]
            removed = n_removed_tokens(n_frames, n_cells, case.topk) if kind == VIDEO else 0
            assert (~kept).sum() == removed
            assert kept[0].all()
            start += n_frames
        assert not keep[start:].any()


@property_test
@given(cases())
def test_topk_0_is_the_dense_model(case: Case) -> None:
    out, dense = case.run(topk=0.0), case.run(prune=False)
    assert torch.equal(out.keep, dense.keep)
    close(out.features, dense.features)  # matrices of one row may take another path of the CPU's


@pytest.mark.slow
@property_test
@given(cases(refill=False), st.randoms(use_true_random=False))
def test_permuted_rows_give_permuted_results(case: Case, random: object) -> None:
    order = list(range(len(case.rows)))
    random.shuffle(order)  # type: ignore[attr-defined]
    out, moved = case.run(), case.run([case.rows[i] for i in order])
    assert torch.equal(moved.keep, out.keep[order])
    features = split(out)
    close(moved.features, torch.cat([features[i] for i in order]))


@pytest.mark.slow
@property_test
@given(cases(refill=False))
def test_neighbours_do_not_matter(case: Case) -> None:
    """Each visual input by itself gives what it gives in its row and batch."""
    out = case.run()
    alone = [case.run([[item]]) for row in case.rows for item in row]
    if alone:
        close(out.features, torch.cat([a.features for a in alone]))
        n_cells = len(pooling(1, case.grid, case.pool))
        kept = torch.cat([a.keep[0, :-n_cells] for a in alone])
        lengths = [sum(n for _, n, _ in row) * n_cells for row in case.rows]
        joined = [keep[:n] for keep, n in zip(out.keep, lengths, strict=True)]
        assert torch.equal(torch.cat(joined), kept)


@property_test
@given(cases(refill=False))
def test_packed_equals_ragged(case: Case) -> None:
    """Values, and gradients of all parameters."""
    results = []
    for layout in ("ragged", "packed"):
        model = case.model(layout=layout).train()
        x = batch(case.rows, case.grid, case.pool)
        out = model(x["images"], None, x["token_pooling"], x["num_images"], x["multimodal_type"])
        (out.features.square().sum() + (0 if out.aux_loss is None else out.aux_loss)).backward()
        results.append((out, {n: p.grad for n, p in model.named_parameters()}))
    (ragged, grads), (packed, packed_grads) = results
    assert torch.equal(ragged.keep, packed.keep)
    close(packed.features, ragged.features)
    largest = max(float(g.abs().max()) for g in grads.values() if g is not None)
    for name, grad in grads.items():
        other = packed_grads[name]
        assert (grad is None) == (other is None), name
        if grad is not None and other is not None:
            worst = float((grad - other).abs().max())
            assert worst <= 1e-5 * largest, (name, worst, largest)  # measured: 1e-6


@property_test
@given(st.data())
def test_gather_and_slot_are_inverse(data: st.DataObject) -> None:
    """Any kept cells, frames with all or none of them among these."""
    grid = CellGrid.build(
        data.draw(st.integers(1, 7)),
        data.draw(st.integers(1, 7)),
        data.draw(st.integers(1, 3)),
        CPU,
    )
    n_patches = len(grid.cell_of_patch)
    row = st.lists(st.booleans(), min_size=grid.n_cells, max_size=grid.n_cells)
    full = st.booleans().map(lambda b: [b] * grid.n_cells)
    frames = data.draw(st.lists(st.one_of(full, row), min_size=1, max_size=6))
    keep = torch.tensor(frames)
    x = torch.randn(len(keep), n_patches, 3)
    survivors = grid.spread(keep)
    layouts = [
        TokenLayout.ragged(keep, grid),
        TokenLayout.packed(keep, grid),
        TokenLayout.packed(keep, grid, refill=True),
    ]
    for layout in layouts:
        assert torch.equal(layout.slot.view(survivors.shape) >= 0, survivors)
        rows = layout.slot[survivors.flatten()]
        assert len(rows.unique()) == len(rows) == layout.n_survivors
        assert torch.equal(layout.gather(x)[rows], x[survivors])
        assert sum(layout.lengths) == len(layout.source) == layout.cu_seqlens[-1]
        segment = torch.repeat_interleave(torch.tensor(layout.lengths, dtype=torch.int64))
        frame = torch.full((len(segment),), -1)
        frame[rows] = survivors.nonzero()[:, 0]
        for s in segment.unique():
            members = frame[segment == s]
            assert len(members[members >= 0].unique()) <= 1
    assert len(layouts[0].source) == layouts[0].n_survivors and layouts[0].n_refilled == 0
    assert all(len(layout.source) % n_patches == 0 for layout in layouts[1:])
