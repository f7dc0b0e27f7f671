"""Evaluation examples, loaded and collated for forward passes.

``exact`` generation runs one example per forward pass. Floating-point results depend on the shape
of a batch (and on the CPU on the number of threads), so this alone makes an answer independent of
the batch size, of the other examples and of the number of processes. ``batched`` runs several at
once, examples of similar length together; a near-tie between two tokens may then fall otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from olmo.data.examples import BAD_EXAMPLE, prepare, skip_reason
from olmo.data.registry import Dataset
from olmo.data.stream import example_rng
from olmo.tokenizer import MolmoTokenizer

if TYPE_CHECKING:
    from olmo.models.molmo2.molmo2 import Molmo2Config
    from olmo.preprocessing.collator import Collator
    from olmo.preprocessing.multimodal import ExamplePreprocessor

Generation = Literal["exact", "batched"]

LENGTH_WINDOW = 8
"""``batched``: so many batches are loaded together and cut by length."""


@dataclass
class Pass:
    """Examples of one forward pass: collated ``inputs``, and per example its ``index``,
    ``metadata``, ``question`` (the whole prompt where the data set has none), ``n_tokens`` and
    ``load`` seconds."""

    inputs: dict[str, Any]
    examples: list[dict[str, Any]]


@dataclass
class Loaded:
    """What one chunk of examples became. ``skipped`` has ``index``, ``example_id``, ``error``."""

    passes: list[Pass] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class ExampleLoader(torch.utils.data.Dataset[Loaded]):
    """Item ``j`` holds the examples ``chunks[j]`` of ``dataset``, in passes of at most
    ``rows_per_pass``. An example's random numbers depend on ``seed`` and its index alone."""

    dataset: Dataset
    chunks: list[list[int]]
    preprocessor: ExamplePreprocessor
    collator: Collator
    tokenizer: MolmoTokenizer
    seed: int
    rows_per_pass: int = 1
    prompt: str | None = None

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, j: int) -> Loaded:
        loaded, found = Loaded(), []
        for index in self.chunks[j]:
            try:
                found.append(self._load(index))
            except BAD_EXAMPLE as e:
                loaded.skipped.append({"index": index, "error": skip_reason(e)})
        if self.rows_per_pass > 1:
            found.sort(key=lambda pair: (pair[1]["n_tokens"], pair[1]["index"]))
        for i in range(0, len(found), self.rows_per_pass):
            part = found[i : i + self.rows_per_pass]
            collated = self.collator([arrays for arrays, _ in part])
            inputs = {k: v for k, v in collated.items() if k != "metadata"}
            loaded.passes.append(Pass(inputs, [about for _, about in part]))
        return loaded

    def _load(self, index: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """The arrays of an example, and what is known about it."""
        start = time.perf_counter()
        example = raw_example(self.dataset, index, self.seed)
        question = example.get("question")
        if self.prompt is not None:
            example |= {"style": self.prompt}
        arrays = prepare(example, self.preprocessor)
        ids = [int(i) for i in arrays["input_tokens"]]
        return arrays, {
            "index": index,
            "metadata": arrays.get("metadata") or {},
            "question": question or self.tokenizer.decode(ids, truncate_at_eos=False),
            "n_tokens": len(ids),
            "load": time.perf_counter() - start,
        }


def raw_example(dataset: Dataset, index: int, seed: int) -> dict[str, Any]:
    """Example ``index`` as an evaluation with ``seed`` sees it."""
    return dataset.get(index, example_rng(seed, index, epoch=0))


def collate_examples(
    config: Molmo2Config, dataset: Dataset, indices: Sequence[int], seed: int
) -> dict[str, Any]:
    """Collated prompts of these evaluation examples, one row each."""
    preprocessor = config.build_preprocessor(config.build_tokenizer())
    arrays = [prepare(raw_example(dataset, i, seed), preprocessor) for i in indices]
    return {k: v for k, v in config.build_collator()(arrays).items() if k != "metadata"}


def example_id(metadata: Mapping[str, Any], index: int) -> str:
    """The data set's own id, else one made of the question's id or the index."""
    for key in ("example_id", "question_id"):
        if metadata.get(key) is not None:
            return str(metadata[key])
    return str(index)


def labels(fields: Sequence[str], metadata: Mapping[str, Any]) -> list[str]:
    """Categories of an example: the values of ``fields``, with the field's name where there are
    several fields."""
    found = []
    for name in fields:
        value = metadata.get(name)
        values = value if isinstance(value, (list, tuple)) else [value]
        prefix = f"{name}/" if len(fields) > 1 else ""
        found += [f"{prefix}{v}" for v in values if v is not None]
    return found
