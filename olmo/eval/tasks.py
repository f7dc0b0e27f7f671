"""Evaluation tasks (the table is ``tasks.yaml``), and the names by which they are asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from olmo.config import convert, expand, read_settings
from olmo.data.registry import check_split
from olmo.eval.scoring.score import OWN_DATA, PREDICTIONS_ONLY
from olmo.text import nearest

OWN_TOKENS = 256
"""Longest answer of own data: they may ask for descriptions."""

MC = "video_eval_multiple_choice"
"""Prompt form: the question as the data set words it, with its lettered options."""


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
_TABLE: dict[str, Any] = read_settings(Path(__file__).with_name("tasks.yaml"))
NO_ANSWERS = set(_TABLE["no_answers"])
"""Data sets whose test split has no public answers: predictions only."""


def _task(name: str, row: dict[str, Any]) -> Task:
    """A row of the table."""
    dataset, _, split = name.partition(":")
    categories = row.get("categories", ())
    macro = f"{categories[0]}/" if len(categories) > 1 else ""
    row = {"dataset": dataset, "split": split or "validation", "macro": macro, **row}
    hints = get_type_hints(Task)
    return Task(name, **{k: convert(hints[k], v, f"{name}.{k}") for k, v in row.items()})


TASKS = [_task(name, row) for name, row in _TABLE["tasks"].items()]
"""The table. A plug-in may append to it."""


def _with_split(task: Task, split: str) -> Task:
    """The same questions of another split."""
    hidden = split == "test" and task.dataset in NO_ANSWERS
    metric, name = PREDICTIONS_ONLY if hidden else task.metric, f"{task.name}:{split}"
    return replace(task, name=name, split=split, metric=metric, groups=())


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
    return re.sub(r"^\.+|[^\w.+-]", "_", path.name if path.is_dir() else path.stem)


def _own_task(path: Path, split: str, metric: str | None) -> Task:
    from olmo.data.custom_files import chosen_split

    name = _task_name(path)
    if split:
        name = f"{name}:{split}"
    if name in {task.name for task in TASKS}:
        raise ValueError(f"{path}: {name!r} is the name of a task already; rename the file")
    metric = metric or OWN_DATA
    about = (str(path), chosen_split(path, split, "test"), metric, OWN_TOKENS)
    return Task(name, *about, own=True)


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
