"""Benchmarks of short videos, two of them with a training split of plain multiple choice. A
question already holds its lettered options, and the style ``video_eval_multiple_choice`` makes it
the whole prompt; TOMATO leaves the form to the formatter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from olmo.data.datasets.disk import Disk, Row, structs
from olmo.data.datasets.messages import (
    EVAL_MC,
    asked,
    choice,
    clip_times,
    letter_at,
    letter_of,
    lettered,
)
from olmo.data.records import Flaw, LeftOut, Record

ONLY_LETTER = "Please respond with only the letter of the correct answer."
OPTION_LETTER = "Answer with the option's letter from the given choices directly."


STAR, CLEVRER, PERCEPTION = "star/Charades_v1_480", "clevrer/video_validation", "perception/videos"
MVBENCH = {
    "Action Sequence": STAR,
    "Action Prediction": STAR,
    "Action Antonym": "ssv2_video",
    "Fine-grained Action": "Moments_in_Time_Raw/videos",
    "Unexpected Action": "FunQA_test/test",
    "Object Existence": CLEVRER,
    "Object Interaction": STAR,
    "Object Shuffle": PERCEPTION,
    "Moving Direction": CLEVRER,
    "Action Localization": "sta/sta_video",
    "Scene Transition": "scene_qa/video",
    "Action Count": PERCEPTION,
    "Moving Count": CLEVRER,
    "Moving Attribute": CLEVRER,
    "State Change": PERCEPTION,
    "Fine-grained Pose": "nturgbd",
    "Character Order": PERCEPTION,
    "Egocentric Navigation": "vlnqa",
    "Episodic Reasoning": "tvqa/frames_fps3_hq",
    "Counterfactual Inference": CLEVRER,
}
"""Task -> folder of its videos."""
FRAMES_TASK = "Episodic Reasoning"


def mvbench(disk: Disk, split: str) -> Iterator[Record]:
    """``MVBench/json/{task}.json``, such as ``action_sequence``: video, question, candidates,
    answer (a candidate), and start and end where a part is meant. Videos of Episodic Reasoning are
    folders of frames, beside which ``video.mp4`` is made (see ``frame_clips``)."""
    for task, folder in MVBENCH.items():

        def question(row: Row, task: str = task, folder: str = folder) -> Record:
            name, options = row["video"], row["candidates"]
            if task == FRAMES_TASK:
                name = f"{name.strip('/')}/video.mp4"
            prefix = f"{disk.home / 'MVBench/video' / folder}/"
            metadata = {"example_id": f"{task}_{disk.place[-1]}", "task_type": task}
            metadata |= {"video_path": prefix + name, "prefix": prefix}
            if None not in (row.get("start"), row.get("end")):
                metadata |= clip_times(row["start"], row["end"])
            answer = f"{letter_of(row['answer'], options)}."
            found = asked(row["question"], lettered(options), ONLY_LETTER, answer)
            return found | {"video": f"MVBench/video/{folder}/{name}", "metadata": metadata}

        file = re.sub("[ -]", "_", task.lower())
        yield from disk.each(disk.rows(f"MVBench/json/{file}.json"), question)


def tomato(row: Row) -> Record:
    """TOMATO: number -> key, demonstration_type, motion_type, question, options (some are
    numbers), answer (the number of an option). The file tells the task."""
    task = PurePosixPath(row["file"]).stem
    kept = {k: row[k] for k in ("key", "demonstration_type", "motion_type")}
    metadata = {"example_id": row["row_number"], "reasoning_type": task, **kept}
    return choice(row["question"], row["options"], row["answer"]) | {"metadata": metadata}


def motionbench(row: Row) -> Record:
    """MotionBench: video_path, key, qa (uid, question, answer), and perhaps video_info,
    question_type, video_type. ``NA`` is an answer that is not public."""
    hidden = row["split"] == "validation" and row["answer"] == "NA"
    LeftOut.when(hidden, "the answer is not public")
    metadata = {"example_id": f"{row['uid']}_{row['key']}", "qa_uid": row["uid"]}
    metadata |= {"task_type": row.get("question_type", "")}
    metadata |= {"video_info": row.get("video_info", {}), "video_type": row.get("video_type", "")}
    answered = {"question": row["question"], "answer": row["answer"], "style": EVAL_MC}
    return answered | {"metadata": metadata}


BEST_OPTION = "\nPlease directly give the best option:"
TEMP_COMPASS = {
    "multi-choice": BEST_OPTION,
    "yes_no": "\nPlease answer yes or no:",
    "caption_matching": BEST_OPTION,
    "captioning": "",
}
"""Task (a folder) -> what follows the question."""
TEMP_CAPTION = ("mc_question", "mc_answer")


def temp_compass(row: Row) -> Record:
    """TempCompass: video_id, dim, question, answer; for captioning mc_question, mc_answer."""
    task, name = row["file"].split("/")[1], row["video_id"]
    kept = TEMP_CAPTION if task == "captioning" else ("answer",)
    metadata = {"example_id": f"{task}_{name}_{row['row_number']}", "video_id": name, "task": task}
    metadata |= {"temporal_aspect": row["dim"], **{k: row[k] for k in ("question", *kept)}}
    answer = {"answer": row["answer"]} if "answer" in kept else {}
    found = {"question": row["question"] + TEMP_COMPASS[task], "style": EVAL_MC, **answer}
    return found | {"metadata": metadata}


def ego_schema(row: Row) -> Record:
    """EgoSchema: question_idx, question, video_idx, option (lettered), answer (a number as text;
    None where it is not public)."""
    answer, options, video = row["answer"], row["option"], row["video_idx"]
    letter = {"answer": None if answer is None else letter_at(answer, options)}
    metadata = {
        "example_id": f"{row['question_idx']}_{video}_{row['row_number']}",
        "question_id": row["question_idx"],
        "video_id": video,
        "options": options,
        "answer_idx": answer,
    }
    return asked(row["question"], options, OPTION_LETTER) | letter | {"metadata": metadata}


# --- with a training split ----------------------------------------------------------------------


def nextqa_mc(disk: Disk, split: str) -> Iterator[Record]:
    """``NeXTQA/{train,val}.csv``: video, question, answer (a number), a0 to a4; the place of a
    video is in ``NeXTQA/map_vid_vidorID.json``. Test: ``NeXTQA/MC/test-00000-of-00001.parquet``,
    with type as well."""
    if split.endswith(".parquet"):
        return disk.each(disk.parquet(f"NeXTQA/{split}"), lambda r: _nextqa_test(r, disk.place[-1]))
    places = dict(disk.items("NeXTQA/map_vid_vidorID.json"))

    def message(row: Row) -> Record:
        Flaw.when(row["video"] not in places, "its video is not in map_vid_vidorID.json")
        video = f"NeXTQA/NExTVideo-all-videos/{places[row['video']]}.mp4"
        return {"video": video} | choice(row["question"], _nextqa_options(row), row["answer"])

    return disk.each(disk.csv(f"NeXTQA/{split}"), message)


def _nextqa_options(row: Row) -> list[str]:
    return [str(row[f"a{i}"]) for i in range(5)]


def _nextqa_test(row: Row, number: Any) -> Record:
    options = [text.strip() for text in _nextqa_options(row)]
    metadata = {
        "example_id": f"{row['video']}_{number}_type_{row['type']}",
        "question_id": str(number),
        "question_type": row["type"],
        "video_id": row["video"],
        "options": options,
    }
    letter = letter_at(row["answer"], options)
    found = asked(row["question"].strip(), lettered(options), OPTION_LETTER, letter)
    return found | {"video": f"NeXTQA/NExTVideo/{row['video']}.mp4", "metadata": metadata}


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
    name, options, letter = row["video_name"], row["options"], None
    metadata = {"question_id": row["question_id"], "video_id": name}
    if not is_test:
        letter = letter_at(row["answer_id"], options)
        metadata["answer_idx"] = int(row["answer_id"])
        metadata |= {k: row[k] for k in ("area", "reasoning") if row.get(k) is not None}
    video = f"perception_test/{'Test/' * is_test}videos/{name}.mp4"
    found = asked(row["question"], lettered(options), OPTION_LETTER, letter)
    return found | {"video": video, "metadata": metadata}
