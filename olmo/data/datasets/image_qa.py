"""Questions on images, as each set is published, where columns alone do not say it: with files of
annotations and folders of images, and with tables that hold the images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from olmo.data.datasets.disk import Disk, Row, structs
from olmo.data.datasets.draws import SHUFFLE
from olmo.data.datasets.messages import as_text, choice, plain_messages, short
from olmo.data.datasets.pointing import linked_images
from olmo.data.datasets.tables import LazyTable
from olmo.data.records import Flaw, LeftOut, PackedRecords, Record

ONLY_LETTER = "only the letter"
"""Part of the instruction of those questions of RealworldQA that have options."""


def vqa(disk: Disk, split: str, questions: str, annotations: str, style: str) -> Iterator[Record]:
    """``{questions}``: question_id, image_id, question; ``{annotations}``: question_id, answers of
    ten people, which are not public for a test. Images of COCO."""
    noted = {}
    if not split.startswith("test"):
        noted = disk.lookup(
            disk.rows(annotations.format(split=split), "annotations"),
            lambda row: (row["question_id"], [a["answer"] for a in row["answers"]]),
        )

    def message(row: Row) -> Record:
        image = f"coco/{split}/COCO_{split}_{row['image_id']:012d}.jpg"
        shown = {"image": image, "question": row["question"], "style": style}
        if split.startswith("test"):
            return unanswered(shown, row["question_id"])
        Flaw.when(row["question_id"] not in noted, "no annotation of the question")
        return shown | {"answers": noted[row["question_id"]]}

    return disk.each(disk.rows(questions.format(split=split), "questions"), message)


def vqa_sample(disk: Disk, split: str, size: int, seed: int, **files: str) -> list[Record]:
    """``{questions}`` and ``{annotations}`` as for ``coco_2014_vqa``; the first ``size`` questions
    after a shuffle with numpy's ``RandomState(seed)``."""
    records = list(vqa(disk, split, **files))
    order = np.random.RandomState(seed).permutation(len(records))  # that of shuffle on a list
    return [records[i] for i in order[:size]]


def unanswered(message: Record, number: object) -> Record:
    """A question of a test whose answers are not public, with its id in the file."""
    return message | {"metadata": {"example_id": as_text(number)}}


def document(row: Row, style: str) -> Record:
    """DocVQA, InfographicVQA: questionId, question, answers (not public for the test)."""
    question = {"question": "question"}
    if row["split"].startswith("test"):
        return unanswered(plain_messages(row, question, style), row["questionId"])
    return plain_messages(row, question | {"answers": "answers"}, style)


def a_okvqa_da(row: Row) -> Record:
    """A-OKVQA: question, direct_answers (not public for the test, which has question_id); outside
    training without the questions that are marked difficult_direct_answer."""
    difficult = row["split"] != "train" and row["difficult_direct_answer"]
    LeftOut.when(difficult, "difficult_direct_answer")
    message = {"question": row["question"], "style": "a_okvqa_da"}
    if row["split"] == "test":
        return unanswered(message, row["question_id"])
    return message | {"answers": row["direct_answers"]}


def a_okvqa_mc(row: Row) -> Record:
    """A-OKVQA: question, choices, correct_choice_idx (not public for the test, which has
    question_id)."""
    test = row["split"] == "test"
    right = 0 if test else row["correct_choice_idx"]
    found = choice(row["question"], row["choices"], right, "a_okvqa_mc")
    return unanswered(found | {"answer_idx": None}, row["question_id"]) if test else found


def yes_or_no(row: Row) -> Record:
    """FigureQA: question_string, answer (0 or 1)."""
    return short(row["question_string"], ("no", "yes")[row["answer"]], "figure_qa")


OPAQUE, TRANSPARENT = "ai2d/abc_images", "ai2d/abc_images_transparent"
"""Diagrams with their letters drawn in, in opaque or in transparent boxes."""


def ai2d(disk: Disk, split: str, transparent: bool = False) -> Iterator[Record]:
    """``ai2d/ai2d_{test,validation}_ids.csv`` (names of images of these splits, one a line; that of
    the validation may be absent) and ``ai2d/questions/{image}.json``: question -> answerTexts,
    correctAnswer, abcLabel. Questions on letters in a diagram take the image from ``abc_images``.
    With ``transparent`` an evaluation has them a second time, with that of
    ``abc_images_transparent``, where that folder is."""
    parts, training = _ai2d_parts(disk, split), split == "train"
    both = transparent and not training and disk.exists(TRANSPARENT)
    for file in disk.glob("ai2d/questions/*.json"):
        name = file.rpartition("/")[2].removesuffix(".json")

        def messages(item: tuple[str, Row], name: str = name) -> Iterator[Record]:
            found, lettered = _ai2d_question(*item), bool(item[1]["abcLabel"])
            folders = [OPAQUE, TRANSPARENT][: 1 + both] if lettered else ["ai2d/images"]
            for folder in folders:
                about = {"abc_label": lettered, "has_transparent_box": folder == TRANSPARENT}
                message = {"image": f"{folder}/{name}", **found}
                yield message if training else message | {"metadata": about}

        of = [part for part, names in parts.items() if name.removesuffix(".png") in names]
        if split in (of or ["train"]):
            yield from disk.each(disk.items(file, "questions"), messages)


def _ai2d_parts(disk: Disk, split: str) -> dict[str, set[str]]:
    """Names of the images outside training, by split."""
    files = {part: f"ai2d/ai2d_{part}_ids.csv" for part in ("test", "validation")}
    return {
        part: {line.removesuffix(".png") for line in disk.lines(file)}
        for part, file in files.items()
        if part in ("test", split) or disk.exists(file)
    }


def _ai2d_question(question: str, row: Row) -> Record:
    """Where all options but one at most are letters in the diagram, they are not labelled a second
    time."""
    found = choice(question, row["answerTexts"], row["correctAnswer"], "ai2_diagram")
    options = [o.upper() if len(o) == 1 else o for o in map(as_text, found["options"])]
    if row["abcLabel"] and sum(len(option) > 1 for option in options) <= 1:
        del found["options"]
        found |= {"unlabelled_options": options, "style": "ai2_diagram_no_letter"}
    return found


# --- tables of the hub, whose rows hold the images ----------------------------------------------


CHART_COLUMNS = ("query", "label", "human_or_machine")


def chart_qa(row: Row) -> Record:
    """``ChartQA``: query, label (a list), human_or_machine."""
    kind = "augmented" if row["human_or_machine"] else "human"
    message = {"question": row["query"], "answers": row["label"], "style": "chart_qa"}
    about = {"category": kind, "is_human": kind == "human"}
    return message | {"metadata": about}


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
    kind = "multiple_choice" if has_options else "short_answer"
    if not (instruction or has_options):
        question = question.partition("\n")[0]
    message = {"question": question, "answer": row["answer"], "style": f"eval_{kind}"}
    return message | {"metadata": {"question_type": kind}}


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
