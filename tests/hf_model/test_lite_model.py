"""The pruned model in Hugging Face form against the native model: logits, loss, weights on disk."""

import json
from functools import partial

import pytest

pytest.importorskip("transformers.models.molmo2")

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForImageTextToText, DynamicCache, StaticCache

from olmo.hf_model.lite import Molmo2LiteForConditionalGeneration
from olmo.models.hf_layout.config import to_hf
from olmo.models.weights import CheckpointError
from tests.hf_model.lite_models import OLMO, UNTIED, cache_of, left_padded, mixed_batch, pair
from tests.models.conftest import collate, image_row, text_row, video_row


@pytest.mark.parametrize(
    "model",
    [
        pair(),
        pair(OLMO, topk=0.7),
        pair({"pruned_position_ids": "original"}, prune_method="evs"),
        pair(prune=False),
    ],
    ids=["scorer", "olmo3", "evs", "dense"],
)
def test_logits_are_those_of_the_native_model(model):
    native, hf = model
    batch = mixed_batch()
    with torch.no_grad():
        expected, right = native(**batch), hf(**batch)
        left = hf(**left_padded(batch))
    assert torch.equal(right.logits, expected.logits)
    assert torch.equal(right.attention_mask, expected.valid)
    assert torch.equal(right.position_ids, expected.position_ids)
    assert hf.config.prune == (expected.kept_tokens is not None)
    # 1.0e-6 measured: the mask has its padding elsewhere
    torch.testing.assert_close(
        left.logits[left.attention_mask], right.logits[right.attention_mask], atol=1e-5, rtol=0
    )


def test_topk_of_one_call():
    _, hf = pair(topk=0.5)
    native, _ = pair(topk=0.25)
    dense, _ = pair(topk=0.0)
    batch = mixed_batch()
    with torch.no_grad():
        assert torch.equal(hf(**batch, topk=0.25).logits, native(**batch).logits)
        assert torch.equal(hf(**batch, topk=0.0).logits, dense(**batch).logits)
    assert hf.config.topk == hf.model.config.vision_backbone.vit.topk == 0.5


@pytest.mark.parametrize("topk", [-0.1, 1.0])
def test_a_share_out_of_range(topk):
    _, hf = pair()
    with pytest.raises(ValueError, match=rf"in \[0, 1\): got {topk}"):
        hf(**mixed_batch(), topk=topk)


def test_a_forward_in_pieces_equals_one():
    """Prompt, then five tokens at once, then one: the cache is as long as the pruned prompt."""
    _, hf = pair()
    batch = collate(video_row(4, 1), video_row(4, 2))
    more = torch.randint(1, 40, (2, 6))
    whole = dict(batch, input_ids=torch.cat((batch["input_ids"], more), 1))
    with torch.no_grad():
        expected = hf(**whole).logits[:, -6:]
        out = hf(**batch, use_cache=True)
        n_kept = out.logits.shape[1]
        assert cache_of(out).get_seq_length() == n_kept < batch["input_ids"].shape[1]
        five = hf(more[:, :5], cache=cache_of(out)).logits
        one = hf(more[:, 5:], cache=cache_of(out), logits_to_keep=1).logits
    assert cache_of(out).get_seq_length() == n_kept + 6
    torch.testing.assert_close(torch.cat((five, one), 1), expected, atol=1e-5, rtol=0)  # 9.5e-7


def test_errors_of_a_forward():
    _, hf = pair()
    batch = collate(video_row(2, 1))
    cache = cache_of(hf(**batch, use_cache=True))
    with pytest.raises(ValueError, match="images belong to the first forward"):
        hf(**batch, cache=cache)
    with pytest.raises(ValueError, match=r"attention_mask covers 3 tokens of \d+"):
        hf(batch["input_ids"][:, :1], torch.ones(1, 3), cache=cache)
    with pytest.raises(ValueError, match="static caches are not supported"):
        static = StaticCache(config=hf.config.get_text_config(), max_cache_len=64)
        hf(batch["input_ids"], cache=static)
    with pytest.raises(ValueError, match="images need token_pooling"):
        hf(batch["input_ids"], images=batch["images"])
    with pytest.raises(TypeError, match="imges"):
        hf(batch["input_ids"], imges=batch["images"])
    with pytest.raises(ValueError, match="imges"):
        hf.generate(torch.tensor([[5, 6]]), imges=batch["images"])
    for call in (hf, hf.model, partial(hf.generate, max_new_tokens=1)):
        with pytest.raises(ValueError, match=r"18 <im_patch> tokens in the text, but no images"):
            call(input_ids=batch["input_ids"])
    with pytest.raises(ValueError, match="return_dict=False"):
        hf(batch["input_ids"], return_dict=False)
    with pytest.raises(ValueError, match="vocabulary"):
        hf.resize_token_embeddings(99)


@pytest.mark.parametrize("left", [False, True])
def test_loss_is_the_mean_over_tokens_with_their_old_successor(left):
    native, hf = pair()
    batch = mixed_batch()
    labels = batch["input_ids"].clone()
    labels[(labels >= 40) | (torch.rand(labels.shape) < 0.3)] = -100
    labels[labels < 0] = -100
    out = native(**batch)
    losses = []
    for row, kept in enumerate(out.kept_tokens):
        places = [i for i in range(len(kept)) if kept[i] and batch["input_ids"][row, i] >= 0]
        for place, i in enumerate(places):
            if i + 1 < labels.shape[1] and labels[row, i + 1] >= 0:
                logits = out.logits[row, place]
                losses.append(nn.functional.cross_entropy(logits, labels[row, i + 1]))
    given = {**batch, "labels": labels}
    if left:
        given = left_padded(batch)
        given["labels"] = torch.full_like(labels, -100)
        for row, n in enumerate((batch["input_ids"] >= 0).sum(1).tolist()):
            given["labels"][row, -n:] = labels[row, :n]
    torch.testing.assert_close(hf(**given).loss, torch.stack(losses).mean())


def test_training_adds_the_auxiliary_loss_and_reaches_the_scorer():
    native, hf = pair()
    native.train()
    hf.train()
    batch = collate(video_row(4, 1), text_row(9, 2))
    labels = batch["input_ids"].masked_fill(batch["input_ids"] >= 40, -100)
    out = hf(**batch, labels=labels.masked_fill(labels < 0, -100))
    aux = native(**batch).vision.aux_loss
    assert aux > 0
    hf.eval()
    text = hf(**batch, labels=labels.masked_fill(labels < 0, -100)).loss
    torch.testing.assert_close(out.loss, text + aux)
    out.loss.backward()
    grads = {n: p.grad for n, p in hf.named_parameters() if "temporal_token_scorer" in n}
    assert len(grads) == 14 and all(g is not None and g.abs().sum() > 0 for g in grads.values())
    with pytest.raises(ValueError, match="labels"):
        hf(**batch, labels=labels[:, 1:])


def published_names(native):
    """State dict of a native model in the form of the published repositories."""
    out = {}
    for key, value in native.state_dict().items():
        for part, names in (
            ("self_attn", ("att_proj", "attn_out", "q_norm", "k_norm")),
            ("mlp", ("ff_proj", "ff_out")),
        ):
            for name in names:
                if key.startswith("transformer.blocks.") and f".{name}." in key:
                    key = key.replace(f".{name}.", f".{part}.{name}.")
        out["lm_head.weight" if key == "transformer.ff_out.weight" else f"model.{key}"] = value
    return out


@pytest.mark.parametrize("change", [{}, UNTIED, OLMO], ids=["tied", "untied", "olmo3"])
def test_weights_on_disk(change, tmp_path):
    native, hf = pair(change)
    hf.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    expected = published_names(native)
    assert stored.keys() == expected.keys()
    assert all(torch.equal(stored[key], expected[key]) for key in stored)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(again) is Molmo2LiteForConditionalGeneration and not again.training
    for key, value in hf.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    again.save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == expected.keys()


def test_native_names_load_as_well(tmp_path):
    _, hf = pair(UNTIED)
    hf.config.save_pretrained(tmp_path)
    save_file(hf.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    again = Molmo2LiteForConditionalGeneration.from_pretrained(tmp_path)
    assert all(torch.equal(again.state_dict()[k], v) for k, v in hf.state_dict().items())


def test_a_published_folder_with_a_scorer(tmp_path):
    """Remote layout, its own head although the native model has tied weights, STTS keys."""
    native, _ = pair(topk=0.3)
    weights = published_names(native)
    weights["lm_head.weight"] = native.transformer.wte.embedding.detach().clone()
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    data = to_hf(native.config, "remote") | {"topk": 0.3, "prune_at": 1, "prune_method": "scorer"}
    (tmp_path / "config.json").write_text(json.dumps(data))
    hf = Molmo2LiteForConditionalGeneration.from_pretrained(tmp_path)
    batch = mixed_batch()
    with torch.no_grad():
        assert torch.equal(hf(**batch).logits, native(**batch).logits)


def test_a_missing_scorer_is_an_error_that_shows_the_way_out(tmp_path):
    native, hf = pair()
    kept = {k: v for k, v in published_names(native).items() if "temporal_token_scorer" not in k}
    hf.config.save_pretrained(tmp_path)
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    message = (
        rf"{tmp_path} has no token scorer: 14 missing keys, first 'model\.vision_backbone\..*"
        "without training: easy, evs, heuristic, random; or train"
    )
    with pytest.raises(CheckpointError, match=message):
        Molmo2LiteForConditionalGeneration.from_pretrained(tmp_path)
    again = Molmo2LiteForConditionalGeneration.from_pretrained(tmp_path, prune_method="easy")
    assert all(torch.equal(v, native.state_dict()[k]) for k, v in again.model.state_dict().items())


def test_a_missing_weight_is_an_error(tmp_path):
    native, hf = pair()
    weights = published_names(native)
    del weights["model.transformer.ln_f.weight"]
    hf.config.save_pretrained(tmp_path)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 missing keys, first 'model.transformer.ln_f"):
        AutoModelForImageTextToText.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes(dtype, tmp_path):
    _, hf = pair()
    hf.save_pretrained(tmp_path)
    again = Molmo2LiteForConditionalGeneration.from_pretrained(tmp_path, dtype=dtype)
    assert {p.dtype for p in again.parameters()} == {dtype}
    batch = collate(video_row(4, 1), image_row(2))
    labels = batch["input_ids"].clamp(min=-100, max=39).masked_fill(batch["input_ids"] < 0, -100)
    out = again.train()(**batch, labels=labels)
    assert out.logits.dtype == dtype
    out.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in again.parameters())
    again.generation_config.pad_token_id = 0
    assert again.eval().generate(**left_padded(batch), max_new_tokens=2).shape[1] > 2


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_cache_class_is_the_users_choice(name):
    _, hf = pair()
    cache = DynamicCache()
    hf(**collate(video_row(3, 1)), **{name: cache})
    assert cache.get_seq_length() > 0
