"""Generation with a cache, in batches, against single rows and against no cache at all."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from olmo.models.molmo2.molmo2 import Molmo2
from olmo.nn.generate import Sampling
from tests.models.conftest import (
    OLMO3,
    PRUNING,
    VOCAB,
    Row,
    build,
    collate,
    image_row,
    pruning,
    text_row,
    video_row,
)

ROWS = (video_row(3, 0), text_row(4, 1), video_row(1, 2), video_row(5, 3, n_after=9), image_row(4))
"""41, 4, 17, 70 and 39 tokens, of which 13, 0, 0, 22 and 0 are removed at topk 0.5."""
MODELS = {
    "dense": (),
    "pruned": (PRUNING,),
    "original": (PRUNING, {"pruned_position_ids": "original"}),
    "olmo3": (PRUNING, {"llm": OLMO3}),
}


def without_cache(model: Molmo2, row: Row, steps: int) -> tuple[list[int], float]:
    """Greedy tokens and their summed log-probability, the whole row run again for each."""
    row, tokens, score = dict(row), [], 0.0
    for _ in range(steps):
        with torch.no_grad():
            logits = model(**collate(row)).logits[0, -1]
        tokens.append(int(logits.argmax()))
        score += logits.log_softmax(-1).max().item()
        row["input_ids"] = torch.cat((row["input_ids"], torch.tensor(tokens[-1:])))
    return tokens, score


@pytest.mark.parametrize("name", MODELS)
def test_batch_equals_single_rows(name: str) -> None:
    """Rows of different length, with different numbers of removed tokens, right-padded."""
    model = build(*MODELS[name])
    together = model.generate(collate(*ROWS), 6, [VOCAB])
    for i, row in enumerate(ROWS):
        alone = model.generate(collate(row), 6, [VOCAB])
        tokens, score = without_cache(model, row, 6)
        assert together.token_ids[i].tolist() == alone.token_ids[0].tolist() == tokens
        assert together.scores[i].item() == pytest.approx(score, abs=1e-4)
        assert alone.scores[0].item() == pytest.approx(score, abs=1e-4)
    removed = [0] * 5 if name == "dense" else [13, 0, 0, 22, 0]
    lengths = [len(r["input_ids"]) - n for r, n in zip(ROWS, removed, strict=True)]
    assert together.n_prompt_tokens.tolist() == lengths
    assert together.timings.keys() == {"prefill", "decode"}
    assert len({tuple(t) for t in together.token_ids.tolist()}) > 2  # the rows matter


def test_stop_ids() -> None:
    """A row ends with any of them and is then filled with the first; the score stops as well."""
    model, batch = build(), collate(ROWS[1], ROWS[0])
    free = model.generate(batch, 5, [VOCAB]).token_ids.tolist()
    stop = free[0][1]
    assert stop not in (free[0][0], *free[1])
    out = model.generate(batch, 5, [VOCAB, stop])
    assert out.token_ids.tolist() == [[*free[0][:2], *[VOCAB] * 3], free[1]]
    _, score = without_cache(model, ROWS[1], 2)
    assert out.scores[0].item() == pytest.approx(score, abs=1e-4)
    both = model.generate(batch, 5, [stop, free[1][0]])
    assert both.token_ids.tolist() == [free[0][:2], [free[1][0], stop]]


def test_sampling_repeats_with_its_seed_and_reduces_to_greedy() -> None:
    model, batch = pruning(), collate(*ROWS)
    greedy = model.generate(batch, 6, [VOCAB])
    narrow = model.generate(batch, 6, [VOCAB], Sampling(top_p=1e-6))
    cold = model.generate(batch, 6, [VOCAB], Sampling(temperature=1e-4))
    assert greedy.token_ids.tolist() == narrow.token_ids.tolist() == cold.token_ids.tolist()
    assert greedy.scores.tolist() == narrow.scores.tolist()
    first, again, other = (
        model.generate(batch, 6, [VOCAB], Sampling(temperature=2.0, seed=s)) for s in (1, 1, 2)
    )
    assert first.token_ids.tolist() == again.token_ids.tolist() != other.token_ids.tolist()
    assert (first.scores <= 0).all() and first.scores.sum() < greedy.scores.sum()


def test_shares_of_drawn_tokens() -> None:
    """0.5, 0.3, 0.15 and 0.05: of a nucleus of 0.7 the first two are left, in their proportion."""
    log_probs = torch.tensor([0.15, 0.5, 0.05, 0.3]).log().expand(40_000, 4)
    generator = torch.Generator().manual_seed(0)

    def shares(sampling: Sampling) -> list[float]:
        drawn = sampling.draw(log_probs, generator)
        return (torch.bincount(drawn, minlength=4) / len(drawn)).tolist()

    assert shares(Sampling()) == pytest.approx([0.15, 0.5, 0.05, 0.3], abs=0.01)
    assert shares(Sampling(top_p=0.7)) == pytest.approx([0, 0.625, 0, 0.375], abs=0.01)
    hot = torch.tensor([0.15, 0.5, 0.05, 0.3]).sqrt()
    assert shares(Sampling(temperature=2.0)) == pytest.approx((hot / hot.sum()).tolist(), abs=0.01)


@pytest.mark.parametrize("values", [{"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_sampling_settings(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        Sampling(**values)


def test_one_new_token() -> None:
    model = pruning()
    out = model.generate(collate(*ROWS[:2]), 1, [VOCAB])
    more = model.generate(collate(*ROWS[:2]), 2, [VOCAB])
    assert out.token_ids.tolist() == more.token_ids[:, :1].tolist()


@pytest.mark.parametrize(
    "ids", [[[-1, 5, 6]], [[5, -1, 6]], [[5, 6, 7], [-1, -1, -1]]], ids=["left", "gap", "empty"]
)
def test_padding_must_be_on_the_right(ids: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="padded on the right"):
        build().generate({"input_ids": torch.tensor(ids)}, 2, [VOCAB])


def test_row_must_fit() -> None:
    """Counted after removal: 70 tokens, 48 after it."""
    batch = collate(ROWS[3])
    short = {"llm": {"max_sequence_length": 55}}
    with pytest.raises(ValueError, match=r"70 positions and 7 new tokens exceed .* 55"):
        build(short).generate(batch, 7, [VOCAB])
    model = build(PRUNING, short)
    assert model.generate(batch, 7, [VOCAB]).token_ids.shape == (1, 7)
    with pytest.raises(ValueError, match="48 positions and 8 new tokens"):
        model.generate(batch, 8, [VOCAB])


def test_no_gradient_and_no_change_of_mode() -> None:
    model = pruning()
    out = model.generate(collate(ROWS[0]), 2, [VOCAB])
    tensors: list[Tensor] = [out.token_ids, out.scores]
    assert not any(t.requires_grad for t in tensors) and not model.training
