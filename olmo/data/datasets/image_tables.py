"""Questions on images in tables of the hub, and PixMo, whose tables have the addresses of images:
a function makes the messages of a row."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from olmo.data.datasets.disk import Disk, structs
from olmo.data.datasets.messages import choice
from olmo.data.datasets.tables import LazyTable, TableRecords
from olmo.data.records import Flaw, Record

Row = dict[str, Any]
USER_QA = "user_qa"
CHART_COLUMNS = ("query", "label", "human_or_machine")
ONLY_LETTER = "only the letter"
"""Part of the instruction of those questions of RealworldQA that have options."""
_SPEAKER = re.compile(r"\s*\[(?:USER|ASSISTANT)\]\s*")


def chart_qa(row: Row) -> Record:
    """``ChartQA``: query, label (a list), human_or_machine."""
    kind = "augmented" if row["human_or_machine"] else "human"
    message = {"question": row["query"], "answers": row["label"], "style": "chart_qa"}
    return message | {"metadata": {"category": kind}}


def chart_qa_weighted(disk: Disk, split: str) -> TableRecords:
    """``ChartQA``, in which the questions that people wrote are repeated, so that they are about
    as many as the generated ones."""
    records = LazyTable("ChartQA", split, CHART_COLUMNS, chart_qa, image="image").open(disk)
    generated = disk.table("ChartQA", split).column("human_or_machine")
    human = [i for i, (row,) in enumerate(records.groups) if not generated[row]]
    machine = [i for i, (row,) in enumerate(records.groups) if generated[row]]
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


def user_question(row: Row) -> Record:
    """PixMo: question, answer. Where the question asks for a count, it is one without points."""
    answered = {"question": row["question"].strip(), "answer": row["answer"]}
    return answered | {"style": USER_QA, "no_points": True}


def user_conversation(row: Row) -> Record:
    """``pixmo-cap-qa``: question, a conversation ``[USER] ... [ASSISTANT] ... [USER] ...
    [ASSISTANT]`` that ends before the last answer, and answer, which is taken as it is."""
    turns = [*filter(None, _SPEAKER.split(row["question"])), row["answer"]]
    if len(turns) % 2:
        raise Flaw("question: user and assistant do not alternate")
    pairs = zip(turns[::2], turns[1::2], strict=True)
    shared = {"style": USER_QA, "no_points": True}
    return {"multi_turn_messages": [{"question": q, "answer": a} | shared for q, a in pairs]}
