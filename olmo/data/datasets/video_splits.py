"""Sets with a training split of plain multiple choice and an evaluation split with the prompt of
the benchmark: NExT-QA and the Perception Test."""

from __future__ import annotations

from collections.abc import Iterator

from olmo.data.datasets.declare import SHORT_VIDEO, VIDEO_ACADEMIC, Record, by_media, dataset
from olmo.data.datasets.disk import Disk
from olmo.data.datasets.sources import HubFiles, Manual, WebFile
from olmo.data.datasets.video_benchmarks import LETTERS, OPTION_LETTER, STYLE, asked, lettered
from olmo.data.datasets.video_qa import choice

# --- NExT-QA -----------------------------------------------------------------------------------

NEXT_TEST = "MC/test-00000-of-00001.parquet"
NEXT_SITE = "https://raw.githubusercontent.com/doc-doc/NExT-QA/main/dataset/nextqa"


@dataset(
    "nextqa_mc",
    {"train": "train.csv", "validation": "val.csv", "test": NEXT_TEST},
    files=("NeXTQA/{split}",),
    media=("NeXTQA/NExTVideo-all-videos", "NeXTQA/NExTVideo"),
    sources=(
        HubFiles("lmms-lab/NExTQA", "NeXTQA", ("MC/*", "*.zip"), unpack=True),
        WebFile(f"{NEXT_SITE}/train.csv", "NeXTQA/train.csv"),
        WebFile(f"{NEXT_SITE}/val.csv", "NeXTQA/val.csv"),
        Manual(
            "training videos go to NeXTQA/NExTVideo-all-videos/<folder>/<id>.mp4, and "
            "map_vid_vidorID.json to NeXTQA",
            "https://github.com/doc-doc/NExT-QA",
        ),
    ),
    groups=(SHORT_VIDEO, VIDEO_ACADEMIC),
)
def nextqa_mc(disk: Disk, split: str) -> Iterator[Record]:
    return _nextqa_test(disk) if split == NEXT_TEST else _nextqa_train(disk, split)


def _nextqa_train(disk: Disk, file: str) -> Iterator[Record]:
    places = dict(disk.items("NeXTQA/map_vid_vidorID.json"))
    return by_media(
        (
            f"NeXTQA/NExTVideo-all-videos/{places[row['video']]}.mp4",
            choice(row["question"], [row[f"a{i}"] for i in range(5)], int(row["answer"])),
        )
        for row in disk.csv(f"NeXTQA/{file}")
    )


def _nextqa_test(disk: Disk) -> Iterator[Record]:
    for row in disk.parquet(f"NeXTQA/{NEXT_TEST}"):
        options = [str(row[f"a{i}"]).strip() for i in range(5)]
        yield {
            "question": asked(row["question"].strip(), lettered(options), OPTION_LETTER),
            "answer": LETTERS[int(row["answer"])],
            "video": f"NeXTQA/NExTVideo/{row['video']}.mp4",
            "style": STYLE,
            "metadata": {
                "example_id": f"{row['video']}_{row['qid']}_type_{row['type']}",
                "question_id": str(row["qid"]),
                "question_type": row["type"],
                "video_id": row["video"],
                "options": options,
            },
        }


# --- Perception Test ---------------------------------------------------------------------------

PERCEPTION_TRAIN = "all_train.json"
PERCEPTION_VALIDATION = "mc_question_val/validation-00000-of-00001.parquet"
PERCEPTION_TEST = "mc_question_test.json"
"""Without answers."""
PERCEPTION_SPLITS = {
    "train": PERCEPTION_TRAIN,
    "validation": PERCEPTION_VALIDATION,
    "test": PERCEPTION_TEST,
}


def _perception_test(name: str, max_messages: int | None, groups: tuple[str, ...] = ()) -> None:
    """``max_messages`` questions of a training video go into one example."""

    @dataset(
        name,
        PERCEPTION_SPLITS,
        files=("perception_test/{split}",),
        media=tuple(f"perception_test/{v}" for v in ("train_videos", "videos", "test_videos")),
        sources=(
            Manual(
                "all_train.json, train_videos/, mc_question_val/ (the parquet file of the "
                "questions), videos/, mc_question_test.json and test_videos/ go to perception_test",
                "https://github.com/google-deepmind/perception_test",
            ),
        ),
        groups=groups,
    )
    def read(disk: Disk, split: str) -> Iterator[Record]:
        if split == PERCEPTION_VALIDATION:
            return _perception_validation(disk)
        if split == PERCEPTION_TEST:
            return _perception_test_split(disk)
        pairs = (
            (
                f"perception_test/train_videos/{name}.mp4",
                choice(q["question"], q["options"], int(q["answer_id"])),
            )
            for name, row in disk.items(f"perception_test/{PERCEPTION_TRAIN}")
            for q in row["mc_question"]
        )
        return (r | {"style": STYLE} for r in by_media(pairs, max_messages=max_messages))


def _perception_test_split(disk: Disk) -> Iterator[Record]:
    for name, row in disk.items(f"perception_test/{PERCEPTION_TEST}"):
        for q in row["mc_question"]:
            yield {
                "question": asked(q["question"], lettered(q["options"]), OPTION_LETTER),
                "video": f"perception_test/test_videos/{name}.mp4",
                "metadata": {"example_id": f"{name}_{q['id']}", "video_id": name},
                "style": STYLE,
            }


_perception_test("perception_test", None, (SHORT_VIDEO, VIDEO_ACADEMIC))
_perception_test("perception_test_max5", 5)
_perception_test("perception_test_flat", 1)


def _perception_validation(disk: Disk) -> Iterator[Record]:
    for row in disk.parquet(f"perception_test/{PERCEPTION_VALIDATION}"):
        index = int(row["answer_id"])
        yield {
            "question": asked(row["question"], lettered(row["options"]), OPTION_LETTER),
            "answer": LETTERS[index],
            "video": f"perception_test/videos/{row['video_name']}.mp4",
            "metadata": {
                "question_id": row["question_id"],
                "video_id": row["video_name"],
                "answer_idx": index,
                "area": row["area"],
                "reasoning": row["reasoning"],
            },
            "style": STYLE,
        }
