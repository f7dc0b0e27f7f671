"""Removed cells leave the language model's row; a video is not changed by its neighbours."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from olmo.config import ConfigError
from olmo.mappings import nested
from olmo.models.loading import merged_model_config
from olmo.models.molmo2.molmo2 import Molmo2, Molmo2Config, Molmo2Output
from olmo.models.registry import model_config_from_dict
from olmo.models.temporal_video_olmo.temporal_video_olmo import TemporalVideoOlmoConfig
from olmo.nn.llm_mask import DenseMask
from olmo.nn.text_row import TextRow, drop_tokens, kept_tokens
from olmo.types import SUBSEGMENTS_PER_EXAMPLE
from tests.models.conftest import (
    CELLS,
    PATCH,
    PRUNING,
    Row,
    build,
    collate,
    image_row,
    pruning,
    text_row,
    video_row,
)

ROWS = (video_row(3, 0), text_row(20, 1), image_row(2), video_row(5, 3))


def run(model: Molmo2, batch: Row) -> Molmo2Output:
    with torch.no_grad():
        return model(**batch)


def logits_of(out: Molmo2Output, row: int) -> Tensor:
    return out.logits[row, out.valid[row]]


def pack(*rows: Row) -> Row:
    """One packed row: frames side by side, pooling indices and subsegments moved up."""
    batch = [collate(r) for r in rows]
    used = [0]
    for b in batch[:-1]:
        used.append(used[-1] + b["images"].shape[1] * 81)
    out = {k: torch.cat([b[k] for b in batch], 1) for k in batch[0]}
    out["token_pooling"] = torch.cat(
        [
            torch.where(p >= 0, p + start, -1)
            for p, start in zip((b["token_pooling"] for b in batch), used, strict=True)
        ],
        1,
    )
    lengths = [b["input_ids"].shape[1] for b in batch]
    out["position_ids"] = torch.cat([torch.arange(n) for n in lengths])[None]
    segments = torch.arange(len(rows)) * SUBSEGMENTS_PER_EXAMPLE
    out["subsegment_ids"] = segments.repeat_interleave(torch.tensor(lengths))[None]
    return out


def test_kept_tokens_follow_the_pooling_rows() -> None:
    """The second row's first window is padding: its only token belongs to the next."""
    ids = torch.tensor([[7, PATCH, PATCH, 8, PATCH], [PATCH, 9, -1, -1, -1]])
    rows = torch.tensor([[True, True, True], [False, True, False]])
    keep = torch.tensor([[True, False, True], [False, False, False]])
    assert kept_tokens(ids, rows, keep, PATCH).tolist() == [
        [True, True, False, True, True],
        [False, True, True, True, True],
    ]
    with pytest.raises(ValueError, match=r"\[3, 1\], .*\[2, 1\]"):
        rows[0, 0] = False
        kept_tokens(ids, rows, keep, PATCH)


@pytest.mark.parametrize("rule", ["compact", "original"])
def test_drop_tokens(rule: str) -> None:
    """The longest row has 5 tokens left, the other 3; padding stays -1."""
    row = TextRow(
        input_ids=torch.tensor([[5, 6, 6, 7, 6, 8, 9, -1], [6, 6, 3, 4, -1, -1, -1, -1]]),
        position_ids=torch.tensor([[0, 1, 2, 3, 4, 5, 6, -1], [0, 1, 2, 3, -1, -1, -1, -1]]),
        valid=torch.tensor([[True] * 7 + [False], [True] * 4 + [False] * 4]),
        response_mask=torch.tensor(
            [[False] * 6 + [True, False], [False] * 3 + [True] + [False] * 4]
        ),
    )
    kept = torch.ones(2, 8, dtype=torch.bool)
    kept[0, [1, 4]] = kept[1, 0] = False
    compact = rule == "compact"
    out = drop_tokens(row, kept, rule)
    assert out.input_ids.tolist() == [[5, 6, 7, 8, 9], [6, 3, 4, -1, -1]]
    assert out.valid.tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    assert out.position_ids.tolist() == (
        [[0, 1, 2, 3, 4], [0, 1, 2, -1, -1]] if compact else [[0, 2, 3, 5, 6], [1, 2, 3, -1, -1]]
    )
    assert out.response_mask is not None and out.subsegment_ids is None
    assert out.response_mask.tolist() == [[False] * 4 + [True], [False, False, True, False, False]]
    assert out.kept_tokens is kept
    assert row.input_ids.shape == (2, 8)


@pytest.mark.parametrize("rule", ["compact", "original"])
def test_drop_tokens_of_a_packed_row(rule: str) -> None:
    """Two examples with two branches each: both branches continue from the end of the shared
    prefix, and what the first example loses does not move the second."""
    prefix, second = 10_000, SUBSEGMENTS_PER_EXAMPLE
    segments = [prefix] * 4 + [0, 0, 1] + [second + prefix] * 3 + [second, second + 1] + [-1]
    positions = [0, 1, 2, 3, 4, 5, 4, 0, 1, 2, 3, 3, -1]
    kept = [True, False, False, True] + [True] * 3 + [False, True, True] + [True] * 2 + [True]
    row = TextRow(
        input_ids=torch.tensor([[*range(12), -1]]),
        position_ids=torch.tensor([positions]),
        valid=torch.tensor([[True] * 12 + [False]]),
        subsegment_ids=torch.tensor([segments]),
    )
    compact = rule == "compact"
    out = drop_tokens(row, torch.tensor([kept]), rule)
    stays = [i for i in range(12) if kept[i]]
    assert out.input_ids.tolist() == [stays] and out.valid.all()
    assert out.subsegment_ids is not None
    assert out.subsegment_ids.tolist() == [[segments[i] for i in stays]]
    want = [0, 1, 2, 3, 2, 0, 1, 2, 2] if compact else [positions[i] for i in stays]
    assert out.position_ids.tolist() == [want]


@pytest.mark.parametrize("positions", ["compact", "original"])
def test_pruned_row_equals_one_built_by_hand(positions: str) -> None:
    """Put the survivors' features into a row that never had the others."""
    model, row = build(PRUNING, {"pruned_position_ids": positions}), video_row(4, 5)
    out = run(model, collate(row))
    assert out.vision is not None and out.kept_tokens is not None
    keep = out.vision.keep[0]
    assert keep.sum() == 4 * CELLS - 18 and keep[:CELLS].all()
    cells = iter(keep.tolist())
    stays = [i for i, t in enumerate(row["input_ids"].tolist()) if t != PATCH or next(cells)]
    assert out.kept_tokens[0].nonzero().flatten().tolist() == stays
    ids = row["input_ids"][stays][None]
    place = torch.arange(len(stays)) if positions == "compact" else torch.tensor(stays)
    assert out.position_ids.tolist() == [place.tolist()]
    x = model.transformer.wte(ids).clone()
    x[ids == PATCH] += out.vision.features
    visual = (ids >= 40) & (ids != model.special_ids["<|video|>"])
    order = torch.arange(len(stays))
    mask = (order[:, None] >= order)[None] | (visual[:, :, None] & visual[:, None])
    with torch.no_grad():
        hidden = model.transformer(x, place[None], DenseMask(mask[:, None]))
    # measured 0
    torch.testing.assert_close(out.hidden, hidden, atol=1e-5, rtol=0)


def test_logits_do_not_depend_on_the_batch() -> None:
    model = pruning()
    together = run(model, collate(*ROWS))
    assert together.kept_tokens is not None
    assert (~together.kept_tokens).sum(1).tolist() == [13, 0, 0, 22]
    for i, row in enumerate(ROWS):
        # measured 3e-6
        want = logits_of(run(model, collate(row)), 0)
        torch.testing.assert_close(logits_of(together, i), want, atol=2e-5, rtol=0)


def test_logits_do_not_depend_on_the_packed_row() -> None:
    model, rows = pruning(), (video_row(3, 0), image_row(2), video_row(5, 3))
    packed = run(model, pack(*rows))
    want = torch.cat([logits_of(run(model, collate(r)), 0) for r in rows])
    torch.testing.assert_close(logits_of(packed, 0), want, atol=2e-5, rtol=0)  # measured 2e-6
    assert packed.position_ids[0].diff().min() < 0  # positions start again


def test_without_pruning_it_is_the_dense_model() -> None:
    dense, batch = build(), collate(*ROWS)
    off, nothing = pruning(prune=False), pruning(topk=0.0)
    for model in (off, nothing):
        missing = model.load_state_dict(dense.state_dict(), strict=False).missing_keys
        assert missing and all("temporal_token_scorer" in k for k in missing)
    want = run(dense, batch).logits
    assert torch.equal(run(off, batch).logits, want)
    valid = batch["input_ids"] >= 0
    # measured 0
    torch.testing.assert_close(run(nothing, batch).logits[valid], want[valid], atol=1e-5, rtol=0)


@pytest.mark.parametrize("built", [{"topk": 0.5}, {"prune": False}])
def test_topk_of_one_call(built: dict[str, object]) -> None:
    """As if the model had been built with it; the config stays as it is."""
    model, batch = pruning(**built), collate(*ROWS)
    before = model.config.to_dict()
    for topk, other in ((0.25, pruning(topk=0.25)), (0.0, pruning(prune=False))):
        with torch.no_grad():
            out = model(**batch, topk=topk)
        assert torch.equal(out.logits, run(other, batch).logits)
        tokens = model.generate(batch, 3, [0], topk=topk)
        assert torch.equal(tokens.scores, other.generate(batch, 3, [0]).scores)
    assert model.config.to_dict() == before


def test_topk_that_cannot_be() -> None:
    batch = collate(*ROWS)
    for topk, message in ((1.0, r"in \[0, 1\): got 1.0"), ("half", "a number, .*: got 'half'")):
        with pytest.raises(ValueError, match=message):
            pruning()(**batch, topk=topk)
    with pytest.raises(ValueError, match=r"topk=0.5: the model is dense"):
        build()(**batch, topk=0.5)
    with pytest.raises(ValueError, match="prune_at=4: blocks 0 to 4 are built"):
        pruning(prune=False, prune_at=4)(**batch, topk=0.5)


def test_dense_model_skips_padding_frames() -> None:
    """With ``num_images``; without, all frame slots are encoded, to the same end."""
    model, batch, sizes = build(), collate(*ROWS), []
    model.vision_backbone.image_vit.blocks[0].register_forward_pre_hook(
        lambda _, args: sizes.append(len(args[0]))
    )
    out = run(model, batch)
    slow = run(model, {k: v for k, v in batch.items() if k != "num_images"})
    assert sizes == [3 + 2 + 5, 4 * 5]
    valid = batch["input_ids"] >= 0
    # measured 2e-6
    torch.testing.assert_close(out.logits[valid], slow.logits[valid], atol=1e-5, rtol=0)


def test_image_and_text_rows_are_dense() -> None:
    model, dense = pruning(), build()
    dense.load_state_dict(
        {k: v for k, v in model.state_dict().items() if "temporal_token_scorer" not in k}
    )
    for row in (image_row(2), text_row(20, 1), video_row(1, 6)):
        a, b = run(model, collate(row)), run(dense, collate(row))
        assert torch.equal(a.logits, b.logits)


def test_response_mask_selects_logits_after_removal() -> None:
    model, batch = pruning(), collate(*ROWS[:2])
    everything = run(model, batch)
    mask = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
    mask[0, -4:] = mask[1, 18:20] = True
    got = run(model, batch | {"response_mask": mask}).logits
    want = torch.cat((logits_of(everything, 0)[-4:], logits_of(everything, 1)[18:20]))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("in_scorer", [True, False])
def test_language_model_loss_reaches_the_scorer(in_scorer: bool) -> None:
    """Through the score bias: without the auxiliary loss, every scorer weight gets a gradient.
    (A bias of the pooling keys cannot: it moves all logits of a query alike.)"""
    model = pruning(pruning_in_scorer=in_scorer)
    out = model(**collate(ROWS[0]))
    assert out.vision is not None and out.vision.aux_loss is None
    out.logits.log_softmax(-1)[0, :-1, 3].sum().backward()
    grads = {
        n: p.grad.abs().max().item()
        for n, p in model.named_parameters()
        if "temporal_token_scorer" in n and p.grad is not None
    }
    assert len(grads) == 14
    assert all(g > 1e-6 for n, g in grads.items() if not n.endswith("wk.bias")), grads


@pytest.mark.parametrize(
    ("dtype", "autocast"),
    [
        (torch.float16, False),
        (torch.bfloat16, False),
        (torch.float64, False),
        (torch.float16, True),
        (torch.bfloat16, True),
    ],
)
def test_any_dtype(dtype: torch.dtype, autocast: bool) -> None:
    """Forward, backward and generation; the kept count is fixed, the choice may differ."""
    model, batch = pruning().train(), collate(*ROWS)
    if not autocast:
        model = model.to(dtype)
    with torch.autocast("cpu", dtype, enabled=autocast):
        out = model(**batch)
        assert out.vision is not None and out.vision.aux_loss is not None
        (out.logits.float().pow(2).mean() + out.vision.aux_loss).backward()
        tokens = model.eval().generate(batch, 2, [0])
    assert out.logits.dtype == out.vision.features.dtype == dtype
    assert out.valid.sum(1).tolist() == [28, 20, 39, 43]
    assert out.logits.isfinite().all() and tokens.scores.dtype == torch.float32
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name


@pytest.mark.parametrize("missing", ["num_images", "multimodal_type"])
def test_missing_counts(missing: str) -> None:
    batch = collate(ROWS[0])
    del batch[missing]
    with pytest.raises(ValueError, match="num_images and multimodal_type"):
        pruning()(**batch)
    run(pruning(prune=False), batch)


def test_placeholders_must_match_features() -> None:
    batch = collate(video_row(3, 0))
    first = (batch["input_ids"] == PATCH).nonzero()[0, 1]
    batch["input_ids"][0, first] = 5
    with pytest.raises(ValueError, match=r"\[26\], .*\[27\]"):
        pruning()(**batch)
    with pytest.raises(ValueError, match="26 <im_patch> tokens in the text, but 27"):
        build()(**batch)
    with pytest.raises(ValueError, match="token_pooling"):
        build()(batch["input_ids"], images=batch["images"])
    with pytest.raises(ValueError, match="subsegment_ids need position_ids"):
        build()(batch["input_ids"], subsegment_ids=batch["input_ids"])


def test_windows_of_preprocessor_and_scorer_must_agree() -> None:
    video = {"pooling_h": 2, "pooling_w": 3}
    with pytest.raises(ConfigError, match="pools 2 x 3 patches"):
        build(PRUNING, {"mm_preprocessor": {"video": video}})


@pytest.mark.parametrize(
    "key", ["mm_preprocessor.video.pooling_h", "vision_backbone.video_pooling"]
)
def test_the_window_is_named_once(key: str) -> None:
    config = merged_model_config({}, {"model_name": PRUNING["model_name"]} | nested(key, 2))
    video = config.mm_preprocessor.video
    assert (video.pooling_h, video.pooling_w) == (2, 2)
    assert config.vision_backbone.video_pooling == 2  # type: ignore[union-attr]


def test_dense_config() -> None:
    """Without the fields of pruning, and with the same weights, the answers of ``prune=False``."""
    model = pruning(prune=False)
    assert isinstance(model.config, TemporalVideoOlmoConfig)
    config = model.config.dense()
    assert type(config) is Molmo2Config
    assert config.to_dict() == model_config_from_dict(config.to_dict()).to_dict()
    dense = config.build()
    weights = model.state_dict()
    dense.load_state_dict({name: weights[name] for name in dense.state_dict()})
    batch = collate(*ROWS)
    assert torch.equal(run(dense.eval(), batch).logits, run(model, batch).logits)
