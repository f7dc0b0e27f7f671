"""Sets with a training split of plain multiple choice and evaluation splits with the prompt of
the benchmark: NExT-QA and the Perception Test."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from olmo.data.datasets.disk import Disk, structs
from olmo.data.datasets.messages import EVAL_MC, LETTERS, choice, lettered
from olmo.data.records import Flaw, LeftOut, Record

Row = dict[str, Any]
OPTION_LETTER = "Answer with the option's letter from the given choices directly."


def nextqa_mc(disk: Disk, split: str) -> Iterator[Record]:
    """``NeXTQA/{train,val}.csv``: video, question, answer (a number), a0 to a4; the place of a
    video is in ``NeXTQA/map_vid_vidorID.json``. Test: ``NeXTQA/MC/test-00000-of-00001.parquet``,
    with type as well."""
    if split.endswith(".parquet"):
        rows = enumerate(disk.parquet(f"NeXTQA/{split}"))
        return disk.each(rows, lambda numbered: _nextqa_test(*numbered))
    places = dict(disk.items("NeXTQA/map_vid_vidorID.json"))

    def message(row: Row) -> Record:
        Flaw.when(row["video"] not in places, "its video is not in map_vid_vidorID.json")
        video = f"NeXTQA/NExTVideo-all-videos/{places[row['video']]}.mp4"
        return {"video": video} | choice(row["question"], _nextqa_options(row), row["answer"])

    return disk.each(disk.csv(f"NeXTQA/{split}"), message)


def _nextqa_options(row: Row) -> list[str]:
    return [str(row[f"a{i}"]) for i in range(5)]


def _nextqa_test(number: int, row: Row) -> Record:
    options = [text.strip() for text in _nextqa_options(row)]
    metadata = {
        "example_id": f"{row['video']}_{number}_type_{row['type']}",
        "question_id": str(number),
        "question_type": row["type"],
        "video_id": row["video"],
        "options": options,
    }
    video = {"video": f"NeXTQA/NExTVideo/{row['video']}.mp4", "metadata": metadata}
    return video | _asked(row["question"].strip(), options, row["answer"])


def perception_test(disk: Disk, split: str) -> Iterator[Record]:
    """``perception_test/all_train.json``: mc_question (question, options, answer_id) by the id of
    the video. Validation and test: tables with video_name, question_id, question, options, and of
    the validation answer_id, and perhaps area, reasoning."""
    if split.endswith(".parquet"):
        evaluation = partial(_perception_evaluation, is_test=split.startswith("Test/"))
        return disk.each(disk.parquet(f"perception_test/{split}"), evaluation)

    def messages(item: tuple[str, Row]) -> Iterator[Record]:
        shown = {"video": f"perception_test/train_videos/{item[0]}.mp4", "style": EVAL_MC}

        def message(row: Row) -> Record:
            found = choice(row["question"], row["options"], row["answer_id"])
            return shown | {"message_list": [found]}

        LeftOut.when(item[1].get("mc_question") is None, "it has no 'mc_question'")
        return disk.each(structs(item[1]["mc_question"]), message)

    return disk.each(disk.items(f"perception_test/{split}"), messages)


def _perception_evaluation(row: Row, is_test: bool) -> Record:
    name, ids = (
        row["video_name"],
        {"question_id": row["question_id"], "video_id": row["video_name"]},
    )
    if is_test:
        video = {"video": f"perception_test/Test/videos/{name}.mp4", "metadata": ids}
        return video | _asked(row["question"], row["options"])
    kinds = {k: row[k] for k in ("area", "reasoning") if row.get(k) is not None}
    metadata = ids | {"answer_idx": int(row["answer_id"])} | kinds
    video = {"video": f"perception_test/videos/{name}.mp4", "metadata": metadata}
    return video | _asked(row["question"], row["options"], row["answer_id"])


def _asked(question: str, options: list[str], answer_idx: Any = None) -> Record:
    """A question as the benchmarks ask it, with the letter of its answer, if that is known."""
    message: Record = {"question": lettered(question, options, OPTION_LETTER), "style": EVAL_MC}
    if answer_idx is None:
        return message
    return message | {"answer": LETTERS[choice(question, options, answer_idx)["answer_idx"]]}
