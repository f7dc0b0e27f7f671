"""Image tables: what published rows become, rows that are read when they are asked for, texts."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olmo.data.datasets.captions import turns
from olmo.data.datasets.image_benchmarks import named_letter
from olmo.data.datasets.tables import address_name
from olmo.data.records import DatasetFormatError, Flaw
from olmo.data.registry import get_dataset
from olmo.preprocessing.chat import DataFormatterConfig
from tests.data.worlds import examples, png, write_case, write_table

TABLES = json.loads(
    (Path(__file__).parents[1] / "fixtures/data_2/tables.json").read_text(encoding="utf-8")
)
FORMAT = DataFormatterConfig().build()
USER, END = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
PICTURE = {"bytes": png(7), "path": None}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    (tmp_path / "torch_datasets/pixmo_images").mkdir(parents=True)
    return tmp_path / "torch_datasets"


def write(home: Path, folder: str, split: str, rows: list[dict[str, Any]]) -> None:
    """An Arrow table, and an empty file for each linked image."""
    write_table(home / f"{folder}.arrow", {split: rows})
    for row in rows:
        if isinstance(address := row.get("image_url"), str):
            (home / "pixmo_images" / address_name(address)).touch()


def same_question(example: dict[str, Any], said: list[Any]) -> None:
    """In training, a question that asks for a count has a wording in front."""
    turns = FORMAT(example, np.random.RandomState(0)).turns
    for turn, expected in zip(turns[::2], said[::2], strict=True):
        before, found, after = turn.rpartition(expected["text"])
        assert found and after == END
        assert (before.rpartition(USER)[2] != "") == expected["counting"]


def test_conversations_of_pixmo(home: Path) -> None:
    """One example per row. Every question may be one that asks for a count without points."""
    part = TABLES["pixmo-cap-qa"]
    write(home, "pixmo-cap-qa", "train", part["rows"])
    found = examples("pixmo_cap_qa_as_user_qa", "train", home.parent)
    assert len(found) == len(part["expected"])
    for example, expected in zip(found, part["expected"], strict=True):
        pairs = zip(expected[::2], expected[1::2], strict=True)
        shared = {"style": part["style"], "no_points": True}
        wanted = [{"question": q["text"], "answer": a} | shared for q, a in pairs]
        assert example["multi_turn_messages"] == wanted
        same_question(example, expected)


def test_questions_of_pixmo(home: Path) -> None:
    part = TABLES["pixmo-ask-model-anything"]
    rows = [row | {"image_url": f"u{i}"} for i, row in enumerate(part["rows"])]
    write(home, "pixmo-ask-model-anything", "train", rows)
    found = examples("pixmo_ask_model_anything", "train", home.parent)
    assert [{k: e[k] for k in ("question", "answer")} for e in found] == [
        {"question": e["question"]["text"], "answer": e["answer"]} for e in part["expected"]
    ]
    for example, expected in zip(found, part["expected"], strict=True):
        assert example["style"] == part["style"] and example["no_points"]
        same_question(example, [expected["question"], expected["answer"]])


def test_math_vista(home: Path) -> None:
    part = TABLES["MathVista"]
    rows = [row | {"decoded_image": PICTURE} for row in part["rows"]]
    write(home, "MathVista", "testmini", rows)
    found = examples("math_vista_v2", "validation", home.parent)
    for example, row, expected in zip(found, rows, part["expected"], strict=True):
        assert {k: example[k] for k in expected} == expected
        if "options" in expected:
            assert example["options"][example["answer_idx"]] == row["answer"]
        else:
            assert example["answer"] == row["answer"]


MUIR = {"idx": "9", "task": "Counting", "question": "Which?", "options": ["x", "y"], "answer": "A"}
MUIR |= {"image_list": [PICTURE, PICTURE]}


def test_a_row_that_cannot_be_read_is_named(home: Path) -> None:
    """It is one example less, whatever its column holds."""
    changes = [{}, {"answer": "E"}, {"answer": "?!"}, {"options": None}, {"image_list": []}]
    write(home, "MUIRBENCH", "test", [MUIR | change for change in changes])
    data = get_dataset("muir_bench", "test")
    reasons = ["not among the options", "not a letter", "NoneType"]
    for i, reason in enumerate(reasons, 1):
        with pytest.raises(DatasetFormatError, match=rf"MUIRBENCH/test: row {i}: .*{reason}"):
            data.get(i, np.random.RandomState(0))
    assert len(data.get(0, np.random.RandomState(0))["image"]) == 2


def test_an_absent_column_is_named(home: Path) -> None:
    write(home, "MUIRBENCH", "test", [{k: v for k, v in MUIR.items() if k != "task"}])
    with pytest.raises(DatasetFormatError, match=r"'muir_bench'.*no column 'task', only \['idx'"):
        get_dataset("muir_bench", "test")


def test_rows_without_an_image_are_counted(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"question": "Q?", "choices": ["x", "y"], "answer": 1, "hint": "", "image": PICTURE}]
    write(home, "ScienceQA", "train", [rows[0] | {"image": None}, *rows])
    assert len(get_dataset("science_qa_img", "train")) == 1
    assert "1 of 2 rows left out: 1 no image" in caplog.text


def test_addresses_may_be_anything(home: Path) -> None:
    row = {"question": "Q?", "answer": "A."}
    lists = [row | {"image_url": a} for a in (["u", "v"], [], None)]
    write(home, "pixmo-ask-model-anything", "train", lists)
    linked = [f"pixmo_images/{address_name(address)}" for address in "uv"]
    for path in linked:
        (home / path).touch()
    (example,) = examples("pixmo_ask_model_anything", "train", home.parent)
    assert example["image"] == linked
    write(home, "pixmo-ask-model-anything", "train", [row | {"image_url": 5}])
    with pytest.raises(DatasetFormatError, match=r"1 the address of an image is not text .*row 0"):
        get_dataset("pixmo_ask_model_anything", "train")


def test_another_process_opens_the_table_anew(home: Path) -> None:
    expected = write_case("cosyn_chart_exp", home)["train"]
    data = pickle.loads(pickle.dumps(get_dataset("cosyn_chart_exp", "train")))
    assert len(data) == len(expected)
    assert data.get(0, np.random.RandomState(0))["image"] == png(expected[0]["image"])


@pytest.mark.parametrize("question", ["[USER] a [USER] b [ASSISTANT]", "[USER] a [ASSISTANT] b"])
def test_speakers_alternate(question: str, home: Path) -> None:
    row = {"image_url": "u", "question": question, "answer": "c"}
    write(home, "pixmo-cap-qa", "train", [row])
    data = get_dataset("pixmo_cap_qa_as_user_qa", "train")
    with pytest.raises(DatasetFormatError, match=r"row 0: .*do not alternate"):
        data.get(0, np.random.RandomState(0))


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


def test_letters() -> None:
    assert [named_letter(a) for a in ("A", "(B)", "C.", " b".upper())] == ["A", "B", "C", "B"]
    assert [named_letter(a) for a in ("?", "hidden", "", None)] == [None] * 4
    for wrong in ("AB", "a", "?!"):
        with pytest.raises(Flaw, match="is not a letter"):
            named_letter(wrong)
