"""Actions and events as questions: a video or a clip of one, and its label or description. The
question is one of a few wordings, drawn for every example anew."""

from __future__ import annotations

from collections.abc import Iterator

from olmo.data.datasets.declare import Record, by_media, dataset
from olmo.data.datasets.disk import VIDEO_EXTENSIONS, Disk, pick
from olmo.data.datasets.draws import NUMBERS, WORDING
from olmo.data.datasets.long_benchmarks import clock_seconds
from olmo.data.datasets.sources import HubFiles, Manual, WebFile
from olmo.data.datasets.video_qa import CHARADES, GROUPS, MC, SA, TRAIN_VAL, short

WHICH_ACTIVITY = [
    "What activity does the video depict?",
    "Which activity can be seen in the video?",
    "What is going on in this video?",
    "Describe in a few words what is done in the video.",
]
WHICH_ACTION = WHICH_ACTIVITY[:3]


def label(answer: str, style: str, wordings: list[str]) -> Record:
    """A message that asks for ``answer`` in one of ``wordings``."""
    return {"wordings": wordings, "answer": answer, "style": style, "draw": [WORDING]}


def clip(video: str, start: float, end: float, *messages: Record) -> Record:
    """A record on the seconds ``start`` to ``end`` of a video."""
    times = {"clip_start_time": start, "clip_end_time": end}
    return {"video": video, "metadata": times, "message_list": list(messages)}


# --- whole videos ------------------------------------------------------------------------------


@dataset(
    "moments_in_time_qa",
    {"train": "training", "validation": "validation"},
    files=("moments_in_time/Moments_in_Time_Raw/{split}_with_missing_renamed.csv",),
    media=("moments_in_time/Moments_in_Time_Raw",),
    sources=(
        Manual(
            "request the raw videos; number them <label>/0000001.mp4, ... in "
            "{training,validation}-videos-renamed, and list them (video, label) in "
            "{training,validation}_with_missing_renamed.csv",
            "http://moments.csail.mit.edu",
        ),
    ),
    groups=GROUPS,
)
def moments_in_time(disk: Disk, split: str) -> Iterator[Record]:
    folder = "moments_in_time/Moments_in_Time_Raw"
    for row in disk.csv(f"{folder}/{split}_with_missing_renamed.csv"):
        name = str(pick(row, "video", "renamed", "filename", "path")).rpartition("/")[2]
        video = "/".join([folder, f"{split}-videos-renamed", row["label"], name])
        text = row["label"].replace("+", " ").replace("_", " ")
        yield {
            "video": video,
            "message_list": [label(text, "moments_in_time_label", WHICH_ACTION)],
        }


@dataset(
    "kinetics_qa",
    TRAIN_VAL,
    files=(
        "kinetics/kinetics710/k710_label_map.txt",
        "kinetics/kinetics710/k600_{split}_list_videos.txt",
        "kinetics/kinetics710/k700_{split}_list_videos.txt",
    ),
    media=("kinetics/kinetics600", "kinetics/kinetics700"),
    sources=(
        Manual(
            "videos go to kinetics/kinetics{600,700}/{train,val}/<label>/; the merged lists to "
            "kinetics/kinetics710",
            "https://github.com/cvdfoundation/kinetics-dataset",
        ),
    ),
    groups=GROUPS,
)
def kinetics(disk: Disk, split: str) -> Iterator[Record]:
    """A list has lines ``path label``, where label is a line number of the label map. The last
    part of the path is the file; its folder is the part before it, or the label."""
    labels = list(disk.lines("kinetics/kinetics710/k710_label_map.txt"))
    corrupt = _corrupt(disk, "kinetics/kinetics_corrupt.parquet")
    for release in ("600", "700"):
        for line in disk.lines(f"kinetics/kinetics710/k{release}_{split}_list_videos.txt"):
            path, _, number = line.rpartition(" ")
            text = labels[int(number)]
            *folders, name = path.split("/")
            place = f"kinetics/kinetics{release}/{split}"
            named = folders[-1] if folders else text
            video = "/".join([place, named if disk.exists(f"{place}/{named}") else text, name])
            if name.rpartition(".")[0] not in corrupt:
                message = label(text, "kinetics_label", WHICH_ACTIVITY)
                yield {"video": video, "message_list": [message]}


def _corrupt(disk: Disk, table: str) -> set[str]:
    """Names, without folder and extension, of the first text column of a table of bad files."""
    names = set()
    for row in disk.parquet(table) if disk.exists(table) else ():
        path = next(v for v in row.values() if isinstance(v, str))
        name = path.rpartition("/")[2]
        names.add(name.rpartition(".")[0] or name)
    return names


COUNTIX_SOURCES = (
    HubFiles("allenai/Molmo2-Countix", "Countix", ("*.csv", "*.json")),
    Manual("Kinetics-700 videos go to kinetics/kinetics700"),
)
COUNTIX_SPLITS = {"train": "train", "validation": "val"}
COUNTIX_FILES = ("Countix/countix_{split}_mapped.csv", "Countix/class_to_question.json")


def _countix(disk: Disk, split: str, extra: Record) -> Iterator[Record]:
    questions = disk.json("Countix/class_to_question.json")
    for row in disk.csv(f"Countix/countix_{split}_mapped.csv"):
        wordings = questions[row["class"]]
        message = {
            "wordings": wordings if isinstance(wordings, list) else [wordings],
            "answer": str(int(float(row["count"]))),
            **extra,
        }
        yield {"video": f"kinetics/kinetics700/{row['video_path']}", "message_list": [message]}


@dataset(
    "countix_oe",
    COUNTIX_SPLITS,
    files=COUNTIX_FILES,
    media=("kinetics/kinetics700",),
    sources=COUNTIX_SOURCES,
    groups=GROUPS,
)
def countix_oe(disk: Disk, split: str) -> Iterator[Record]:
    return _countix(disk, split, {"style": SA, "draw": [WORDING]})


@dataset(
    "countix_mc",
    COUNTIX_SPLITS,
    files=COUNTIX_FILES,
    media=("kinetics/kinetics700",),
    sources=COUNTIX_SOURCES,
)
def countix_mc(disk: Disk, split: str) -> Iterator[Record]:
    return _countix(disk, split, {"style": MC, "draw": [WORDING, NUMBERS]})


# --- clips -------------------------------------------------------------------------------------


@dataset(
    "charades_sta_all_qa",
    {"train": "train", "validation": "test", "test": "test"},
    files=("Charades/charades_sta_{split}.txt",),
    media=("Charades/Charades_v1",),
    sources=(
        Manual(
            "charades_sta_train.txt and charades_sta_test.txt go to Charades",
            "https://github.com/jiyanggao/TALL",
        ),
        CHARADES,
    ),
    groups=GROUPS,
)
def charades_sta(disk: Disk, split: str) -> Iterator[Record]:
    for line in disk.lines(f"Charades/charades_sta_{split}.txt"):
        place, _, caption = line.partition("##")
        name, start, end = place.split(" ")
        if float(start) < float(end):
            message = label(caption, "charades_sta", WHICH_ACTIVITY)
            yield clip(f"Charades/Charades_v1/{name}.mp4", float(start), float(end), message)


@dataset(
    "coin_all_qa",
    {"train": "training", "validation": "testing", "test": "testing"},
    files=("coin/COIN.json",),
    media=("coin/videos",),
    sources=(
        WebFile(
            "https://raw.githubusercontent.com/coin-dataset/annotations/master/COIN.json",
            "coin/COIN.json",
        ),
        Manual("videos go to coin/videos/<id>.{mkv,mp4,webm}", "https://coin-dataset.github.io"),
    ),
    groups=GROUPS,
)
def coin(disk: Disk, split: str) -> Iterator[Record]:
    corrupt = _corrupt(disk, "coin/coin_corrupt.parquet")
    for name, row in disk.items("coin/COIN.json", "database"):
        if row["subset"] == split and name not in corrupt:
            video = disk.with_extension(f"coin/videos/{name}", ("mkv", "mp4", "webm"))
            for part in row["annotation"]:
                message = label(part["label"], "coin_label", WHICH_ACTION)
                yield clip(video, *part["segment"], message)


@dataset(
    "youcook2_all_qa",
    {"train": "training", "validation": "validation"},
    files=("youcook2/youcookii_annotations_trainval.json",),
    media=("youcook2/videos",),
    sources=(
        Manual(
            "youcookii_annotations_trainval.json and videos/<id>.<ext> go to youcook2",
            "http://youcook2.eecs.umich.edu",
        ),
    ),
    groups=GROUPS,
)
def youcook2(disk: Disk, split: str) -> Iterator[Record]:
    """A clip per step with a question, and the whole video with the captions of all its steps."""
    table = "youcook2/youcookii_annotations_trainval.json"
    for name, row in disk.items(table, "database"):
        if row["subset"] != split:
            continue
        video = disk.with_extension(f"youcook2/videos/{name}")
        captions = []
        for part in row["annotations"]:
            start, end = part["segment"]
            yield clip(video, start, end, label(part["sentence"], "youcook2_label", WHICH_ACTION))
            caption = {"text": part["sentence"], "start_time": start, "end_time": end}
            captions.append(caption | {"style": "video_clip_short_caption_start_end"})
        if captions:
            yield {"video": video, "message_list": captions}


@dataset(
    "epic_kitchens_qa",
    TRAIN_VAL | {"validation": "validation"},
    files=("epic-kitchens/epic-kitchens-100-annotations/EPIC_100_{split}_with_missing.csv",),
    media=("epic-kitchens-clips",),
    sources=(
        Manual(
            "cut every narrated action to epic-kitchens-clips/<participant>/videos/"
            "<video>_<start>_<end>.mp4 (seconds, 3 decimals)",
            "https://epic-kitchens.github.io",
        ),
    ),
    groups=GROUPS,
)
def epic_kitchens(disk: Disk, split: str) -> Iterator[Record]:
    folder = "epic-kitchens/epic-kitchens-100-annotations"
    for row in disk.csv(f"{folder}/EPIC_100_{split}_with_missing.csv"):
        start, end = (clock_seconds(row[k]) for k in ("start_timestamp", "stop_timestamp"))
        file = f"{row['video_id']}_{start:.3f}_{end:.3f}.mp4"
        message = label(row["narration"], "epic_kitchens_label", WHICH_ACTION)
        video = "/".join(["epic-kitchens-clips", row["participant_id"], "videos", file])
        yield {"video": video, "message_list": [message]}


@dataset(
    "activitynet_all_qa",
    TRAIN_VAL,
    files=(
        "ActivityNet/activity_net.v1-3.min.json",
        "ActivityNet/{split}_q.json",
        "ActivityNet/{split}_a.json",
    ),
    media=("ActivityNet/all-videos",),
    sources=(
        *(
            WebFile(
                "https://raw.githubusercontent.com/MILVLG/activitynet-qa/master/dataset/"
                f"{split}_{kind}.json",
                f"ActivityNet/{split}_{kind}.json",
            )
            for split in ("train", "val")
            for kind in ("q", "a")
        ),
        Manual(
            "activity_net.v1-3.min.json goes to ActivityNet, videos to "
            "ActivityNet/all-videos/v_<id>.<ext>",
            "http://activity-net.org",
        ),
    ),
    groups=GROUPS,
)
def activitynet(disk: Disk, split: str) -> Iterator[Record]:
    def video(name: str) -> str:
        return disk.with_extension(f"ActivityNet/all-videos/v_{name}", VIDEO_EXTENSIONS)

    subset = {"train": "training", "val": "validation"}[split]
    for name, row in disk.items("ActivityNet/activity_net.v1-3.min.json", "database"):
        for part in row["annotations"] if row["subset"] == subset else ():
            message = label(part["label"], "activitynet_label", WHICH_ACTIVITY)
            yield clip(video(name), *part["segment"], message)
    answers = {a["question_id"]: a["answer"] for a in disk.rows(f"ActivityNet/{split}_a.json")}
    yield from by_media(
        (video(q["video_name"]), short(q["question"], answers[q["question_id"]]))
        for q in disk.rows(f"ActivityNet/{split}_q.json")
    )
