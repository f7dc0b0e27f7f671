"""The prompt of a pruned model: vision runs once, removed tokens leave, and what is left is a plain
left-padded row of embeddings that generation can go on from.

Legend: B rows, S tokens of the input, S' tokens after pruning, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Cache

from olmo.models.molmo2.molmo2 import Molmo2, Prompt
from olmo.nn.generate import check_length
from olmo.nn.kv_cache import KVCache
from olmo.nn.llm_mask import DenseMask
from olmo.nn.text_row import TextRow


def padding_in_front(valid: Tensor, *fields: Tensor) -> list[Tensor]:
    """``valid`` bool [B, S] and ``fields`` [B, S, ...], the valid tokens of each row at its end."""
    order = torch.argsort(valid.to(torch.int8), dim=1, stable=True)
    row = torch.arange(len(order), device=order.device)[:, None]
    return [x[row, order] for x in (valid, *fields)]


@dataclass(frozen=True)
class PaddedPrompt:
    """A prompt after pruning, all padding in front: token id ``pad_id`` and position 0.

    Attributes:
        row: ids, positions and validity, each [B, S'].
        embeds: [B, S', D] token embeddings, visual features added.
    """

    row: TextRow
    embeds: Tensor

    @classmethod
    def of(cls, prompt: Prompt, pad_id: int) -> PaddedPrompt:
        row = prompt.row
        fields = (row.input_ids, row.position_ids, prompt.embeds)
        valid, ids, positions, embeds = padding_in_front(row.valid, *fields)
        ids, positions = ids.masked_fill(~valid, pad_id), positions.masked_fill(~valid, 0)
        return cls(TextRow(ids, positions, valid), embeds)

    @property
    def lengths(self) -> Tensor:
        """int64 [B], tokens that the language model sees."""
        return self.row.valid.sum(1)

    def check_length(self, model: Molmo2, max_new_tokens: int) -> None:
        """``ValueError`` if the prompt and the answer do not fit the model's positions."""
        limit = model.config.llm.max_sequence_length
        check_length(self.row.position_ids, self.row.valid, max_new_tokens, limit)


NOTE = "molmo2_row"
"""Attribute of a transformers cache: the ``TextRow`` of what is in it."""
ROW_FIELDS = ("input_ids", "position_ids", "valid")


class HfCache(KVCache):
    """Lets the language model write into a transformers ``Cache``, and remembers on it which tokens
    it holds: after pruning these are others than the caller's ids.

    ``ValueError`` for a static cache, whose keys have no fixed place in a shortened prompt.
    """

    def __init__(self, cache: Cache):
        super().__init__()
        if cache.is_compileable:
            raise ValueError("static caches are not supported: use a DynamicCache")
        self.cache = cache

    @property
    def length(self) -> int:
        return int(self.cache.get_seq_length())

    @property
    def row(self) -> TextRow | None:
        """Ids (-1: padding), positions and validity of the tokens in the cache, each [B, length];
        None if something else filled it."""
        row: TextRow | None = getattr(self.cache, NOTE, None)
        n = self.length
        if row is None or row.input_ids.shape[1] < n:
            return None
        return TextRow(row.input_ids[:, :n], row.position_ids[:, :n], row.valid[:, :n])

    def note(self, before: TextRow | None, new: TextRow) -> None:
        """The cache now holds the tokens ``new`` behind those of ``before``."""
        if before is not None:
            pairs = ((getattr(r, n) for r in (before, new)) for n in ROW_FIELDS)
            new = TextRow(*(torch.cat(tuple(pair), 1) for pair in pairs))
        setattr(self.cache, NOTE, new)

    def confirm(self, sequences: Tensor) -> None:
        """Forget what the cache holds if it is not the beginning of ``sequences`` [B, S]: a beam
        search exchanges rows."""
        row = self.row
        if row is None:
            return
        same = row.input_ids.shape[0] == sequences.shape[0]
        begin = sequences[:, : row.input_ids.shape[1]].masked_fill(~row.valid, -1) if same else None
        if begin is None or not torch.equal(begin, row.input_ids):
            delattr(self.cache, NOTE)

    def prepare(self, prompt: PaddedPrompt, visual_from: int) -> None:
        """Make sure that ``prompt`` goes on from what the cache holds.

        A cache that holds all of the prompt gives its last token back, from which the answer
        starts. ``ValueError`` if the cache holds other tokens, or if a visual token (an id of
        ``visual_from`` or above) is new.
        """
        n, ids = self.length, prompt.row.input_ids.masked_fill(~prompt.row.valid, -1)
        if not n:
            return
        row = self.row
        if row is None or not torch.equal(row.input_ids, ids[:, :n]):
            raise ValueError(
                f"the cache holds {n} tokens, and this prompt ({ids.shape[1]} tokens after "
                "pruning) does not begin with them. Give the whole conversation with its videos, "
                "images and padding, and the topk of before; or an empty cache"
            )
        if bool((ids[:, n:] >= visual_from).any()):
            raise ValueError("a video or image behind a filled cache: begin with an empty cache")
        if ids.shape[1] == n:
            self.cache.crop(-1)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.cache.update(k.transpose(1, 2), v.transpose(1, 2), layer)
        return keys.transpose(1, 2), values.transpose(1, 2)


def continuation_mask(valid: Tensor, n_new: int) -> DenseMask:
    """The last ``n_new`` of the S tokens of ``valid`` [B, S] see what is valid and not later."""
    size = valid.shape[1]
    order = torch.arange(size, device=valid.device)
    causal = order[size - n_new :, None] >= order
    return DenseMask((causal & valid[:, None])[:, None])
