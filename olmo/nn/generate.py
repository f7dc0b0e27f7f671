"""Generation, greedy or sampled, with a KV cache for batches of right-padded prompts.

A new token takes the place behind its row's last one in the cache, over the padding, so that rows
of different lengths (also after pruning) need no re-alignment. On a GPU nothing waits for the
device between tokens but the question whether all rows have ended, every ``STOP_CHECK`` tokens,
and after a few of them the step is replayed as a CUDA graph.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache as cached
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from olmo.config import Config
from olmo.device import timed
from olmo.nn.kv_cache import KVCache
from olmo.nn.ranges import POSITIVE
from olmo.nn.transfer import to_device, to_host
from olmo.types import VISUAL_INPUTS

log = logging.getLogger(__name__)

STOP_CHECK = 8
"""On a GPU: tokens between two looks at which rows have ended. The host runs ahead meanwhile."""
EARLY_CHECKS = (2, 4)
"""And after so many tokens: a letter and its end, before a step is captured as a graph; a word."""
CAPTURE_STEP, WORTH_CAPTURING = 2, 16
"""On a GPU: the step that is captured, if at least so many more may follow."""


class GenerativeModel(Protocol):
    """What ``generate`` needs of a model. ``capturable``: ``decode_step`` may be a CUDA graph."""

    config: Any

    @property
    def device(self) -> torch.device: ...

    @property
    def capturable(self) -> bool: ...

    def __call__(self, **inputs: Any) -> Any: ...

    def decode_step(self, input_ids: Tensor, position_ids: Tensor, cache: KVCache) -> Tensor: ...


@dataclass
class Sampling(Config):
    """Draw tokens: logits over ``temperature``, from the likeliest tokens that together have a
    probability of at least ``top_p``. The draws of a row depend on the rows beside it."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        self.in_range(POSITIVE, "temperature")
        self.in_range("(0, 1]", "top_p")

    def draw(self, log_probs: Tensor, generator: torch.Generator) -> Tensor:
        """One token per row of ``log_probs`` [B, V] -> int64 [B]."""
        probs, token = (log_probs / self.temperature).softmax(-1).sort(-1, descending=True)
        before = probs.cumsum(-1) - probs
        # the draw of torch.multinomial, which on a GPU would wait to look at the probabilities
        noise = torch.empty_like(probs).exponential_(generator=generator)
        place = (probs * (before < self.top_p) / noise).argmax(-1, keepdim=True)
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
    topk: float | None = None,
) -> GenerateOutput:
    """Answer every row of ``batch``.

    Args:
        batch: collated prompts; ``input_ids`` [B, S] must be padded on the right with -1.
        max_new_tokens: at least 1; prompt + new tokens must fit ``llm.max_sequence_length``.
        stop_ids: a row ends with any of them; at least one.
        sampling: None is greedy.
        topk: share of a video's tokens to remove; None is the model's own.

    Raises:
        ValueError: left padding, a prompt that is too long, nothing to generate or to stop at; or
            nothing to draw from, because the logits are not numbers.
    """
    limit = model.config.llm.max_sequence_length
    if not 1 <= max_new_tokens <= limit:
        raise ValueError(
            f"max_new_tokens must be from 1 to llm.max_sequence_length {limit}, "
            f"got {max_new_tokens}"
        )
    if not stop_ids:
        raise ValueError("stop_ids must name at least one token")
    names = ("input_ids", "image_masks", *VISUAL_INPUTS)
    inputs = {k: batch[k] for k in names if batch.get(k) is not None}
    (ids,) = to_host([inputs["input_ids"]])
    valid = ids >= 0
    if bool((valid[:, 1:] & ~valid[:, :-1]).any()) or not bool(valid[:, 0].all()):
        raise ValueError("prompts must be padded on the right with -1, with no gap")
    pooling = inputs.get("token_pooling")
    n_visual = 0 if pooling is None else pooling.shape[1]
    if (n_text := int(valid.sum(1).max()) - n_visual) + max_new_tokens > limit:
        raise too_long(n_text, max_new_tokens, limit)  # before a prefill that would be in vain
    inputs["input_ids"], device = ids, model.device
    last = torch.zeros_like(valid).scatter_(1, valid.sum(1, keepdim=True) - 1, True)
    (stops,) = to_device([torch.tensor(list(stop_ids))], device)
    cache = KVCache(max_new_tokens)
    timings: dict[str, float] = {}
    with timed("prefill", timings, device):
        out = model(**inputs, topk=topk, cache=cache, response_mask=last)
    check_length(out.position_ids, out.valid, max_new_tokens, limit)
    lengths = out.valid.sum(1)
    with timed("decode", timings, device):
        cache.start(lengths)
        tokens, scores = _decode(model, out, cache, max_new_tokens, stops, sampling)
    if sampling is not None and bool(scores.isnan().any()):
        raise ValueError("cannot draw a token: the model's logits are not numbers")
    return GenerateOutput(tokens, scores, lengths, timings)


def _decode(
    model: GenerativeModel,
    prefill: Any,
    cache: KVCache,
    max_new_tokens: int,
    stops: Tensor,
    sampling: Sampling | None,
) -> tuple[Tensor, Tensor]:
    device, n_rows = prefill.logits.device, len(prefill.logits)
    generator = torch.Generator(device)
    generator.manual_seed(0 if sampling is None else sampling.seed)
    last = prefill.valid.sum(1, keepdim=True) - 1
    step = _Step(model, cache, prefill.position_ids.gather(1, last), max_new_tokens - 1)
    logits = prefill.logits
    done = torch.zeros(n_rows, dtype=torch.bool, device=device)
    scores = torch.zeros(n_rows, device=device)
    tokens, ends = [], []
    for i in range(max_new_tokens):
        log_probs = logits.float().log_softmax(-1)
        token = sampling.draw(log_probs, generator) if sampling else log_probs.argmax(-1)
        chosen = log_probs.gather(-1, token[:, None]).squeeze(-1)
        scores = scores + torch.where(done, 0.0, chosen)
        token = torch.where(done, stops[0], token)
        tokens.append(token)
        done = done | torch.isin(token, stops)
        ends.append(done.all())
        n = i + 1
        look = device.type == "cpu" or n % STOP_CHECK == 0 or n in EARLY_CHECKS
        if n == max_new_tokens or (look and bool(ends[-1])):
            break
        logits = step(token[:, None])
    n_steps = len(tokens) - int(torch.stack(ends[:-1]).sum()) if len(ends) > 1 else 1
    return torch.stack(tokens[:n_steps], 1), scores


class _Step:
    """``decode_step`` on tensors that keep their place, so that it can be replayed as a graph.

    ``position`` int64 [B, 1], that of each row's last token; ``most``: steps that there may be.
    """

    def __init__(self, model: GenerativeModel, cache: KVCache, position: Tensor, most: int):
        self.cache = cache
        self.captures = model.capturable and most - CAPTURE_STEP >= WORTH_CAPTURING
        self.token, self.position = torch.zeros_like(position), position.clone()
        self.run = partial(model.decode_step, self.token, self.position, cache)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.n_calls = 0

    def __call__(self, token: Tensor) -> Tensor:
        """The next logits [B, V]; their memory is written again by the next call."""
        self.token.copy_(token)
        self.position += 1
        self.n_calls += 1
        if self.captures and self.n_calls == CAPTURE_STEP:
            self._capture()
        if self.graph is None:
            self.logits = self.run()
        else:
            self.graph.replay()
        self.cache.advance()
        return self.logits

    def _capture(self) -> None:
        """Records the launches; nothing is computed before ``replay``. A graph that does not come
        about costs speed only. Other threads, such as a loader's, may go on calling CUDA."""
        graph, stream = torch.cuda.CUDAGraph(), _capture_stream(self.token.device)
        try:
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                logits = self.run()
        except RuntimeError as e:
            log.warning("decoding goes on without a graph: %s", e)
        else:
            self.graph, self.logits = graph, logits


@cached
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """One for each device: cuBLAS keeps memory for every stream that it has seen."""
    return torch.cuda.Stream(device)


def check_length(position_ids: Tensor, valid: Tensor, n_new: int, limit: int) -> None:
    """``ValueError`` if a prompt, [B, S] both, and its answer do not fit the model's positions."""
    longest = int(position_ids.masked_fill(~valid, 0).max()) + 1
    if longest + n_new > limit:
        raise too_long(longest, n_new, limit)


def too_long(n_positions: int, n_new: int, limit: int) -> ValueError:
    """The error about a prompt and its answer."""
    return ValueError(
        f"a prompt of {n_positions} positions and {n_new} new tokens exceed "
        f"llm.max_sequence_length {limit}: take fewer frames, less text or a larger topk"
    )
