"""lmms-eval plug-in: ``python -m lmms_eval --model molmo2_stts --model_args pretrained=PATH``.

Model arguments: ``pretrained`` (checkpoint or run folder), ``topk``, ``prune_method``,
``max_frames``, ``dtype`` (``bf16`` or ``fp32``), ``device``; any other ``a.b=value`` overrides the
model config. Requests are answered one at a time, as ``eval_molmo2.py`` does, so ``batch_size``
changes nothing.

lmms-eval finds ``manifest`` through the entry point group ``lmms_eval.models``. This module is the
only one that imports lmms-eval, which is an optional dependency.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts  # type: ignore[import-not-found]
from lmms_eval.api.model import lmms  # type: ignore[import-not-found]
from lmms_eval.models.registry_v2 import ModelManifest  # type: ignore[import-not-found]
from tqdm import tqdm

from olmo.config import ConfigError
from olmo.device import DTYPES
from olmo.eval.loading import load_answerer
from olmo.mappings import merge, nested

MODEL_ID = "molmo2_stts"
SHORT_KEYS = {
    "topk": "vision_backbone.vit.topk",
    "prune_method": "vision_backbone.vit.prune_method",
    "max_frames": "mm_preprocessor.max_frames",
}
MAX_NEW_TOKENS = 256
"""For tasks that set no limit."""


def manifest() -> ModelManifest:
    """What lmms-eval registers."""
    return ModelManifest(MODEL_ID, simple_class_path=f"{__name__}.Molmo2Stts")


class Molmo2Stts(lmms):
    """A checkpoint of this project as an lmms-eval model (greedy generation only)."""

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        dtype: str | None = None,
        device: str | None = None,
        batch_size: int | str = 1,
        **overrides: Any,
    ) -> None:
        super().__init__()
        if dtype is not None and dtype not in DTYPES:
            raise ConfigError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
        self.device = _device(device)
        if self.device.type == "cpu":
            torch.set_num_threads(1)  # as eval_molmo2.py: results depend on the number of threads
        weights = None if dtype is None else DTYPES[dtype]
        self.answerer = load_answerer(pretrained, nested_overrides(overrides), self.device, weights)
        self.batch_size = 1

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answer every request; ``ValueError`` for one that asks for sampling."""
        bar = tqdm(requests, desc=MODEL_ID, disable=self.rank != 0)
        return [self._answer(request) for request in bar]

    def _answer(self, request: Instance) -> GenerationResult:
        context, options, to_visual, doc_id, task, split = request.args
        if options.get("do_sample") or (options.get("temperature") or 0) > 0:
            raise ValueError(f"{task}: {MODEL_ID} answers greedily, the task asks for sampling")
        visuals = to_visual(self.task_dict[task][split][doc_id]) if to_visual else []
        until = options.get("until") or []
        answer = self.answerer.answer(
            context,
            _flat(visuals),
            int(options.get("max_new_tokens") or MAX_NEW_TOKENS),
            [until] if isinstance(until, str) else until,
        )
        self.cache_hook.add_partial("generate_until", (context, options), answer.text)
        counts = TokenCounts(answer.n_prompt_tokens, answer.n_new_tokens)
        return GenerationResult(answer.text, counts)

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError(f"{MODEL_ID} has no tasks of several rounds")

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError(f"{MODEL_ID} only generates; choose a generate_until task")


def nested_overrides(given: dict[str, Any]) -> dict[str, Any]:
    """``{"topk": 0.5, "llm.x": 1}`` to nested overrides of the model config."""
    found: dict[str, Any] = {}
    for key, value in given.items():
        found = merge(found, nested(SHORT_KEYS.get(key, key).removeprefix("model."), value))
    return found


def _device(name: str | None) -> torch.device:
    if name is not None and name != "cuda":
        return torch.device(name)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def _flat(visuals: Any) -> Sequence[Any]:
    """A task gives one medium, or a list, or a list of lists."""
    if not isinstance(visuals, (list, tuple)):
        return [visuals]
    return [one for part in visuals for one in _flat(part)]
