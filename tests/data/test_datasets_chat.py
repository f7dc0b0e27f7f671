"""Captions, chat and test splits without answers, on miniatures, examples written out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.datasets_miniature import Miniature

VIDEO = "youtube-cc/youtube-cc-exist/ab/ab.mp4"
LETTER = "Answer with the option's letter from the given choices directly."
CHOICE = f"Which?\nA. cup\nB. book\n{LETTER}"

CASES = [
    Miniature(
        "vixmo_caps_eval2",
        {"Molmo2-CapEval": {"test": [{"video_id": "ab", "statements": ["A dog runs."]}]}},
        [VIDEO],
        [
            {
                "video": VIDEO,
                "style": "video_long_caption",
                "metadata": {"example_id": "ab", "statements": ["A dog runs."]},
            }
        ],
        "test",
    ),
    Miniature(
        "vixmo3_top_level_captions_min_3",
        {
            "Molmo2-Cap": {
                "train": [
                    {"video_id": "ab", "caption": f"Of {n}.", "clip_captions": ["x"] * n}
                    for n in (2, 3)
                ]
            }
        },
        [VIDEO],
        [{"video": VIDEO, "message_list": [{"text": "Of 3.", "style": "video_long_caption"}]}],
    ),
    Miniature(
        "mlvu_mc_test",
        {
            "MLVU_Test/test_question.json": [
                {
                    "question_id": "T1",
                    "question_type": "count",
                    "question": "Which?",
                    "candidates": ["cup", "book"],
                    "video": "c.mp4",
                }
            ]
        },
        ["MLVU_Test/video/c.mp4"],
        [
            {
                "video": "MLVU_Test/video/c.mp4",
                "question": CHOICE,
                "metadata": {"question_id": "T1", "task_type": "count"},
                "style": "video_eval_multiple_choice",
            }
        ],
        "test",
    ),
    Miniature(
        "perception_test",
        {
            "perception_test/mc_question_test.json": {
                "v1": {"mc_question": [{"id": 4, "question": "Which?", "options": ["cup", "book"]}]}
            }
        },
        ["perception_test/test_videos/v1.mp4"],
        [
            {
                "video": "perception_test/test_videos/v1.mp4",
                "question": CHOICE,
                "metadata": {"example_id": "v1_4", "video_id": "v1"},
                "style": "video_eval_multiple_choice",
            }
        ],
        "test",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_example(case: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    home = case.write(tmp_path)
    expected = [{**e, "video": str(home / e["video"])} for e in case.expected]
    assert case.read() == expected
