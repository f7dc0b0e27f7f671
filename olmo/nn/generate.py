"""Generation, greedy or sampled, with a KV cache for batches of right-padded prompts.

New tokens are appended behind the padding in the cache, where padding is masked, so that rows of
different lengths (also after pruning) need no re-alignment.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from olmo.nn.kv_cache import KVCache

MODEL_INPUTS = (
    "input_ids",
    "images",
    "image_masks",
    "token_pooling",
    "num_images",
    "multimodal_type",
)


class GenerativeModel(Protocol):
    """What ``generate`` needs of a model."""

    config: Any

    def __call__(self, **inputs: Any) -> Any: ...

    def decode_step(
        self, input_ids: Tensor, position_ids: Tensor, key_mask: Tensor, cache: KVCache
    ) -> Tensor: ...


@dataclass(frozen=True)
class Sampling:
    """Draw tokens: logits over ``temperature``, from the likeliest tokens that together have a
    probability of at least ``top_p``. The draws of a row depend on the rows beside it."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")

    def draw(self, log_probs: Tensor, generator: torch.Generator) -> Tensor:
        """One token per row of ``log_probs`` [B, V] -> int64 [B]."""
        probs, token = (log_probs / self.temperature).softmax(-1).sort(-1, descending=True)
        before = probs.cumsum(-1) - probs
        place = torch.multinomial(probs * (before < self.top_p), 1, generator=generator)
        return token.gather(-1, place).squeeze(-1)


@dataclass
class GenerateOutput:
    """Generated tokens.

    Attributes:
        token_ids: int64 [B, steps], the prompt not included; after the end of a row the first
            stop id is repeated.
        scores: float32 [B], summed log-probabilities up to and including the stop token.
        n_prompt_tokens: int64 [B], prompt tokens that the language model saw.
        timings: seconds of ``prefill`` (vision included) and ``decode``.
    """

    token_ids: Tensor
    scores: Tensor
    n_prompt_tokens: Tensor
    timings: dict[str, float] = field(default_factory=dict)


def generate(
    model: GenerativeModel,
    batch: dict[str, Any],
    max_new_tokens: int,
    stop_ids: Sequence[int],
    sampling: Sampling | None = None,
) -> GenerateOutput:
    """Answer every row of ``batch``.

    Args:
        batch: collated prompts; ``input_ids`` [B, S] must be padded on the right with -1.
        max_new_tokens: at least 1; prompt + new tokens must fit ``llm.max_sequence_length``.
        stop_ids: a row ends with any of them.
        sampling: None is greedy.

    Raises:
        ValueError: left padding, or a prompt that is too long.
    """
    inputs = {k: batch[k] for k in MODEL_INPUTS if batch.get(k) is not None}
    _check_right_padded(inputs["input_ids"])
    cache = KVCache()
    timings: dict[str, float] = {}
    with _timed("prefill", timings, inputs["input_ids"].device):
        out = model(**inputs, cache=cache, response_mask=_last_token(inputs["input_ids"]))
    lengths = out.valid.sum(1)
    longest = int(out.position_ids.masked_fill(~out.valid, 0).max()) + 1
    limit = model.config.llm.max_sequence_length
    if longest + max_new_tokens > limit:
        raise ValueError(
            f"a prompt of {longest} positions and {max_new_tokens} new tokens exceed "
            f"llm.max_sequence_length {limit}"
        )
    with _timed("decode", timings, lengths.device):
        tokens, scores = _decode(model, out, cache, max_new_tokens, stop_ids, sampling)
    return GenerateOutput(tokens, scores, lengths, timings)


def _decode(
    model: GenerativeModel,
    prefill: Any,
    cache: KVCache,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    sampling: Sampling | None,
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator(prefill.logits.device)
    generator.manual_seed(0 if sampling is None else sampling.seed)
    stops = torch.tensor(list(stop_ids), device=prefill.logits.device)
    logits, key_mask = prefill.logits, prefill.valid
    rows = torch.arange(logits.shape[0], device=logits.device)
    position = prefill.position_ids[rows, key_mask.sum(1) - 1]
    done = torch.zeros_like(rows, dtype=torch.bool)
    scores = torch.zeros(rows.shape[0], device=logits.device)
    tokens = []
    for step in range(max_new_tokens):
        log_probs = logits.float().log_softmax(-1)
        token = sampling.draw(log_probs, generator) if sampling else log_probs.argmax(-1)
        chosen = log_probs.gather(-1, token[:, None]).squeeze(-1)
        scores = scores + torch.where(done, 0.0, chosen)
        token = torch.where(done, stops[0], token)
        tokens.append(token)
        done = done | torch.isin(token, stops)
        if step + 1 == max_new_tokens or bool(done.all()):
            break
        position = position + 1
        key_mask = torch.cat((key_mask, key_mask.new_ones(rows.shape[0], 1)), 1)
        logits = model.decode_step(token[:, None], position[:, None], key_mask, cache)
    return torch.stack(tokens, 1), scores


def _last_token(input_ids: Tensor) -> Tensor:
    """bool [B, S]: the last valid token of each row."""
    mask = torch.zeros_like(input_ids, dtype=torch.bool)
    rows = torch.arange(input_ids.shape[0], device=input_ids.device)
    mask[rows, (input_ids >= 0).sum(1) - 1] = True
    return mask


def _check_right_padded(input_ids: Tensor) -> None:
    valid = input_ids >= 0
    if bool((valid[:, 1:] & ~valid[:, :-1]).any()) or not bool(valid[:, 0].all()):
        raise ValueError("prompts must be padded on the right with -1, with no gap")


@contextmanager
def _timed(name: str, timings: dict[str, float], device: torch.device) -> Iterator[None]:
    start = time.perf_counter()
    yield
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    timings[name] = time.perf_counter() - start
