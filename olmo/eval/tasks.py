"""The table of evaluation tasks: what to run, how to score it, how much to generate."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from olmo.eval.metrics import QUESTION_ANSWERING


@dataclass(frozen=True)
class Task:
    """One data set split with its way of scoring.

    ``metric`` is an answer style of ``olmo.eval.metrics``; ``max_new_tokens`` limits each answer;
    ``groups`` are the ``--mode`` names that include the task.
    """

    name: str
    dataset: str
    split: str
    metric: str
    max_new_tokens: int
    groups: tuple[str, ...] = ()


SYNTHETIC = "synthetic_video_qa"

TASKS = (
    Task(SYNTHETIC, SYNTHETIC, "test", QUESTION_ANSWERING, 16, ("synthetic",)),
    Task(f"{SYNTHETIC}_validation", SYNTHETIC, "validation", QUESTION_ANSWERING, 16),
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

    Either list may hold group and task names alike. Raises ``ValueError`` for an unknown name
    (the message has the nearest known ones and the groups) and when both lists are empty.
    """
    known = {task.name: [task] for task in TASKS} | groups()
    names = [n.strip() for listed in (mode, tasks) if listed for n in listed.split(",")]
    names = [n for n in names if n]
    if not names:
        raise ValueError(f"no task given: use --mode ({', '.join(groups())}) or --tasks")
    found: dict[str, Task] = {}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise ValueError(
                f"unknown evaluation task {name!r}.{hint} Known groups: {', '.join(groups())}"
            )
        found.update({task.name: task for task in known[name]})
    return list(found.values())
