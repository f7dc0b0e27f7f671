"""Image QA with annotation files and folders of images, as each set is published, where columns
alone do not say it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from olmo.data.datasets.disk import Disk
from olmo.data.datasets.messages import choice, short
from olmo.data.records import Flaw, LeftOut, Record

Row = dict[str, Any]


def vqa(disk: Disk, split: str, questions: str, annotations: str, style: str) -> Iterator[Record]:
    """``{questions}``: question_id, image_id, question; ``{annotations}``: question_id, answers of
    ten people. Images of COCO 2014."""
    answers: dict[Any, list[str]] = {}

    def note(row: Row) -> tuple[()]:
        answers[row["question_id"]] = [a["answer"] for a in row["answers"]]
        return ()

    def message(row: Row) -> Record:
        if row["question_id"] not in answers:
            raise Flaw("no annotation of the question")
        image = f"coco/{split}2014/COCO_{split}2014_{row['image_id']:012d}.jpg"
        given = {"question": row["question"], "answers": answers[row["question_id"]]}
        return {"image": image, **given, "style": style}

    rows = disk.rows(annotations.format(split=split), "annotations")
    yield from disk.each(rows, note)
    yield from disk.each(disk.rows(questions.format(split=split), "questions"), message)


def a_okvqa_da(row: Row) -> Record:
    """A-OKVQA: question, direct_answers; outside training without the questions that are marked
    difficult_direct_answer."""
    if row["split"] != "train" and row["difficult_direct_answer"]:
        raise LeftOut("difficult_direct_answer")
    answers = {"answers": row["direct_answers"]}
    return {"question": row["question"], **answers, "style": "a_okvqa_da"}


def tabmwp(disk: Disk, split: str) -> Iterator[Record]:
    """``tabmwp/problems_{split}.json``: the name of an image -> question, answer."""

    def message(item: tuple[str, Row]) -> Record:
        name, row = item
        image = {"image": f"tabmwp/tables/{name}.png"}
        return image | short(row["question"], row["answer"], "tabwmp_da")

    return disk.each(disk.items(f"tabmwp/problems_{split}.json"), message)


def yes_or_no(row: Row) -> Record:
    """FigureQA: question_string, answer (0 or 1)."""
    return short(row["question_string"], ("no", "yes")[row["answer"]], "figure_qa")


def ai2d(disk: Disk, split: str) -> Iterator[Record]:
    """``ai2d/ai2d_test_ids.csv`` (names of images of the test split, one a line) and
    ``ai2d/questions/{image}.json``: question -> answerTexts, correctAnswer, abcLabel. Questions on
    letters in a diagram take the image from ``abc_images``; their options are those letters, so
    they are not labelled a second time."""
    test = {line.removesuffix(".png") for line in disk.lines("ai2d/ai2d_test_ids.csv")}
    for file in disk.glob("ai2d/questions/*.json"):
        name = file.rpartition("/")[2].removesuffix(".json")

        def message(item: tuple[str, Row], name: str = name) -> Record:
            question, row = item
            if not row["abcLabel"]:
                found = choice(question, row["answerTexts"], row["correctAnswer"], "ai2_diagram")
                return {"image": f"ai2d/images/{name}"} | found
            style = "ai2_diagram_no_letter"
            found = choice(question, row["answerTexts"], row["correctAnswer"], style)
            found["unlabelled_options"] = found.pop("options")
            return {"image": f"ai2d/abc_images/{name}"} | found

        if (name.removesuffix(".png") in test) == (split == "test"):
            yield from disk.each(disk.items(file, "questions"), message)
