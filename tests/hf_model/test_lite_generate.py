"""``generate`` of the pruned model: the native answers, whatever the decoding strategy."""

import pytest
import torch

from tests.hf_model.lite_models import OLMO, STOP, cache_of, left_padded, mixed_batch, pair
from tests.models.conftest import collate, video_row

NEW = 6


def new_tokens(sequences, batch):
    """Generated ids per row up to the stop token, and that the prompt came back unchanged."""
    width = batch["input_ids"].shape[1]
    assert torch.equal(sequences[:, :width], batch["input_ids"])
    return [cut(row) for row in sequences[:, width:].tolist()]


def cut(ids):
    return ids[: ids.index(STOP)] if STOP in ids else ids


def native_tokens(native, batch):
    out = native.generate(batch, NEW, [STOP])
    return [cut(row) for row in out.token_ids.tolist()]


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize(
    "model",
    [
        pair(),
        pair(OLMO, topk=0.7),
        pair({"pruned_position_ids": "original"}),
        pair({"bi_directional_attn": "within_image"}, prune_method="random"),
        pair(layout="packed", refill=True),
        pair(prune=False),
    ],
    ids=["scorer", "olmo3", "original", "within_image", "refill", "dense"],
)
def test_greedy_answers_are_the_native_ones(model, use_cache):
    native, hf = model
    batch = mixed_batch()
    given = left_padded(batch)
    out = hf.generate(**given, max_new_tokens=NEW, use_cache=use_cache)
    expected = native_tokens(native, batch)
    assert len({tuple(row) for row in expected}) > 1
    assert new_tokens(out, given) == expected


def test_rows_do_not_depend_on_each_other():
    _, hf = pair()
    given = left_padded(mixed_batch())
    together = new_tokens(hf.generate(**given, max_new_tokens=NEW), given)
    for row, expected in enumerate(together):
        alone = {key: value[row : row + 1] for key, value in given.items()}
        assert new_tokens(hf.generate(**alone, max_new_tokens=NEW), alone) == [expected]


def test_right_padding_is_as_good():
    _, hf = pair()
    batch = mixed_batch()
    right = {**batch, "input_ids": batch["input_ids"].clamp(min=0)}
    right["attention_mask"] = (batch["input_ids"] >= 0).long()
    left = left_padded(batch)
    assert new_tokens(hf.generate(**right, max_new_tokens=NEW), right) == new_tokens(
        hf.generate(**left, max_new_tokens=NEW), left
    )


def test_cache_mask_and_positions_fit_the_shortened_prompt():
    native, hf = pair()
    batch = mixed_batch()
    out = hf.generate(
        **left_padded(batch), max_new_tokens=3, min_new_tokens=3, return_dict_in_generate=True
    )
    lengths = native.generate(batch, 1, [STOP]).n_prompt_tokens
    assert cache_of(out).get_seq_length() == int(lengths.max()) + 3 - 1
    prompt = hf.encode_prompt(**left_padded(batch))
    assert torch.equal(prompt.lengths, lengths)
    for mask, positions, n in zip(
        prompt.row.valid, prompt.row.position_ids, lengths.tolist(), strict=True
    ):
        assert not mask[:-n].any() and mask[-n:].all()
        assert positions[-n:].tolist() == list(range(n))


@pytest.mark.parametrize("use_cache", [True, False])
def test_beam_search_equals_its_uncached_self(use_cache):
    """Beams repeat the prompt's rows; the second run computes everything anew at each step."""
    _, hf = pair()
    given = left_padded(mixed_batch())
    beams = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 4, "use_cache": use_cache}
    out = hf.generate(**given, **beams)
    assert out.shape[0] == 2 * len(given["input_ids"])
    row = {key: value[1:2] for key, value in given.items()}
    alone = hf.generate(**row, **{**beams, "use_cache": True})
    assert torch.equal(out[2:4, : alone.shape[1]], alone)


def test_sampling_is_repeatable_and_several_answers_differ():
    _, hf = pair()
    given = left_padded(collate(video_row(4, 1)))
    options = {"do_sample": True, "num_return_sequences": 4, "max_new_tokens": NEW}
    runs = []
    for _ in range(2):
        torch.manual_seed(1)
        runs.append(hf.generate(**given, **options))
    assert torch.equal(*runs)
    assert len({tuple(row) for row in runs[0].tolist()}) > 1


def test_topk_of_one_call():
    _, hf = pair(topk=0.5)
    native, _ = pair(topk=0.2)
    batch = mixed_batch()
    given = left_padded(batch)
    out = hf.generate(**given, topk=0.2, max_new_tokens=NEW)
    assert new_tokens(out, given) == native_tokens(native, batch)


def test_text_alone():
    native, hf = pair()
    ids = torch.randint(1, 40, (1, 9))
    out = hf.generate(ids, max_new_tokens=NEW)
    assert new_tokens(out, {"input_ids": ids}) == native_tokens(native, {"input_ids": ids})


def test_several_stop_tokens():
    native, hf = pair()
    batch = collate(video_row(4, 1))
    first = native.generate(batch, 1, [STOP]).token_ids[0, 0].item()
    out = hf.generate(**left_padded(batch), max_new_tokens=NEW, eos_token_id=[STOP, first])
    assert out.shape[1] == batch["input_ids"].shape[1] + 1


def test_a_prompt_that_is_too_long():
    _, hf = pair({"llm": {"max_sequence_length": 60}}, topk=0.3)
    given = left_padded(collate(video_row(6, 1)))
    with pytest.raises(ValueError, match=r"a prompt of 61 positions .* exceed .* 60:"):
        hf.generate(**given, max_new_tokens=1)
    assert hf.generate(**given, max_new_tokens=1, topk=0.5).shape[1] == 78
    with pytest.raises(ValueError, match=r"of 50 positions and 11 new tokens"):
        hf.generate(**given, max_new_tokens=11, topk=0.5)


def test_generate_needs_a_prompt():
    _, hf = pair()
    with pytest.raises(ValueError, match="input_ids"):
        hf.generate(max_new_tokens=1)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu(dtype):
    """Forward, backward and generate; in float32 the tokens of the CPU."""
    native, hf = pair()
    batch = mixed_batch()
    given = left_padded(batch)
    hf = hf.to("cuda", dtype)
    on_gpu = {key: value.to("cuda") for key, value in given.items()}
    tokens = new_tokens(hf.generate(**on_gpu, max_new_tokens=NEW), on_gpu)
    if dtype == torch.float32:
        assert tokens == native_tokens(native, batch)
    labels = on_gpu["input_ids"].clamp(max=39).masked_fill(on_gpu["attention_mask"] == 0, -100)
    hf.train()(**on_gpu, labels=labels).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in hf.parameters())
