"""Benchmarks of short videos. A question already holds its lettered options, and the style
``video_eval_multiple_choice`` makes it the whole prompt; TOMATO leaves the form to the formatter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from olmo.data.datasets.disk import Disk
from olmo.data.datasets.messages import EVAL_MC, LETTERS, choice, clip_times, lettered
from olmo.data.records import Flaw, Record

Row = dict[str, Any]
ONLY_LETTER = "Please respond with only the letter of the correct answer."
OPTION_LETTER = "Answer with the option's letter from the given choices directly."


def asked(question: str, options: Sequence[str], instruction: str, answer: Any) -> Record:
    """A question on options that have their letters; ``answer`` is a letter, or None where it is
    not public."""
    prompt = "\n".join([question, *options, instruction])
    return {"question": prompt, "answer": answer, "style": EVAL_MC}


def letter_of(answer: Any, options: Sequence[Any]) -> str:
    """The letter of the option that ``answer`` is."""
    if answer not in options:
        raise Flaw("the answer is not among the options")
    return LETTERS[options.index(answer)]


def letter_at(index: Any, options: Sequence[Any]) -> str:
    """The letter of the option with this number, also as text, from 0."""
    return LETTERS[choice("", options, index)["answer_idx"]]


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
            prompt = lettered(row["question"], options, ONLY_LETTER)
            found = {"question": prompt, "answer": answer, "style": EVAL_MC, "metadata": metadata}
            return found | {"video": f"MVBench/video/{folder}/{name}"}

        file = re.sub("[ -]", "_", task.lower())
        yield from disk.each(disk.rows(f"MVBench/json/{file}.json"), question)


TOMATO = ("count", "direction", "rotation", "shape&trend", "velocity&frequency", "visual_cues")


def tomato(disk: Disk, split: str) -> Iterator[Record]:
    """``TOMATO/data/{task}.json``: number -> key, demonstration_type, motion_type, question,
    options (some are numbers), answer (the number of an option)."""
    for task in TOMATO:

        def question(item: tuple[str, Row], task: str = task) -> Record:
            number, row = item
            kept = {k: row[k] for k in ("key", "demonstration_type", "motion_type")}
            return {
                "video": f"TOMATO/videos/{row['demonstration_type']}/{row['key']}.mp4",
                **choice(row["question"], row["options"], row["answer"]),
                "metadata": {"example_id": number, "reasoning_type": task, **kept},
            }

        yield from disk.each(disk.items(f"TOMATO/data/{task}.json"), question)


MOTION_PARTS = ("self-collected", "public-dataset")
MOTION_ABOUT: tuple[tuple[str, str, Any], ...] = (
    ("video_info", "video_info", {}),
    ("task_type", "question_type", ""),
    ("video_type", "video_type", ""),
)
"""Key of the metadata, column, and what stands for an absent one."""


def motionbench(disk: Disk, split: str) -> Iterator[Record]:
    """``MotionBench/MotionBench/video_info.meta.jsonl``: video_path (in ``self-collected`` or
    ``public-dataset``), key, qa (uid, question, answer), and perhaps video_info, question_type,
    video_type. ``NA`` is an answer that is not public."""
    folder = "MotionBench/MotionBench"

    def questions(row: Row) -> Iterator[Record]:
        paths = (f"{folder}/{part}/{row['video_path']}" for part in MOTION_PARTS)
        video, about = disk.first(*paths), {k: row.get(v, none) for k, v, none in MOTION_ABOUT}
        for qa in row["qa"]:
            if split == "validation" and qa["answer"] == "NA":
                continue
            ids = {"example_id": f"{qa['uid']}_{row['key']}", "qa_uid": qa["uid"]}
            answered = {"question": qa["question"], "answer": qa["answer"], "style": EVAL_MC}
            yield answered | {"video": video, "metadata": ids | about}

    return disk.each(disk.jsonl(f"{folder}/video_info.meta.jsonl"), questions)


BEST_OPTION = "\nPlease directly give the best option:"
TEMP_COMPASS = {
    "multi-choice": BEST_OPTION,
    "yes_no": "\nPlease answer yes or no:",
    "caption_matching": BEST_OPTION,
    "captioning": "",
}
"""Task (a folder) -> what follows the question."""
TEMP_CAPTION = ("mc_question", "mc_answer")


def temp_compass(disk: Disk, split: str) -> Iterator[Record]:
    """``TempCompass/{task}/test-00000-of-00001.parquet``: video_id, dim, question, answer; for
    captioning mc_question, mc_answer."""
    for task, instruction in TEMP_COMPASS.items():

        def question(row: Row, task: str = task, instruction: str = instruction) -> Record:
            name, kept = row["video_id"], TEMP_CAPTION if task == "captioning" else ("answer",)
            about = {
                "example_id": f"{task}_{name}_{disk.place[-1]}",
                "video_id": name,
                "task": task,
            }
            about |= {"temporal_aspect": row["dim"], **{k: row[k] for k in ("question", *kept)}}
            found = {"question": row["question"] + instruction, "style": EVAL_MC, "metadata": about}
            answer = {"answer": row["answer"]} if "answer" in kept else {}
            return found | answer | {"video": f"TempCompass/videos/{name}.mp4"}

        rows = disk.parquet(f"TempCompass/{task}/test-00000-of-00001.parquet")
        yield from disk.each(rows, question)


def ego_schema(row: Row) -> Record:
    """EgoSchema: question_idx, question, video_idx, option (lettered), answer (a number as text;
    None where it is not public)."""
    answer, options, video = row["answer"], row["option"], row["video_idx"]
    letter = None if answer is None else letter_at(answer, options)
    metadata = {
        "example_id": f"{row['question_idx']}_{video}_{row['row_number']}",
        "question_id": row["question_idx"],
        "video_id": video,
        "options": options,
        "answer_idx": answer,
    }
    return asked(row["question"], options, OPTION_LETTER, letter) | {"metadata": metadata}
