"""Wordings of prompts, and the forms of multiple choice in training."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo.config import ConfigError
from olmo.preprocessing import choices
from olmo.preprocessing.chat import DataFormatterConfig
from olmo.preprocessing.choices import Choice, multiple_choice
from olmo.preprocessing.points import ANSWERS, TRACKS
from olmo.preprocessing.prompts import Wordings, keywords

WORDINGS = Wordings.load()
CAPTIONS = {
    *("long_caption", "short_caption", "video_long_caption", "video_short_caption"),
    *("video_transcript", "video_motion_caption", "video_object_caption"),
    *("video_frame_caption_timestamp", "video_clip_caption_start_end"),
    *("video_clip_short_caption_start_end", "video_clip_transcript_start_end"),
}
CHOICES = {name for name in WORDINGS.lists if name.startswith("choice_")}
BOOKS = {"question": "What is it?", "options": ["a cup", "a book", "a pen"], "answer_idx": 1}


def draw(message: dict[str, Any], seed: int) -> Choice:
    return multiple_choice(message, replace(WORDINGS, rng=np.random.RandomState(seed)))


def test_shipped_lists() -> None:
    expected = {"short_answer", "no_points"} | CAPTIONS | set(ANSWERS) | set(TRACKS)
    assert set(WORDINGS.lists) - CHOICES == expected and len(CHOICES) == 6
    for name, templates in WORDINGS.lists.items():
        assert len(templates) >= 10 and len(set(templates)) == len(templates), name
        assert len({keywords(t) for t in templates}) == 1, name


@pytest.mark.parametrize(
    ("message", "name", "fixed"),
    [
        (
            {"question": "Why?", "answer": "So.", "style": "video_short_answer"},
            "short_answer",
            "video_short_answer: Why?\nReply with a short answer.",
        ),
        ({"text": "T", "style": "long_caption"}, "long_caption", "Describe this image in detail."),
        (
            {"text": "T", "style": "video_object_caption", "object": "the dog"},
            "video_object_caption",
            "video_object_caption: Describe what the dog does in this video.",
        ),
        (
            {"label": "cups", "points": [[1, 2]], "point_scale": 10, "style": "pointing"},
            "point",
            "Point to cups.",
        ),
        (
            {"label": "cups", "points": [], "timestamps": [], "style": "video_count"},
            "count",
            "How many cups are there?",
        ),
    ],
)
def test_training_draws_and_evaluation_does_not(
    message: dict[str, Any], name: str, fixed: str
) -> None:
    formatter = DataFormatterConfig(message_format="none").build()

    def prompts(training: bool) -> set[str]:
        found = set()
        for seed in range(300):
            rngs = [np.random.RandomState(seed) if training else None for _ in range(2)]
            first, second = (formatter(message, rng).turns[0] for rng in rngs)
            assert first == second, "drawn with the example's generator alone"
            found.add(first)
        return found

    assert prompts(False) == {fixed}
    assert len(prompts(True)) == len(WORDINGS.lists[name]) and fixed in prompts(True)
    still = DataFormatterConfig(message_format="none", training_prompts="fixed").build()
    assert still(message, np.random.RandomState(5)).turns[0] == fixed
    kept = {**message, "fixed_prompt": True}
    assert formatter(kept, np.random.RandomState(5)).turns[0] == fixed


def test_spans_are_written_in_seconds_or_by_the_clock() -> None:
    message = {"text": "T", "start_time": 59.96, "end_time": 3725.5}
    message["style"] = "video_clip_caption_start_end"
    formatter = DataFormatterConfig(message_format="none").build()
    prompt = "Describe the video from 60.0 seconds to 3725.5 seconds."
    assert formatter(message).turns[0] == prompt
    step = message | {"style": "video_clip_short_caption_start_end"}
    assert formatter(step).turns[0] == (
        "video_clip_short_caption_start_end: "
        "Say briefly what happens from 60.0 seconds to 3725.5 seconds."
    )
    drawn = [formatter(message, np.random.RandomState(s)).turns[0] for s in range(400)]
    clock = [d for d in drawn if "00:01:00.0" in d and "01:02:05.5" in d]
    seconds = [d for d in drawn if "60.0 seconds" in d and "3725.5 seconds" in d]
    assert len(clock) + len(seconds) == 400 and 160 < len(clock) < 240
    always = message | {"style": message["style"] + "_in_seconds"}
    assert formatter(always).turns[0] == prompt
    drawn = [formatter(always, np.random.RandomState(s)).turns[0] for s in range(40)]
    assert len(set(drawn)) > 4 and all("60.0 seconds" in d and ":" not in d for d in drawn)
    with pytest.raises(ValueError, match=r"needs 'start_time'; got \['style', 'text'\]"):
        formatter({"style": "video_clip_caption_start_end", "text": "T"})
    for time, text in ((2, "2.0"), (12.25, "12.2"), (0.35, "0.3")):
        frame = {"style": "video_frame_caption_timestamp", "text": "T", "timestamp": time}
        assert formatter(frame).turns[0] == f"Describe the video at {text} seconds."


def test_a_track_of_one_object_shows_its_first_point() -> None:
    message = {
        "label": "dog",
        "points": [{"a": [10, 20]}, {"a": [30, 40]}],
        "timestamps": [0.5, 1.5],
        "style": "video_single_point_track_per_frame",
        "sampling_fps": 1,
    }
    formatter = DataFormatterConfig(message_format="none").build()
    point = '<points coords="0.5 1 100 200">dog</points>'
    answer = ' <tracks coords="0.5 1 100 200;1.5 1 300 400">dog</tracks>'
    prompt = "video_single_point_track_per_frame: "
    prompt += f"Track the object at {point}, with 1 points per second."
    assert formatter(message).turns == [prompt, answer]
    late = {"points": [{"a": None}, *message["points"]], "timestamps": [0.0, 0.5, 1.5]}
    assert formatter(message | late).turns == [prompt, answer]
    ends = message | {"style": "video_point_ground_start_end", "points": [{"a": [1, 2]}] * 2}
    assert formatter(ends).turns == [
        "video_point_ground_start_end: Point to dog at first and at last sight.",
        ' <tracks coords="0.5 1 010 020;1.5 1 010 020">dog</tracks>',
    ]
    hidden = message | {"style": "video_point_track_per_frame", "points": [], "timestamps": []}
    assert formatter(hidden).turns[1] == " No tracks available."


# --- questions that ask for a count ------------------------------------------------------------

DOGS, WHY = "How many dogs?", "Why?"
CONVERSATIONS: list[dict[str, Any]] = [
    {"multi_turn_messages": [{"question": q, "answer": "a"} for q in (DOGS, WHY, DOGS)]},
    {"messages": [DOGS, "How many?", WHY, DOGS, DOGS, "Two."]},
]


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=lambda m: next(iter(m)))
def test_questions_that_are_answered_without_points_say_so(conversation: dict[str, Any]) -> None:
    formatter = DataFormatterConfig(message_format="none").build()
    conversation |= {"style": "user_qa"}
    plain = formatter(conversation).turns
    announced = conversation | {"no_points": True}
    assert formatter(announced).turns == plain, "nothing is drawn in evaluation"
    assert formatter(announced | {"fixed_prompt": True}, np.random.RandomState(1)).turns == plain
    assert formatter(conversation, np.random.RandomState(1)).turns == plain
    found = set()
    for seed in range(300):
        turns = formatter(announced, np.random.RandomState(seed)).turns
        assert turns[1:4] == plain[1:4] and turns[5] == plain[5]
        assert turns == formatter(announced, np.random.RandomState(seed)).turns
        for turn, before in ((turns[0], ""), (turns[4], " ")):
            assert turn.startswith(before) and turn.endswith(DOGS)
            found.add(turn[len(before) : -len(DOGS)])
    assert found == set(WORDINGS.lists["no_points"]) and len(found) == 32
    assert all(prefix == prefix.lstrip() and prefix[-1].isspace() for prefix in found)


def test_no_points_before_one_question(tmp_path: Path) -> None:
    path = write(tmp_path / "p.yaml", 'no_points: ["Say only: "]\n')
    formatter = DataFormatterConfig(message_format="none", prompts=path).build()
    message = {"question": DOGS, "answer": "2", "style": "doc_qa", "no_points": True}
    turns = formatter(message, np.random.RandomState(0)).turns
    assert turns == ["doc_qa: Say only: How many dogs?", " 2"]
    parts = [message | {"no_points": flag} for flag in (True, False)]
    turns = formatter({"multi_turn_messages": parts}, np.random.RandomState(0)).turns
    assert turns[::2] == ["doc_qa: Say only: How many dogs?", " How many dogs?"]


# --- multiple choice ---------------------------------------------------------------------------


def kind_of(answer: str) -> str:
    """What an answer consists of, for the options of ``BOOKS``."""
    if answer == "a book":
        return "text"
    return "label and text" if answer.endswith("a book") else "label"


def test_shares_of_the_forms() -> None:
    n, found = 5000, Counter[str]()
    for seed in range(n):
        choice = draw(BOOKS, seed)
        standard = choices.INSTRUCTION in choice.prompt
        found["standard" if standard else kind_of(choice.answer or "")] += 1
    shares = {k: v / n for k, v in found.items()}
    expected = {"label and text": 0.53, "label": 0.22, "text": 0.14, "standard": 0.11}
    assert shares == {k: pytest.approx(v, abs=0.02) for k, v in expected.items()}


def test_every_form_can_be_read() -> None:
    """The question, all options and, where the answer has one, the name stand in the prompt."""
    for seed in range(2000):
        choice = draw(BOOKS, seed)
        answer = choice.answer or ""
        assert BOOKS["question"] in choice.prompt and "{" + "q" not in choice.prompt
        assert all(option in choice.prompt for option in BOOKS["options"])
        assert answer.strip() == answer and answer in choice.prompt
        if kind_of(answer) == "label":
            assert answer == choice.names[1] and answer in ("B", "b", "2", "ii")
        elif kind_of(answer) == "label and text":
            assert choice.names[1] in answer
        assert len(choice.names) == 3


@pytest.mark.slow
def test_every_name_marker_separator_and_bullet_is_drawn() -> None:
    prompts = "\0".join(draw(BOOKS, seed).prompt for seed in range(6000))
    for marker in (*choices.COMMON_MARKERS, *choices.ODD_MARKERS):
        assert any((marker % name) + "a book" in prompts for name in ("B", "b", "2", "ii")), marker
    for symbol in choices.BULLETS:
        assert f"{symbol} a cup\n{symbol} a book\n{symbol} a pen" in prompts, symbol
    for separator in (*choices.SEPARATORS, "\n"):
        assert f"a cup{separator}a book{separator}a pen" in prompts, separator
    assert "A. a cup B. a book C. a pen" in prompts
    for kind in ("letter", "number", "numeral", "identifier", "label"):
        assert kind in prompts


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=12), min_size=2, max_size=6, unique=True), st.data())
def test_any_text_goes_through_unchanged(options: list[str], data: st.DataObject) -> None:
    """Braces, percent signs and line breaks of questions and options are no templates."""
    right = data.draw(st.integers(0, len(options) - 1))
    question = "Is {question} or {kind} 5 %s?"
    for seed in range(5):
        choice = draw({"question": question, "options": options, "answer_idx": right}, seed)
        assert question in choice.prompt
        assert all(option in choice.prompt or not option.strip() for option in options)
        assert (choice.answer or "") in choice.prompt
        named = choice.names[right] in (choice.answer or "")
        assert named or choice.answer == options[right]


def test_separators_cannot_be_mistaken() -> None:
    message = {**BOOKS, "options": ["a cup;", "a book|||", "a pen"]}
    for seed in range(1500):
        choice = draw(message, seed)
        assert "; a book" not in choice.prompt and "||| a pen" not in choice.prompt
        assert choice.answer in ("B", "b", "2", "ii") or "a book|||" in (choice.answer or "")


@pytest.mark.parametrize("options", [["a cup", " ", "a pen"], ["a cup", "same", "same "]])
def test_an_unclear_option_is_named(options: list[str]) -> None:
    for seed in range(500):
        answer = draw({**BOOKS, "options": options}, seed).answer or ""
        assert any(name in answer for name in ("B", "b", "2", "ii"))


def test_many_options_have_enough_names() -> None:
    message = {**BOOKS, "options": [f"x{i}" for i in range(12)], "answer_idx": 11}
    answers = {draw(message, seed).answer for seed in range(500)}
    assert {"L", "l", "12"} <= answers and "xii" not in answers
    with pytest.raises(ValueError, match="27 options, but only 26"):
        draw({**BOOKS, "options": ["x"] * 27}, 0)


def test_options_without_names_never_get_any() -> None:
    message = {"question": "Who?", "unlabelled_options": ["red", "blue"], "answer_idx": 1}
    for seed in range(300):
        choice = draw(message, seed)
        assert choice.answer == "blue" and choice.names == ["red", "blue"]


def test_an_answer_that_is_not_known() -> None:
    message = {"question": "Who?", "options": ["red", "blue"]}
    assert {draw(message, seed).answer for seed in range(50)} == {None}


# --- a file of one's own -----------------------------------------------------------------------


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_own_wordings_replace_the_shipped(tmp_path: Path) -> None:
    path = write(tmp_path / "p.yaml", 'short_answer: ["In short: {question}"]\n')
    own = Wordings.load(path)
    assert own.text("short_answer", question="Why?") == "In short: Why?"
    assert own.lists["point"] == WORDINGS.lists["point"]
    formatter = DataFormatterConfig(message_format="none", prompts=path).build()
    message = {"question": "{Why}?", "answer": "a", "style": "video_short_answer"}
    for training in (True, False):
        turns = formatter(message, np.random.RandomState(0) if training else None).turns
        assert turns[0] == "video_short_answer: In short: {Why}?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("short_anwser: [x]", "unknown list 'short_anwser'; did you mean 'short_answer'?"),
        ("short_answer: x", r"short_answer: expected a list of texts, got 'x'"),
        ("short_answer: []", "expected a list of texts"),
        ("short_answer: ['{question}', 3]", r"short_answer\[1\]: expected text, got 3"),
        (
            "point: ['Point to {label}.', 'Point.']",
            r"point\[1\]: expected the keywords {label}, got none in 'Point.'",
        ),
        (
            "short_answer: ['{question} {subtitle}']",
            r"short_answer\[0\]: expected the keywords {question}, got {question}, {subtitle}",
        ),
        ("long_caption: ['{}']", r"long_caption\[0\]: '{}': {} is not a plain name in braces"),
        ("long_caption: ['{a']", r"long_caption\[0\]: '{a': "),
        ("short_answer: ['{question.__class__}']", "is not a plain name in braces"),
        ("short_answer: ['{question:>9999999}']", "is not a plain name in braces"),
    ],
)
def test_wordings_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "p.yaml", text)
    with pytest.raises(ConfigError, match=message) as caught:
        DataFormatterConfig(prompts=path).build()
    assert str(caught.value).startswith(path)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data_formatter\.prompts: no file .*gone\.yaml"):
        DataFormatterConfig(prompts=str(tmp_path / "gone.yaml")).build()
