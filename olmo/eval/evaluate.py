"""Evaluates one task: survey its examples, answer and score those that are not finished, merge.

Every rank takes its share of the examples and gets the merged result.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from olmo.data.examples import BAD_EXAMPLE, describe_error
from olmo.data.registry import Dataset
from olmo.distributed import gather, get_rank, get_world_size
from olmo.eval.answer import Answerer, Questions, raw_example
from olmo.eval.own_data import open_dataset
from olmo.eval.prediction import Answered, Prediction, Skipped, example_id
from olmo.eval.report import summarize, timing
from olmo.eval.scoring import Score, is_ours, score_example
from olmo.eval.settings import EvalSettings
from olmo.eval.store import TaskStore, append_rows, example_fingerprint
from olmo.eval.tasks import Task

if TYPE_CHECKING:
    from olmo.models.molmo2.molmo2 import Molmo2, Molmo2Config

log = logging.getLogger(__name__)
T = TypeVar("T")

PRUNING_FIELDS = ("prune", "topk", "prune_at", "prune_method")
SHOWN = 5
"""Skipped examples that the log names; the results name all of them."""


class TaskFailed(ValueError):
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


@dataclass
class Examples:
    """What a task asks: index to fingerprint of its examples, in the order of a run, the
    predictions that are there already, and others whose answers are to be scored anew. New ones
    go to the progress of ``store`` at once. ``unscorable``: why the metric refuses own data."""

    task: Task
    dataset: Dataset
    fingerprints: dict[int, str]
    finished: dict[int, Prediction] = field(default_factory=dict)
    answered: dict[int, Prediction] = field(default_factory=dict)
    store: TaskStore | None = None
    unscorable: dict[int, str] = field(default_factory=dict)

    @property
    def rest(self) -> list[int]:
        """Without an answer."""
        done = self.finished.keys() | self.answered.keys()
        return [index for index in self.fingerprints if index not in done]


def survey(task: Task, dataset: Dataset, settings: EvalSettings) -> Examples:
    """The examples to answer. ``ValueError`` for own data none of which can be scored: that is said
    before anything is answered."""
    found: dict[int, str] = {}
    unscorable: dict[int, str] = {}
    for index in example_order(len(dataset), settings.seed):
        if len(found) == settings.max_examples:
            break
        try:
            example = raw_example(dataset, index, settings.seed)
            fingerprint = example_fingerprint(example)
        except BAD_EXAMPLE:
            found[index] = "unreadable"  # loading it will say why
            continue
        metadata = example.get("metadata", {})
        if task.only and metadata.get(task.only[0]) not in task.only[1:]:
            continue
        found[index] = fingerprint
        if task.own and is_ours(task.metric):  # others may depend on the answer
            try:
                score_example("", metadata, task.metric)
            except ValueError as e:
                unscorable[index] = f"{example_id(metadata, index)}: {e}"
    n_read = sum(fingerprint != "unreadable" for fingerprint in found.values())
    if unscorable and len(unscorable) == n_read:
        first = next(iter(unscorable.values()))
        raise ValueError(f"{task.metric} can score none of {n_read} examples, first {first}")
    return Examples(task, dataset, found, unscorable=unscorable)


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
    one that the task names. The model is put into evaluation mode meanwhile. ``TaskFailed`` for
    whatever stops it.
    """
    examples = together(
        lambda: survey(task, open_dataset(task) if dataset is None else dataset, settings)
    )
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
        return Answerer(self.load, self.model_config, self.device, self.sharded)

    def evaluate(self, examples: Examples) -> TaskResult:
        """Answer the rest of the examples, and merge it with what is there; the same result on
        every rank."""
        start, task = time.perf_counter(), examples.task
        if examples.rest:
            self.answerer.model  # noqa: B018 (what stops its loading ends the run)
        # an error on one rank of a sharded model would leave the others waiting in the model: let
        # it end the run
        guard = (lambda answer: answer()) if self.sharded else together
        parts = gather(guard(lambda: self._scored(examples)))
        parts = [list(examples.finished.values()), *parts]
        predictions, skipped = merge(parts, examples.fingerprints)
        settings, device = self.settings, self.device
        metrics = {
            "task": task.name,
            "title": task.title or task.name,
            "dataset": task.dataset,
            "split": task.split,
            "metric": task.metric,
            **together(lambda: summarize(predictions, skipped, task.macro)),
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

    def _scored(self, examples: Examples) -> list[Prediction | Skipped]:
        """This rank's share of what is not finished."""
        settings, task, store = self.settings, examples.task, examples.store
        how = settings.limit(task), settings.seed, settings.batch_size(task), settings.generation

        def questions(indices: Iterable[int]) -> Questions:
            return Questions(task.name, examples.dataset, list(indices), *how, task.prompt)

        known, rest, workers = examples.answered, examples.rest, settings.num_workers
        answers: list[Iterator[Answered | Skipped]] = []
        if known:
            answers.append(self.answerer.again(questions(known), known, workers, shared=True))
        if rest:
            answers.append(self.answerer.answers(questions(rest), workers, shared=True))
        found: list[Prediction | Skipped] = []
        n_skipped = 0
        with store.open_progress(get_rank()) if store and answers else nullcontext() as file:
            for one in chain(*answers):
                if isinstance(one, Skipped):
                    found.append(one)
                else:
                    scored = scored_answer(one, task, examples.fingerprints[one.index])
                    found.append(scored)
                    if file is not None:
                        append_rows(file, [scored.row()])
                if (error := found[-1].error) is not None:
                    n_skipped += 1
                    if n_skipped <= SHOWN:
                        log.warning("%s: skipped example %d: %s", task.name, one.index, error)
        if n_skipped > SHOWN:
            log.warning("%s: skipped %d examples in all", task.name, n_skipped)
        return found


def scored_answer(found: Answered, task: Task, fingerprint: str) -> Prediction:
    """An answer with what it is worth. One that has no reference, or that a user's own scorer
    refuses, is kept with the reason."""
    asked = {"question": found.asked.question, **found.asked.metadata}
    score, error = Score(None), None
    try:
        score = score_example(found.text, asked, task.metric)
    except ValueError as e:
        error = f"{example_id(found.asked.metadata, found.index)}: {describe_error(e)}"
    return Prediction.of(found, score, task, fingerprint, error)


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
