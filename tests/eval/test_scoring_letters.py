"""Multiple choice: recorded answers, the rules of letters, and any text."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo.eval.scoring import letters
from olmo.eval.scoring.score import SCORERS

HERE = Path(__file__).parent
RECORDED = json.loads((HERE / "recorded/choices.json").read_text())
PARSED = json.loads((HERE.parent / "fixtures/eval/mc_answer_parsing.json").read_text())
SCORER_OF = {
    "mvbench": SCORERS["em_start"],
    "lvbench": SCORERS["first_character"],
    "perception_test": SCORERS["perception_test_mc"],
    "video_mme": SCORERS["video_mme"],
    "ego_schema": SCORERS["ego_schema_mc"],
    "nextqa_mc": SCORERS["nextqa_mc"],
    "long_video_bench_no_subtitle": SCORERS["long_video_bench"],
    "tomato": SCORERS["tomato"],
    "a_okvqa_mc": SCORERS["option_by_text"],
    "ai2_diagram_v2_mix_transparent": SCORERS["option_by_text"],
    "real_world_qa_no_instruction": SCORERS["real_world_qa"],
    "muir_bench": SCORERS["letter_forms"],
    "blink": SCORERS["letter_forms"],
    "mmiu": SCORERS["letter_forms"],
    "mmmu": SCORERS["mmmu"],
}
BY_NAME = ("tomato", "a_okvqa_mc", "ai2_diagram_v2_mix_transparent", "real_world_qa_no_instruction")
"""Tasks whose scorer gives the reference's value beside ours."""


@pytest.mark.parametrize("task", SCORER_OF)
def test_recorded_answers(task):
    n = 0
    for group in (group for group in RECORDED if group["task"] == task):
        for prediction, reference, ours in group["cases"]:
            score = SCORER_OF[task](prediction, group["metadata"])
            given_by_reference = score.scores["molmo2"] if task in BY_NAME else score.correct
            assert ours is None or score.correct == ours, prediction
            assert reference is None or given_by_reference == reference, prediction
            assert score.parsed is not None or score.correct == 0, prediction
            n += 1
    assert n > 10


def test_every_recorded_task_has_a_scorer():
    assert {group["task"] for group in RECORDED} == set(SCORER_OF)


@pytest.mark.parametrize("case", PARSED["perception_test"], ids=lambda c: c["pred"])
def test_recorded_lone_capital(case):
    found = letters.lone_capital(case["pred"])
    assert (-1 if found is None else letters.LETTERS.index(found)) == case["out"]


@pytest.mark.parametrize("case", PARSED["ego_schema"], ids=lambda c: c["pred"])
def test_recorded_earliest_candidate(case):
    found = letters.earliest_candidate(case["pred"], case["options"])
    assert found == letters.LETTERS[case["out"]]


@pytest.mark.parametrize("case", PARSED["nextqa"], ids=lambda c: c["pred"])
def test_recorded_latest_candidate(case):
    found = letters.latest_candidate(case["pred"], [""] * 5)
    assert (found == case["target"]) is case["out"]


# --- which answers are cleaned first ------------------------------------------------------------

OPTIONS = ["the red book", "a blue car", "None of the above", "I do not know"]
GOLD = {
    "answer": "B",
    "answer_idx": 1,
    "options": OPTIONS,
    "option_names": "ABCD",
    "abc_label": False,
    "question": "Which?",
}
CLEANED = ("em_start", "perception_test_mc", "ego_schema_mc", "nextqa_mc", "letter_forms")


@pytest.mark.parametrize("name", [*CLEANED, "option_by_text"])
def test_answers_that_are_cleaned(name):
    assert SCORERS[name]("C\nB\nB", GOLD).correct == 1
    assert SCORERS[name]("so\nAnswer: B\nAnswer: C", GOLD).correct == 1


@pytest.mark.parametrize("name", ["first_character", "tomato"])
def test_answers_that_are_only_stripped(name):
    assert SCORERS[name](" B\nC\nC\n", GOLD).correct == 1
    assert SCORERS[name]("Answer: B", GOLD).correct == 0
    assert SCORERS[name]("C\nB\nB", GOLD).parsed == "C"


@pytest.mark.parametrize(
    ("name", "text", "parsed"),
    [
        ("video_mme", "Answer: B", "B"),
        ("video_mme", "The correct answer: none", None),
        ("video_mme", "Best answer: C", "C"),
        ("video_mme", "E", None),
        ("video_mme", "C\nB\nB", "C"),
        ("long_video_bench", "Answer: B", "A"),
        ("long_video_bench", "The correct option: E", "E"),
        ("long_video_bench", "E", "E"),
        ("long_video_bench", "Because", "B"),
    ],
)
def test_prefixes(name, text, parsed):
    assert SCORERS[name](text, GOLD).parsed == parsed


@pytest.mark.parametrize("prefix", letters.PREFIXES)
def test_prefixes_hold_no_letter(prefix):
    assert letters.any_capital(f"{prefix} none of them", "ABCD", letters.PREFIXES) is None
    assert letters.any_capital(f"{prefix} D", "ABCD", letters.PREFIXES) == "D"


# --- rules of letters ---------------------------------------------------------------------------

ANSWERS = [
    # text, first_letter, lone_capital, earliest, latest, last_form
    ("B", "B", "B", "B", "B", "B"),
    ("B.", "B", "B", "B", "B", "B"),
    ("b", "B", None, None, None, None),
    ("b) foo", "B", None, None, None, None),
    ("(B)", None, "B", "B", "B", "B"),
    ("B) foo", "B", "B", None, None, "B"),
    ("B: foo", "B", "B", None, None, "B"),
    ("(b)", None, None, None, None, None),
    ("The answer is (B)", None, "B", "B", "B", "B"),
    ("The answer is B", None, "B", "B", "B", "B"),
    ("The best answer is: C", None, "C", "C", "C", "C"),
    ("A or C", "A", "A", "A", "C", "C"),
    ("A, B, C", "A", "A", "C", "C", "C"),
    ("A) or B.", "A", "A", "B", "B", "A"),
    ("B: and C)", "B", "B", None, None, "C"),
    ("(A) or (B) foo", None, "A", "A", "B", "B"),
    ("B!?", "B", "B", None, None, None),
    ("B?!", "B", "B", "B", "B", "B"),
    ("CHINA. Yes", "C", None, "A", "A", "A"),
    ("bananas", "B", None, None, None, None),
    ("", None, None, None, None, None),
    ("   ", None, None, None, None, None),
    ("I cannot see the video.", None, None, None, None, None),
    ("it is the red ball that moves to the left", None, None, "B", "B", "B"),
    ("first the red ball and then the blue cup", None, None, "B", "D", "D"),
    ("the red ball", None, None, None, None, None),
]
TEXTS = ["the green box", "the red ball", "nothing", "the blue cup"]


@pytest.mark.parametrize("row", ANSWERS, ids=lambda row: row[0])
def test_rules(row):
    text, *expected = row
    assert [
        letters.first_letter(text, "ABCD"),
        letters.lone_capital(text),
        letters.earliest_candidate(text, TEXTS),
        letters.latest_candidate(text, TEXTS),
        letters.last_form(text, TEXTS),
    ] == expected


FORMS = {  # of the options above, B is right; None: nothing is read
    "B": "B",
    "b": None,
    "B. a blue car": "B",
    "(B": None,
    "(A) or (B)": "B",
    "A) or B.": "A",
    "B: and C)": "C",
    "B and C": "C",
    "A, B": "B",
    "Not A but B": "B",
    "B A": "A",
    "The answer is B.": "B",
    "A blue car": "A",
    "I think the person is holding a blue car in the video": "B",
    "a blue car": None,
    "**B**": None,
    "None": None,
    "": None,
    "Answer: B": "B",
    "answer: B": "B",
    "Answer: C\nAnswer: B": "C",
    "Answer: B\nbecause C is wrong": "C",
    "B\nB\nC": "B",
    "C\nB\nB": "B",
    "A\nB": "A",
    "B.\n\n\n": "B",
    "C\n\nB\n\nB": None,
    "  B  ": "B",
}


@pytest.mark.parametrize("text", FORMS)
def test_letter_forms(text):
    score = letters.letter_forms(text, GOLD)
    assert (score.parsed, score.correct) == (FORMS[text], FORMS[text] == "B")


def test_of_equally_late_options_the_first_is_read():
    text = "what I see there is clearly a red ball"
    assert letters.last_form(text, ["a red", "a red ball"]) == "A"
    assert letters.latest_candidate(text, ["a red", "a red ball"]) == "A"
    assert letters.last_form(text, ["", "a red ball"]) == "B"  # an empty text is nowhere


def test_first_letter_knows_how_many_options_there_are():
    def parsed(text, **metadata):
        return SCORERS["em_start"](text, {"answer": "A", **metadata}).parsed

    assert parsed("Don't know") == "D" and parsed("I think A") is None
    assert parsed("Don't know", options=["x", "y"]) is None
    question = "Which?\nA. x\nB. y\n(C) z\nAnswer with a letter."
    assert parsed("Don't know", question=question) is None
    assert parsed("Can't say", question=question) == "C"
    assert SCORERS["em_start"]("J", {"answer": "J", "options": ["x"]}).correct == 1


@pytest.mark.parametrize("name", [*CLEANED, "first_character", "video_mme", "long_video_bench"])
@pytest.mark.parametrize(
    "gold", [{"answer": "B."}, {"answer_idx": "1"}, {"answer": "(b)"}, {"answer": "B. a dog"}]
)
def test_forms_of_the_reference(name, gold):
    score = SCORERS[name]("B", {**gold, "options": OPTIONS})
    assert (score.correct, score.parsed, score.reference, score.scores) == (1, "B", "B", {})
    unread = SCORERS[name]("", {**gold, "options": OPTIONS})
    assert (unread.correct, unread.parsed) == (0, None)


@pytest.mark.parametrize("name", [*CLEANED, "first_character", "video_mme", "long_video_bench"])
@pytest.mark.parametrize("gold", [{}, {"answer": "A dog"}, {"answer": ""}, {"answer_idx": -1}])
def test_no_reference(name, gold):
    with pytest.raises(ValueError, match="no reference"):
        SCORERS[name]("B", {**gold, "options": OPTIONS})


def test_letter_forms_need_options():
    with pytest.raises(ValueError, match="options"):
        letters.letter_forms("B", {"answer": "B"})


def test_a_letter_beyond_the_options_can_only_be_wrong():
    for text in ("E", "(E)", "A", ""):
        assert letters.letter_forms(text, {"answer": "E", "options": OPTIONS}).correct == 0


def test_mmmu_drops_empty_options():
    metadata = {"answer_idx": 1, "options": ["x", "y", "", ""]}
    assert SCORERS["mmmu"]("(C)", metadata).parsed is None
    assert letters.letter_forms("(C)", metadata).parsed == "C"
    assert SCORERS["mmmu"]("(B)", metadata).correct == 1


@pytest.mark.parametrize(
    ("shown", "left_out", "label"),
    [(None, None, "<=10"), (10, None, "<=10"), (10, 1, "<=20"), (20, None, "<=20"), (3, 18, ">20")],
)
def test_mmiu_groups_by_the_number_of_images(shown, left_out, label):
    images = {"image_group_size": [(10, 10)] * (shown or 0), "n_images_left_out": left_out}
    metadata = {**GOLD, **images, "relationship": "2D-spatial"}
    assert letters.letter_forms("B", metadata).labels == (f"num_images{label}",)
    assert letters.letter_forms("B", {**GOLD, **images}).labels == ()


# --- any text -----------------------------------------------------------------------------------

WORDS = st.lists(
    st.sampled_from(
        [*"ABCDEabc.:;()'!\n", " ", "Answer:", "Option ", "a blue car", "the answer is"]
    )
    | st.text(max_size=3),
    max_size=12,
).map("".join)


@settings(max_examples=30)
@given(WORDS)
def test_any_text_is_read_or_wrong(text):
    metadata = {**GOLD, "answer": "B. a blue car"}
    for score in SCORER_OF.values():
        assert score(text, metadata).correct in (0, 1)
    score = letters.temp_compass(text, metadata)
    assert score.correct == (score.parsed == "B")
