"""Which token may attend to which: causal, bidirectional image tokens, packing.

The rule stands once, in ``TokenMask.allows``. ``TokenMask.dense`` makes it a mask for any kernel;
``TokenMask.parts`` a union of parts that need no mask, whose memory grows with the row and not
with its square. The language model is given a ``Mask``, which picks the kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from olmo.nn.attention import Pieces, attention, masks_forced, split_attention, token_attention
from olmo.nn.attention_parts import (
    AttentionPart,
    Segments,
    has_flash,
    parts_attention,
    product_dtype,
)
from olmo.nn.transfer import to_device
from olmo.tokenizer import BIDIRECTIONAL_TOKENS
from olmo.types import SUBSEGMENTS_PER_EXAMPLE

BidirectionalMode = Literal["image_tokens", "within_image"]


@dataclass(frozen=True)
class TokenMask:
    """What the rule needs to know of every token, [B, S] each.

    Attributes:
        valid: bool, no padding.
        group: int64, tokens of equal numbers may see each other in both directions where
            ``image`` allows it: the visual tokens of one packed example; -1 for other tokens.
        image: int64, a token sees those of its group with the same or a lower number.
        segment: int64, of packed or branched rows: a token sees its own number and higher ones.
    """

    valid: Tensor
    group: Tensor
    image: Tensor
    segment: Tensor

    @classmethod
    def build(
        cls,
        input_ids: Tensor,
        special_ids: dict[str, int],
        mode: BidirectionalMode | None = "image_tokens",
        subsegment_ids: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> TokenMask:
        """Read a batch.

        Args:
            input_ids: int64 [B, S], padding -1.
            mode: None is causal; ``image_tokens`` lets all visual tokens of an example see each
                other; ``within_image`` only those of the same or an earlier image.
            subsegment_ids: [B, S] of packed or branched rows: a token sees only its own packed
                example, and there the shared prefix and its own branch.
            valid: bool [B, S]; default ``input_ids >= 0``.
        """
        segment = torch.zeros_like(input_ids) if subsegment_ids is None else subsegment_ids
        group, image = torch.full_like(input_ids, -1), torch.zeros_like(input_ids)
        if mode is not None:
            visual_ids = [special_ids[t] for t in BIDIRECTIONAL_TOKENS]
            visual = torch.isin(input_ids, torch.tensor(visual_ids, device=input_ids.device))
            example = segment.clamp(min=0) // SUBSEGMENTS_PER_EXAMPLE
            group = torch.where(visual, example, group)
        if mode == "within_image":
            starts = (input_ids == special_ids["<frame_start>"]) | (
                input_ids == special_ids["<low_res_im_start>"]
            )
            image = starts.cumsum(1)
        return cls(input_ids >= 0 if valid is None else valid, group, image, segment)

    def allows(self, b: Tensor, q: Tensor, k: Tensor) -> Tensor:
        """bool: may query ``q`` see key ``k`` in row ``b``? Index tensors that broadcast.

        Padding sees itself, so that no row of the mask is empty.
        """
        group = self.group[b, q]
        both = (group >= 0) & (group == self.group[b, k]) & (self.image[b, k] <= self.image[b, q])
        seen = ((q >= k) | both) & self.valid[b, k] & (self.segment[b, q] <= self.segment[b, k])
        return seen | (q == k)

    def dense(self) -> Tensor:
        """bool [B, 1, S, S], True = query (dim 2) may see key (dim 3)."""
        rows, size = self.valid.shape
        order = torch.arange(size, device=self.valid.device)
        row = torch.arange(rows, device=self.valid.device)[:, None, None]
        return self.allows(row, order[None, :, None], order[None, None, :])[:, None]

    def parts(self, device: torch.device) -> tuple[AttentionPart, ...] | None:
        """The same rule on the flat row of B * S tokens, for a rule that lies on the host.

        A run is a stretch of neighbours of one segment. The parts are: every run by itself,
        causally; runs and the whole of earlier runs that they see, such as the branches of an
        example and their prefix; visual tokens and those after them, which is causal in reverse
        order. Padding sees padding. None where the parts do not cover the rule, because visual
        tokens of one group lie in several runs, or repeat more than ``MOST_REPEATED`` of the row.
        """
        valid, group, image, segment = (x.numpy().ravel() for x in vars(self).values())
        row = np.repeat(np.arange(len(self.valid)), self.valid.shape[1])
        bounds = _stretches(row, segment, valid)
        runs = _ranges(bounds)
        parts = [(runs, runs, True)]
        first = bounds[:-1]
        seen = list(_seen_runs(row[first], segment[first], valid[first]))
        if seen:
            queries, keys = zip(*seen, strict=True)
            if sum(np.diff(bounds)[ids].sum() for ids in keys) > MOST_REPEATED * len(row):
                return None
            parts.append((_joined(runs, queries), _joined(runs, keys), False))
        visual = np.flatnonzero(valid & (group >= 0))
        own = np.stack([x[visual] for x in (row, group, image)])
        ends = _stretches(*own, segment[visual])
        if len(np.unique(own[:, ends[:-1]], axis=1).T) < len(ends) - 1:
            return None
        back = [visual[stretch][::-1] for stretch in _ranges(ends) if len(stretch) > 1]
        if back:
            parts.append(([x[1:] for x in back], [x[:-1] for x in back], True))
        return _sent(parts, device)


MOST_REPEATED = 4
"""Keys of earlier runs, in rows: each set of queries with its own ones has a copy of them. Examples
with branches need less than one; holes in a row by the hundred would need its square."""
Stretches = list[np.ndarray]
"""Segments, each as the flat row's tokens."""


def _ranges(ends: np.ndarray) -> Stretches:
    return [np.arange(a, b) for a, b in pairwise(ends)]


def _joined(runs: Stretches, groups: Iterable[np.ndarray]) -> Stretches:
    """The tokens of each group of runs."""
    return [np.concatenate([runs[i] for i in group]) for group in groups]


def _stretches(*keys: np.ndarray) -> np.ndarray:
    """int64 [n + 1]: where stretches of neighbours with equal keys begin, and the end."""
    size = len(keys[0])
    new = np.zeros(size + 1, dtype=bool)
    new[[0, size]] = True
    for key in keys:
        new[1:size] |= key[1:] != key[:-1]
    return np.flatnonzero(new)


def _seen_runs(
    row: np.ndarray, segment: np.ndarray, valid: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Runs that see the same earlier runs, which are not empty: indices of both."""
    sees = (row[:, None] == row) & (segment[:, None] <= segment) & valid & valid[:, None]
    sees = np.tril(sees, -1)
    ends = _stretches(*sees.T)
    for a, b in pairwise(ends):
        if sees[a].any():
            yield np.arange(a, b), np.flatnonzero(sees[a])


def _sent(
    parts: list[tuple[Stretches, Stretches, bool]], device: torch.device
) -> tuple[AttentionPart, ...]:
    """The parts on ``device``, all of their numbers in one copy. The first is the whole row."""
    sides = [side for queries, keys, _ in parts for side in (queries, keys)]
    ends = [torch.tensor([0, *map(len, side)]).cumsum(0).to(torch.int32) for side in sides]
    tokens = [torch.from_numpy(np.concatenate(side)) for side in sides[2:]]
    places = []
    for asked in tokens[::2]:
        place = torch.full((int(ends[0][-1]),), -1)
        place[asked] = torch.arange(len(asked))
        places.append(place)
    sent = iter(to_device([*ends, *tokens, *places], device))
    starts = [next(sent) for _ in ends]
    where = [None, None, *(next(sent) for _ in tokens)]
    of_part = [
        Segments(at, max(2, *map(len, side)), own, tuple(end.tolist()))
        for side, end, at, own in zip(sides, ends, starts, where, strict=True)
    ]
    causal = [causal for _, _, causal in parts]
    return tuple(map(AttentionPart, of_part[::2], of_part[1::2], causal, [None, *sent]))


class Mask(Protocol):
    """Which keys each query sees, and by which kernel."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0) -> Tensor:
        """q ``[B, S, H, h]``; k, v ``[B, Sk, KV, h]`` -> ``[B, S, H, h]``."""
        ...


@dataclass(frozen=True)
class DenseMask:
    """Any mask: bool ``[B, 1, S, Sk]``, True = may attend."""

    mask: Tensor

    def attend(self, q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0) -> Tensor:
        heads, keys, values = (x.transpose(1, 2) for x in (q, k, v))
        if q.shape[1] == 1 and not dropout_p:
            return token_attention(q[:, 0], keys, values, self.mask)[:, None]
        return attention(heads, keys, values, mask=self.mask, dropout_p=dropout_p).transpose(1, 2)


@dataclass(frozen=True)
class RowMask:
    """A ``rule`` that lies on the host, for rows on ``device``: in parts where their kernels run,
    else dense. Both are made when first needed, once for all layers."""

    rule: TokenMask
    device: torch.device

    @cached_property
    def parts(self) -> tuple[AttentionPart, ...] | None:
        return self.rule.parts(self.device)

    @cached_property
    def dense(self) -> DenseMask:
        rule = TokenMask(*to_device(list(vars(self.rule).values()), self.device))
        return DenseMask(rule.dense())

    @torch.compiler.disable
    def attend(self, q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0) -> Tensor:
        if masks_forced() or dropout_p or not self._runs(q, v) or self.parts is None:
            return self.dense.attend(q, k, v, dropout_p)
        flat_q, flat_k, flat_v = (x.flatten(0, 1) for x in (q, k, v))
        return parts_attention(flat_q, flat_k, flat_v, self.parts).unflatten(0, q.shape[:2])

    def _runs(self, q: Tensor, v: Tensor) -> bool:
        """Whether the kernels of the parts do, and are not slower than a mask."""
        if self.device.type == "cpu":
            return q.shape[1] >= PARTS_FROM
        return has_flash(self.device, product_dtype(v), q.shape[-1])


PARTS_FROM = 3072
"""Tokens of a row from which on the CPU runs the parts: under it a mask is up to twice as fast,
above it as fast, and grows with the square of the row."""


@dataclass
class FilledMask:
    """One query per row over the first ``lengths`` int64 [B] keys of a cache's buffers; None: over
    the first ``used`` of every row. Keys beyond ``used`` are not even looked at; None looks at all,
    so that shapes stay the same. ``pieces`` are made by the first layer."""

    lengths: Tensor | None
    used: int | None
    pieces: Pieces | None = None

    def attend(self, q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0) -> Tensor:
        q, k, v = q[:, 0], k.transpose(1, 2), v.transpose(1, 2)
        if self.lengths is None or not has_flash(v.device, v.dtype, v.shape[-1]):
            k, v, mask = k[:, :, : self.used], v[:, :, : self.used], None
            if self.lengths is not None:
                order = torch.arange(k.shape[2], device=k.device)
                mask = (order < self.lengths[:, None])[:, None, None]
            return token_attention(q, k, v, mask)[:, None]
        if self.pieces is None:
            n_groups, capacity = k.shape[1:3]
            self.pieces = Pieces.of(self.lengths, n_groups, q.shape[1] // n_groups, capacity)
        return split_attention(q, k, v, self.pieces)[:, None]
