"""A whole evaluation run: every task in turn, with what is finished read back.

A task that fails costs no other one: its problem is listed, on every rank, and the run goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from olmo.data.registry import Dataset
from olmo.device import DTYPES
from olmo.distributed import from_main, is_main
from olmo.eval.evaluate import Evaluator, Examples, TaskFailed, survey, together
from olmo.eval.failure_pictures import draw_failures
from olmo.eval.loading import load_for_evaluation
from olmo.eval.own_data import open_dataset
from olmo.eval.prediction import Prediction
from olmo.eval.report import Problem, find_problems
from olmo.eval.report_html import REPORT_FILE, write_pages
from olmo.eval.settings import EvalPlan, EvalSettings
from olmo.eval.store import TaskStore, data_version, run_key
from olmo.eval.tasks import Task

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)


@dataclass
class EvalOutcome:
    """``metrics`` of the tasks that were scored, in task order, and what went wrong."""

    metrics: list[dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def run_evaluation(plan: EvalPlan, device: torch.device) -> EvalOutcome:
    """Evaluate the tasks of ``plan``; the same outcome on every rank.

    Writes ``<folder>/<task>/{metrics,predictions}.json``, ``report.html`` and ``problems.json``.
    Finished results of the very same set-up and data are read back instead, unless ``overwrite``
    is on; with all of them there the model is not loaded.
    """
    if is_main():
        plan.folder.mkdir(parents=True, exist_ok=True)  # now, not after hours of answers
    run, outcome = _Run(plan, device), EvalOutcome()
    with _reproducible(plan.config):
        for task in plan.tasks:
            try:
                metrics = run.metrics(task)
            except TaskFailed as e:
                if is_main():  # every rank has the same error
                    log.error("%s failed: %s", task.name, e)
                outcome.problems.append(Problem(task.name, str(e)))
                continue
            outcome.metrics.append(metrics)
            outcome.problems += find_problems(metrics)
    try:
        together(
            lambda: (
                write_pages(plan.folder, outcome.metrics, outcome.problems) if is_main() else None
            )
        )
    except TaskFailed as e:  # the results are there
        outcome.problems.append(Problem(REPORT_FILE, str(e)))
    return outcome


@contextmanager
def _reproducible(config: EvalSettings) -> Iterator[None]:
    """Floating-point results on the CPU depend on the number of threads: exact generation uses
    one, also to prepare what goes to a GPU."""
    threads = torch.get_num_threads()
    if config.generation == "exact":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


_Found = tuple[dict[int, str], dict[int, Prediction], dict[int, Prediction], dict[str, Any] | None]
"""Of a task: fingerprints, what is finished, what has an answer, and the metrics of all of it."""


class _Run:
    """The tasks of a plan, one after the other, with one model."""

    def __init__(self, plan: EvalPlan, device: torch.device):
        self.plan, self.device = plan, device
        config = plan.config
        self.dtype = DTYPES[config.weights or ("bf16" if device.type == "cuda" else "fp32")]
        self.evaluator = Evaluator(
            *(plan.model_config, config, device),
            load=lambda: load_for_evaluation(
                *(plan.checkpoint, plan.overrides, device, self.dtype), sharded=config.fsdp
            ),
            sharded=config.fsdp,
        )
        # all of them now: files that are edited meanwhile are loaded already
        self.keys = together(lambda: from_main(self._keys))

    def _keys(self) -> dict[str, str]:
        plan = self.plan
        return {t.name: run_key(plan.checkpoint, t, self._settings(t)) for t in plan.tasks}

    def metrics(self, task: Task) -> dict[str, Any]:
        """Those of a task, read back or found. ``TaskFailed`` for whatever stops it."""
        plan, config = self.plan, self.plan.config
        key = self.keys[task.name]
        store = TaskStore(plan.folder / task.folder, key)
        dataset = together(lambda: open_dataset(task))
        found = together(lambda: from_main(lambda: self._survey(task, dataset, store)))
        fingerprints, finished, answered, metrics = found
        if metrics is not None:
            if is_main():
                log.info("%s is up to date", store.folder)
            return metrics
        examples = Examples(task, dataset, fingerprints, finished, answered, store)
        if is_main() and examples.answered:
            log.info("%s: %d answers are scored anew", task.name, len(examples.answered))
        result = self.evaluator.evaluate(examples)
        metrics = {
            **result.metrics,
            "checkpoint": str(plan.checkpoint),
            "cache_key": key,
            "data_version": data_version(fingerprints),
            "overrides": plan.config.model,
            "timing": result.timing,
        }
        together(lambda: store.write(metrics, result.predictions) if is_main() else None)
        if config.pictures and examples.rest:
            self._draw(task, dataset, result.predictions)
        return metrics

    def _settings(self, task: Task) -> dict[str, Any]:
        """Plain values that decide the answers, besides checkpoint, task and data."""
        config = self.plan.config
        batch = {"device_batch_size": config.batch_size(task)}
        return {
            "max_new_tokens": config.limit(task),
            "seed": config.seed,
            "generation": config.generation,
            **(batch if config.generation == "batched" else {}),
            "weights": str(self.dtype),
            "device": self.device.type,
            "model": self.plan.model_config.to_dict(),
            # the config only has the path of a file of wordings
            "wordings": self.plan.model_config.data_formatter.build().wordings.fixed(),
        }

    def _survey(self, task: Task, dataset: Dataset, store: TaskStore) -> _Found:
        config = self.plan.config
        fingerprints = survey(task, dataset, config).fingerprints
        if config.overwrite:
            store.clear()
        metrics, finished = store.metrics(), store.finished(fingerprints)
        answered = {k: v for k, v in store.answered(fingerprints).items() if k not in finished}
        current = metrics is not None and metrics.get("data_version") == data_version(fingerprints)
        complete = current and len(finished) == len(fingerprints)
        return fingerprints, finished, answered, metrics if complete else None

    def _draw(self, task: Task, dataset: Dataset, predictions: Sequence[Prediction]) -> None:
        """Pictures of some failures; all ranks take part, as the model may be sharded."""
        folder, config = self.plan.folder / task.folder, self.plan.config
        model = self.evaluator.answerer.model
        about = dataset, predictions, folder, config.pictures, config.seed
        try:
            together(lambda: draw_failures(model, *about))
        except TaskFailed as e:
            log.warning("%s: no pictures of failures: %s", task.name, e)
