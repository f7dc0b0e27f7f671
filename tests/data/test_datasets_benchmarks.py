"""Image benchmarks on miniatures in the layout of each set, examples written out by hand."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from olmo.data.datasets.image_benchmarks import letter_index
from olmo.data.records import DatasetFormatError
from olmo.data.registry import get_dataset
from tests.data.datasets_miniature import Miniature, plain
from tests.data.test_datasets_images import mini
from tests.data.test_datasets_tables import ADDRESS, LINKED, comparable, png

VISTA = {
    "pid": "1",
    "question": "How long?",
    "decoded_image": png(1),
    "choices": None,
    "unit": "cm",
    "answer": "4",
    "question_type": "free_form",
    "metadata": {"task": "geometry problem solving"},
}
VISTA_CHOICE = VISTA | {
    "pid": "2",
    "choices": ["no", "yes"],
    "unit": None,
    "answer": "yes",
    "question_type": "multi_choice",
}
NO_IMAGES = {f"image_{i}": None for i in range(2, 8)}
MMMU = {
    "id": "validation_Art_Theory_3",
    "question": "What is <image 1>?",
    "options": "['a cup', '<image 2>']",
    "answer": "B",
    "question_type": "multiple-choice",
    "image_1": png(1),
    **NO_IMAGES,
    "image_2": png(2),
}
MMMU_OPEN = MMMU | {"options": "[]", "answer": "7", "question_type": "open", "image_2": None}
MUIR = {
    "idx": "9",
    "task": "Counting",
    "question": "Which is like <image>?",
    "options": ["<image>", "none"],
    "answer": "A",
    "image_list": [png(1), png(2)],
}
BLINK = {
    "idx": "val_Jigsaw_1",
    "sub_task": "Jigsaw",
    "question": "Which fits?",
    "choices": ["the second image", "the third image"],
    "answer": "(B)",
    "image_1": png(1),
    "image_2": png(2),
    "image_3": png(3),
    "image_4": None,
}
MMIU = {
    "task": "visual_ordering",
    "visual_input_component": "natural image",
    "source": "x",
    "question": "Which is first?",
    "context": "Two pictures.",
    "options": "A: the left: one\nB: the right one\n",
    "output": "B",
    "input_image_path": ["./2D/a_0.png", "./2D/a_1.png"],
}
MASK = np.zeros((4, 8), dtype=bool)
MASK[1:3, 2:5] = True


def mask_file(mask: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG")
    return buffer.getvalue()


CASES = [
    mini(
        "math_vista_v2",
        {"MathVista": {"testmini": [VISTA, VISTA_CHOICE]}},
        [],
        {
            "image": 1,
            "question": "How long? (Unit: cm)",
            "answer": "4",
            "style": "eval_short_answer",
            "metadata": {"example_id": "1", "category": "geometry problem solving"},
        },
        {
            "image": 1,
            "question": "How long?",
            "options": ["no", "yes"],
            "answer_idx": 1,
            "style": "eval_multiple_choice",
            "metadata": {"example_id": "2", "category": "geometry problem solving"},
        },
        split="validation",
    ),
    mini(
        "mmmu",
        {"MMMU": {"validation": [MMMU, MMMU_OPEN]}},
        [],
        {
            "image": [1, 2],
            "question": "What is Image 1?",
            "options": ["a cup", "Image 2"],
            "answer_idx": 1,
            "style": "eval_multiple_choice",
            "metadata": {"example_id": "validation_Art_Theory_3", "category": "Art_Theory"},
        },
        {
            "image": 1,
            "question": "What is Image 1?",
            "answer": "7",
            "style": "eval_short_answer",
            "metadata": {"example_id": "validation_Art_Theory_3", "category": "Art_Theory"},
        },
        split="validation",
    ),
    mini(
        "muir_bench",
        {"MUIRBENCH": {"test": [MUIR]}},
        [],
        {
            "image": [1, 2],
            "question": "Which is like Image 1?",
            "options": ["Image 2", "none"],
            "answer_idx": 0,
            "style": "eval_multi_image_mc",
            "metadata": {"example_id": "9", "category": "Counting"},
        },
        split="test",
    ),
    mini(
        "blink",
        {"BLINK": {"val": [BLINK]}},
        [],
        {
            "image": [1, 2, 3],
            "question": "Which fits?",
            "options": ["the second image", "the third image"],
            "answer_idx": 1,
            "style": "eval_multi_image_mc",
            "metadata": {"example_id": "val_Jigsaw_1", "category": "Jigsaw"},
        },
        split="validation",
    ),
    mini(
        "blink",
        {"BLINK": {"test": [BLINK | {"answer": "hidden"}]}},
        [],
        {
            "image": [1, 2, 3],
            "question": "Which fits?",
            "options": ["the second image", "the third image"],
            "answer_idx": None,
            "style": "eval_multi_image_mc",
            "metadata": {"example_id": "val_Jigsaw_1", "category": "Jigsaw"},
        },
        split="test",
    ),
    mini(
        "mmiu",
        {"MMIU-Benchmark/all.parquet": [MMIU]},
        ["MMIU-Benchmark/2D/a_0.png", "MMIU-Benchmark/2D/a_1.png"],
        {
            "image": ["MMIU-Benchmark/2D/a_0.png", "MMIU-Benchmark/2D/a_1.png"],
            "question": "Two pictures.\nWhich is first?",
            "options": ["the left: one", "the right one"],
            "answer_idx": 1,
            "style": "eval_multi_image_mc",
            "metadata": {"example_id": "visual_ordering_0", "category": "visual_ordering"},
        },
        split="test",
    ),
    mini(
        "pointing_eval_v2",
        {
            "pixmo-points-eval": {
                "test": [
                    {
                        "image_url": ADDRESS,
                        "label": "cups",
                        "points": [{"x": 25.0, "y": 50.0}],
                        "masks": [MASK.tolist()],
                    }
                ]
            }
        },
        [LINKED],
        {
            "image": LINKED,
            "label": "cups",
            "style": "pointing",
            "metadata": {"points": [[2.0, 2.0]], "masks": [MASK.tolist()]},
        },
        split="test",
    ),
    mini(
        "point_bench",
        {
            "PointBench/data.json": [
                {
                    "image_filename": "1.jpg",
                    "mask_filename": "1.png",
                    "category": "spatial",
                    "user_input": "Point to the left cup.",
                }
            ],
            "PointBench/selected_masks/spatial/1.png": mask_file(MASK),
        },
        ["PointBench/selected_images/spatial/1.jpg"],
        {
            "image": "PointBench/selected_images/spatial/1.jpg",
            "question": "Point to the left cup.",
            "style": "pointing",
            "metadata": {"example_id": "1.jpg", "category": "spatial", "mask": MASK.tolist()},
        },
        split="test",
    ),
]


def seen(example: dict[str, Any], home: Path) -> dict[str, Any]:
    """Images of tables by their red value, paths relative to ``home``, arrays as lists."""
    image = example["image"]
    images = image if isinstance(image, list) else [image]
    shown = [
        comparable({"image": i})["image"]
        if isinstance(i, bytes)
        else str(Path(i).relative_to(home))
        for i in images
    ]
    return plain({**example, "image": shown if isinstance(image, list) else shown[0]})


@pytest.mark.parametrize("case", CASES, ids=str)
def test_example(case: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    home = case.write(tmp_path)
    assert [seen(e, home) for e in case.read()] == list(case.expected)


@pytest.mark.parametrize(
    ("name", "folder", "split", "row", "message"),
    [
        ("blink", "BLINK", "val", BLINK | {"answer": "E"}, r"BLINK/val: row 0: answer 'E' is not"),
        ("muir_bench", "MUIRBENCH", "test", MUIR | {"options": None}, "MUIRBENCH/test: row 0: "),
        (
            *("pointing_eval_v2", "pixmo-points-eval", "test"),
            {"image_url": ADDRESS, "label": "x", "points": [{"x": 1.0, "y": 1.0}], "masks": []},
            "row 0: 1 points and 0 masks",
        ),
    ],
)
def test_a_row_in_another_form_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    folder: str,
    split: str,
    row: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    asked = "validation" if split == "val" else split
    case = mini(name, {folder: {split: [row]}}, [LINKED], split=asked)
    case.write(tmp_path)
    with pytest.raises(ValueError, match=message):
        get_dataset(name, asked).get(0, np.random.RandomState(0))


def test_an_absent_column_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    row = {k: v for k, v in MUIR.items() if k != "task"}
    mini("muir_bench", {"MUIRBENCH": {"test": [row]}}, []).write(tmp_path)
    with pytest.raises(DatasetFormatError, match=r"'muir_bench'.*no column 'task', only \['idx'"):
        get_dataset("muir_bench", "test")


def test_letters() -> None:
    assert [letter_index(a, 3) for a in ("A", "(B)", "C.", " b".upper())] == [0, 1, 2, 1]
    assert [letter_index(a, 3) for a in ("?", "hidden", "", None)] == [None] * 4
    for wrong in ("D", "AB", "a", "?!"):
        with pytest.raises(ValueError, match="is not a letter of 3 options"):
            letter_index(wrong, 3)
