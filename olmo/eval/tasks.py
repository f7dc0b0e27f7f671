"""The table of evaluation tasks: what to run, how to score it, how much to generate."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from olmo.config import expand
from olmo.data.registry import check_split
from olmo.eval.scoring.score import OWN_DATA, PREDICTIONS_ONLY, QUESTION_ANSWERING
from olmo.text import nearest

OWN_TOKENS = 256
"""Longest answer of own data: they may ask for descriptions."""

MC = "video_eval_multiple_choice"
MC_SUBTITLE = "video_eval_multiple_choice_w_subtitle"
"""Prompt forms: the question as the data set words it, with its lettered options."""


@dataclass(frozen=True)
class Task:
    """One data set split with its way of scoring.

    Attributes:
        metric: name of a scorer (``olmo.eval.scoring``).
        max_new_tokens: limit of each answer.
        groups: the ``--mode`` names that include the task.
        prompt: style that decides the form of the prompt; None keeps that of the examples.
        batch_size: examples that a rank loads at once, unless the command line says otherwise.
        categories: fields of the metadata by which scores are broken down; with several, the
            labels are ``field/value``.
        macro: beginning of the labels that count for the macro average.
        title: name in tables; the task's name if empty.
        only: a field of the metadata, then the values to keep; empty keeps all examples.
        own: ``dataset`` is the path of a user's own data.
    """

    name: str
    dataset: str
    split: str
    metric: str
    max_new_tokens: int
    groups: tuple[str, ...] = ()
    prompt: str | None = None
    batch_size: int = 2
    categories: tuple[str, ...] = ("category",)
    macro: str = ""
    title: str = ""
    only: tuple[str, ...] = ()
    own: bool = False

    @property
    def folder(self) -> str:
        """Name of the folder of its results."""
        return folder_name(self.name)


def folder_name(task: str) -> str:
    """Name of the folder of a task's results."""
    return task.replace(":", "-")


SYNTHETIC = "synthetic_video_qa"
SHORT = ("short_video", "video", "video_no_subtitle")
LONG = ("long_video", "video", "video_no_subtitle")
SUBTITLE = ("long_video", "video", "video_subtitle")
TEST = ("test_video",)
IMAGE, IMAGE_TEST = ("single_image",), ("single_image_test",)
POINTING = ("image_pointing", *IMAGE)
MULTI_IMAGE = ("multi_image",)

NO_ANSWERS = {
    *("a_okvqa_da", "a_okvqa_mc", "blink", "coco_2014_vqa", "doc_qa", "ego_schema", "info_qa"),
    *("long_video_bench_no_subtitle", "long_video_bench_w_subtitle", "math_vista_v2", "mmmu"),
    *("motionbench", "perception_test"),
}
"""Data sets whose test split has no public answers: predictions only."""


def _video(
    name: str,
    title: str,
    metric: str,
    tokens: int,
    groups: tuple[str, ...],
    categories: tuple[str, ...] = (),
    split: str = "validation",
    prompt: str = MC,
) -> Task:
    macro = f"{categories[0]}/" if len(categories) > 1 else ""
    return Task(
        *(name, name, split, metric, tokens, groups),
        prompt=prompt,
        categories=categories,
        macro=macro,
        title=title,
    )


def _held_back(name: str, dataset: str, prompt: str = MC) -> Task:
    """A test split without public answers."""
    return Task(*(name, dataset, "test", PREDICTIONS_ONLY, 12, TEST), prompt=prompt, categories=())


def _image(
    name: str,
    metric: str,
    tokens: int,
    groups: tuple[str, ...] = (),
    split: str = "validation",
    categories: tuple[str, ...] = ("category",),
    macro: str = "",
    dataset: str = "",
) -> Task:
    about = dataset or name, split, metric, tokens, groups
    return Task(name, *about, batch_size=4, categories=categories, macro=macro)


def _with_split(task: Task, split: str, groups: tuple[str, ...] = ()) -> Task:
    """The same questions of another split."""
    hidden = split == "test" and task.dataset in NO_ANSWERS
    metric, name = PREDICTIONS_ONLY if hidden else task.metric, f"{task.name}:{split}"
    return replace(task, name=name, split=split, metric=metric, groups=groups)


def _and_test(task: Task) -> tuple[Task, Task]:
    return task, _with_split(task, "test", IMAGE_TEST)


def _track(name: str) -> Task:
    dataset = f"{name}_track_eval_1fps"
    return Task(dataset, dataset, "test", "tracking", 4096, ("tracking",), batch_size=1)


LVB = ("duration_group", "question_category", "level")
MME = ("duration", "domain", "sub_category", "task_type")

TASKS = (
    Task(SYNTHETIC, SYNTHETIC, "test", QUESTION_ANSWERING, 16, ("synthetic",), title="Synthetic"),
    Task(f"{SYNTHETIC}_validation", SYNTHETIC, "validation", QUESTION_ANSWERING, 16),
    # short videos
    _video("mvbench", "MVBench", "em_start", 32, SHORT, ("task_type",)),
    _video(
        *("tomato", "TOMATO", "tomato", 32, SHORT, ("reasoning_type",), "test"),
        prompt="video_multiple_choice",
    ),
    _video("motionbench", "MotionBench", "em_start", 12, SHORT, ("task_type",)),
    replace(
        _video(
            *("temp_compass_internal", "TempCompass", "temp_compass", 192, SHORT),
            ("task", "temporal_aspect"),
        ),
        only=("task", "multi-choice", "yes_no", "caption_matching"),  # captions need a judge
    ),
    _video(
        *("perception_test", "PerceptionTest", "perception_test_mc", 12, SHORT),
        ("area", "reasoning"),
    ),
    _video("ego_schema", "EgoSchema", "ego_schema_mc", 32, SHORT),
    _video("nextqa_mc", "NExT-QA", "nextqa_mc", 12, SHORT, ("question_type",), "test"),
    # long videos
    _video(
        *("video_mme_w_subtitle", "VideoMME-Sub", "video_mme", 12, SUBTITLE, MME),
        prompt=MC_SUBTITLE,
    ),
    _video(
        *("long_video_bench_w_subtitle", "LVB-Sub", "long_video_bench", 12, SUBTITLE, LVB),
        prompt=MC_SUBTITLE,
    ),
    _video("lvbench", "LVBench", "first_character", 12, SUBTITLE, ("qtype",), "test"),
    _video("mlvu_mc", "MLVU", "em_start", 12, LONG, ("task_type",)),
    _video("video_mme", "VideoMME", "video_mme", 12, LONG, MME),
    _video("long_video_bench_no_subtitle", "LVB", "long_video_bench", 12, LONG, LVB),
    _video(
        *("video_eval_pro_mc", "VideoEvalPro", "em_start", 32, LONG),
        *(("qa_type", "qa_subtype"), "test"),
    ),
    # test splits; the answers of the last four are not public
    _video("mlvu_mc_test", "MLVU-Test", "em_start", 12, TEST, ("task_type",), "test"),
    _held_back("perception_test_test", "perception_test"),
    _held_back("ego_schema_test", "ego_schema"),
    _held_back("motionbench_test", "motionbench"),
    _held_back("long_video_bench_w_subtitle_test", "long_video_bench_w_subtitle", MC_SUBTITLE),
    # video pointing, counting, tracking
    Task(
        *(
            "vixmo_points_count_clip_63s",
            "vixmo_points_count_clip_63s",
            "validation",
            "video_count",
        ),
        *(2048, ("video_pointing",)),
        categories=("subset",),
        macro="count/",
        title="Video count",
    ),
    Task(
        *("vixmo_points_point_eval", "vixmo_points_point_eval", "validation", "video_points"),
        *(2048, ("video_pointing",)),
        batch_size=1,
        title="Video point",
    ),
    Task(
        "mevis_point_track_per_frame_fps_6_sample_fps_1",
        "mevis_point_track_per_frame_fps_6_sample_fps_1",
        *("test", "tracking", 4096, ("video_pointing",)),
        batch_size=1,
        title="MeViS point",
    ),
    *map(_track, ("mevis", "ref_yt_vos", "ref_davis17", "reasonvos", "molmo2_video")),
    # single images
    _image("coco_2014_vqa_8192", "vqa_score", 12, IMAGE),
    _image("text_vqa", "text_vqa_score", 12, IMAGE + IMAGE_TEST),
    *_and_test(_image("chart_qa", "relaxed_correctness", 12, IMAGE)),
    *_and_test(_image("doc_qa", "anls", 12, IMAGE)),
    *_and_test(_image("info_qa", "anls", 12, IMAGE)),
    *_and_test(
        _image(
            *("ai2_diagram_v2_mix_transparent", "option_by_text", 32, IMAGE),
            macro="mc_ai2d_opaque",  # the usual figure
        )
    ),
    _image("mmmu_test", "mmmu", 64, IMAGE + IMAGE_TEST, dataset="mmmu"),
    _image("real_world_qa_no_instruction", "real_world_qa", 12, IMAGE + IMAGE_TEST, "test"),
    _image("math_vista_v2", "math_vista", 32, IMAGE + IMAGE_TEST),
    *_and_test(_image("a_okvqa_mc", "option_by_text", 32, IMAGE_TEST)),
    *_and_test(_image("a_okvqa_da", "a_okvqa_da", 12, IMAGE_TEST)),
    _image(
        *("countbench_qa", "image_count", 192, POINTING + IMAGE_TEST, "huggingface"),
        macro="count/",
    ),
    *_and_test(_image("pixmo_count_counting", "image_count", 192, POINTING, macro="count/")),
    _image("pointing_eval_v2", "image_points", 192, POINTING, "test"),
    _image("point_bench", "point_bench", 256, POINTING, "test"),
    # single images, in no group but for the first one's test
    *_and_test(_image("coco_2014_vqa", "vqa_score", 12)),
    _image("ai2_diagram", "option_by_text", 32, split="test"),
    _image("mmmu", "mmmu", 12),
    _image("mmmu_test_v2", "mmmu", 12, dataset="mmmu"),
    _image("real_world_qa", "real_world_qa", 12, split="test"),
    _image("okvqa", "vqa_score", 12),
    _image("science_qa_img", "option_by_text", 32),
    _image("tally_qa", "short_answer", 12),
    # several images
    _image("muir_bench", "letter_forms", 32, MULTI_IMAGE, "test"),
    _image(
        *("mmiu", "letter_forms", 32, MULTI_IMAGE, "test"),
        categories=("task", "relationship"),
        macro="task/",
    ),
    _image("blink", "letter_forms", 12, MULTI_IMAGE),
)


def groups() -> dict[str, list[Task]]:
    """Group name to its tasks, in the order of the table."""
    members: dict[str, list[Task]] = {}
    for task in TASKS:
        for group in task.groups:
            members.setdefault(group, []).append(task)
    return members


def resolve_tasks(mode: str | None, tasks: str | None, own_metric: str | None = None) -> list[Task]:
    """Tasks named by two comma-separated lists, without repeats, in the order given.

    Either list may hold group and task names alike; ``task:split`` asks for another split than
    the table's. A file or folder of own data is a task of its own, scored by ``own_metric``, by
    default by what each example's reference is. Raises ``ValueError`` for an unknown name (the
    message has the nearest known ones and the groups), a split that the data set lacks (the message
    has those it has) or that is for training, for two files with tasks of the same name, and when
    both lists are empty.
    """
    names = [n.strip() for listed in (mode, tasks) if listed for n in listed.split(",")]
    names = [n for n in names if n]
    if not names:
        raise ValueError(f"no task given: use --mode ({', '.join(groups())}) or --tasks")
    found: dict[str, Task] = {}
    for name in names:
        for task in _named(name, own_metric):
            other = found.setdefault(task.name, task)
            if task.own and task != other:
                both = f"{other.dataset} and {task.dataset}"
                raise ValueError(f"two tasks of the name {task.name!r}, {both}: rename the file")
    return list(found.values())


def _find_own(name: str) -> tuple[Path, str] | None:
    """File or folder of own data that a name of a task means, and its split, empty if none is
    asked for; None if it is no path. ``ValueError`` for a path that is not there."""
    from olmo.data.custom import is_own_data  # imported late: it takes a while

    base, _, split = name.rpartition(":")
    for text, of in ((name, ""), (base, split)):
        path = Path(expand(text))
        if text and path.exists():
            return path.absolute(), of
    if is_own_data(name) or is_own_data(base):
        raise ValueError(f"{name}: no such file or folder of own data")
    return None


def _task_name(path: Path) -> str:
    """Name of a file's task, of characters that suit a folder: the file's without its suffix."""
    return re.sub(r"[^\w.+-]", "_", path.name if path.is_dir() else path.stem)


def _own_task(path: Path, split: str, metric: str | None) -> Task:
    name = _task_name(path)
    if split:
        name = f"{name}:{split}"
    if name in {task.name for task in TASKS}:
        raise ValueError(f"{path}: {name!r} is the name of a task already; rename the file")
    metric = metric or OWN_DATA
    about = (str(path), split or "test", metric, OWN_TOKENS)
    return Task(name, *about, categories=("data_source",), own=True)


def _named(name: str, own_metric: str | None) -> list[Task]:
    known = {task.name: [task] for task in TASKS} | groups()
    base, _, split = name.partition(":")
    if base not in known:
        if (own := _find_own(name)) is not None:
            return [_own_task(*own, own_metric)]
        hint = f"{nearest(base, known)} Known groups: {', '.join(groups())}"
        raise ValueError(f"unknown evaluation task {base!r}; {hint}")
    if not split:
        return known[base]
    if base in groups():
        raise ValueError(f"{name!r}: {base} is a group; a split goes with a single task")
    (task,) = known[base]
    split = check_split(task.dataset, split)
    if split == "train":
        raise ValueError(f"{name!r}: a training split has no single questions to score")
    other = _with_split(task, split)
    same = [t for t in (task, *TASKS) if _asks(t) == _asks(other)]
    return [*same, other][:1]


def _asks(task: Task) -> tuple[str, str, str | None]:
    """What decides its prompts: a split without public answers is a task of its own."""
    return task.dataset, task.split, task.prompt
