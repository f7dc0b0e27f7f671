"""Budget, selection and the pruning ViT, each against its rule written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from olmo.nn.temporal_vision_backbone import TemporalVisionBackbone
from olmo.nn.token_layout import CellGrid, FrameTable, frame_table
from olmo.nn.token_pruning import frame_keys, select_cells
from olmo.nn.token_scorer import attention_bias, neighbour_cosine, similarity_loss_sum
from olmo.nn.vision_backbone import VisionOutput
from olmo.token_budget import n_removed_tokens
from tests.nn.conftest import IMAGE, VIDEO, backbone, video

CPU = torch.device("cpu")


def videos(*n_frames: int, cells: int, topk: float = 0.5) -> FrameTable:
    counts = torch.tensor([n_frames])
    return frame_table(counts, torch.full_like(counts, VIDEO), sum(n_frames), cells, topk)


def forward(model: TemporalVisionBackbone, x: dict[str, Tensor]) -> VisionOutput:
    return model(x["images"], None, x["token_pooling"], x["num_images"], x["multimodal_type"])


def stack(*rows: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rows with equal numbers of frames."""
    return {k: torch.cat([r[k] for r in rows]) for k in rows[0]}


@pytest.mark.parametrize(
    ("n_frames", "cells", "topk", "skip", "expected"),
    [
        (30, 81, 0.7, 0, 1701),  # in float32; in float64 the product is just below it
        (6, 81, 0.5, 0, 243),
        (5, 81, 0.5, 0, 202),
        (5, 81, 0.5, 2, 121),
        (5, 81, 0.5, 5, 0),
        (3, 81, 0.5, 4, 0),
        (1, 81, 0.9, 0, 0),
        (2, 81, 0.9, 0, 81),  # all but the first frame
        (64, 81, 0.0, 0, 0),
        (0, 81, 0.5, 0, 0),
    ],
)
def test_budget(n_frames: int, cells: int, topk: float, skip: int, expected: int) -> None:
    assert n_removed_tokens(n_frames, cells, topk, skip) == expected


def test_lowest_cells_of_each_video_go() -> None:
    """Each video by itself; its first frame stays, however low its scores are."""
    scores = torch.tensor(
        [
            *[[0.0, 0.0, 0.0], [0.9, 0.2, 0.3], [0.1, 0.8, 0.7]],  # loses 4 of 6
            *[[0.5, 0.0, 0.5], [0.2, 0.1, 0.3]],  # loses 3 of 3
        ]
    )
    keep = select_cells(scores, videos(3, 2, cells=3))
    assert keep.tolist() == [
        *[[True] * 3, [True, False, False], [False, True, False]],
        *[[True] * 3, [False] * 3],
    ]


def test_of_equal_scores_the_earlier_goes() -> None:
    scores = torch.full((4, 100), 0.5)
    scores[2, 7], scores[1, 3] = 0.4, 0.6
    keep = select_cells(scores, videos(4, cells=100, topk=0.26))
    assert keep[0].all()
    removed = (~keep[1:].flatten()).nonzero().flatten().tolist()
    assert removed == [*range(3), *range(4, 104), 107]


def removed_per_frame(keep: Tensor) -> list[int]:
    return (~keep[1:]).sum(1).tolist()


@pytest.mark.parametrize(
    ("n_frames", "cells", "topk"), [(64, 81, 0.5), (9, 16, 0.3), (30, 144, 0.8)]
)
def test_equal_scores_can_be_spread(n_frames: int, cells: int, topk: float) -> None:
    """Over time, so that no frame of a still picture suffers for another; and over the frame."""
    table = videos(n_frames, cells=cells, topk=topk)
    keep = select_cells(torch.zeros(n_frames, cells), table, spread_ties=True)
    counts = removed_per_frame(keep)
    assert sum(counts) == table.videos[0].n_remove
    assert max(counts) - min(counts) <= 3
    places = (~keep[1:]).sum(0)
    assert places.max() - places.min() <= 3


def test_spread_ties_change_nothing_else() -> None:
    """Scores that differ come first; only cells with the score at the cut are chosen from."""
    scores = torch.randint(0, 5, (20, 30), generator=torch.Generator().manual_seed(0)).float()
    table = videos(20, cells=30)
    early, spread = (select_cells(scores, table, spread_ties=s) for s in (False, True))
    cut = scores[1:].flatten().sort().values[table.videos[0].n_remove]
    assert torch.equal(early[scores != cut], spread[scores != cut])
    assert early.sum() == spread.sum() and not torch.equal(early, spread)


@pytest.mark.parametrize("method", ["easy", "heuristic", "evs"])
def test_a_still_picture_loses_the_same_at_every_time(method: str) -> None:
    model = backbone(prune_method=method)
    x = video(12, seed=0)
    x["images"] = x["images"][:, :1].expand_as(x["images"]).clone()
    keep = forward(model, x).keep.view(12, -1)
    counts = removed_per_frame(keep)
    assert max(counts) - min(counts) <= 3, counts


@pytest.mark.parametrize("score", [0.5, 0.02])
def test_a_fresh_scorer_begins_where_it_is_told(score: float) -> None:
    model = backbone(initial_score=score)
    assert model.image_vit.scorer is not None
    model.image_vit.scorer.reset_parameters()
    scores = forward(model, video(8, seed=0)).scores
    assert scores is not None
    odds = torch.logit(scores.flatten(0, -2)[1:]) - torch.logit(torch.tensor(score))
    assert odds.abs().mean() < 0.5
    with pytest.raises(ValueError, match=r"initial_score must be in \(0, 1\)"):
        backbone(initial_score=1.0)


@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_half_precision_scores_differ(how: str) -> None:
    """Sigmoid, bias and ranking are float32: in bfloat16 most scores would be equal, and the cut
    would go through the early ones of them."""
    model = backbone((27, 27))
    assert model.image_vit.scorer is not None
    model.image_vit.scorer.reset_parameters()  # fresh: all scores lie close to 0.5
    x = video(16, seed=0, grid=(27, 27))
    if how == "weights":
        model = model.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        scores = forward(model, x).scores
    assert scores is not None and scores.dtype == torch.float32
    later = scores.flatten(0, -2)[1:].flatten()
    assert len(later.unique()) > 0.9 * len(later)


def test_attention_bias_by_hand() -> None:
    """Each row of a 2 x 2 grid of cells is rescaled by itself, or the whole frame."""
    grid = CellGrid.build(2, 2, 1, CPU)
    scores = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.2, 0.6, 0.7, 0.3]])
    has_previous = torch.tensor([False, True])
    low = math.exp(-2)
    rows = attention_bias(scores, has_previous, grid, low, per_row=True)
    torch.testing.assert_close(
        rows, torch.tensor([[0.0] * 4, [-2.0, 0.0, 0.0, -2.0]]), atol=1e-5, rtol=0
    )
    frame = attention_bias(scores, has_previous, grid, low, per_row=False)
    want = [math.log(low + (1 - low) * x) for x in (0.0, 0.8, 1.0, 0.2)]
    torch.testing.assert_close(frame[1], torch.tensor(want), atol=1e-5, rtol=0)
    wide = CellGrid.build(2, 4, 2, CPU)
    spread = attention_bias(torch.tensor([[0.2, 0.6]]), torch.tensor([True]), wide, low, True)
    torch.testing.assert_close(
        spread, torch.tensor([[-2.0, -2.0, 0.0, 0.0] * 2]), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("shape", [(6, 6, 3), (5, 4, 3)])
def test_neighbour_cosine_and_loss(shape: tuple[int, int, int]) -> None:
    grid = CellGrid.build(*shape, CPU)
    x = torch.randn(4, shape[0] * shape[1], 5)
    cosine = neighbour_cosine(x, grid)
    scores, has_previous = torch.rand(4, grid.n_cells), torch.tensor([False, True, False, True])
    total = 0.0
    for t in range(1, 4):
        for m, window in enumerate(grid.windows):
            patches = window[window >= 0]
            now, before = x[t, patches].flatten(), x[t - 1, patches].flatten()
            want = now @ before / now.norm() / before.norm()
            torch.testing.assert_close(cosine[t - 1, m], want)
            if has_previous[t]:
                total += (scores[t, m] - (1 - want)).item() ** 2
    loss = similarity_loss_sum(scores, cosine, has_previous)
    assert loss.item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("grid", [(9, 9), (5, 4)])
def test_pruned_blocks_against_masked_ones(grid: tuple[int, int]) -> None:
    """Survivors in one flat row give what whole frames give in which removed patches are masked
    as keys; the blocks after the biased one see K tokens and no more."""
    model = backbone(grid)
    vit, x = model.image_vit, video(5, 0, grid)
    images = x["images"][0].float() / 255 * 2 - 1
    table = model.frames(x["num_images"], x["multimodal_type"], 5)
    shapes: list[tuple[int, ...]] = []
    hooks = [
        b.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
        for b in vit.blocks
    ]
    with torch.no_grad():
        out = vit.forward_pruned(images, table, (4, 2))
        for hook in hooks:
            hook.remove()
        cells = vit.grid(CPU)
        keep = out.keep_cells[:, cells.cell_of_patch]
        n, k = grid[0] * grid[1], int(keep.sum())
        assert shapes == [(5, n, 16)] * 3 + [(k, 16)] * 2
        assert out.stats["stts/vit_tokens_ratio"] == k / (5 * n)
        h = vit.embed(images)
        h = vit.blocks[1](vit.blocks[0](h))
        assert vit.scorer is not None
        scores = vit.scorer(h, table.has_previous, cells)
        bias = attention_bias(scores, table.has_previous, cells, math.exp(-2), True)
        assert torch.equal(out.keep_cells, select_cells(scores, table))
        middle = h = vit.blocks[2](h, key_bias=bias)
        for block in vit.blocks[3:]:
            h = h + block.attention(block.attention_norm(h), mask=keep[:, None])
            h = h + block.feed_forward(block.ffn_norm(h))
    assert out.slot is not None and torch.equal(out.slot >= 0, keep.flatten())
    got = out.features[out.slot[keep.flatten()]]
    # measured 2e-6
    torch.testing.assert_close(got, torch.cat((h, middle), -1)[keep], atol=2e-5, rtol=0)


@pytest.mark.slow
def test_compiled_blocks() -> None:
    """Batches with other survivor counts do not compile the blocks anew, and change nothing."""
    torch.compiler.reset()
    model, compiled = backbone(), backbone()
    counter = CompileCounter()
    for block in compiled.image_vit.blocks:
        block.compile(dynamic=True, backend=counter)
    n_graphs = []
    with torch.no_grad():
        for n_frames in (3, 4, 5, 6):
            x = video(n_frames, n_frames)
            torch.testing.assert_close(forward(compiled, x).features, forward(model, x).features)
            n_graphs.append(counter.frame_count)
    torch.compiler.reset()
    assert 0 < n_graphs[1] == n_graphs[-1], n_graphs


@pytest.mark.parametrize("fields", [{"topk": 0.0}, {"prune": False}, {"prune_from_frame": 5}])
def test_nothing_to_remove_is_exactly_dense(fields: dict[str, object]) -> None:
    x = video(4, 1)
    model = backbone(**fields)
    with torch.no_grad():
        out = forward(model, x)
        layers = model.image_vit(x["images"][0].float() / 255 * 2 - 1, model.layers)
        want = model.connect(torch.cat(layers, -1).flatten(0, 1), x["token_pooling"][0])
    assert torch.equal(out.features, want) and out.keep.all() and out.scores is None


def test_only_videos_lose_tokens() -> None:
    """An image of two crops and a one-frame video keep all, and their features are the dense
    ones; padding frames have none."""
    model, dense = backbone(), backbone(prune=False)
    x = video(8, 2)
    x["num_images"] = torch.tensor([[2, 1, 4]])
    x["multimodal_type"] = torch.tensor([[IMAGE, VIDEO, VIDEO]])
    x["token_pooling"][:, 63:] = -1
    with torch.no_grad():
        out, want = forward(model, x), forward(dense, x)
    assert out.keep[0].view(8, 9).sum(1).tolist()[:4] == [9, 9, 9, 9]
    assert out.keep.sum() == 7 * 9 - 18 and not out.keep[0, 63:].any()
    same = want.features[out.keep[0, :63]]
    # measured 2e-6; the first frame of the pruned video is whole and has no bias
    torch.testing.assert_close(out.features[:36], same[:36], atol=1e-5, rtol=0)
    assert ((out.features[36:] - same[36:]).abs().amax(1) > 1e-3).all()
    assert out.scores is not None and (out.scores[[0, 1, 2, 7]] == 1).all()


def test_scoring_without_removal_in_the_vit() -> None:
    """The cells still leave the row; all patches stay in the ViT, under the bias."""
    shapes = []
    model = backbone(pruning_in_scorer=False)
    model.image_vit.blocks[-1].register_forward_pre_hook(lambda _, a: shapes.append(a[0].shape))
    with torch.no_grad():
        out, pruned = forward(model, video(4, 1)), forward(backbone(), video(4, 1))
    assert shapes == [(4, 81, 16)] and torch.equal(out.keep, pruned.keep)
    assert out.features.shape == pruned.features.shape == (18, 16)
    assert not torch.allclose(out.features, pruned.features, atol=1e-3)


def test_random_draws_depend_on_the_video_alone() -> None:
    a, b = video(4, 1), video(4, 2)
    model = backbone(prune_method="random")
    with torch.no_grad():
        one, other, both = (forward(model, x) for x in (a, b, stack(b, a)))
        seeded = forward(backbone(prune_method="random", random_seed=1), a)
    assert torch.equal(both.keep, torch.cat((other.keep, one.keep)))
    assert not torch.equal(one.keep, other.keep) and not torch.equal(one.keep, seeded.keep)
    assert one.keep.sum() == seeded.keep.sum() == 18 and one.keep[0, :9].all()
    assert model.image_vit.scorer is None
    assert one.scores is not None and len(one.scores.unique()) > 30
    still = dict(a, images=a["images"][:, :1].expand(-1, 4, -1, -1))
    with torch.no_grad():
        rows = forward(model, still).keep[0].unflatten(0, (4, 9))[1:]
    assert not (rows == rows[0]).all()  # equal frames draw each for itself
    floats = a["images"].float() / 255 * 2 - 1
    assert torch.equal(frame_keys(a["images"][0]), frame_keys(floats[0]))


def test_scores_and_loss_stop_at_the_border_of_a_video() -> None:
    """Two videos in one row, or in two, are scored as each by itself; the auxiliary loss is the
    mean over all their pairs."""
    model = backbone().train()
    a, b = video(4, 1), video(4, 2)
    row = {
        "images": torch.cat((a["images"], b["images"]), 1),
        "token_pooling": video(8, 0)["token_pooling"],
        "num_images": torch.tensor([[4, 4]]),
        "multimodal_type": torch.tensor([[VIDEO, VIDEO]]),
    }
    one, other, joined, both = (forward(model, x) for x in (a, b, row, stack(a, b)))
    want = torch.cat((one.scores, other.scores))
    torch.testing.assert_close(joined.scores, want, atol=1e-5, rtol=0)
    torch.testing.assert_close(both.scores, want, atol=1e-5, rtol=0)
    assert one.aux_count == 3 * 9 and joined.aux_count == both.aux_count == 6 * 9
    mean = (one.aux_loss + other.aux_loss) / 2
    torch.testing.assert_close(joined.aux_loss, mean)
    torch.testing.assert_close(both.aux_loss, mean)


@pytest.mark.parametrize("kind", ["image", "empty"])
def test_without_a_video_the_scorer_stays_in_the_graph(kind: str) -> None:
    x = video(2, 0)
    x["multimodal_type"] = torch.tensor([[IMAGE]])
    if kind == "empty":
        x["num_images"] = torch.tensor([[-1]])
        x["token_pooling"] = torch.full_like(x["token_pooling"], -1)
    model = backbone().train()
    out = forward(model, x)
    assert out.features.shape[0] == (18 if kind == "image" else 0)
    assert out.aux_loss is not None and out.aux_loss.item() == 0 and out.aux_count == 0
    scorer = dict(model.image_vit.scorer.named_parameters())
    for loss in (out.features.sum(), out.aux_loss):
        grads = torch.autograd.grad(loss, list(scorer.values()), retain_graph=True)
        assert not any(g.any() for g in grads)
    out.features.sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name


def test_missing_counts_are_an_error() -> None:
    x = video(2, 0)
    with pytest.raises(ValueError, match="num_images and multimodal_type"):
        backbone()(x["images"], None, x["token_pooling"])
    with pytest.raises(ValueError, match="image_masks"):
        backbone()(
            x["images"], x["images"], x["token_pooling"], x["num_images"], x["multimodal_type"]
        )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prune_at": 4}, "prune_at=4: blocks 0 to 4 are built"),
        ({"topk": 1.0}, r"in \[0, 1\): got 1.0"),
        ({"prune_method": "best"}, "'best' is not one of"),
        ({"merge": True}, "merge: True is not supported"),
    ],
)
def test_settings_that_cannot_work(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        backbone(**fields)
