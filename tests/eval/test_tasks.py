"""The task table and the names of the command line."""

import pytest

from olmo.eval.metrics import STYLES
from olmo.eval.tasks import TASKS, groups, resolve_tasks


def names(mode=None, tasks=None):
    return [task.name for task in resolve_tasks(mode, tasks)]


def test_table():
    assert len({task.name for task in TASKS}) == len(TASKS)
    assert not {task.name for task in TASKS} & set(groups())
    assert all(task.metric in STYLES and task.max_new_tokens > 0 for task in TASKS)


def test_resolve():
    test, validation = "synthetic_video_qa", "synthetic_video_qa_validation"
    assert names("synthetic") == [test]
    assert names(tasks=test) == [test]
    assert names(tasks=f"{validation}, {test},") == [validation, test]
    assert names("synthetic", f"{test},{validation}") == [test, validation]
    assert names(tasks="synthetic") == [test]
    assert resolve_tasks(None, validation)[0].split == "validation"


def test_unknown_name():
    with pytest.raises(ValueError, match=r"synthetic_vidoe.*Did you mean synthetic_video_qa") as e:
        resolve_tasks(None, "synthetic_vidoe")
    assert "Known groups: synthetic" in str(e.value)


@pytest.mark.parametrize("empty", [None, "", " , "])
def test_no_task(empty):
    with pytest.raises(ValueError, match="no task given"):
        resolve_tasks(empty, None)
