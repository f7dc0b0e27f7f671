"""The task table and the names of the command line."""

import json
from pathlib import Path

import pytest

from olmo.data.registry import check_split
from olmo.eval.scoring.score import SCORERS
from olmo.eval.tasks import TASKS, groups, resolve_tasks


def names(mode=None, tasks=None):
    return [task.name for task in resolve_tasks(mode, tasks)]


GROUPS = (
    *("video", "short_video", "long_video", "video_no_subtitle", "video_subtitle", "test_video"),
    *("video_pointing", "image_pointing", "single_image", "single_image_test", "multi_image"),
    *("tracking", "synthetic"),
)
RECORDED = json.loads((Path(__file__).parent / "recorded/tasks.json").read_text())
"""Tasks of the evaluation groups of the reference implementation. ``resolves``: it has the data."""
ITS_GROUPS = {
    "short_video": "SHORT_VIDEO",
    "video_subtitle": "LONG_VIDEO_SUBTITLES",
    "test_video": "TEST_VIDEO_DATASETS",
    "video_pointing": "VIDEO_POINTING",
    "tracking": "TRACKING",
    "image_pointing": "IMAGE_POINTING",
    "single_image_test": "TEST_IMAGE_TASKS",
    "multi_image": "MULTI_IMAGE_TASKS",
}
ABSENT = {"coco_2014_vqa_multi", "pixmo_clocks", "vixmo_points_count:val", "vixmo_caps_eval2:test"}
SAME_DATA = {"mmmu_test": "mmmu", "mmmu_test_v2": "mmmu"}
SAME_DATA |= {f"{name}_test": name for name in ("ego_schema", "motionbench")}
"""Data sets that are a split of one of ours."""


def test_table():
    assert len({task.name for task in TASKS}) == len(TASKS)
    assert not {task.name for task in TASKS} & set(groups())
    assert set(groups()) == set(GROUPS)
    for task in TASKS:
        assert task.metric in SCORERS and task.max_new_tokens > 0 and task.batch_size > 0, task


def test_groups():
    short, long = names("short_video"), names("long_video")
    assert (len(short), len(long)) == (7, 7)
    assert names("video") == short + long
    subtitle, plain = names("video_subtitle"), names("video_no_subtitle")
    assert set(subtitle) | set(plain) == set(names("video")) and not set(subtitle) & set(plain)
    assert all(
        t.prompt and t.prompt.endswith("_w_subtitle")
        for t in resolve_tasks(None, "video_mme_w_subtitle,long_video_bench_w_subtitle")
    )
    assert len(names("video_pointing")) == 3 and len(names("tracking")) == 5


@pytest.mark.parametrize("of", RECORDED, ids=lambda of: of["task"])
def test_tasks_of_the_reference(of):
    if of["task"] in ABSENT:
        assert not of["resolves"]
        with pytest.raises(ValueError, match="unknown evaluation task"):
            resolve_tasks(None, of["task"])
        return
    (task,) = resolve_tasks(None, of["task"])
    assert task.max_new_tokens == of["tokens"]
    if of["resolves"]:
        assert task.dataset == SAME_DATA.get(of["dataset"], of["dataset"])
        assert task.split == check_split(task.dataset, of["split"])


def test_groups_of_the_reference():
    def of(*groups):
        asked = (r["task"] for r in RECORDED if set(groups) & set(r["groups"]))
        return set(names(tasks=",".join(name for name in asked if name not in ABSENT)))

    for ours, its in ITS_GROUPS.items():
        assert set(names(ours)) == of(its), ours
    assert set(names("single_image")) == of("IMAGE_TASKS", "IMAGE_POINTING")
    assert set(names("video_no_subtitle")) == of("SHORT_VIDEO", "LONG_VIDEO_NO_SUBTITLES")
    single = names("single_image")
    assert single[:2] == ["coco_2014_vqa_8192", "text_vqa"] and len(single) == 13
    assert len(names("single_image_test")) == 15


def test_every_task_names_a_data_set_and_one_of_its_splits():
    for task in TASKS:
        assert check_split(task.dataset, task.split) == task.split


def test_another_split():
    assert resolve_tasks(None, "chart_qa:val") == resolve_tasks(None, "chart_qa")
    assert resolve_tasks(None, "mmmu:val")[0].max_new_tokens == 12  # mmmu_test: 64
    (task,) = resolve_tasks(None, "science_qa_img:test")
    assert (task.name, task.dataset) == ("science_qa_img:test", "science_qa_img")
    assert (task.split, task.folder) == ("test", "science_qa_img-test")
    # the answers of these are not public
    for name in ("doc_qa", "a_okvqa_mc", "blink", "mmmu", "mmmu_test", "math_vista_v2"):
        (task,) = resolve_tasks(None, f"{name}:test")
        assert (task.name, task.metric) == (f"{name}:test", "predictions_only")
    assert resolve_tasks(None, "motionbench:test") == resolve_tasks(None, "motionbench_test")
    assert resolve_tasks(None, "ego_schema:test")[0].metric == "predictions_only"
    assert resolve_tasks(None, "tomato:test") == resolve_tasks(None, "tomato")
    assert resolve_tasks(None, "motionbench:val") == resolve_tasks(None, "motionbench")
    with pytest.raises(ValueError, match="video is a group"):
        resolve_tasks("video:test", None)


def test_resolve():
    test, validation = "synthetic_video_qa", "synthetic_video_qa_validation"
    assert names("synthetic") == [test]
    assert names(tasks=test) == [test]
    assert names(tasks=f"{validation}, {test},") == [validation, test]
    assert names("synthetic", f"{test},{validation}") == [test, validation]
    assert names(tasks="synthetic") == [test]
    assert resolve_tasks(None, validation)[0].split == "validation"


def test_unknown_name():
    with pytest.raises(ValueError, match=r"vidoe.*did you mean 'synthetic_video_qa'") as e:
        resolve_tasks(None, "synthetic_vidoe")
    assert "Known groups: synthetic, short_video" in str(e.value)


@pytest.mark.parametrize("empty", [None, "", " , "])
def test_no_task(empty):
    with pytest.raises(ValueError, match="no task given"):
        resolve_tasks(empty, None)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("synthetic_video_qa:dev", "no split 'dev', only train, validation, test"),
        ("synthetic_video_qa:train", "'synthetic_video_qa:train': a training split"),
        ("mvbench:test", "data set 'mvbench' has no split 'test', only validation"),
    ],
)
def test_a_split_that_cannot_be_scored(named, message):
    with pytest.raises(ValueError, match=message):
        resolve_tasks(None, f"tomato,{named}")


def test_the_documentation_names_every_task_and_group():
    text = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    known = [*groups(), *(task.name.removesuffix("_track_eval_1fps") for task in TASKS)]
    assert [name for name in known if f"`{name}`" not in text] == []
