"""Benchmarks of short videos. A question already holds its lettered options, and the style
``video_eval_multiple_choice`` makes it the whole prompt; TOMATO leaves the form to the
formatter. Raw files as published by each benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from olmo.data.datasets.declare import SHORT_VIDEO, Record, dataset
from olmo.data.datasets.disk import Disk
from olmo.data.datasets.frame_clips import frame_clip
from olmo.data.datasets.sources import FrameClips, HubFiles, Manual

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
STYLE = "video_eval_multiple_choice"
STYLE_SUBTITLE = "video_eval_multiple_choice_w_subtitle"
ONLY_LETTER = "Please respond with only the letter of the correct answer."
OPTION_LETTER = "Answer with the option's letter from the given choices directly."


def lettered(options: Sequence[Any]) -> list[str]:
    """``["A. first", "B. second", ...]``."""
    return [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]


def asked(question: str, options: Sequence[str], instruction: str) -> str:
    """Question, option lines and instruction, one per line."""
    return "\n".join([question, *options, instruction])


# --- MVBench -----------------------------------------------------------------------------------

MVBENCH = {
    "Action Sequence": ("action_sequence", "star/Charades_v1_480/"),
    "Action Prediction": ("action_prediction", "star/Charades_v1_480/"),
    "Action Antonym": ("action_antonym", "ssv2_video/"),
    "Fine-grained Action": ("fine_grained_action", "Moments_in_Time_Raw/videos/"),
    "Unexpected Action": ("unexpected_action", "FunQA_test/test/"),
    "Object Existence": ("object_existence", "clevrer/video_validation/"),
    "Object Interaction": ("object_interaction", "star/Charades_v1_480/"),
    "Object Shuffle": ("object_shuffle", "perception/videos/"),
    "Moving Direction": ("moving_direction", "clevrer/video_validation/"),
    "Action Localization": ("action_localization", "sta/sta_video/"),
    "Scene Transition": ("scene_transition", "scene_qa/video/"),
    "Action Count": ("action_count", "perception/videos/"),
    "Moving Count": ("moving_count", "clevrer/video_validation/"),
    "Moving Attribute": ("moving_attribute", "clevrer/video_validation/"),
    "State Change": ("state_change", "perception/videos/"),
    "Fine-grained Pose": ("fine_grained_pose", "nturgbd/"),
    "Character Order": ("character_order", "perception/videos/"),
    "Egocentric Navigation": ("egocentric_navigation", "vlnqa/"),
    "Episodic Reasoning": ("episodic_reasoning", "tvqa/frames_fps3_hq/"),
    "Counterfactual Inference": ("counterfactual_inference", "clevrer/video_validation/"),
}
"""Task -> annotation file and folder of its videos."""
FRAMES_TASK = "Episodic Reasoning"


@dataset(
    "mvbench",
    {"validation": "val"},
    files=tuple(f"MVBench/json/{file}.json" for file, _ in MVBENCH.values()),
    media=("MVBench/video",),
    sources=(
        HubFiles("OpenGVLab/MVBench", "MVBench", unpack=True),
        Manual("NTU RGB+D videos go to MVBench/video/nturgbd", "https://rose1.ntu.edu.sg"),
        FrameClips("mvbench"),
    ),
    groups=(SHORT_VIDEO,),
)
def mvbench(disk: Disk, split: str) -> Iterator[Record]:
    for task, (file, folder) in MVBENCH.items():
        for i, row in enumerate(disk.rows(f"MVBench/json/{file}.json")):
            prefix = f"MVBench/video/{folder}"
            if task == FRAMES_TASK:
                video = frame_clip(prefix + row["video"].strip("/"), row["start"], row["end"])
            else:
                video = prefix + row["video"]
            metadata = {
                "example_id": f"{task}_{i}",
                "video_path": str(disk.home / video),
                "task_type": task,
                "prefix": f"{disk.home / prefix}/",
            }
            if row.get("start") is not None and task != FRAMES_TASK:
                metadata |= {"clip_start_time": row["start"], "clip_end_time": row["end"]}
            answer = LETTERS[row["candidates"].index(row["answer"])]
            yield {
                "question": asked(row["question"], lettered(row["candidates"]), ONLY_LETTER),
                "answer": f"{answer}.",
                "video": video,
                "metadata": metadata,
                "style": STYLE,
            }


# --- TOMATO, MotionBench, TempCompass ----------------------------------------------------------

TOMATO = ("count", "direction", "rotation", "shape&trend", "velocity&frequency", "visual_cues")


@dataset(
    "tomato",
    {"test": "test"},
    files=tuple(f"TOMATO/data/{task}.json" for task in TOMATO),
    media=("TOMATO/videos",),
    sources=(
        Manual(
            "clone the repository to TOMATO and unpack its videos.zip to TOMATO/videos",
            "https://github.com/yale-nlp/TOMATO",
        ),
    ),
    groups=(SHORT_VIDEO,),
)
def tomato(disk: Disk, split: str) -> Iterator[Record]:
    for task in TOMATO:
        for key, row in disk.items(f"TOMATO/data/{task}.json"):
            kind = row["demonstration_type"]
            yield {
                "video": f"TOMATO/videos/{kind}/{row['key']}.mp4",
                "question": row["question"],
                "options": row["options"],
                "answer_idx": int(row["answer"]),
                "metadata": {
                    "example_id": key,
                    "key": row["key"],
                    "reasoning_type": task,
                    "demonstration_type": kind,
                    "motion_type": row["motion_type"],
                },
                "style": "video_multiple_choice",
            }


@dataset(
    "motionbench",
    {"validation": "validation", "test": "test"},
    files=("MotionBench/MotionBench/video_info.meta.jsonl",),
    media=("MotionBench/MotionBench/self-collected", "MotionBench/MotionBench/public-dataset"),
    sources=(HubFiles("zai-org/MotionBench", "MotionBench", unpack=True),),
    groups=(SHORT_VIDEO,),
)
def motionbench(disk: Disk, split: str) -> Iterator[Record]:
    folder = "MotionBench/MotionBench"
    for row in disk.jsonl(f"{folder}/video_info.meta.jsonl"):
        own, public = (
            "/".join([folder, part, row["video_path"]])
            for part in ("self-collected", "public-dataset")
        )
        for qa in row["qa"]:
            if split == "validation" and qa["answer"] == "NA":
                continue
            yield {
                "question": qa["question"],
                "answer": qa["answer"],
                "video": own if disk.exists(own) else public,
                "metadata": {
                    "example_id": f"{qa['uid']}_{row['key']}",
                    "qa_uid": qa["uid"],
                    "video_info": row["video_info"],
                    "task_type": row["question_type"],
                    "video_type": row["video_type"],
                },
                "style": STYLE,
            }


BEST_OPTION = "\nPlease directly give the best option:"
TEMP_COMPASS = {
    "multi-choice": BEST_OPTION,
    "yes_no": "\nPlease answer yes or no:",
    "caption_matching": BEST_OPTION,
    "captioning": "",
}
"""Task (a folder) -> what follows the question."""


@dataset(
    "temp_compass_internal",
    {"validation": "test", "test": "test"},
    files=tuple(f"TempCompass/{task}/test-00000-of-00001.parquet" for task in TEMP_COMPASS),
    media=("TempCompass/videos",),
    sources=(HubFiles("lmms-lab/TempCompass", "TempCompass", unpack=True),),
    groups=(SHORT_VIDEO,),
)
def temp_compass(disk: Disk, split: str) -> Iterator[Record]:
    for task, instruction in TEMP_COMPASS.items():
        for i, row in enumerate(disk.parquet(f"TempCompass/{task}/test-00000-of-00001.parquet")):
            metadata = {
                "example_id": f"{task}_{row['video_id']}_{i}",
                "video_id": row["video_id"],
                "task": task,
                "temporal_aspect": row["dim"],
                "question": row["question"],
            }
            record = {"question": row["question"] + instruction, "style": STYLE}
            if task == "captioning":
                metadata |= {k: row[k] for k in ("mc_question", "mc_answer")}
            else:
                record["answer"] = metadata["answer"] = row["answer"]
            video = f"TempCompass/videos/{row['video_id']}.mp4"
            yield record | {"video": video, "metadata": metadata}


# --- EgoSchema ---------------------------------------------------------------------------------


@dataset(
    "ego_schema",
    {"validation": "Subset", "test": "MC"},
    files=("egoschema/{split}/test-00000-of-00001.parquet",),
    media=("egoschema/videos",),
    sources=(HubFiles("lmms-lab/egoschema", "egoschema", unpack=True),),
    groups=(SHORT_VIDEO,),
)
def ego_schema(disk: Disk, split: str) -> Iterator[Record]:
    for i, row in enumerate(disk.parquet(f"egoschema/{split}/test-00000-of-00001.parquet")):
        answer = row["answer"]
        yield {
            "question": asked(row["question"], row["option"], OPTION_LETTER),
            "answer": None if answer is None else LETTERS[int(answer)],
            "video": f"egoschema/videos/{row['video_idx']}.mp4",
            "metadata": {
                "example_id": f"{row['question_idx']}_{row['video_idx']}_{i}",
                "question_id": row["question_idx"],
                "video_id": row["video_idx"],
                "options": row["option"],
                "answer_idx": answer,
            },
            "style": STYLE,
        }
