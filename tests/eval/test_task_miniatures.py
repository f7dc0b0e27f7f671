"""Multiple choice about videos, from files to metrics, with scripted answers: data layout, prompt,
answer, score. The expected figures are worked out by hand."""

import pytest

from olmo.eval.evaluate import evaluate_task, example_order
from olmo.eval.settings import EvalSettings
from olmo.models.loading import load_model_config, select_checkpoint
from tests.eval.miniatures import CPU, Repeated, Scripted, ask, opened, the_task
from tests.eval.scripts import DENSE


@pytest.fixture(scope="module")
def config():
    return load_model_config(select_checkpoint(DENSE))


LETTER_SUFFIX = "Answer with the option's letter from the given choices directly."
ONLY_LETTER = "Please respond with only the letter of the correct answer."

# task, end of the prompt, labels, right, wrong, unparsed answers
CHOICE = [
    *(
        (name, suffix, labels, right, ["A", "a)"], ["", "(B)", "I cannot see it."])
        for name, suffix, labels, right in (
            ("mvbench", ONLY_LETTER, ["Action Sequence"], ["B", "b) it"]),
            ("lvbench", ONLY_LETTER, ["er"], ["B.", "Because"]),
            ("video_eval_pro_mc", ONLY_LETTER, ["qa_type/t", "qa_subtype/s"], ["B"]),
        )
    ),
    *(
        (*row, ["A", "a."], ["B", "b"], ["", "(A)", "No idea"])
        for row in (
            ("motionbench", "B. b", ["Motion"]),
            ("mlvu_mc", LETTER_SUFFIX, ["plotQA"]),  # the shortest video comes first
            ("mlvu_mc_test", LETTER_SUFFIX, ["count"]),
        )
    ),
    (
        *("tomato", "A. 2\nB. 3\nC. 10", ["count"]),
        *(["A", "a", "A. 2"], ["B. 3"], ["", "The answer is (A)", "zzz"]),
    ),
    (
        *("perception_test", LETTER_SUFFIX),
        ["area/physics", "reasoning/descriptive"],
        *(["B", "(B)", "The answer is B"], ["A or B", "C"], ["", "b", "no idea"]),
    ),
    (
        *("ego_schema", LETTER_SUFFIX, []),
        *(["C", "(C)", "The answer is (C)."], ["A C", "B."], ["", "c", "I cannot tell you that"]),
    ),
    (
        *("nextqa_mc", LETTER_SUFFIX, ["CW"]),
        *(["D", "(D) d", "A D"], ["D A", "B."], ["", "d", "Sorry."]),
    ),
    *(
        (
            *(name, "The best answer is:"),
            ["duration/short", "domain/K", "sub_category/H", "task_type/OCR"],
            *(["B", "The best answer is: (B)", "Because it is so"], ["A or B"], ["", "b", "E"]),
        )
        for name in ("video_mme", "video_mme_w_subtitle")
    ),
    *(
        (
            *(name, LETTER_SUFFIX),
            ["duration_group/15", "question_category/S2E", "level/L1"],
            *(["B", "The answer is B"], ["E", "Answer: B"], ["", "b", "none"]),
        )
        for name in ("long_video_bench_no_subtitle", "long_video_bench_w_subtitle")
    ),
]


@pytest.mark.parametrize("row", CHOICE, ids=lambda row: row[0])
def test_multiple_choice(row, config, tmp_path, monkeypatch):
    name, suffix, labels, right, wrong, unparsed = row
    task = the_task(name)
    dataset = opened(task, tmp_path, monkeypatch)
    answers = right + wrong + unparsed
    result, prompt = ask(config, task, Repeated(dataset, len(answers)), answers)
    rows, metrics = [one.row() for one in result.predictions], result.metrics
    assert [r["prediction"] for r in rows] == answers
    assert [r["correct"] for r in rows] == [1] * len(right) + [0] * (len(wrong) + len(unparsed))
    assert [r["unparsed"] for r in rows] == [0] * (len(right) + len(wrong)) + [1] * len(unparsed)
    assert metrics["accuracy"] == len(right) / len(answers)
    assert (metrics["n"], metrics["unparsed"]) == (len(answers), len(unparsed))
    assert set(metrics["categories"]) == set(labels)
    assert (
        prompt.rstrip()
        .removesuffix("<|im_start|>assistant")
        .rstrip()
        .endswith(f"{suffix}<|im_end|>")
    )
    assert "video_" not in prompt  # no style tag before a question of several options
    with_subtitle = "0.5 - 2.0 Hi\n" in prompt or "0.0 - 1.0 cut\n" in prompt
    assert with_subtitle == name.endswith("_w_subtitle")


def test_temp_compass(config, tmp_path, monkeypatch):
    task = the_task("temp_compass_internal")
    dataset = opened(task, tmp_path, monkeypatch)
    answers = {0: "B", 1: "A. yes", 2: "Yes, it is", 3: "No.", 4: "I am not sure"}
    assert len(dataset) == 6  # the last one is a caption
    order = [i for i in example_order(6, EvalSettings().seed) if i in answers]
    model = Scripted(config.build_tokenizer(), [answers[i] for i in order])
    metrics = evaluate_task(model, config, task, EvalSettings(), CPU, dataset).metrics
    assert (metrics["n"], metrics["accuracy"], metrics["unparsed"]) == (5, 0.6, 1)
    found = {name: one["accuracy"] for name, one in metrics["categories"].items()}
    assert found == {
        "task/multi-choice": 0.5,
        "task/yes_no": 1,
        "task/caption_matching": 0,
        "temporal_aspect/speed": 0.75,
        "temporal_aspect/order": 0,
        "multi-choice_speed": 1,
        "multi-choice_order": 0,
        "yes_no_speed": 1,
        "caption_matching_speed": 0,
    }
    assert metrics["macro_average"] == pytest.approx(0.5)  # (0.5 + 1 + 0) / 3
