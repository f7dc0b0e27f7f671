"""Image QA with files, on miniatures in the layout of each set, examples written out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.datasets_miniature import IMAGES, Miniature


def of(image: Any, *messages: dict[str, Any]) -> dict[str, Any]:
    return {"image": image, "message_list": list(messages)}


def answers(question: str, found: list[str], style: str) -> dict[str, Any]:
    return {"question": question, "answers": found, "style": style}


def answer(question: str, text: str, style: str) -> dict[str, Any]:
    return {"question": question, "answer": text, "style": style}


def mini(
    name: str, files: Any, media: list[str], *expected: dict[str, Any], **more: str
) -> Miniature:
    return Miniature(name, files, media, expected, home=IMAGES, **more)


VQA_QUESTIONS = {
    "questions": [
        {"question_id": 1, "image_id": 9, "question": "What?"},
        {"question_id": 2, "image_id": 9, "question": "Who?"},
    ]
}
VQA_ANNOTATIONS = {
    "annotations": [
        {"question_id": 1, "answers": [{"answer": "a"}, {"answer": "b"}]},
        {"question_id": 2, "answers": [{"answer": "c"}]},
    ]
}
VQA_IMAGE = "coco/train2014/COCO_train2014_000000000009.jpg"
AOKVQA = {
    "aokvqa/aokvqa_v1p0_train.json": [
        {
            "image_id": 12,
            "question": "Why?",
            "choices": ["x", "y"],
            "correct_choice_idx": 1,
            "direct_answers": ["y", "yy"],
        }
    ]
}
AOKVQA_IMAGE = "coco/train2017/000000000012.jpg"

AI2D_QUESTIONS = {
    "questions": {
        "Eats?": {"abcLabel": False, "answerTexts": ["cat", "dog"], "correctAnswer": 1},
        "Which?": {"abcLabel": True, "answerTexts": ["A", "B"], "correctAnswer": 0},
    }
}
AI2D = {
    "ai2d/ai2d_test_ids.csv": "7\n",
    "ai2d/questions/5.png.json": AI2D_QUESTIONS,
    "ai2d/questions/7.png.json": AI2D_QUESTIONS,
}
AI2D_CHOICE = {
    "question": "Eats?",
    "answer_idx": 1,
    "options": ["cat", "dog"],
    "style": "ai2_diagram",
}
AI2D_LETTER = {
    "question": "Which?",
    "answer_idx": 0,
    "unlabelled_options": ["A", "B"],
    "style": "ai2_diagram_no_letter",
}

CASES = [
    mini(
        "coco_2014_vqa_multi",
        {
            "vqa2/v2_OpenEnded_mscoco_train2014_questions.json": VQA_QUESTIONS,
            "vqa2/v2_mscoco_train2014_annotations.json": VQA_ANNOTATIONS,
        },
        [VQA_IMAGE],
        of(VQA_IMAGE, answers("What?", ["a", "b"], "vqa2"), answers("Who?", ["c"], "vqa2")),
    ),
    mini(
        "okvqa",
        {
            "okvqa/OpenEnded_mscoco_train2014_questions.json": VQA_QUESTIONS,
            "okvqa/mscoco_train2014_annotations.json": VQA_ANNOTATIONS,
        },
        [VQA_IMAGE],
        of(VQA_IMAGE, answers("What?", ["a", "b"], "okvqa"), answers("Who?", ["c"], "okvqa")),
    ),
    mini(
        "a_okvqa_mc",
        AOKVQA,
        [AOKVQA_IMAGE],
        of(
            AOKVQA_IMAGE,
            {"question": "Why?", "options": ["x", "y"], "answer_idx": 1, "style": "a_okvqa_mc"},
        ),
    ),
    mini(
        "a_okvqa_da",
        AOKVQA,
        [AOKVQA_IMAGE],
        of(AOKVQA_IMAGE, answers("Why?", ["y", "yy"], "a_okvqa_da")),
    ),
    mini(
        "tally_qa",
        {"tally_qa/train.json": [{"image": "VG_100K/5.jpg", "question": "How many?", "answer": 3}]},
        ["tally_qa/VG_100K/5.jpg"],
        of("tally_qa/VG_100K/5.jpg", answer("How many?", "3", "tally_qa")),
    ),
    mini(
        "text_vqa",
        {
            "text_vqa/TextVQA_0.5.1_train.json": {
                "data": [{"image_id": "ab", "question": "Brand?", "answers": ["x", "x", "y"]}]
            }
        },
        ["text_vqa/train_images/ab.jpg"],
        of("text_vqa/train_images/ab.jpg", answers("Brand?", ["x", "x", "y"], "text_vqa")),
    ),
    mini(
        "doc_qa",
        {
            "doc_qa/train_v1.0_withQT.json": {
                "data": [{"image": "documents/d.png", "question": "Date?", "answers": ["1/1"]}]
            }
        },
        ["doc_qa/documents/d.png"],
        of("doc_qa/documents/d.png", answers("Date?", ["1/1"], "doc_qa")),
    ),
    mini(
        "info_qa",
        {
            "info_qa/infographicsVQA_train_v1.0.json": {
                "data": [{"image_local_name": "i.jpeg", "question": "Share?", "answers": ["5%"]}]
            }
        },
        ["info_qa/infographicsvqa_images/i.jpeg"],
        of("info_qa/infographicsvqa_images/i.jpeg", answers("Share?", ["5%"], "info_qa")),
    ),
    mini(
        "st_qa",
        {
            "st_qa/train_task_3.json": {
                "data": [{"file_path": "coco-text/s.jpg", "question": "Sign?", "answers": ["stop"]}]
            }
        },
        ["st_qa/coco-text/s.jpg"],
        of("st_qa/coco-text/s.jpg", answers("Sign?", ["stop"], "st_qa")),
    ),
    mini(
        "tabwmp_da",
        {"tabmwp/problems_train.json": {"17": {"question": "Sum?", "answer": "12"}}},
        ["tabmwp/tables/17.png"],
        of("tabmwp/tables/17.png", answer("Sum?", "12", "tabwmp_da")),
    ),
    mini(
        "dv_qa",
        {"dvqa/train_qa.json": [{"image": "bar_1.png", "question": "Highest?", "answer": 4}]},
        ["dvqa/images/bar_1.png"],
        of("dvqa/images/bar_1.png", answer("Highest?", "4", "dv_qa")),
    ),
    mini(
        "figure_qa",
        {
            "figureqa/train1/qa_pairs.json": {
                "qa_pairs": [{"question_string": "Is it?", "image_index": 3, "answer": 1}]
            }
        },
        ["figureqa/train1/png/3.png"],
        of("figureqa/train1/png/3.png", answer("Is it?", "yes", "figure_qa")),
    ),
    mini(
        "plot_qa",
        {
            "plotqa/train/qa_pairs_V2.json": {
                "qa_pairs": [{"question_string": "Mean?", "image_index": 0, "answer": 2.5}]
            }
        },
        ["plotqa/train/png/0.png"],
        of("plotqa/train/png/0.png", answer("Mean?", "2.5", "plot_qa")),
    ),
    mini(
        "ai2_diagram_v2_mix_transparent",
        AI2D,
        ["ai2d/images/5.png", "ai2d/abc_images/5.png"],
        of("ai2d/images/5.png", AI2D_CHOICE),
        of("ai2d/abc_images/5.png", AI2D_LETTER),
    ),
    mini(
        "ai2_diagram",
        AI2D,
        ["ai2d/images/7.png", "ai2d/abc_images/7.png"],
        {"image": "ai2d/images/7.png", **AI2D_CHOICE},
        {"image": "ai2d/abc_images/7.png", **AI2D_LETTER},
        split="test",
    ),
    mini(
        "coco_2014_vqa",
        {
            "vqa2/v2_OpenEnded_mscoco_val2014_questions.json": VQA_QUESTIONS,
            "vqa2/v2_mscoco_val2014_annotations.json": VQA_ANNOTATIONS,
        },
        [VQA_IMAGE.replace("train", "val")],
        {"image": VQA_IMAGE.replace("train", "val"), **answers("What?", ["a", "b"], "vqa2")},
        {"image": VQA_IMAGE.replace("train", "val"), **answers("Who?", ["c"], "vqa2")},
        split="validation",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_example(case: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    home = case.write(tmp_path)
    assert case.read() == [{**e, "image": str(home / e["image"])} for e in case.expected]
