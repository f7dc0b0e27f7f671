"""A cache that outlives one ``generate``: the answer of an empty one, or an error."""

import copy

import pytest
import torch

from tests.hf_model.lite_models import CACHE_NAME, OLMO, cache_of, left_padded, pair
from tests.models.conftest import collate, text_row, video_row

NEW = 5
ROWS = {
    "video": [video_row(4, 1)],
    "text": [text_row(20, 1)],
    "batch": [video_row(4, 1), video_row(6, 2), text_row(9, 3)],
}


class Conversation:
    """A first answer of ``hf``, its cache, and the same conversation with a second question."""

    def __init__(self, hf, rows, **options):
        self.hf, self.first = hf, left_padded(collate(*rows))
        options = {"max_new_tokens": NEW, "min_new_tokens": NEW} | options
        out = hf.generate(**self.first, **options, return_dict_in_generate=True)
        self.cache = cache_of(out)
        more = torch.randint(8, 40, (len(out.sequences), 4))
        ids = torch.cat((out.sequences, more), 1)
        mask = torch.ones_like(ids)
        mask[:, : self.first["input_ids"].shape[1]] = self.first["attention_mask"]
        self.second = {**self.first, "input_ids": ids, "attention_mask": mask}

    def answer(self, cached=True, **changes):
        given = {**self.second, **changes}
        if cached:
            given[CACHE_NAME] = copy.deepcopy(self.cache)
        out = self.hf.generate(**given, max_new_tokens=NEW)
        return out[:, given["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("change", [{}, OLMO, {"pruned_position_ids": "original"}])
def test_the_next_question(rows, change):
    talk = Conversation(pair(change)[1], rows)
    assert talk.answer() == talk.answer(cached=False)


def test_all_of_the_prompt_is_in_the_cache():
    _, hf = pair()
    given = left_padded(collate(video_row(4, 1)))
    cache = cache_of(hf(**given, use_cache=True))
    out = hf.generate(**given, max_new_tokens=NEW, **{CACHE_NAME: cache})
    assert torch.equal(out, hf.generate(**given, max_new_tokens=NEW))


@pytest.mark.parametrize("rows", [ROWS["video"], ROWS["batch"]], ids=["video", "batch"])
def test_what_does_not_go_on_from_the_cache_is_refused(rows):
    _, hf = pair()
    talk = Conversation(hf, rows)
    ids, mask = talk.second["input_ids"], talk.second["attention_mask"]
    wrong = "does not begin with them"
    with pytest.raises(ValueError, match=r"36|90 <im_patch> tokens in the text, but no images"):
        talk.answer(images=None)
    with pytest.raises(ValueError, match=wrong):  # another share: other tokens stay
        talk.answer(topk=0.2)
    with pytest.raises(ValueError, match=wrong):  # another beginning
        talk.answer(input_ids=torch.cat((ids[:, :-8] % 30 + 8, ids[:, -8:]), 1), images=None)
    text = {**dict.fromkeys(talk.first), "input_ids": ids[:, -5:], "attention_mask": None}
    with pytest.raises(ValueError, match=wrong):  # the new tokens alone
        talk.answer(**text)
    with pytest.raises(ValueError, match=r"attention_mask is \(\d, \d+\), input_ids \(\d, 5\)"):
        talk.answer(**{**text, "attention_mask": mask})


def test_more_padding_is_the_same_prompt():
    talk = Conversation(pair()[1], ROWS["video"])
    ids, mask = talk.second["input_ids"], talk.second["attention_mask"]
    wider = {"input_ids": ids[:, :1], "attention_mask": mask[:, :1] * 0}
    wider = {k: torch.cat((wider[k], talk.second[k]), 1) for k in wider}
    assert talk.answer(**wider) == talk.answer(cached=False)


def test_a_new_picture_behind_the_cache_is_refused():
    _, hf = pair()
    talk = Conversation(hf, ROWS["text"])
    both = left_padded(collate(video_row(4, 1)))
    ids = torch.cat((talk.second["input_ids"], both["input_ids"]), 1)
    given = {**both, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    assert talk.answer(cached=False, **given)
    with pytest.raises(ValueError, match="behind a filled cache"):
        talk.answer(**given)


def test_beams_leave_no_cache_to_go_on_from():
    """Their rows change places, and only transformers knows how."""
    _, hf = pair()
    talk = Conversation(hf, ROWS["video"], num_beams=3, num_return_sequences=3)
    given = {k: v.repeat_interleave(3, 0) for k, v in talk.first.items()}
    with pytest.raises(ValueError, match="does not begin with them"):
        talk.answer(**given | {k: talk.second[k] for k in ("input_ids", "attention_mask")})


def test_decoding_by_hand():
    """Mask and positions of the tokens behind a batch with padding may be left out."""
    _, hf = pair()
    batch = collate(video_row(4, 1), video_row(6, 2), text_row(9, 3))
    given = left_padded(batch)
    want = hf.generate(**given, max_new_tokens=NEW, min_new_tokens=NEW)[:, -NEW:]
    out = hf(**given, use_cache=True)
    last = out.attention_mask.long() * torch.arange(out.attention_mask.shape[1])
    token = out.logits[torch.arange(3), last.amax(1)].argmax(-1, keepdim=True)
    found = [token]
    while len(found) < NEW:
        out = hf(token, **{CACHE_NAME: cache_of(out)})
        token = out.logits[:, -1].argmax(-1, keepdim=True)
        found.append(token)
    assert torch.cat(found, 1).tolist() == want.tolist()


def test_a_cache_that_something_else_filled():
    _, hf = pair()
    cache = cache_of(hf(torch.tensor([[5, 6, 7]]), use_cache=True))
    del cache.molmo2_row
    with pytest.raises(ValueError, match="filled by something else"):
        hf(torch.tensor([[8]]), **{CACHE_NAME: cache})
