"""Evaluates one task, or a whole run of them, data-parallel over the ranks.

Every rank takes its share of a task's examples and gets the merged result. In a run, what is
finished is read back, and a task that fails costs no other one: its problem is listed, on every
rank, and the run goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from olmo.data.examples import BAD_EXAMPLE, describe_error
from olmo.data.registry import Dataset
from olmo.device import DTYPES
from olmo.distributed import from_main, gather, get_rank, get_world_size, is_main
from olmo.eval.answer import Answered, Answerer, Questions, Skipped, raw_example
from olmo.eval.failure_pictures import draw_failures
from olmo.eval.loading import load_for_evaluation
from olmo.eval.own_data import open_dataset
from olmo.eval.prediction import Prediction
from olmo.eval.report import Problem, find_problems, summarize, timing
from olmo.eval.report_html import write_report
from olmo.eval.scoring import score_example
from olmo.eval.settings import EvalPlan, EvalSettings
from olmo.eval.store import TaskStore, append_rows, data_version, example_fingerprint, run_key
from olmo.eval.tasks import Task
from olmo.files import write_json

if TYPE_CHECKING:
    from olmo.models.molmo2.molmo2 import Molmo2, Molmo2Config

log = logging.getLogger(__name__)
T = TypeVar("T")

PROBLEMS_FILE = "problems.json"
PRUNING_FIELDS = ("prune", "topk", "prune_at", "prune_method")


class TaskFailed(RuntimeError):
    """A task that cannot be evaluated; the message says why. Raised on every rank."""


@dataclass
class TaskResult:
    """``metrics`` and ``predictions`` (sorted by example index) can be reproduced, but for the
    ``seconds`` of a prediction; ``timing`` cannot."""

    task: Task
    metrics: dict[str, Any]
    predictions: list[Prediction]
    timing: dict[str, Any]


def together(function: Callable[[], T]) -> T:
    """Run ``function`` on every rank; if it fails on any, ``TaskFailed`` is raised on all."""
    value, error = None, None
    try:
        value = function()
    except Exception as e:  # whatever it is, it must not cost the other tasks
        log.debug("traceback of the error below", exc_info=True)
        error = describe_error(e)
    for found in gather(error):
        if found is not None:
            raise TaskFailed(found)
    return value  # type: ignore[return-value]


# --- one task ----------------------------------------------------------------------------------


@dataclass
class Examples:
    """What a task asks: index to fingerprint of its examples, in the order of a run, and the
    predictions that are there already. New ones go to the progress of ``store`` at once."""

    task: Task
    dataset: Dataset
    fingerprints: dict[int, str]
    finished: dict[int, Prediction] = field(default_factory=dict)
    store: TaskStore | None = None

    @property
    def rest(self) -> list[int]:
        return [index for index in self.fingerprints if index not in self.finished]


def survey(task: Task, dataset: Dataset, settings: EvalSettings) -> Examples:
    """The examples to answer."""
    found: dict[int, str] = {}
    for index in example_order(len(dataset), settings.seed):
        if len(found) == settings.max_examples:
            break
        try:
            example = raw_example(dataset, index, settings.seed)
        except BAD_EXAMPLE:
            found[index] = "unreadable"  # loading it will say why
            continue
        if task.only and example.get("metadata", {}).get(task.only[0]) not in task.only[1:]:
            continue
        found[index] = example_fingerprint(example)
    return Examples(task, dataset, found)


def evaluate_task(
    model: Molmo2,
    model_config: Molmo2Config,
    task: Task,
    settings: EvalSettings,
    device: torch.device,
    dataset: Dataset | None = None,
) -> TaskResult:
    """Answer and score the examples of ``task``, data-parallel over the ranks; no files.

    Every rank calls it with a whole model and gets the merged result. ``dataset`` replaces the
    one that the task names. The model is put into evaluation mode meanwhile.
    """
    examples = survey(task, open_dataset(task) if dataset is None else dataset, settings)
    return Evaluator(model_config, settings, device, lambda: model).evaluate(examples)


@dataclass
class Evaluator:
    """Answers and scores tasks with the model that ``load`` gives, which is called when there is
    something to answer; ``sharded``: its parameters are spread over the ranks."""

    model_config: Molmo2Config
    settings: EvalSettings
    device: torch.device
    load: Callable[[], Molmo2]
    sharded: bool = False

    @cached_property
    def answerer(self) -> Answerer:
        return Answerer.of(self.load(), self.model_config, self.device, self.sharded)

    def evaluate(self, examples: Examples) -> TaskResult:
        """Answer the rest of the examples, and merge it with what is there; the same result on
        every rank."""
        start, task = time.perf_counter(), examples.task
        parts: list[Sequence[Prediction | Skipped]] = [list(examples.finished.values())]
        if examples.rest:
            answerer = self.answerer
            # an error on one rank of a sharded model would leave the others waiting in the model:
            # let it end the run
            guard = (lambda answer: answer()) if self.sharded else together
            parts += gather(guard(lambda: self._answer(answerer, examples)))
        predictions, skipped = merge(parts, examples.fingerprints)
        settings, device = self.settings, self.device
        metrics = {
            "task": task.name,
            "title": task.title or task.name,
            "dataset": task.dataset,
            "split": task.split,
            "metric": task.metric,
            **summarize(predictions, skipped, task.macro),
            "max_examples": settings.max_examples,
            "max_new_tokens": settings.limit(task),
            "seed": settings.seed,
            "generation": settings.generation,
            "model": pruning_settings(self.model_config),
        }
        times = timing(predictions) | {
            "seconds_of_the_run": time.perf_counter() - start,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "device_batch_size": settings.batch_size(task),
            "world_size": get_world_size(),
        }
        return TaskResult(task, metrics, predictions, times)

    def _answer(self, answerer: Answerer, examples: Examples) -> list[Prediction | Skipped]:
        """This rank's share of the rest."""
        settings, task, store = self.settings, examples.task, examples.store
        how = settings.limit(task), settings.seed, settings.batch_size(task), settings.generation
        questions = Questions(task.name, examples.dataset, examples.rest, *how, task.prompt)
        found: list[Prediction | Skipped] = []
        with store.open_progress(get_rank()) if store else nullcontext() as file:
            for one in answerer.answers(questions, settings.num_workers, shared=True):
                scored = scored_answer(one, task, examples.fingerprints[one.index])
                if isinstance(scored, Skipped):
                    log.warning("%s: skipped example %d: %s", task.name, scored.index, scored.error)
                elif file is not None:
                    append_rows(file, [scored.row()])
                found.append(scored)
        return found


def scored_answer(found: Answered | Skipped, task: Task, fingerprint: str) -> Prediction | Skipped:
    """An answer with what it is worth; one that has no reference, or that a user's own scorer
    refuses, is left out."""
    if isinstance(found, Skipped):
        return found
    asked = {"question": found.asked.question, **found.asked.metadata}
    try:
        score = score_example(found.text, asked, task.metric)
    except ValueError as e:
        return Skipped(found.index, describe_error(e))
    return Prediction.of(found, score, task, fingerprint)


def merge(
    parts: Iterable[Sequence[Prediction | Skipped]], expected: Collection[int]
) -> tuple[list[Prediction], list[Skipped]]:
    """The predictions and the skipped examples of all parts, sorted by example index; every
    expected example is there once."""
    found = sorted((one for part in parts for one in part), key=lambda one: one.index)
    indices = [one.index for one in found]
    assert indices == sorted(expected), f"{len(indices)} results for {len(expected)} examples"
    predictions = [one for one in found if isinstance(one, Prediction)]
    return predictions, [one for one in found if isinstance(one, Skipped)]


def example_order(n_examples: int, seed: int) -> list[int]:
    """Example indices in the order in which a limited run takes them."""
    order: list[int] = np.random.default_rng(seed).permutation(n_examples).tolist()
    return order


def pruning_settings(model_config: Molmo2Config) -> dict[str, Any]:
    """Name of the model and those settings of token pruning that it has."""
    vit = model_config.vision_backbone.vit
    found = {name: getattr(vit, name) for name in PRUNING_FIELDS if hasattr(vit, name)}
    return {
        "model_name": model_config.model_name,
        "max_frames": model_config.mm_preprocessor.video.max_frames,
        **found,
    }


# --- a run -------------------------------------------------------------------------------------


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

    def metrics(self, task: Task) -> dict[str, Any]:
        """Those of a task, read back or found. ``TaskFailed`` for whatever stops it."""
        plan, config = self.plan, self.plan.config
        key = run_key(plan.checkpoint, task, self._settings(task))
        store = TaskStore(plan.folder / task.folder, key)
        dataset = together(lambda: open_dataset(task))
        found = together(lambda: from_main(lambda: self._survey(task, dataset, store)))
        fingerprints, finished, metrics = found
        if metrics is not None:
            if is_main():
                log.info("%s is up to date", store.folder)
            return metrics
        examples = Examples(task, dataset, fingerprints, finished, store)
        result = self.evaluator.evaluate(examples)
        metrics = {
            **result.metrics,
            "checkpoint": str(plan.checkpoint),
            "cache_key": key,
            "data_version": data_version(fingerprints),
            "overrides": plan.config.model,
            "timing": result.timing,
        }
        if is_main():
            store.write(metrics, result.predictions)
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

    def _survey(
        self, task: Task, dataset: Dataset, store: TaskStore
    ) -> tuple[dict[int, str], dict[int, Prediction], dict[str, Any] | None]:
        """Fingerprints of the examples, what is finished, and the metrics if all of it is."""
        config = self.plan.config
        if config.overwrite:
            store.clear()
        fingerprints = survey(task, dataset, config).fingerprints
        metrics = store.metrics()
        finished = store.finished(fingerprints, metrics is not None)
        current = metrics is not None and metrics["data_version"] == data_version(fingerprints)
        complete = current and len(finished) == len(fingerprints)
        return fingerprints, finished, metrics if complete else None

    def _draw(self, task: Task, dataset: Dataset, predictions: Sequence[Prediction]) -> None:
        """Pictures of some failures; all ranks take part, as the model may be sharded."""
        folder, config = self.plan.folder / task.folder, self.plan.config
        model = self.evaluator.answerer.model
        about = dataset, predictions, folder, config.pictures, config.seed
        try:
            together(lambda: draw_failures(model, *about))
        except TaskFailed as e:
            log.warning("%s: no pictures of failures: %s", task.name, e)
