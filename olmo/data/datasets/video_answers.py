"""Questions on whole videos with free answers, and captions of motion."""

from __future__ import annotations

from collections.abc import Iterator

from olmo.data.datasets.declare import Record, by_media, dataset
from olmo.data.datasets.disk import Disk, pick
from olmo.data.datasets.draws import ONE_ANSWER
from olmo.data.datasets.sources import HubFiles, Manual
from olmo.data.datasets.video_qa import GROUPS, SA, TRAIN_VAL, TRAIN_VAL_TEST, short

NEWS_QUESTIONS = "NewsVideoQA/final_data_feb_16/json_files/raw_files"
NEWS_VIDEOS = "NewsVideoQA/final_data_feb_16/videos"


@dataset(
    "news_video_qa_filtered",
    TRAIN_VAL,
    files=(NEWS_QUESTIONS + "/new_{split}.json",),
    media=(NEWS_VIDEOS,),
    sources=(
        HubFiles("allenai/Molmo2-NewsVideoQA", NEWS_QUESTIONS, ("*.json",)),
        Manual(f"videos go to {NEWS_VIDEOS}/{{train,val}}", "http://cvit.iiit.ac.in"),
    ),
    groups=GROUPS,
)
def news_video_qa(disk: Disk, split: str) -> Iterator[Record]:
    pairs = (
        (
            f"{NEWS_VIDEOS}/{split}/{row['uni_clipped_id']}.mp4",
            short(row["question"], row["answer"]),
        )
        for row in disk.rows(f"{NEWS_QUESTIONS}/new_{split}.json")
        if row["answer"]
    )
    # some of these files lead a seek astray, so the loader is told to decode from the start
    return (r | {"metadata": {"decode_method": "av_noseek"}} for r in by_media(pairs))


@dataset(
    "sportsqa_oe",
    TRAIN_VAL_TEST,
    files=("SportsQA/meta-data/{split}.json",),
    media=("SportsQA",),
    sources=(
        Manual(
            "meta-data/ and the videos (<video>.avi, .mp4 or .webm) go to SportsQA",
            "https://github.com/HopLee6/Sports-QA",
        ),
    ),
    groups=GROUPS,
)
def sportsqa(disk: Disk, split: str) -> Iterator[Record]:
    return by_media(
        (
            disk.with_extension(f"SportsQA/{row['video']}", ("avi", "mp4", "webm")),
            short(row["question"], row["answer"]),
        )
        for row in disk.rows(f"SportsQA/meta-data/{split}.json")
    )


@dataset(
    "video_localized_narratives",
    TRAIN_VAL,
    files=("video-localized-narratives/videoqa/text_output/oops_{split}/qa_text_output.json",),
    media=("oops/oops_video",),
    sources=(
        Manual(
            "unpack the text questions (videoqa) to video-localized-narratives",
            "https://google.github.io/video-localized-narratives",
        ),
        Manual("Oops videos go to oops/oops_video", "https://oops.cs.columbia.edu"),
    ),
    groups=GROUPS,
)
def video_localized_narratives(disk: Disk, split: str) -> Iterator[Record]:
    folder = f"video-localized-narratives/videoqa/text_output/oops_{split}"
    return by_media(
        (f"oops/oops_video/{row['video_name']}.mp4", short(qa["raw_question"], qa["raw_answer"]))
        for row in disk.rows(f"{folder}/qa_text_output.json", "annotations")
        for qa in row.get("qa_pairs", [row])
    )


@dataset(
    "road_text_vqa",
    TRAIN_VAL_TEST,
    files=("RoadTextVQA/{split}.json",),
    media=("RoadTextVQA/videos",),
    sources=(
        Manual(
            "train.json, val.json, test.json and videos/ go to RoadTextVQA",
            "http://cvit.iiit.ac.in/research/projects/cvit-projects/roadtextvqa",
        ),
    ),
    groups=GROUPS,
)
def road_text_vqa(disk: Disk, split: str) -> Iterator[Record]:
    return by_media(_road_messages(disk, split))


def _road_messages(disk: Disk, split: str) -> Iterator[tuple[str, Record]]:
    for row in disk.rows(f"RoadTextVQA/{split}.json"):
        answers = pick(row, "answer", "answers")
        message = {
            "question": row["question"],
            "answer": answers if isinstance(answers, list) else [answers],
            "style": SA,
            "draw": [ONE_ANSWER],
        }
        name = str(pick(row, "video", "video_path", "video_id")).rpartition("/")[2]
        yield f"RoadTextVQA/videos/{name if '.' in name else name + '.mp4'}", message


@dataset(
    "motionbench_train",
    {"train": "train"},
    files=("MotionBench/MotionBenchCaption-train/train.jsonl",),
    media=("MotionBench/MotionBenchCaption-train/videos",),
    sources=(HubFiles("zai-org/MotionBench", "MotionBench", unpack=True),),
    groups=GROUPS,
)
def motionbench_train(disk: Disk, split: str) -> Iterator[Record]:
    folder = "MotionBench/MotionBenchCaption-train"
    return by_media(
        (
            "/".join([folder, "videos", row["video_path"]]),
            {"text": row["motion_caption"], "style": "video_motion_caption"},
        )
        for row in disk.jsonl(f"{folder}/train.jsonl")
    )
