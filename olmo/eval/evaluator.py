"""Evaluates one task: survey its examples, answer those without a row, merge over the ranks, score.

Every rank takes its share of the examples and gets the merged result.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from olmo.data.examples import BAD_EXAMPLE, describe_error
from olmo.data.registry import Dataset
from olmo.distributed import gather, get_rank, get_world_size
from olmo.eval.answering import Answerer, RankResults, Row, on_device
from olmo.eval.examples import LENGTH_WINDOW, ExampleLoader, raw_example
from olmo.eval.lockstep import Lockstep
from olmo.eval.own_data import open_dataset
from olmo.eval.report import TaskResult, merge_ranks, summarize, timing
from olmo.eval.settings import EvalSettings
from olmo.eval.store import TaskStore, append_rows, example_fingerprint
from olmo.eval.tasks import Task

if TYPE_CHECKING:
    from olmo.models.molmo2.molmo2 import Molmo2, Molmo2Config

log = logging.getLogger(__name__)
T = TypeVar("T")

PRUNING_FIELDS = ("prune", "topk", "prune_at", "prune_method")


class TaskFailed(RuntimeError):
    """A task that cannot be evaluated; the message says why. Raised on every rank."""


@dataclass
class Examples:
    """What a task asks: index to fingerprint of its examples, and the rows that are finished."""

    task: Task
    dataset: Dataset
    fingerprints: dict[int, str]
    rows: dict[int, Row] = field(default_factory=dict)


@dataclass
class Setup:
    """What answers the examples, and how. ``model`` may be None when nothing is left to answer;
    ``sharded``: its parameters are spread over the ranks."""

    model: Molmo2 | None
    model_config: Molmo2Config
    settings: EvalSettings
    device: torch.device
    sharded: bool = False

    def limit(self, task: Task) -> int:
        """Longest answer."""
        return self.settings.max_new_tokens or task.max_new_tokens


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


def survey(task: Task, dataset: Dataset, settings: EvalSettings) -> dict[int, str]:
    """Index to fingerprint of the examples to answer, in the order of a run."""
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
    return found


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
    dataset = open_dataset(task) if dataset is None else dataset
    examples = Examples(task, dataset, survey(task, dataset, settings))
    return evaluate_rows(examples, Setup(model, model_config, settings, device))


def evaluate_rows(examples: Examples, setup: Setup, keep_in: TaskStore | None = None) -> TaskResult:
    """Answer what is not finished, and merge it with what is; the same result on every rank.

    New rows go to the progress of ``keep_in`` at once.
    """
    start, task, settings, device = time.perf_counter(), examples.task, setup.settings, setup.device
    results = RankResults()
    if setup.model is not None and setup.sharded:
        # an error on one rank would leave the others waiting in the model: let it end the run
        results = _answer_rest(examples, setup, setup.model, keep_in)
    elif setup.model is not None:
        model = setup.model
        results = together(lambda: _answer_rest(examples, setup, model, keep_in))
    before = RankResults(list(examples.rows.values()))
    merged = merge_ranks([before, *gather(results)], list(examples.fingerprints))
    metrics = {
        "task": task.name,
        "title": task.title or task.name,
        "dataset": task.dataset,
        "split": task.split,
        "metric": task.metric,
        **summarize(merged, task.macro),
        "max_examples": settings.max_examples,
        "max_new_tokens": setup.limit(task),
        "seed": settings.seed,
        "generation": settings.generation,
        "model": pruning_settings(setup.model_config),
    }
    times = timing(merged.rows) | {
        "seconds_of_the_run": time.perf_counter() - start,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "device_batch_size": batch_size(settings, task),
        "world_size": get_world_size(),
    }
    return TaskResult(task, metrics, merged.rows, times)


def _answer_rest(
    examples: Examples, setup: Setup, model: Molmo2, keep_in: TaskStore | None
) -> RankResults:
    """This rank's share of the examples without a row."""
    settings, model_config, device = setup.settings, setup.model_config, setup.device
    task, tokenizer = examples.task, model_config.build_tokenizer()
    rest = [i for i in examples.fingerprints if i not in examples.rows]
    size = batch_size(settings, task)
    batched = settings.generation == "batched"
    chunk = size * LENGTH_WINDOW if batched else size
    chunks = [rest[i : i + chunk] for i in range(0, len(rest), chunk)]
    preprocessor, collator = (
        model_config.build_preprocessor(tokenizer),
        model_config.build_collator(),
    )
    loader = ExampleLoader(
        examples.dataset,
        chunks[get_rank() :: get_world_size()],
        *(preprocessor, collator, tokenizer, settings.seed),
        rows_per_pass=size if batched else 1,
        prompt=task.prompt,
    )
    lockstep = None
    if setup.sharded:
        prompt = preprocessor({"question": "", "style": "demo"}, for_inference=True)
        lockstep = Lockstep(model, on_device(collator([prompt]), device), device)
    answerer = Answerer(
        *(model, tokenizer, task, setup.limit(task), device),
        fingerprints=examples.fingerprints,
        lockstep=lockstep,
    )
    if keep_in is None:
        return answerer.answer_all(loader, settings.num_workers)
    with keep_in.open_progress(get_rank()) as file:
        return answerer.answer_all(
            loader, settings.num_workers, lambda rows: append_rows(file, rows)
        )


def example_order(n_examples: int, seed: int) -> list[int]:
    """Example indices in the order in which a limited run takes them."""
    order: list[int] = np.random.default_rng(seed).permutation(n_examples).tolist()
    return order


def fixed_batches(n_examples: int, settings: EvalSettings) -> list[list[int]]:
    """The examples of a run, in batches of ``device_batch_size`` (2 if that is None)."""
    order = example_order(n_examples, settings.seed)[: settings.max_examples]
    size = settings.device_batch_size or 2
    return [order[i : i + size] for i in range(0, len(order), size)]


def batch_size(settings: EvalSettings, task: Task) -> int:
    """Examples that a rank loads at once."""
    return settings.device_batch_size or task.batch_size


def pruning_settings(model_config: Molmo2Config) -> dict[str, Any]:
    """Name of the model and those settings of token pruning that it has."""
    vit = model_config.vision_backbone.vit
    found = {name: getattr(vit, name) for name in PRUNING_FIELDS if hasattr(vit, name)}
    return {
        "model_name": model_config.model_name,
        "max_frames": model_config.mm_preprocessor.video.max_frames,
        **found,
    }
