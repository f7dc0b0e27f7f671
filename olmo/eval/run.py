"""A whole evaluation run: every task in turn, with what is finished read back.

A task that fails costs no other one: its problem is listed, on every rank, and the run goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from olmo.data.registry import Dataset
from olmo.device import DTYPES
from olmo.distributed import from_main, is_main
from olmo.eval.answering import Row
from olmo.eval.evaluator import (
    Examples,
    Setup,
    TaskFailed,
    batch_size,
    evaluate_rows,
    survey,
    together,
)
from olmo.eval.failure_pictures import draw_failures
from olmo.eval.loading import load_for_evaluation
from olmo.eval.own_data import open_dataset
from olmo.eval.report import Problem, TaskResult, find_problems
from olmo.eval.report_html import write_report
from olmo.eval.settings import EvalPlan, EvalSettings
from olmo.eval.store import TaskStore, data_version, run_key
from olmo.eval.tasks import Task
from olmo.files import write_json

if TYPE_CHECKING:
    from olmo.models.molmo2.molmo2 import Molmo2

log = logging.getLogger(__name__)

PROBLEMS_FILE = "problems.json"


@dataclass
class EvalOutcome:
    """``metrics`` of the tasks that were scored, in task order, and what went wrong."""

    metrics: list[dict[str, Any]]
    problems: list[Problem]


def run_evaluation(plan: EvalPlan, device: torch.device) -> EvalOutcome:
    """Evaluate the tasks of ``plan``; the same outcome on every rank.

    Writes ``<folder>/<task>/{metrics,predictions}.json``, ``report.html`` and ``problems.json``.
    Finished results of the very same set-up and data are read back instead, unless ``overwrite``
    is on; with all of them there the model is not loaded.
    """
    if is_main():
        plan.folder.mkdir(parents=True, exist_ok=True)  # now, not after hours of answers
    run = _Run(plan, device)
    with _reproducible(plan.config):
        for task in plan.tasks:
            run.evaluate(task)
    outcome = EvalOutcome(run.metrics, run.problems)
    if is_main():
        write_json(plan.folder / PROBLEMS_FILE, [vars(p) for p in outcome.problems])
        write_report(plan.folder, outcome.metrics, outcome.problems)
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


@dataclass
class _Run:
    """The state of ``run_evaluation``."""

    plan: EvalPlan
    device: torch.device
    metrics: list[dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    model: Molmo2 | None = None

    def evaluate(self, task: Task) -> None:
        """Evaluate one task; whatever stops it becomes a problem of the run."""
        try:
            metrics = self._metrics(task)
        except TaskFailed as e:
            if is_main():  # every rank has the same error
                log.error("%s failed: %s", task.name, e)
            self.problems.append(Problem(task.name, str(e)))
            return
        self.metrics.append(metrics)
        self.problems += find_problems(metrics)

    def _metrics(self, task: Task) -> dict[str, Any]:
        plan, config = self.plan, self.plan.config
        limit = config.max_new_tokens or task.max_new_tokens
        key = run_key(plan.checkpoint, task, self._settings(limit, task))
        store = TaskStore(plan.folder / task.folder, key)
        dataset = together(lambda: open_dataset(task))
        work = together(lambda: from_main(lambda: self._survey(task, dataset, store)))
        if work.metrics is not None:
            if is_main():
                log.info("%s is up to date", store.folder)
            return work.metrics
        if len(work.rows) < len(work.fingerprints):
            model = self._load()
        else:
            model = None  # every answer is there; only the averages are new
        examples = Examples(task, dataset, work.fingerprints, work.rows)
        setup = Setup(model, plan.model_config, config, self.device, config.fsdp)
        result = evaluate_rows(examples, setup, store)
        metrics = {
            **result.metrics,
            "checkpoint": str(plan.checkpoint),
            "cache_key": key,
            "data_version": data_version(work.fingerprints),
            "overrides": plan.config.model,
            "timing": result.timing,
        }
        if is_main():
            store.write(metrics, result.predictions)
        if model is not None and config.pictures:
            self._draw(task, dataset, result, model)
        return metrics

    def _settings(self, limit: int, task: Task) -> dict[str, Any]:
        """Plain values that decide the answers, besides checkpoint, task and data."""
        config = self.plan.config
        batch = {"device_batch_size": batch_size(config, task)}
        return {
            "max_new_tokens": limit,
            "seed": config.seed,
            "generation": config.generation,
            **(batch if config.generation == "batched" else {}),
            "weights": str(self._dtype()),
            "device": self.device.type,
            "model": self.plan.model_config.to_dict(),
            # the config only has the path of a file of wordings
            "wordings": self.plan.model_config.data_formatter.build().wordings.fixed(),
        }

    def _dtype(self) -> torch.dtype:
        default = "bf16" if self.device.type == "cuda" else "fp32"
        return DTYPES[self.plan.config.weights or default]

    def _load(self) -> Molmo2:
        if self.model is None:
            self.model = load_for_evaluation(
                *(self.plan.checkpoint, self.plan.overrides, self.device, self._dtype()),
                sharded=self.plan.config.fsdp,
            )
        return self.model

    def _survey(self, task: Task, dataset: Dataset, store: TaskStore) -> _Work:
        """Which examples there are, and which rows are finished."""
        config = self.plan.config
        if config.overwrite:
            store.clear()
        fingerprints = survey(task, dataset, config)
        metrics = store.metrics()
        rows = store.finished(fingerprints, metrics is not None)
        current = metrics is not None and metrics["data_version"] == data_version(fingerprints)
        if not current or len(rows) < len(fingerprints):
            metrics = None
        return _Work(fingerprints, rows, metrics)

    def _draw(self, task: Task, dataset: Dataset, result: TaskResult, model: Molmo2) -> None:
        """Pictures of some failures; all ranks take part, as the model may be sharded."""
        folder, config = self.plan.folder / task.folder, self.plan.config
        rows = result.predictions
        try:
            together(
                lambda: draw_failures(model, dataset, rows, folder, config.pictures, config.seed)
            )
        except TaskFailed as e:
            log.warning("%s: no pictures of failures: %s", task.name, e)


@dataclass
class _Work:
    fingerprints: dict[int, str]
    rows: dict[int, Row]
    metrics: dict[str, Any] | None
