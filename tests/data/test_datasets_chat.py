"""Captions, chat, several images and test splits without answers, on miniatures, examples written
out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from olmo.data.datasets.tables import address_name
from olmo.data.records import DatasetFormatError
from olmo.data.registry import get_dataset
from tests.data.datasets_miniature import IMAGES, Miniature
from tests.data.test_datasets_benchmarks import seen
from tests.data.test_datasets_tables import PAIRS, png

LETTER = "Answer with the option's letter from the given choices directly."
CHOICE = f"Which?\nA. cup\nB. book\n{LETTER}"
LINKS = [f"https://example.org/{i}.jpg" for i in range(6)]
LINKED = [f"pixmo_images/{address_name(link)}" for link in LINKS]
QA = {"question": "Which?", "answer": "The second."}
CORRECTION = QA | {"style": "correction_qa", "no_points": True}
MANTIS = {
    "nlvr2": "nlvr2",
    "spot_the_diff": "spot-the-diff",
    "birds_to_words": "birds-to-words",
}


def dialogue(*texts: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


CASES = [
    Miniature(
        "pixmo_multi_image_qa_multi_only_max5",
        {
            "Molmo2-MultiImageQA": {
                "train": [{"image_urls": LINKS[:n], "qa_pairs": [QA]} for n in (1, 2, 5, 6)]
            }
        },
        LINKED,
        [{"image": LINKED[:n], "message_list": [CORRECTION]} for n in (2, 5)],
        home=IMAGES,
    ),
    Miniature(
        "pixmo_multi_points",
        {
            "Molmo2-MultiImagePoint": {
                "train": [
                    {
                        "image_urls": LINKS[:2],
                        "label": "cups",
                        "points": [[], [{"x": 1.5, "y": 20.0}]],
                    }
                ]
            }
        },
        LINKED[:2],
        [
            {
                "image": LINKED[:2],
                "message_list": [
                    {
                        "label": "cups",
                        "points": [[], [[1.5, 20.0]]],
                        "point_scale": 100.0,
                        "style": "multi_image_pointing",
                    }
                ],
            }
        ],
        home=IMAGES,
    ),
    *(
        Miniature(
            f"cosyn_multidoc_{kind}_exp",
            {
                f"Molmo2-SynMultiImageQA/{kind}": {
                    "train": [{"images": [png(5), png(6)], "qa_pairs": PAIRS}]
                }
            },
            [],
            [
                {
                    "image": [5, 6],
                    "message_list": [
                        {"question": "Q?", "answer": "7", "explanation": "3 + 4"}
                        | {"style": f"cosyn_multidoc_{kind}_exp"}
                    ],
                }
            ],
            home=IMAGES,
        )
        for kind in ("chart", "chemical", "diagram", "doc", "music", "table")
    ),
    *(
        Miniature(
            f"mantis_instruct_{name}_multi_only",
            {
                f"Mantis-Instruct/{folder}/train-00000-of-00001.parquet": [
                    {
                        "id": "1",
                        "images": [{"path": f"{i}.jpg"} for i in range(n)],
                        "conversation": dialogue(" <image> and <image>? ", "Yes.", "Why?", "So."),
                    }
                    for n in (1, 2)
                ]
            },
            [f"Mantis-Instruct/{folder}/{i}.jpg" for i in range(2)],
            [
                {
                    "image": [f"Mantis-Instruct/{folder}/{i}.jpg" for i in range(2)],
                    "messages": ["Image 1 and Image 2?", "Yes.", "Why?", "So."],
                    "style": "mantis_instruct_da",
                }
            ],
            home=IMAGES,
        )
        for name, folder in MANTIS.items()
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
    found = [seen(e, home) if "image" in e else e for e in case.read()]
    expected: list[Any] = [
        {**e, "video": str(home / e["video"])} if "video" in e else e for e in case.expected
    ]
    assert found == expected


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "pixmo_multi_points",
            {"points": [[]]},
            "row 0: 2 image_urls, but points of 1 images",
        ),
        (
            "mantis_instruct_nlvr2_multi_only",
            {"conversation": dialogue("a", "b", "c")},
            "row 0: conversation: user and assistant do not alternate",
        ),
    ],
)
def test_a_row_in_another_form_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, change: Any, message: str
) -> None:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    case = next(c for c in CASES if c.name == name)
    ((path, content),) = case.files.items()
    rows = content["train"] if isinstance(content, dict) else content
    rows = [rows[0] | change]
    changed = {"train": rows} if isinstance(content, dict) else rows
    Miniature(name, {path: changed}, case.media, home=IMAGES).write(tmp_path)
    with pytest.raises(DatasetFormatError, match=message):
        get_dataset(name, "train")
