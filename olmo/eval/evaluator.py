"""Runs tasks on a model: load examples, generate, score, merge over the ranks, write the files.

Batches are cut once from a fixed order of the examples and dealt out whole, batch ``j`` to rank
``j % world_size``. So an example is answered beside the same others, padded to the same length,
whatever the number of ranks, and the merged results do not depend on it.
"""

from __future__ import annotations

import logging
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from olmo.config import Config
from olmo.data.loader import load_example
from olmo.data.mixture import example_rng
from olmo.data.registry import Dataset, get_dataset
from olmo.data.video_loading import VideoReadError
from olmo.distributed import broadcast_object, gather_object, get_rank, get_world_size, is_main
from olmo.eval.metrics import score_example
from olmo.eval.report import (
    RankResults,
    TaskResult,
    cache_key,
    merge_ranks,
    read_finished,
    summarize,
    write_result,
)
from olmo.eval.tasks import Task, resolve_tasks
from olmo.models.loading import load_model, load_model_config, select_checkpoint
from olmo.tokenizer import MolmoTokenizer

if TYPE_CHECKING:
    from olmo.models.molmo2.molmo2 import Molmo2, Molmo2Config
    from olmo.preprocessing.collator import Collator
    from olmo.preprocessing.multimodal import ExamplePreprocessor

log = logging.getLogger(__name__)

PRUNING_FIELDS = ("prune", "topk", "prune_at", "prune_method")


@dataclass
class EvalSettings(Config):
    """How one task is run. ``max_examples`` None (or -1) means all, ``max_new_tokens`` None the
    task's own limit; a limited run takes the first examples of an order drawn from ``seed``."""

    device_batch_size: int = 2
    max_examples: int | None = None
    max_new_tokens: int | None = None
    seed: int = 691203
    num_workers: int = 0

    def __post_init__(self) -> None:
        if self.max_examples == -1:
            self.max_examples = None
        for name in ("device_batch_size", "max_examples", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.num_workers < 0:
            raise ValueError(f"num_workers must not be negative, got {self.num_workers}")


@dataclass
class EvalConfig(EvalSettings):
    """One evaluation run. ``checkpoint`` is a checkpoint folder or a run folder (then its newest
    checkpoint); ``save_folder`` defaults to ``eval`` beside the checkpoint; ``model`` holds
    overrides of the checkpoint's model config."""

    checkpoint: str = field(kw_only=True)
    mode: str | None = None
    tasks: str | None = None
    save_folder: str | None = None
    eval_name: str | None = None
    overwrite: bool = False
    model: dict[str, Any] = field(default_factory=dict)


@dataclass
class EvalPlan:
    """A checked ``EvalConfig``: everything that can be known before the model is loaded."""

    config: EvalConfig
    checkpoint: Path
    model_config: Molmo2Config
    tasks: list[Task]
    folder: Path


@dataclass
class LoadedBatch:
    """Collated ``inputs`` (empty if no video could be read), and per example its ``index``,
    ``metadata``, ``question`` (the whole prompt where the data set has none) and ``n_tokens``;
    ``skipped`` has ``index`` and ``error``."""

    inputs: dict[str, Any] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class EvalBatches(torch.utils.data.Dataset[LoadedBatch]):
    """Batch ``j`` holds the examples ``chunks[j]`` of ``dataset``. An example's random numbers
    depend on ``seed`` and its index alone."""

    dataset: Dataset
    chunks: list[list[int]]
    preprocessor: ExamplePreprocessor
    collator: Collator
    tokenizer: MolmoTokenizer
    seed: int

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, j: int) -> LoadedBatch:
        batch, arrays = LoadedBatch(), []
        for index in self.chunks[j]:
            rng = example_rng(self.seed, index, epoch=0)
            try:
                example = load_example(self.dataset, index, rng, self.preprocessor, False, True)
            except VideoReadError as e:
                batch.skipped.append({"index": index, "error": str(e)})
                continue
            arrays.append(example)
            batch.examples.append(self._describe(index, example))
        if arrays:
            batch.inputs = {k: v for k, v in self.collator(arrays).items() if k != "metadata"}
        return batch

    def _describe(self, index: int, example: dict[str, Any]) -> dict[str, Any]:
        raw = self.dataset.get(index, example_rng(self.seed, index, epoch=0))  # the same again
        ids = [int(i) for i in example["input_tokens"]]
        return {
            "index": index,
            "metadata": example.get("metadata") or {},
            "question": raw.get("question") or self.tokenizer.decode(ids, truncate_at_eos=False),
            "n_tokens": len(ids),
        }


def plan_evaluation(config: EvalConfig) -> EvalPlan:
    """Find the checkpoint, its model config and the tasks.

    Raises ``ValueError`` (``ConfigError``) or ``FileNotFoundError`` for what a user got wrong.
    """
    tasks = resolve_tasks(config.mode, config.tasks)
    checkpoint = select_checkpoint(config.checkpoint)
    model_config = load_model_config(checkpoint, config.model or None)
    folder = Path(config.save_folder or checkpoint.resolve().parent / "eval")
    if config.eval_name:
        folder = folder / config.eval_name
    return EvalPlan(config, checkpoint, model_config, tasks, folder)


def run_evaluation(plan: EvalPlan, device: torch.device) -> list[dict[str, Any]]:
    """Evaluate the tasks of ``plan`` and write ``<folder>/<task>/{metrics,predictions}.json``.

    Finished results of the very same set-up are read back instead, unless ``overwrite`` is on;
    with all of them there the model is not loaded. Returns the contents of the ``metrics.json``
    files in task order, on every rank.
    """
    config = plan.config
    dtype = torch.bfloat16 if device.type == "cuda" else None
    settings = {k: getattr(config, k) for k in ("max_examples", "max_new_tokens", "seed")}
    settings |= {"dtype": str(dtype), "model": plan.model_config.to_dict()}
    keys = {task.name: cache_key(plan.checkpoint, task, settings) for task in plan.tasks}
    done: dict[str, dict[str, Any]] = {}
    if is_main():
        plan.folder.mkdir(parents=True, exist_ok=True)
        for task in plan.tasks if not config.overwrite else ():
            cached = read_finished(plan.folder / task.name, keys[task.name])
            done |= {task.name: cached} if cached else {}
    done = broadcast_object(done)
    todo = [(t, get_dataset(t.dataset, t.split)) for t in plan.tasks if t.name not in done]
    if todo:
        model, model_config = load_model(plan.checkpoint, config.model or None, device, dtype)
    for task, dataset in todo:
        result = evaluate_task(model, model_config, task, config, device, dataset)
        extra = {"checkpoint": str(plan.checkpoint), "cache_key": keys[task.name]}
        done[task.name] = {**result.metrics, **extra, "timing": result.timing}
        if is_main():
            write_result(plan.folder / task.name, done[task.name], result.predictions)
    return [done[task.name] for task in plan.tasks]


def evaluate_task(
    model: Molmo2,
    model_config: Molmo2Config,
    task: Task,
    settings: EvalSettings,
    device: torch.device,
    dataset: Dataset | None = None,
) -> TaskResult:
    """Answer and score the examples of ``task``, data-parallel over the ranks.

    Every rank calls it with a whole model and gets the merged result. ``dataset`` replaces the
    one that the task names. The model is put into evaluation mode meanwhile.
    """
    start = time.perf_counter()
    dataset = get_dataset(task.dataset, task.split) if dataset is None else dataset
    tokenizer = model_config.build_tokenizer()
    chunks = fixed_batches(len(dataset), settings)
    batches = EvalBatches(
        dataset,
        chunks[get_rank() :: get_world_size()],
        model_config.build_preprocessor(tokenizer),
        model_config.build_collator(),
        tokenizer,
        settings.seed,
    )
    limit = settings.max_new_tokens or task.max_new_tokens
    answer = Answerer(model, tokenizer, task, limit, device)
    gathered = gather_object(answer.answer_all(batches, settings.num_workers))
    expected = [i for chunk in chunks for i in chunk]
    merged = broadcast_object(merge_ranks(gathered, expected) if gathered is not None else None)
    metrics = {
        "task": task.name,
        "dataset": task.dataset,
        "split": task.split,
        **summarize(merged),
        "max_examples": settings.max_examples,
        "max_new_tokens": limit,
        "seed": settings.seed,
        "model": pruning_settings(model_config),
    }
    timing = {
        "seconds_per_example": {k: statistics.median(v) for k, v in merged.seconds.items()},
        "seconds_of_the_run": time.perf_counter() - start,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "device_batch_size": settings.device_batch_size,
        "world_size": get_world_size(),
    }
    return TaskResult(task, metrics, merged.rows, timing)


def fixed_batches(n_examples: int, settings: EvalSettings) -> list[list[int]]:
    """Example indices of every batch, over all ranks; the same on each of them."""
    order = np.random.default_rng(settings.seed).permutation(n_examples).tolist()
    order = order[: settings.max_examples]
    size = settings.device_batch_size
    return [order[i : i + size] for i in range(0, len(order), size)]


@dataclass
class Answerer:
    """Generates and scores the answers of one rank."""

    model: Molmo2
    tokenizer: MolmoTokenizer
    task: Task
    max_new_tokens: int
    device: torch.device

    def answer_all(self, batches: EvalBatches, num_workers: int) -> RankResults:
        """Results of every example of ``batches``; the model is in evaluation mode meanwhile."""
        loader = DataLoader(batches, batch_size=None, num_workers=num_workers, collate_fn=_as_is)
        results = RankResults()
        was_training = self.model.training
        self.model.eval()
        try:
            for batch in tqdm(loader, desc=self.task.name, unit="batch", disable=not is_main()):
                for skip in batch.skipped:
                    log.warning("skipped example %d: %s", skip["index"], skip["error"])
                results.extend(self.answer(batch))
        finally:
            self.model.train(was_training)
        return results

    def answer(self, batch: LoadedBatch) -> RankResults:
        """Results of one batch."""
        if not batch.examples:
            return RankResults(skipped=batch.skipped)
        on_device = {
            k: v.to(self.device) if torch.is_tensor(v) else v for k, v in batch.inputs.items()
        }
        start = time.perf_counter()
        with torch.no_grad():
            out = self.model.generate(on_device, self.max_new_tokens, [self.tokenizer.eos_id])
        tokens, lengths = out.token_ids.tolist(), out.n_prompt_tokens.tolist()
        n = len(batch.examples)
        stages = {**out.timings, "total": time.perf_counter() - start}
        seconds = {stage: [value / n] * n for stage, value in stages.items()}
        rows = [self._row(*row) for row in zip(batch.examples, tokens, lengths, strict=True)]
        return RankResults(rows, batch.skipped, seconds)

    def _row(self, example: dict[str, Any], ids: list[int], n_prompt_tokens: int) -> dict[str, Any]:
        eos = self.tokenizer.eos_id
        ids = ids[: ids.index(eos)] if eos in ids else ids
        prediction = self.tokenizer.decode(ids, truncate_at_eos=False).strip()
        metadata = example["metadata"]
        return {
            "index": example["index"],
            "example_id": metadata.get("example_id"),
            "question": example["question"],
            "options": _options(metadata),
            "prediction": prediction,
            **score_example(prediction, metadata, self.task.metric),
            "category": metadata.get("category"),
            "n_tokens_before": example["n_tokens"],
            "n_tokens_after": n_prompt_tokens,
        }


def _options(metadata: dict[str, Any]) -> list[str] | None:
    """Texts of the options, labelled or not; None for an open question."""
    if metadata.get("options"):
        return list(metadata["options"])
    names = metadata.get("option_names")
    return list(names) if names else None


def _as_is(batch: Any) -> Any:
    """In place of PyTorch's conversion of what a data set returns."""
    return batch


def pruning_settings(model_config: Molmo2Config) -> dict[str, Any]:
    """Name of the model and those settings of token pruning that it has."""
    vit = model_config.vision_backbone.vit
    found = {name: getattr(vit, name) for name in PRUNING_FIELDS if hasattr(vit, name)}
    return {"model_name": model_config.model_name, **found}
