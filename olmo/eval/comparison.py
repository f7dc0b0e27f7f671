"""Several models on the same questions: answers, prefill times, differences, one table."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from olmo.data.registry import Dataset
from olmo.eval.answer import collate_examples
from olmo.eval.evaluate import evaluate_task, example_order
from olmo.eval.prediction import Prediction
from olmo.eval.scoring.text import normalize_answer
from olmo.eval.settings import EvalSettings
from olmo.eval.store import write_result
from olmo.eval.tasks import Task
from olmo.eval.timing import Prefill

if TYPE_CHECKING:
    from olmo.models.molmo2.molmo2 import Molmo2, Molmo2Config

COLUMNS = (
    "setting",
    "accuracy %",
    "95% interval",
    "questions",
    "visual tokens per video",
    "prefill ms per video",
    "FLOPs %",
)


@dataclass
class Contender:
    """A model that takes part, and its results.

    ``flops_share`` is its prefill FLOPs over those of the same model without pruning; ``metrics``
    and ``predictions`` are those of a ``TaskResult``.
    """

    key: str
    label: str
    checkpoint: Path
    model: Molmo2
    config: Molmo2Config
    flops_share: float
    metrics: dict[str, Any] = field(default_factory=dict)
    predictions: list[Prediction] = field(default_factory=list)
    prefill: Prefill | None = None

    def answer(
        self,
        task: Task,
        settings: EvalSettings,
        device: torch.device,
        dataset: Dataset,
        folder: Path,
    ) -> None:
        """Answer the questions of ``dataset``; the files go to ``folder/<key>``."""
        named = replace(task, name=self.key)
        result = evaluate_task(self.model, self.config, named, settings, device, dataset)
        self.metrics, self.predictions = result.metrics, result.predictions
        write_result(folder / self.key, result.metrics, result.predictions)

    def summary(self) -> dict[str, Any]:
        """The figures, as plain values."""
        prefill = self.prefill or Prefill(float("nan"), float("nan"))
        return {
            "label": self.label,
            "checkpoint": str(self.checkpoint),
            "visual_tokens_per_video": prefill.visual_tokens,
            "prefill_seconds_per_video": prefill.seconds,
            "flops_share": self.flops_share,
            **{k: self.metrics[k] for k in ("accuracy", "interval", "n", "unparsed", "model")},
            "categories": self.metrics["categories"],
        }


def fixed_batches(n_examples: int, settings: EvalSettings) -> list[list[int]]:
    """The examples of a run, in batches of ``device_batch_size`` (2 if that is None)."""
    order = example_order(n_examples, settings.seed)[: settings.max_examples]
    size = settings.device_batch_size or 2
    return [order[i : i + size] for i in range(0, len(order), size)]


def load_batch(
    config: Molmo2Config, dataset: Dataset, indices: list[int], device: torch.device
) -> dict[str, Any]:
    """Collated prompts of these evaluation examples."""
    batch = collate_examples(config, dataset, indices, EvalSettings().seed)
    return {k: v.to(device) for k, v in batch.items()}


def comparison_table(
    contenders: Sequence[Contender], chance: float | None = None
) -> list[list[object]]:
    """Rows under ``COLUMNS``: one per contender, then chance."""
    rows: list[list[object]] = []
    for one in contenders:
        figures = one.summary()
        low, high = figures["interval"]
        rows.append(
            [
                one.label,
                f"{100 * figures['accuracy']:.1f}",
                f"{100 * low:.1f} to {100 * high:.1f}",
                figures["n"],
                f"{figures['visual_tokens_per_video']:.1f}",
                f"{1000 * figures['prefill_seconds_per_video']:.1f}",
                f"{100 * one.flops_share:.1f}",
            ]
        )
    if chance is not None:
        rows.append(["chance", f"{100 * chance:.1f}", *[None] * (len(COLUMNS) - 2)])
    return rows


def guessing_accuracy(
    predictions: Sequence[Prediction], answers: Sequence[tuple[str, str]]
) -> float:
    """Expected accuracy on these questions without a look at the videos.

    A multiple-choice question is hit with 1 / options. An open one gets the most frequent answer
    of its category; ``answers`` are the (category, answer) pairs of the whole data set.
    """
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for category, answer in answers:
        seen[category][normalize_answer(answer)] += 1
    best = {category: counts.most_common(1)[0][1] for category, counts in seen.items()}
    chances = [
        1 / len(one.options) if one.options else best[one.category] / seen[one.category].total()
        for one in predictions
    ]
    return sum(chances) / len(chances)
