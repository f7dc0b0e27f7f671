"""Questions on images, as each set is published, where columns alone do not say it: with files of
annotations and folders of images, and with tables that hold the images."""

from __future__ import annotations

from collections.abc import Iterator

from olmo.data.datasets.disk import Disk, Row, structs
from olmo.data.datasets.draws import SHUFFLE
from olmo.data.datasets.messages import choice, short
from olmo.data.datasets.pointing import linked_images
from olmo.data.datasets.tables import LazyTable
from olmo.data.records import Flaw, LeftOut, PackedRecords, Record

ONLY_LETTER = "only the letter"
"""Part of the instruction of those questions of RealworldQA that have options."""


def vqa(disk: Disk, split: str, questions: str, annotations: str, style: str) -> Iterator[Record]:
    """``{questions}``: question_id, image_id, question; ``{annotations}``: question_id, answers of
    ten people. Images of COCO 2014."""
    noted = disk.lookup(
        disk.rows(annotations.format(split=split), "annotations"),
        lambda row: (row["question_id"], [a["answer"] for a in row["answers"]]),
    )

    def message(row: Row) -> Record:
        Flaw.when(row["question_id"] not in noted, "no annotation of the question")
        image = f"coco/{split}2014/COCO_{split}2014_{row['image_id']:012d}.jpg"
        given = {"question": row["question"], "answers": noted[row["question_id"]]}
        return {"image": image, **given, "style": style}

    return disk.each(disk.rows(questions.format(split=split), "questions"), message)


def a_okvqa_da(row: Row) -> Record:
    """A-OKVQA: question, direct_answers; outside training without the questions that are marked
    difficult_direct_answer."""
    difficult = row["split"] != "train" and row["difficult_direct_answer"]
    LeftOut.when(difficult, "difficult_direct_answer")
    answers = {"answers": row["direct_answers"]}
    return {"question": row["question"], **answers, "style": "a_okvqa_da"}


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


# --- tables of the hub, whose rows hold the images ----------------------------------------------


CHART_COLUMNS = ("query", "label", "human_or_machine")


def chart_qa(row: Row) -> Record:
    """``ChartQA``: query, label (a list), human_or_machine."""
    kind = "augmented" if row["human_or_machine"] else "human"
    message = {"question": row["query"], "answers": row["label"], "style": "chart_qa"}
    return message | {"metadata": {"category": kind}}


def chart_qa_weighted(disk: Disk, split: str) -> PackedRecords:
    """``ChartQA``, in which the questions that people wrote are repeated, so that they are about
    as many as the generated ones."""
    records = LazyTable("ChartQA", split, CHART_COLUMNS, chart_qa, image="image").open(disk)
    generated = disk.table("ChartQA", split).column("human_or_machine")
    sources = [generated[records.packed(i)["rows"][0]] for i in range(len(records))]
    human = [i for i, by_machine in enumerate(sources) if not by_machine]
    machine = [i for i, by_machine in enumerate(sources) if by_machine]
    repeats = max(round(len(machine) / max(len(human), 1)), 1)
    return records.at([i for i in human for _ in range(repeats)] + machine)


def science_qa(row: Row) -> Record:
    """``ScienceQA``: hint (may be empty), question, choices, answer (a number)."""
    question = "\n".join(part for part in (row["hint"], row["question"]) if part)
    return choice(question, row["choices"], row["answer"], "science_qa")


def explained(row: Row, style: str) -> Iterator[Record]:
    """CoSyn: qa_pairs with question, answer and, where the style ends in ``_exp``, explanation."""
    for qa in structs(row["qa_pairs"]):
        explanation = qa["explanation"] if style.endswith("_exp") else None
        message = {"question": qa["question"], "answer": qa["answer"], "style": style}
        yield message | ({"explanation": explanation} if explanation else {})


def real_world_qa(row: Row, instruction: bool = True) -> Record:
    """``RealworldQA``: question, whose later lines say how to answer, and answer. Without
    ``instruction`` a short answer is asked for by the first line alone."""
    has_options, question = ONLY_LETTER in row["question"], row["question"]
    style = "eval_multiple_choice" if has_options else "eval_short_answer"
    if not (instruction or has_options):
        question = question.partition("\n")[0]
    return {"question": question, "answer": row["answer"], "style": style}


# --- several images -----------------------------------------------------------------------------


def multi_questions(row: Row) -> Iterator[Record]:
    """``Molmo2-MultiImageQA``: image_urls, qa_pairs (question, answer). Where a question asks for a
    count, it is one without points."""
    images = linked_images(row["image_urls"])
    for qa in structs(row["qa_pairs"]):
        message = {"question": qa["question"], "answer": qa["answer"], "style": "correction_qa"}
        yield {"image": images, "no_points": True} | message


def mantis(row: Row, open_ended: bool = False) -> Iterator[Record]:
    """``molmo2-mantis-instruct-{name}``: images (paths, two or more), and lists mc_question,
    choices, correct_choice_idx; ``open_ended``: oe_question, direct_answer."""
    images = row["images"]
    LeftOut.when(len(images) < 2, "fewer than two images")
    if open_ended:
        for question, answer in zip(row["oe_question"], row["direct_answer"], strict=True):
            message = {"question": question, "answer": answer, "style": "mantis_instruct_da"}
            yield {"image": images} | message
        return
    columns = (row["mc_question"], row["choices"], row["correct_choice_idx"])
    for question, options, right in zip(*columns, strict=True):
        message = choice(question, options, right, "mantis_instruct_mc")
        yield {"image": images, "draw": [SHUFFLE]} | message
