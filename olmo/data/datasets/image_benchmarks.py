"""Benchmarks of one or several images, in tables of the hub.

Placeholders of images in the text (``<image>``, ``<image 2>``) become ``Image 1``, ``Image 2``,
..., the names that the preprocessor gives to several images.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from olmo.data.datasets.declare import IMAGE_HOME, MULTI_IMAGE, SINGLE_IMAGE, dataset
from olmo.data.datasets.disk import Disk
from olmo.data.datasets.sources import HubFiles
from olmo.data.datasets.tables import TableRecords, picture
from olmo.data.datasets.video_benchmarks import LETTERS

Row = dict[str, Any]
Record = dict[str, Any]
CHOICE, SHORT, MULTI_CHOICE = "eval_multiple_choice", "eval_short_answer", "eval_multi_image_mc"

_NUMBERED = re.compile(r"<image (\d+)>")
_SUBJECT = re.compile(r"^[a-z]+_(.*)_\d+$")
"""``validation_Art_Theory_3``: split, subject, number."""
_NAMED_OPTION = re.compile(r"\(?[A-Z][:.)]\s*(.*)")


def numbered(texts: Sequence[str]) -> list[str]:
    """Texts with every ``<image>`` replaced by ``Image n``, counted through all of them."""
    count = itertools.count(1)
    return [re.sub("<image>", lambda _: f"Image {next(count)}", text) for text in texts]


HIDDEN = ("", "?", "hidden")
"""Answers of test splits that are not public."""


def letter_index(answer: str | None, n_options: int) -> int | None:
    """Number of the option that ``B``, ``(B)`` or ``B.`` names; None for a hidden answer."""
    if answer is None or answer in HIDDEN:
        return None
    letter = answer.strip(" ().:")
    if len(letter) != 1 or letter not in LETTERS[:n_options]:
        raise ValueError(f"answer {answer!r} is not a letter of {n_options} options")
    return LETTERS.index(letter)


def choice(
    question: str, options: Sequence[str], answer: str | None, style: str = MULTI_CHOICE
) -> Record:
    """A question with options and the letter of the right one."""
    texts = [str(option) for option in options]
    index = letter_index(answer, len(texts))
    return {"question": question, "options": texts, "answer_idx": index, "style": style}


def pictures(row: Row, n: int) -> list[bytes]:
    """Images of the columns ``image_1`` to ``image_n`` that are filled."""
    cells = [row.get(f"image_{i}") for i in range(1, n + 1)]
    return [picture(cell) for cell in cells if cell is not None]


def _of_row(convert: Callable[[Row], Record], rows: list[Row]) -> Record:
    (row,) = rows
    return convert(row)


def _benchmark(
    name: str, repo: str, splits: dict[str, str], glob: str, columns: tuple[str, ...], group: str
) -> Callable[[Callable[[Row], Record]], Callable[[Row], Record]]:
    """Decorator for the function that makes an example of a row of a table with images. ``glob``
    names the files of a split, ``columns`` are those that the table must have."""
    folder = repo.rpartition("/")[2]
    table = tuple((split, glob.format(split=split)) for split in dict.fromkeys(splits.values()))

    def add(convert: Callable[[Row], Record]) -> Callable[[Row], Record]:
        @dataset(
            name,
            splits,
            files=(folder,),
            media=(folder,),
            sources=(HubFiles(repo, folder, table=table),),
            groups=(group,),
            home=IMAGE_HOME,
        )
        def read(disk: Disk, split: str) -> TableRecords:
            rows = disk.table(folder, split, *columns)
            return TableRecords.single(rows, partial(_of_row, convert))

        return convert

    return add


# --- one image ---------------------------------------------------------------------------------


@_benchmark(
    *("math_vista_v2", "AI4Math/MathVista", {"validation": "testmini", "test": "test"}),
    "data/{split}-*.parquet",
    ("pid", "question", "decoded_image", "choices", "unit", "answer", "question_type", "metadata"),
    SINGLE_IMAGE,
)
def math_vista(row: Row) -> Record:
    """MathVista; the answer to a question with choices is the text of one of them."""
    unit = f" (Unit: {row['unit']})" if row["unit"] else ""
    record: Record = {
        "image": picture(row["decoded_image"]),
        "question": row["question"] + unit,
        "metadata": {"example_id": str(row["pid"]), "category": row["metadata"]["task"]},
    }
    if row["question_type"] != "multi_choice":
        return record | {"answer": row["answer"], "style": SHORT}
    options = list(row["choices"])
    index = options.index(row["answer"]) if row["answer"] else None
    return record | {"options": options, "answer_idx": index, "style": CHOICE}


@_benchmark(
    *("mmmu", "MMMU/MMMU", {"validation": "validation", "test": "test"}),
    "*/{split}-*.parquet",
    ("id", "question", "options", "answer", "question_type", "image_1", "image_7"),
    SINGLE_IMAGE,
)
def mmmu(row: Row) -> Record:
    """MMMU: ``options`` is a list as text; one to seven images."""
    options = [_NUMBERED.sub(r"Image \1", o) for o in ast.literal_eval(row["options"])]
    images = pictures(row, 7)
    record: Record = {
        "image": images[0] if len(images) == 1 else images,
        "metadata": {"example_id": row["id"], "category": _SUBJECT.sub(r"\1", row["id"])},
    }
    question = _NUMBERED.sub(r"Image \1", row["question"])
    if row["question_type"] == "multiple-choice":
        return record | choice(question, options, row["answer"], CHOICE)
    return record | {"question": question, "answer": row["answer"], "style": SHORT}


# --- several images ----------------------------------------------------------------------------


@_benchmark(
    *("muir_bench", "MUIRBENCH/MUIRBENCH", {"test": "test"}),
    "data/{split}-*.parquet",
    ("idx", "task", "question", "options", "answer", "image_list"),
    MULTI_IMAGE,
)
def muir_bench(row: Row) -> Record:
    question, *options = numbered([row["question"], *row["options"]])
    return {
        "image": [picture(cell) for cell in row["image_list"]],
        **choice(question, options, row["answer"]),
        "metadata": {"example_id": str(row["idx"]), "category": row["task"]},
    }


@_benchmark(
    *("blink", "BLINK-Benchmark/BLINK", {"validation": "val", "test": "test"}),
    "*/{split}-*.parquet",
    ("idx", "sub_task", "question", "choices", "answer", "image_1", "image_4"),
    MULTI_IMAGE,
)
def blink(row: Row) -> Record:
    return {
        "image": pictures(row, 4),
        **choice(row["question"], row["choices"], row["answer"]),
        "metadata": {"example_id": row["idx"], "category": row["sub_task"]},
    }


MMIU = "MMIU-Benchmark"


@dataset(
    "mmiu",
    {"test": "all"},
    files=(f"{MMIU}/{{split}}.parquet",),
    media=(MMIU,),
    sources=(HubFiles("FanqingM/MMIU-Benchmark", MMIU, ("all.parquet", "*.zip"), unpack=True),),
    groups=(MULTI_IMAGE,),
    home=IMAGE_HOME,
)
def mmiu(disk: Disk, split: str) -> Iterator[Record]:
    """``options`` are lines ``A: text``; images lie beside the table."""
    for i, row in enumerate(disk.parquet(f"{MMIU}/{split}.parquet")):
        lines = [_NAMED_OPTION.fullmatch(o.strip()) for o in row["options"].strip().split("\n")]
        if None in lines:
            raise ValueError(f"options: expected lines 'A: text', got {row['options']!r}")
        question = "\n".join(text for text in (row["context"], row["question"]) if text)
        yield {
            "image": [f"{MMIU}/{path.removeprefix('./')}" for path in row["input_image_path"]],
            **choice(question, [line[1] for line in lines if line], row["output"]),
            "metadata": {"example_id": f"{row['task']}_{i}", "category": row["task"]},
        }
