"""What an evaluation would do: its tasks, their data, tokens and limits. No model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from olmo.data.examples import BAD_EXAMPLE, describe_error
from olmo.eval.answer import raw_example
from olmo.eval.evaluate import example_order, survey
from olmo.eval.own_data import open_dataset
from olmo.eval.report import Problem
from olmo.text import format_table

if TYPE_CHECKING:
    from olmo.data.registry import Dataset
    from olmo.eval.settings import EvalPlan
    from olmo.eval.tasks import Task

HEADERS = ("task", "data set", "split", "metric", "examples", "tokens", "kept", "limit")


@dataclass
class DryRun:
    """The table, and what would keep the run from being complete as far as can be known."""

    text: str
    problems: list[Problem]


def describe_evaluation(plan: EvalPlan) -> DryRun:
    """One row per task: number of examples (none: the data cannot be opened, and a problem says
    why), visual tokens of its longest video before and after pruning, longest answer."""
    rows: list[list[object]] = []
    problems: list[Problem] = []
    for task in plan.tasks:
        n: int | None = None
        tokens: tuple[int, int] | None = None
        try:
            dataset = open_dataset(task)
            tokens = _visual_tokens(plan, dataset)
            n, left_out = _count(plan, task, dataset)
            if left_out:
                text = f"{len(left_out)} examples left out, first: {left_out[0]}"
                problems.append(Problem(task.name, text))
            if not n:
                problems.append(Problem(task.name, "no examples"))
        except BAD_EXAMPLE as e:
            problems.append(Problem(task.name, describe_error(e)))
        limits = (*(tokens or (None, None)), plan.config.limit(task))
        rows.append([task.name, task.dataset, task.split, task.metric, n, *limits])
    text = "\n".join(
        [
            f"checkpoint {plan.checkpoint}, results to {plan.folder}",
            format_table(HEADERS, rows),
            "tokens: visual ones of a video of the most frames, kept: after pruning",
        ]
    )
    return DryRun(text, problems)


def _count(plan: EvalPlan, task: Task, dataset: Dataset) -> tuple[int, list[str]]:
    """Examples that the run would score, and why others of own data would be left out."""
    if not task.only and not task.own:
        most = plan.config.max_examples
        return len(dataset) if most is None else min(most, len(dataset)), []
    examples = survey(task, dataset, plan.config)
    flaws: dict[int, str] = getattr(dataset, "flaws", {})
    left_out = {i: flaws[i] for i in examples.fingerprints if i in flaws} | examples.unscorable
    return len(examples.fingerprints) - len(left_out), list(left_out.values())


def _visual_tokens(plan: EvalPlan, dataset: Dataset) -> tuple[int, int] | None:
    """For a task about videos, as its first readable example says; None for any other."""
    for index in example_order(len(dataset), plan.config.seed)[:10]:
        try:
            example = raw_example(dataset, index, plan.config.seed)
        except BAD_EXAMPLE:
            continue
        if "video" not in example:
            return None
        budget = plan.model_config.budget
        n_frames = plan.model_config.mm_preprocessor.video.max_frames
        return budget.total(n_frames), budget.kept(n_frames)
    return None
