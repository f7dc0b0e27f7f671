"""Evaluation on a user's own data: the task of a file, and scorers of the user's own.

--tasks=my.jsonl --scorer=my_rule.py:score

def score(prediction: str, metadata: dict) -> float | dict | Score
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from olmo.config import ConfigError, expand
from olmo.data.registry import get_dataset
from olmo.eval.tasks import Task, resolve_tasks
from olmo.plugin import load_plugin
from olmo.text import nearest

if TYPE_CHECKING:
    from olmo.data.registry import Dataset


def open_dataset(task: Task) -> Dataset:
    """The examples of a task. Own data are a ``CustomDataError`` if no line can be used; one line
    that cannot costs that line."""
    if not task.own:
        return get_dataset(task.dataset, task.split)
    from olmo.data.custom import CustomDataset

    return CustomDataset.open(task.dataset, split=task.split, evaluation=True)


def own_metric(metric: str | None, scorer: str | None) -> str | None:
    """Name of the scorer that ``--metric`` or ``--scorer`` asks for; None without either.
    ``ConfigError`` for an unknown one, or both."""
    from olmo.eval.scoring import SCORERS

    if scorer is not None:
        if metric is not None:
            raise ConfigError("give either metric, a scorer's name, or scorer, a function")
        return load_scorer(scorer)
    if metric is not None and metric not in SCORERS:
        raise ConfigError(f"metric: unknown {metric!r}; {nearest(metric, SCORERS, listed=True)}")
    return metric


def resolve_scored(
    mode: str | None, tasks: str | None, metric: str | None, scorer: str | None
) -> list[Task]:
    """``resolve_tasks``, with own data scored as ``metric`` or ``scorer`` asks (``own_metric``).
    ``ConfigError`` if one of them is given and no task is own data."""
    own = own_metric(metric, scorer)
    found = resolve_tasks(mode, tasks, own)
    if own is not None and not any(task.own for task in found):
        flag = "metric" if scorer is None else "scorer"
        raise ConfigError(f"{flag} is for own data, and no task is a file or folder of them")
    return found


def load_scorer(text: str) -> str:
    """Register the function ``FILE.py:NAME`` as a scorer, and return the scorer's name."""
    from olmo.eval.scoring.score import scorer

    file, _, name = text.rpartition(":")
    if not file or not name.isidentifier():
        raise ConfigError(f"scorer: expected FILE.py:FUNCTION, got {text!r}")
    path = Path(expand(file))
    load_plugin(path, "--scorer")
    function = getattr(sys.modules[path.stem], name, None)
    if not callable(function):
        raise ConfigError(f"scorer: {path} has no function {name!r}")
    try:
        inspect.signature(function).bind("", {})
    except (TypeError, ValueError) as e:
        raise ConfigError(f"scorer: {path}: {name} takes no (prediction, metadata): {e}") from e
    short = f"{path.name}:{name}"
    scorer(short)(function)
    return short
