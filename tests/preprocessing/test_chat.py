import copy
import json
from pathlib import Path

import numpy as np
import pytest

from olmo.config import ConfigError
from olmo.preprocessing.chat import DataFormatterConfig
from olmo.preprocessing.prompts import style_prefix
from olmo.preprocessing.tokens import ChatTokenizer, MessageWeight, RowConfig, Turn
from olmo.tokenizer import TokenizerConfig

FIXTURES = Path(__file__).parents[1] / "fixtures" / "data"
FORMATTED = json.loads((FIXTURES / "formatted_messages.json").read_text())
MESSAGES = json.loads((FIXTURES / "messages.json").read_text())
TOKENIZED = json.loads((FIXTURES / "tokenization.json").read_text())["cases"]
EOS = 151645


@pytest.fixture(scope="module")
def tokenizer():
    return TokenizerConfig(str(FIXTURES / "byte_tokenizer")).build(151936)


@pytest.mark.parametrize("case", FORMATTED["cases"], ids=lambda c: c["name"])
def test_reference_messages(case):
    formatter = DataFormatterConfig().build()
    before = copy.deepcopy(case["example"])
    out = formatter(
        case["example"],
        np.random.RandomState(case["seed"]) if case["is_training"] else None,
        for_inference=case["for_inference"],
    )
    assert out.turns == case["messages"]
    assert out.metadata == case["metadata"]
    assert case["example"] == before


@pytest.mark.parametrize("row", FORMATTED["prefixes"])
def test_reference_prefixes(row):
    assert style_prefix(row["style"], row["system_prompt"]) == row["prefix"]


@pytest.mark.parametrize("name", ["qwen3", "role", "none"])
def test_reference_chat_formats(name):
    formatter = DataFormatterConfig(message_format=name, system_prompt=None).build()
    out = formatter({"messages": ["Q", "A", "Q2", "A2"]})
    expected = FORMATTED[f"message_format_{name}"]
    assert out.turns == expected
    formatter.config.always_start_with_space = True
    spaced = formatter({"messages": ["Q", "A", "Q2", "A2"]}).turns
    assert spaced == [("" if name == "qwen3" else " ") + expected[0], *expected[1:]]


@pytest.mark.parametrize("row", MESSAGES["training"], ids=lambda r: str(r["message"])[:40])
@pytest.mark.parametrize("seed", range(8))
def test_reference_training_messages(row, seed):
    formatter = DataFormatterConfig().build()
    first, *rest = formatter(row["message"], np.random.RandomState(seed)).turns
    if "turns" in row:
        assert [first, *rest] == row["turns"]
        return
    parts = row["first_turn"]
    assert first.startswith(parts["begins"]) and first.endswith(parts["ends"])
    assert all(text in first for text in parts["contains"]) and rest == row["rest"]
    assert len(first) > len(parts["begins"] + parts["ends"]), "a wording"


@pytest.mark.parametrize("row", MESSAGES["evaluation"], ids=lambda r: str(r["message"])[:40])
def test_reference_evaluation_messages(row):
    out = DataFormatterConfig().build()(row["message"], for_inference=row["inference"])
    assert out.turns == row["turns"]
    assert out.metadata.get("option_names") == row["option_names"]


@pytest.mark.parametrize("row", MESSAGES["points"], ids=lambda r: str(r["case"])[:40])
def test_reference_points_messages(row):
    assert DataFormatterConfig().build()(row["case"]).turns[-1] == row["answer"]


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("video_short_answer", "video_short_answer: Why?\nReply with a short answer."),
        ("video_eval_short_answer", "video_short_answer: Why?"),
        (
            "video_short_answer_count_without_pointing",
            "video_short_answer: Why?\nReply with a short answer.",
        ),
        ("video_eval_multiple_choice", "Why?"),
        ("video_eval_multiple_choice_w_subtitle", "Why?"),
        ("eval_short_answer", "vqa2: Why?"),
        ("kinetics_label", "kinetics_label: Why?"),
        ("", "Why?"),
        (None, "Why?"),
    ],
)
def test_styles(style, expected):
    formatter = DataFormatterConfig(message_format="none").build()
    out = formatter({"question": "Why?", "answer": "So.", "style": style})
    assert out.turns == [expected, " So."]


def test_prompt_is_taken_verbatim():
    formatter = DataFormatterConfig(message_format="none").build()
    message = {"prompt": "As it is", "question": "no", "answer": 3, "style": "user_qa"}
    assert formatter(message).turns == ["As it is", " 3"]


def test_answers():
    formatter = DataFormatterConfig(message_format="none").build()
    answers = {"question": "Q", "answers": ["a", "b", "b", "c", "c"]}
    assert formatter(answers).turns == ["Q", " b"]
    drawn = {formatter(answers, np.random.RandomState(s)).turns[1] for s in range(20)}
    assert drawn == {" b", " c"}
    explained = {"question": "Q", "answer": "a", "explanation": "Since."}
    assert formatter(explained).turns[1] == " Since. Answer: a"
    assert formatter({"style": "video_motion_caption", "text": "T"}).turns == [
        "video_motion_caption: Describe the motion in this video.",
        " T",
    ]


def test_messages_and_turns():
    formatter = DataFormatterConfig(message_format="none").build()
    messages = {"messages": ["Q", "A", "Q2", "A2"]}
    assert formatter(messages, for_inference=True).turns == ["Q", " A", " Q2"]
    parts = [{"question": "Q", "answer": "A"}, {"question": "Q2", "answer": "A2"}]
    assert formatter({"multi_turn_messages": parts}).turns == ["Q", " A", " Q2", " A2"]
    parts = [part | {"style": s} for part, s in zip(parts, ("vqa2", "doc_qa"), strict=True)]
    tagged = formatter({"multi_turn_messages": parts, "style": "user_qa"}).turns
    assert tagged == ["vqa2: Q", " A", " Q2", " A2"]
    assert formatter({"multi_turn_messages": parts[::-1]}).turns[0] == "doc_qa: Q2"
    with pytest.raises(ValueError, match="non-empty list of strings"):
        formatter({"multi_turn_messages": []})


def test_bad_messages():
    formatter = DataFormatterConfig().build()
    with pytest.raises(ValueError, match=r"no answer.*question"):
        formatter({"question": "Q"})
    assert len(formatter({"question": "Q"}, for_inference=True).turns) == 1
    with pytest.raises(ValueError, match=r"answer_idx 2 .* 2 options"):
        formatter({"question": "Q", "options": ["a", "b"], "answer_idx": 2})
    with pytest.raises(ValueError, match=r"an option is null: \['a', None\]"):
        formatter({"question": "q", "options": ["a", None], "answer_idx": 0})
    with pytest.raises(ValueError, match="27 options"):
        formatter({"question": "Q", "options": ["a"] * 27, "answer_idx": 2})
    with pytest.raises(ValueError, match="non-empty list of strings"):
        formatter({"messages": []})


def test_formatter_config():
    assert DataFormatterConfig.from_dict({"prompt_templates": "uber_model_v2"}) is not None
    with pytest.raises(ConfigError, match="message_format"):
        DataFormatterConfig.from_dict({"message_format": "chatml"})


def tokenize(tokenizer, conversations, visual, *more, **config):
    """The row of conversations whose turns are strings with places."""
    chat = ChatTokenizer(tokenizer, RowConfig(**{"loss_token_weighting": None} | config))
    return chat([[Turn.read(turn) for turn in turns] for turns in conversations], visual, *more)


@pytest.mark.parametrize("case", TOKENIZED, ids=lambda c: c["name"])
def test_reference_tokens(tokenizer, case):
    limit = 9 if case["name"] == "tree_max_seq_len_9" else None
    nested = isinstance(case["messages"][0], list)
    out = tokenize(
        tokenizer,
        case["messages"] if nested else [case["messages"]],
        case["mm_tokens"],
        MessageWeight.of(case["weight"]),
        limit,
        **case["config"],
    )
    assert out.keys() == case["out"].keys()
    for key, expected in case["out"].items():
        if key == "loss_masks":
            assert out[key].dtype == np.float32
            np.testing.assert_allclose(out[key], expected, atol=1e-6)
        else:
            assert out[key].dtype == np.int64
            assert out[key].tolist() == expected, key


def test_every_branch_reads_alone(tokenizer):
    trees = [["q1", "a1", "q2", "a2"], ["x", "yz"], ["p", "q"]]
    out = tokenize(tokenizer, trees, [[900, 901]])
    segment = out["subsegment_ids"]
    for b, turns in enumerate(trees):
        mine = (segment == b) | (segment == 10_000)
        alone = tokenize(tokenizer, [turns], [[900, 901]])
        assert out["input_tokens"][mine].tolist() == alone["input_tokens"].tolist()
        assert out["position_ids"][mine].tolist() == alone["position_ids"].tolist()
        own = segment[mine] == b
        assert out["target_tokens"][mine][own].tolist() == alone["target_tokens"][own].tolist()
        assert out["loss_masks"][mine].tolist() == alone["loss_masks"].tolist()


def test_placeholders(tokenizer):
    two = tokenize(tokenizer, [["a<|image|>b<|image|>c", "d"]], [[900], [901, 902]])
    assert two["input_tokens"].tolist() == [EOS, 97, 900, 98, 901, 902, 99, 100]
    tree = tokenize(tokenizer, [["a<|image|>b", "c"], ["a<|image|>d", "e"]], [[900]])
    assert tree["input_tokens"].tolist() == [EOS, 97, 900, 98, 99, 100, 101]
    assert tree["subsegment_ids"].tolist() == [10000, 10000, 10000, 0, 0, 1, 1]
    assert tree["position_ids"].tolist() == [0, 1, 2, 3, 4, 3, 4]
    for text in ("<|image|>b", "<|image|>" * 3):
        ids = tokenize(tokenizer, [[text, "c"]], [])["input_tokens"].tolist()
        assert ids == [EOS, *tokenizer.encode(text), 99]
        ids = tokenize(tokenizer, [[text * 3, "c"]], [[900], [901]])["input_tokens"].tolist()
        assert ids == [EOS, 900, 901, *tokenizer.encode(text * 3), 99]
    with pytest.raises(ValueError, match="after the same text"):
        tokenize(tokenizer, [["a<|image|>b", "c"], ["x<|image|>d", "e"]], [[900]])


def test_nothing_to_train_on(tokenizer):
    with pytest.raises(ValueError, match="max_answer_len must be at least 1, got 0"):
        RowConfig(max_answer_len=0)
    with pytest.raises(ValueError, match="at least one conversation"):
        tokenize(tokenizer, [], [])
    with pytest.raises(ValueError, match="all their answers"):
        tokenize(tokenizer, [["a"], ["b"]], [])


def test_empty_answer_in_a_weighted_tree(tokenizer):
    weighting = "root_subsegments_root_tokens"
    trees = [["a", ""], ["b", "c"]]
    out = tokenize(tokenizer, trees, [], loss_token_weighting=weighting)
    assert np.isfinite(out["loss_masks"]).all() and out["loss_masks"][1] > 0


def test_cut_answer_has_no_end_token(tokenizer):
    tree = tokenize(tokenizer, [["a", "bcd"], ["e", "f"]], [], max_answer_len=2)
    assert EOS not in tree["target_tokens"][tree["subsegment_ids"] == 0]
    assert tree["target_tokens"].tolist()[-1] == EOS
