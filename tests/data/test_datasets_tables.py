"""Data sets in Arrow tables: images in the table, images by address, and text."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from olmo.data.datasets.tables import address_name
from olmo.data.datasets.text import turns
from olmo.data.registry import get_dataset
from tests.data.datasets_miniature import Miniature
from tests.data.test_datasets_images import answer, answers, mini, of

ADDRESS = "https://example.org/a.jpg"
LINKED = f"pixmo_images/{address_name(ADDRESS)}"


def png(red: int) -> dict[str, Any]:
    """A cell of an image column: 2 x 1 pixels of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (2, 1), (red, 0, 0)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


CHARTS = [
    {"image": png(i), "query": f"Q{i}?", "label": ["5"], "human_or_machine": i > 0}
    for i in range(3)
]
COUNTED = {"style": "point_count", "metadata": {"count": 4}}
PAIRS = {"question": ["Q?"], "answer": ["7"], "explanation": ["3 + 4"]}
POINTS = {
    "pixmo-points": {
        "train": [
            {
                "image_url": ADDRESS,
                "label": f"cup {method}",
                "points": [{"x": 10.5, "y": 20.0}],
                "collection_method": method,
            }
            for method in ("pointing", "counting")
        ]
    }
}


def pointed(label: str, points: list[list[float]], style: str, **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "style": style, **more}


def chart(i: int) -> dict[str, Any]:
    kind = {"category": "augmented" if i > 0 else "human"}
    return {"image": i, **answers(f"Q{i}?", ["5"], "chart_qa"), "metadata": kind}


CASES = [
    mini(
        "chart_qa_weighted",
        {"ChartQA": {"train": CHARTS, "val": CHARTS}},
        [],
        *(chart(i) for i in (0, 0, 1, 2)),
    ),
    mini(
        "chart_qa",
        {"ChartQA": {"train": CHARTS, "val": CHARTS, "test": CHARTS}},
        [],
        *(chart(i) for i in (0, 1, 2)),
        split="validation",
    ),
    mini(
        "real_world_qa",
        {
            "RealworldQA": {
                "test": [
                    {"image": png(1), "question": "How many? Answer directly.", "answer": "3"},
                    {
                        "image": png(2),
                        "question": "Which? Answer with only the letter.",
                        "answer": "A",
                    },
                ]
            }
        },
        [],
        {"image": 1, **answer("How many? Answer directly.", "3", "eval_short_answer")},
        {"image": 2} | answer("Which? Answer with only the letter.", "A", "eval_multiple_choice"),
        split="test",
    ),
    mini(
        "pixmo_count_counting",
        {
            "pixmo-count": {
                "validation": [{"image_url": ADDRESS, "label": "People", "count": 4}] * 2
            }
        },
        [LINKED],
        *[COUNTED | {"image": LINKED, "question": "How many people are there?"}] * 2,
        split="validation",
    ),
    mini(
        "countbench_qa",
        {"CountBenchQA": {"test": [{"image": png(3), "question": "How many?", "number": 4}]}},
        [],
        COUNTED | {"image": 3, "question": "How many?"},
        split="huggingface",
    ),
    mini(
        "science_qa_img",
        {
            "ScienceQA": {
                "train": [
                    {
                        "image": None,
                        "question": "N?",
                        "choices": ["x", "y"],
                        "answer": 0,
                        "hint": "",
                    },
                    {"image": png(8), "question": "Q?", "choices": ["x", "y"], "answer": 1}
                    | {"hint": "Look."},
                ]
            }
        },
        [],
        {
            "image": 8,
            "question": "Look.\nQ?",
            "options": ["x", "y"],
            "answer_idx": 1,
            "style": "science_qa",
        },
    ),
    *(
        mini(
            f"cosyn_{kind}_exp",
            {f"CoSyn-400K/{kind}": {"train": [{"image": png(5), "qa_pairs": PAIRS}]}},
            [],
            of(5, answer("Q?", "7", f"cosyn_{kind}_exp") | {"explanation": "3 + 4"}),
        )
        for kind in ("chart", "chemical", "diagram", "math", "music", "table")
    ),
    mini(
        "cosyn_document",
        {"CoSyn-400K/document": {"train": [{"image": png(5), "qa_pairs": PAIRS}]}},
        [],
        of(5, answer("Q?", "7", "cosyn_document")),
    ),
    mini(
        "pixmo_cap",
        {"pixmo-cap": {"train": [{"image_url": ADDRESS, "caption": "A cup."}]}},
        [LINKED],
        of(LINKED, {"text": "A cup.", "style": "long_caption"}),
    ),
    mini(
        "pixmo_ask_model_anything",
        {
            "pixmo-ask-model-anything": {
                "train": [
                    {"image_url": ADDRESS, "question": "What?", "answer": "A cup."},
                    {"image_url": "https://example.org/gone", "question": "x", "answer": "y"},
                    {"image_url": ADDRESS, "question": "Where?", "answer": "Here."},
                ]
            }
        },
        [LINKED],
        of(LINKED, answer("What?", "A cup.", "user_qa"), answer("Where?", "Here.", "user_qa")),
    ),
    mini(
        "pixmo_cap_qa_as_user_qa",
        {
            "pixmo-cap-qa": {
                "train": [
                    {"image_url": ADDRESS, "question": "[USER] What? [ASSISTANT]", "answer": "Cup."}
                ]
            }
        },
        [LINKED],
        of(LINKED, answer("What?", "Cup.", "user_qa")),
    ),
    mini(
        "pixmo_points_train",
        POINTS,
        [LINKED],
        of(LINKED, pointed("cup pointing", [[10.5, 20.0]], "pointing", point_scale=100.0)),
    ),
    mini(
        "pixmo_points_high_freq_train",
        POINTS,
        [LINKED],
        of(LINKED, pointed("cup counting", [[10.5, 20.0]], "pointing", point_scale=100.0)),
    ),
    mini(
        "pixmo_count_train",
        {
            "pixmo-count": {
                "train": [
                    {
                        "image_url": ADDRESS,
                        "label": "people",
                        "points": {"x": [300.0, 5.0], "y": [7.0, 8.0]},
                    }
                ]
            }
        },
        [LINKED],
        of(LINKED, pointed("people", [[300.0, 7.0], [5.0, 8.0]], "pointing")),
    ),
    mini(
        "cosyn_point",
        {
            "CoSyn-point": {
                "train": [
                    {
                        "image": png(6),
                        "questions": ["Point to the title."],
                        "names": ["title"],
                        "answer_points": [{"x": [50.0], "y": [5.0]}],
                    }
                ]
            }
        },
        [],
        of(
            6,
            pointed("title", [[50.0, 5.0]], "cosyn_point", point_scale=100.0)
            | {"question": "Point to the title."},
        ),
    ),
    mini(
        "tulu4",
        {
            "tulu4": {
                "train": [
                    {
                        "messages": [
                            {"role": "system", "content": "Be kind."},
                            {"role": "user", "content": "Hi"},
                            {"role": "assistant", "content": "Hello"},
                        ]
                    }
                ]
            }
        },
        [],
        {"messages": ["Be kind.\n\nHi", "Hello"], "style": "user_qa"},
    ),
]


def comparable(example: dict[str, Any]) -> dict[str, Any]:
    """An image from a table by its red value."""
    if isinstance(example.get("image"), bytes):
        pixels = np.asarray(Image.open(io.BytesIO(example["image"])))
        assert pixels.shape == (1, 2, 3)
        return {**example, "image": int(pixels[0, 0, 0])}
    return example


@pytest.mark.parametrize("case", CASES, ids=str)
def test_example(case: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    home = case.write(tmp_path)
    expected = [
        {**e, "image": str(home / e["image"])} if isinstance(e.get("image"), str) else e
        for e in case.expected
    ]
    assert [comparable(e) for e in case.read()] == expected
    data = pickle.loads(pickle.dumps(get_dataset(case.name, case.split)))
    assert len(data) == len(expected), "it opens its table anew in another process"
    assert comparable(data.get(0, np.random.RandomState(0))).get("image") == expected[0].get(
        "image"
    )


def test_pointing_style_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    next(c for c in CASES if c.name == "pixmo_points_train").write(tmp_path)
    data = get_dataset("pixmo_points_train", "train")
    examples = [data.get(0, np.random.RandomState(seed)) for seed in range(20)]
    styles = {e["message_list"][0]["style"] for e in examples}
    assert styles == {"pointing", "point_count"}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("uaua", ["1", "2", "3", "4"]),
        ("uau", ["1", "2"]),
        ("uua", ["1\n\n2", "3"]),
        ("suaa", ["1\n\n2", "3\n\n4"]),
        ("aua", ["", "1", "2", "3"]),
        ("u", []),
    ],
)
def test_turns_alternate(said: str, expected: list[str]) -> None:
    roles = {"u": "user", "a": "assistant", "s": "system"}
    messages = [{"role": roles[r], "content": str(i)} for i, r in enumerate(said, 1)]
    assert turns(messages) == expected
