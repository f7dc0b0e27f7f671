"""Benchmarks of one or several images, in tables of the hub: a function makes the question of a
row.

Placeholders of images in the text (``<image>``, ``<image 2>``) become ``Image 1``, ``Image 2``,
..., the names that the preprocessor gives to several images.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Sequence
from typing import Any

from olmo.data.datasets.messages import LETTERS, choice, chosen
from olmo.data.datasets.tables import picture
from olmo.data.records import Flaw, Record

Row = dict[str, Any]
CHOICE, SHORT, MULTI_CHOICE = "eval_multiple_choice", "eval_short_answer", "eval_multi_image_mc"
HIDDEN = (None, "", "?", "hidden")
"""Answers of test splits that are not public."""

_NUMBERED = re.compile(r"<image (\d+)>")
_SUBJECT = re.compile(r"^[a-z]+_(.*)_\d+$")
"""``validation_Art_Theory_3``: split, subject, number."""
_NAMED_OPTION = re.compile(r"\(?[A-Z][:.)]\s*(.*)")


def numbered(texts: Sequence[str]) -> list[str]:
    """Texts with every ``<image>`` replaced by ``Image n``, counted through all of them."""
    count = itertools.count(1)
    return [re.sub("<image>", lambda _: f"Image {next(count)}", text) for text in texts]


def named_letter(answer: str | None) -> str | None:
    """The letter that ``B``, ``(B)`` or ``B.`` names; None for a hidden answer."""
    if answer in HIDDEN:
        return None
    letter = str(answer).strip(" ().:")
    Flaw.when(len(letter) != 1 or letter not in LETTERS, "the answer is not a letter")
    return letter


def by_letter(question: str, options: Sequence[Any], answer: str | None, style: str) -> Record:
    """A question with options and the letter of the right one."""
    texts, letter = [str(option) for option in options], named_letter(answer)
    if letter is not None:
        return choice(question, texts, LETTERS.index(letter), style)
    return {"question": question, "options": texts, "answer_idx": None, "style": style}


# --- one image ---------------------------------------------------------------------------------


def math_vista(row: Row) -> Record:
    """MathVista: the question stands between the last ``Question:`` and the first ``Hint:`` of the
    column, where it has these; the answer to a question with choices is the text of one."""
    question = row["question"].rpartition("Question:")[2].partition("Hint:")[0].strip()
    kept = {k: row.get(k) for k in ("question_type", "answer_type", "precision", "choices")}
    metadata = {"example_id": str(row["pid"]), **kept}
    if about := row.get("metadata"):
        metadata["category"] = about["task"]
    if row["question_type"] != "multi_choice":
        found = {"question": question, "answer": row["answer"], "style": SHORT}
    elif row["answer"]:
        found = chosen(question, row["choices"], row["answer"], CHOICE)
    else:
        found = by_letter(question, row["choices"], None, CHOICE)
    return found | {"metadata": metadata}


def mmmu(row: Row) -> Record:
    """MMMU: options is a list as text, and so may be the answer to an open question, which stays
    one. Of image_1 to image_7 the first is shown; none where several options are images."""
    question = _NUMBERED.sub(r"Image \1", row["question"])
    metadata = {"example_id": row["id"], "category": _SUBJECT.sub(r"\1", row["id"])}
    metadata["question_type"] = row["question_type"]
    options = [str(option) for option in ast.literal_eval(row["options"])]
    images = sum(_NUMBERED.fullmatch(option.strip()) is not None for option in options)
    shown = {} if images > 1 else {"image": picture(row["image_1"])}
    if row["question_type"] == "multiple-choice":
        texts = [_NUMBERED.sub(r"Image \1", option) for option in options]
        found = by_letter(question, texts, row["answer"], CHOICE)
    else:
        found = {"question": question, "answer": row["answer"], "style": SHORT}
    return shown | found | {"metadata": metadata}


# --- several images ----------------------------------------------------------------------------


def muir_bench(row: Row) -> Record:
    """MuirBench: idx, task, question, options and answer (a letter)."""
    question, *options = numbered([row["question"], *row["options"]])
    found = by_letter(question, options, row["answer"], MULTI_CHOICE)
    return found | {"metadata": {"example_id": str(row["idx"]), "category": row["task"]}}


def blink(row: Row) -> Record:
    """BLINK: idx, sub_task, question, choices, answer (a letter) and image_1 to image_4, of which
    some may be empty."""
    cells = [row[f"image_{i}"] for i in range(1, 5)]
    return {
        "image": [picture(cell) for cell in cells if cell is not None],
        **by_letter(row["question"], row["choices"], row["answer"], MULTI_CHOICE),
        "metadata": {"example_id": row["idx"], "category": row["sub_task"]},
    }


def mmiu(row: Row) -> Record:
    """MMIU: task, question, options (lines ``A: text``), output (a letter), input_image_path, below
    the folder of the table. The letter may be beyond the options, so that no answer is right. The
    column ``context`` is not shown."""
    lines = [_NAMED_OPTION.fullmatch(o.strip()) for o in row["options"].strip().split("\n")]
    Flaw.when(None in lines, "options: expected lines 'A: text'")
    options, letter = [line[1] for line in lines if line], named_letter(row["output"])
    paths = [path.removeprefix("./") for path in row["input_image_path"]]
    metadata = {
        "example_id": f"{row['task']}_{row['row_number']}",
        "task": row["task"],
        "relationship": paths[0].partition("/")[0],
        "answer": letter,
    }
    right = letter if letter in tuple(LETTERS[: len(options)]) else None
    found = by_letter(row["question"], options, right, MULTI_CHOICE)
    return found | {"image": [f"MMIU-Benchmark/{path}" for path in paths], "metadata": metadata}
