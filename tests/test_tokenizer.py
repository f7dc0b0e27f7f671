import string

import numpy as np
import pytest

from olmo.data.datasets.synthetic.questions import scene_questions
from olmo.data.datasets.synthetic.scene import COLOURS, DIRECTIONS, GLYPHS, sample_scene
from olmo.tokenizer import ASSETS, SPECIAL_TOKENS, MolmoTokenizer, TokenizerConfig


@pytest.fixture(scope="module")
def tokenizer() -> MolmoTokenizer:
    return TokenizerConfig().build(512)


@pytest.mark.parametrize(
    "text",
    [
        "Which character moves?\nOnly return the correct answer option.\nA. the red K",
        "  two spaces,\ttabs\r\nand 12.5 seconds \n\n",
        "Grüße, señor! 日本語 \u0301e \U0001f600\u200d\U0001f3a5 \x00\x7f",
        string.printable,
        "",
    ],
)
def test_round_trip(tokenizer, text):
    ids = tokenizer.encode(text)
    assert all(0 <= i < 512 for i in ids)
    assert tokenizer.decode(ids) == text


def test_vocabulary_is_full_and_file_small(tokenizer):
    assert tokenizer.raw.get_vocab_size() == 512
    assert (ASSETS / "tiny_tokenizer" / "tokenizer.json").stat().st_size < 100_000


def test_special_tokens(tokenizer):
    assert tokenizer.eos_id == tokenizer.raw.token_to_id("<|im_end|>")
    for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>"):
        assert tokenizer.control_id(token) == tokenizer.raw.token_to_id(token)
        ids = tokenizer.encode(token)  # text, whatever it says
        assert len(ids) > 1 and tokenizer.control_id(token) not in ids
        assert tokenizer.decode(ids) == token
    assert tokenizer.control_id("<|image|>") is None
    assert [tokenizer.ids[t] for t in SPECIAL_TOKENS] == list(range(512, 526))


def test_decode_drops_bos_and_stops_at_eos(tokenizer):
    ids = [tokenizer.bos_id, *tokenizer.encode("red K"), 513, -1, tokenizer.eos_id]
    assert tokenizer.decode([*ids, *tokenizer.encode(" more")]) == "red K"
    assert tokenizer.before_end(ids[1:]) == ids[1:-1] and tokenizer.before_end([5, 6]) == [5, 6]
    assert tokenizer.before_end(ids[1:], [513]) == tokenizer.encode("red K")


def pieces(tokenizer: MolmoTokenizer, text: str) -> list[str]:
    return [tokenizer.raw.decode([i]) for i in tokenizer.encode(text)]


def test_digits_stand_alone(tokenizer):
    assert pieces(tokenizer, "12.5 of 340") == ["1", "2", ".", "5", " of", " ", "3", "4", "0"]


def test_words_of_the_questions_are_single_tokens(tokenizer):
    assert pieces(tokenizer, "A. the red K") == ["A", ".", " the", " red", " K"]
    words = [*COLOURS, *DIRECTIONS, *(f" {w}" for w in (*COLOURS, *DIRECTIONS))]
    words += [f" {g}" for g in GLYPHS if g.isalpha()]
    words += [" ball", " square", " lamp", " sign", " moves", " flashes", " option", "assistant"]
    assert [w for w in words if len(tokenizer.encode(w)) > 1] == []
    for question in scene_questions(sample_scene("full", np.random.default_rng(0))):
        text = question.text  # every word, and the question mark
        assert len(tokenizer.encode(text)) == len(text.split()) + 1


def test_vocabulary_too_small(tokenizer):
    with pytest.raises(ValueError, match=r"512 entries, llm\.vocab_size is 500"):
        TokenizerConfig().build(500)


def test_absent_folder_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tokenizer.json"):
        TokenizerConfig(identifier=str(tmp_path)).build(512)
