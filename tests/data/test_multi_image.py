"""Questions on lists of images against recorded ones, and the kinds of Mantis."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from olmo.data.datasets.catalogue import dataset_rows
from olmo.data.datasets.image_qa import mantis, multi_questions
from olmo.data.datasets.tables import address_name
from olmo.data.records import LeftOut
from tests.data.worlds import examples, write_arrow

RECORDED = json.loads(
    (Path(__file__).parents[1] / "fixtures/data_2/tables.json").read_text(encoding="utf-8")
)["Molmo2-MultiImageQA"]
NAME = "pixmo_multi_image_qa_multi_only_max5"


def test_recorded_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row with one image is left out; texts are taken as they are."""
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    home = tmp_path / dataset_rows()[NAME].home
    write_arrow(home / "Molmo2-MultiImageQA", RECORDED["rows"])
    images = [f"pixmo_images/{address_name(a)}" for a in RECORDED["rows"][0]["image_urls"]]
    (home / "pixmo_images").mkdir()
    for image in images:
        (home / image).touch()
    (example,) = examples(NAME, "train", tmp_path)
    assert example["image"] == images
    expected = []
    for qa in RECORDED["expected"]:
        question = qa["question"]["text"]
        expected.append({"question": question, "answer": qa["answer"], "style": RECORDED["style"]})
    assert example["message_list"] == [message | {"no_points": True} for message in expected]


@pytest.mark.parametrize(("n", "used"), [(1, False), (2, True), (5, True), (6, False)])
def test_two_to_five_images(n: int, used: bool) -> None:
    row = {"image_urls": list("abcdef"[:n]), "qa_pairs": [{"question": "Q?", "answer": "A"}]}
    if used:
        assert len(next(multi_questions(row))["image"]) == n
    else:
        with pytest.raises(LeftOut, match="two to five"):
            next(multi_questions(row))


def test_mantis_asks_openly_or_with_options() -> None:
    row = {"images": ["a.jpg", "b.jpg"], "mc_question": ["Which?"], "choices": [["a", "b"]]}
    row |= {"correct_choice_idx": [1], "oe_question": ["What?", "Why?"]}
    row |= {"direct_answer": ["It.", "So."]}
    (choice,) = mantis(row)
    assert choice["style"] == "mantis_instruct_mc" and choice["draw"] == ["shuffle"]
    assert choice["options"] == ["a", "b"] and choice["answer_idx"] == 1
    found = [(m["question"], m["answer"], m["style"]) for m in mantis(row, open_ended=True)]
    assert found == [
        ("What?", "It.", "mantis_instruct_da"),
        ("Why?", "So.", "mantis_instruct_da"),
    ]
