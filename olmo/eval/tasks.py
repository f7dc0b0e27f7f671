"""The table of evaluation tasks: what to run, how to score it, how much to generate."""

from __future__ import annotations

from dataclasses import dataclass, replace

from olmo.data.registry import check_split
from olmo.eval.text_scorers import QUESTION_ANSWERING
from olmo.text import nearest

MC = "video_eval_multiple_choice"
MC_SUBTITLE = "video_eval_multiple_choice_w_subtitle"
"""Prompt forms: the question as the data set words it, with its lettered options."""


@dataclass(frozen=True)
class Task:
    """One data set split with its way of scoring.

    Attributes:
        metric: name of a scorer (``olmo.eval.scorers``).
        max_new_tokens: limit of each answer.
        groups: the ``--mode`` names that include the task.
        prompt: style that decides the form of the prompt; None keeps that of the examples.
        batch_size: examples that a rank loads at once, unless the command line says otherwise.
        categories: fields of the metadata by which scores are broken down; with several, the
            labels are ``field/value``.
        macro: beginning of the labels that count for the macro average.
        title: name in tables; the task's name if empty.
        only: a field of the metadata, then the values to keep; empty keeps all examples.
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

    @property
    def folder(self) -> str:
        """Name of the folder of its results."""
        return self.name.replace(":", "-")


SYNTHETIC = "synthetic_video_qa"
SHORT = ("short_video", "video", "video_no_subtitle")
LONG = ("long_video", "video", "video_no_subtitle")
SUBTITLE = ("long_video", "video", "video_subtitle")
TEST = ("test_video",)


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
    """A test split without public answers: predictions only."""
    return Task(
        *(name, dataset, "test", "predictions_only", 12, TEST),
        prompt=prompt,
        categories=(),
    )


def _image(name: str, metric: str, tokens: int, groups: tuple[str, ...], split: str) -> Task:
    return Task(name, name, split, metric, tokens, groups, batch_size=4)


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
        *("tomato", "TOMATO", "select_mc_option", 32, SHORT, ("reasoning_type",), "test"),
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
    _video("lvbench", "LVBench", "em_start", 12, SUBTITLE, ("qtype",), "test"),
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
    # images
    _image("chart_qa", "relaxed_correctness", 12, ("single_image",), "test"),
    _image("coco_2014_vqa", "vqa_score", 12, ("single_image",), "validation"),
    _image("doc_qa", "anls", 12, ("single_image",), "validation"),
    _image("info_qa", "anls", 12, ("single_image",), "validation"),
    _image("text_vqa", "vqa_score", 12, ("single_image",), "validation"),
    _image("ai2_diagram", "select_mc_option", 32, ("single_image",), "test"),
    _image("real_world_qa", QUESTION_ANSWERING, 12, ("single_image",), "test"),
    _image("math_vista_v2", QUESTION_ANSWERING, 32, ("single_image",), "validation"),
    _image("mmmu", QUESTION_ANSWERING, 12, ("single_image",), "validation"),
    *(
        replace(_image(name, metric, 256, ("image_pointing", "single_image"), split), macro=macro)
        for name, metric, split, macro in (
            ("countbench_qa", "image_count", "huggingface", "count/"),
            ("pixmo_count_counting", "image_count", "validation", "count/"),
            ("pointing_eval_v2", "image_points", "test", ""),
            ("point_bench", "point_bench", "test", ""),
        )
    ),
    _image("muir_bench", "select_mc_option", 32, ("multi_image",), "test"),
    _image("mmiu", "select_mc_option", 32, ("multi_image",), "test"),
    _image("blink", "select_mc_option", 12, ("multi_image",), "validation"),
)


def groups() -> dict[str, list[Task]]:
    """Group name to its tasks, in the order of the table."""
    members: dict[str, list[Task]] = {}
    for task in TASKS:
        for group in task.groups:
            members.setdefault(group, []).append(task)
    return members


def resolve_tasks(mode: str | None, tasks: str | None) -> list[Task]:
    """Tasks named by two comma-separated lists, without repeats, in the order given.

    Either list may hold group and task names alike; ``task:split`` asks for another split than
    the table's. Raises ``ValueError`` for an unknown name (the message has the nearest known ones
    and the groups), a split that the data set lacks (the message has those it has) or that is for
    training, and when both lists are empty.
    """
    names = [n.strip() for listed in (mode, tasks) if listed for n in listed.split(",")]
    names = [n for n in names if n]
    if not names:
        raise ValueError(f"no task given: use --mode ({', '.join(groups())}) or --tasks")
    found: dict[str, Task] = {}
    for name in names:
        found.update({task.name: task for task in _named(name)})
    return list(found.values())


def _named(name: str) -> list[Task]:
    known = {task.name: [task] for task in TASKS} | groups()
    base, _, split = name.partition(":")
    if base not in known:
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
    other = replace(task, name=f"{base}:{split}", split=split)
    return [next((t for t in TASKS if _asks(t) == _asks(other)), other)]


def _asks(task: Task) -> tuple[str, str, str | None]:
    """What decides its prompts: a split without public answers is a task of its own."""
    return task.dataset, task.split, task.prompt
