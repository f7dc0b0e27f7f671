"""Generates and scores the answers of one rank."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from olmo.data.examples import describe_error
from olmo.device import device_seconds
from olmo.distributed import is_main
from olmo.eval.examples import ExampleLoader, Pass, example_id, labels
from olmo.eval.lockstep import Lockstep
from olmo.eval.scoring import score_example
from olmo.eval.tasks import Task
from olmo.tokenizer import MolmoTokenizer
from olmo.types import HOST_INPUTS

if TYPE_CHECKING:
    from olmo.models.molmo2.molmo2 import Molmo2

log = logging.getLogger(__name__)

Row = dict[str, Any]


@dataclass
class RankResults:
    """Scored ``rows`` and ``skipped`` examples of one rank."""

    rows: list[Row] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Answerer:
    """Generates and scores the answers of one rank.

    With ``lockstep``, the model is sharded and every rank has to call ``answer_all``.
    """

    model: Molmo2
    tokenizer: MolmoTokenizer
    task: Task
    max_new_tokens: int
    device: torch.device
    fingerprints: Mapping[int, str] = field(default_factory=dict)
    lockstep: Lockstep | None = None

    def answer_all(
        self,
        loader: ExampleLoader,
        num_workers: int,
        keep: Callable[[Sequence[Row]], None] | None = None,
    ) -> RankResults:
        """Results of every example of ``loader``; the model is in evaluation mode meanwhile.

        ``keep`` is called with the rows of each pass as soon as they are there.
        """
        results = RankResults()
        was_training = self.model.training
        self.model.eval()
        try:
            for group in self._passes(loader, num_workers, results):
                rows = self._answer_pass(group, results)
                results.rows += rows
                if keep is not None and rows:
                    keep(rows)
        finally:
            self.model.train(was_training)
        return results

    def _passes(
        self, loader: ExampleLoader, num_workers: int, results: RankResults
    ) -> Iterator[Pass | None]:
        """The passes of this rank; with ``lockstep`` then None until all ranks are through."""
        batches = DataLoader(loader, batch_size=None, num_workers=num_workers, collate_fn=_as_is)
        more = self.lockstep.anyone if self.lockstep is not None else bool
        for loaded in tqdm(batches, desc=self.task.name, unit="batch", disable=not is_main()):
            for skip in loaded.skipped:
                self.skip(results, skip["index"], skip["error"])
            for group in loaded.passes:
                more(True)
                yield group
        while more(False):
            yield None

    def _answer_pass(self, group: Pass | None, results: RankResults) -> list[Row]:
        inputs = None if group is None else on_device(group.inputs, self.device)
        try:
            with torch.no_grad(), self._watch_vision() as vision:
                start = time.perf_counter()
                out = self._generate(inputs)
                total = time.perf_counter() - start
        except (ValueError, torch.OutOfMemoryError) as e:
            if group is None or (self.lockstep is not None and not self.lockstep.in_step):
                raise  # the other ranks are inside a collective: nothing to be saved
            for example in group.examples:
                self.skip(results, example["index"], describe_error(e))
            return []
        if group is None or out is None:
            return []
        n = len(group.examples)
        stages = {**vision.seconds, **out.timings, "total": total}
        seconds = {stage: round(value / n, 6) for stage, value in stages.items()}
        tokens, lengths = out.token_ids.tolist(), out.n_prompt_tokens.tolist()
        rows = []
        for example, ids, length in zip(group.examples, tokens, lengths, strict=True):
            try:
                rows.append(self.row(example, ids, length, seconds, vision.stats))
            except ValueError as e:  # the example has no such reference, or a user's own scorer
                self.skip(results, example["index"], describe_error(e))
        return rows

    def _generate(self, inputs: dict[str, Any] | None) -> Any:
        stops = [self.tokenizer.eos_id]
        if self.lockstep is not None:
            return self.lockstep.generate(inputs, self.max_new_tokens, stops)
        assert inputs is not None
        return self.model.generate(inputs, self.max_new_tokens, stops)

    def skip(self, results: RankResults, index: int, error: str) -> None:
        """Note an example without an answer."""
        log.warning("%s: skipped example %d: %s", self.task.name, index, error)
        results.skipped.append({"index": index, "error": error})

    def row(
        self,
        example: dict[str, Any],
        ids: list[int],
        n_prompt_tokens: int,
        seconds: dict[str, float],
        stats: dict[str, float],
    ) -> Row:
        """What is kept of an example with the answer ``ids``."""
        prediction = self.text(ids)
        metadata, index = example["metadata"], example["index"]
        asked = {"question": example["question"], **metadata}
        score = score_example(prediction, asked, self.task.metric)
        return {
            "index": index,
            "example_id": example_id(metadata, index),
            "question": example["question"],
            "options": _options(metadata),
            "prediction": prediction,
            "correct": score.correct,
            "unparsed": int(score.unparsed),
            "parsed": score.parsed,
            "reference": score.reference,
            **({"scores": dict(score.scores)} if score.scores else {}),
            "category": metadata.get("category"),
            "labels": [*labels(self.task.categories, metadata), *score.labels],
            "n_tokens_before": example["n_tokens"],
            "n_tokens_after": n_prompt_tokens,
            **({"pruning": stats} if stats else {}),
            "fingerprint": self.fingerprints.get(index, ""),
            "seconds": {"load": round(example["load"], 6), **seconds},
        }

    def text(self, ids: list[int]) -> str:
        """The answer up to its end token."""
        ids = self.tokenizer.before_end(ids)
        return self.tokenizer.decode(ids, truncate_at_eos=False).strip()

    @contextmanager
    def _watch_vision(self) -> Iterator[VisionWatch]:
        """Seconds in the vision backbone, and its figures about pruning."""
        watch = VisionWatch(self.device)
        backbone = getattr(self.model, "vision_backbone", None)
        if backbone is None:
            yield watch
            return
        hooks = (
            backbone.register_forward_pre_hook(watch.begin),
            backbone.register_forward_hook(watch.end),
        )
        try:
            yield watch
        finally:
            for hook in hooks:
                hook.remove()


@dataclass
class VisionWatch:
    """Forward hooks of the vision backbone."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)
    stats: dict[str, float] = field(default_factory=dict)
    started: float = 0.0

    def begin(self, *_: object) -> None:
        self.started = device_seconds(self.device)

    def end(self, module: object, inputs: object, output: Any) -> None:
        self.seconds["vision"] = device_seconds(self.device) - self.started
        stats = getattr(output, "stats", None) or {}
        self.stats = {k.removeprefix("stts/"): round(float(v), 6) for k, v in stats.items()}


def on_device(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """``inputs`` with the tensors that the model computes on moved to ``device``."""
    return {
        k: v.to(device) if torch.is_tensor(v) and k not in HOST_INPUTS else v
        for k, v in inputs.items()
    }


def _options(metadata: dict[str, Any]) -> list[str] | None:
    """Texts of the options, labelled or not; None for an open question."""
    if metadata.get("options"):
        return list(metadata["options"])
    names = metadata.get("option_names")
    return list(names) if names else None


def _as_is(batch: Any) -> Any:
    """A collate function that changes nothing."""
    return batch
