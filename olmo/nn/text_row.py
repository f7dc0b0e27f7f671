"""Token rows: fields that are aligned token by token, and what dropping tokens does to them.

Rows are planned on the host: they are small, and a length that is read there costs no wait.
Legend: B rows, S tokens, S' tokens after removal, P pooled tokens of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from olmo.nn.transfer import to_device, to_host
from olmo.types import SUBSEGMENTS_PER_EXAMPLE, TEXT_INPUTS

FIELDS = (*TEXT_INPUTS, "response_mask", "attention_mask")


POSITION_RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "compact": lambda positions, removed_before: positions - removed_before,
    "original": lambda positions, removed_before: positions,
}
"""By the value of ``pruned_position_ids``: the position ids of the tokens that stay, made of those
before removal and of the number of removed tokens before each in its own packed example (int64
[B, S] both; what is said of a removed token has no meaning)."""


@dataclass
class TextRow:
    """Aligned fields, [B, S] each. ``kept_tokens`` (None: all) is of the row before removal."""

    input_ids: Tensor
    position_ids: Tensor
    valid: Tensor
    subsegment_ids: Tensor | None = None
    response_mask: Tensor | None = None
    kept_tokens: Tensor | None = None

    def to(self, device: torch.device) -> TextRow:
        """The row on ``device``; see ``to_device``."""
        given = {name: x for name, x in vars(self).items() if x is not None}
        moved = to_device(list(given.values()), device)
        return TextRow(**dict(zip(given, moved, strict=True)))


def text_row(batch: Mapping[str, Tensor | None]) -> TextRow:
    """The text of a batch, on the host: ``input_ids`` [B, S] (-1 where ``attention_mask`` says
    padding) and what goes with them. ``position_ids`` default to a count of the valid tokens.

    ``ValueError`` for ids and an attention mask of different shapes, or packed rows without
    positions.
    """
    given = {name: x for name in FIELDS if (x := batch.get(name)) is not None}
    field = dict(zip(given, to_host(list(given.values())), strict=True))
    ids, subsegments = field["input_ids"], field.get("subsegment_ids")
    valid = field["attention_mask"].bool() if "attention_mask" in field else ids >= 0
    if valid.shape != ids.shape:
        shapes = f"{tuple(valid.shape)}, input_ids {tuple(ids.shape)}"
        raise ValueError(f"attention_mask is {shapes}: a prompt needs both of one shape")
    if subsegments is not None and "position_ids" not in field:
        raise ValueError("subsegment_ids need position_ids")
    positions = field.get("position_ids", (valid.cumsum(1) - 1).clamp(min=0))
    ids = ids.masked_fill(~valid, -1)
    return TextRow(ids, positions, valid, subsegments, field.get("response_mask"))


def kept_tokens(input_ids: Tensor, rows: Tensor, keep: Tensor, patch_id: int) -> Tensor:
    """Which tokens stay, bool [B, S]: all but the ``<im_patch>`` tokens of removed cells.

    The k-th ``<im_patch>`` token of a row belongs to its k-th real ``token_pooling`` row, those of
    ``rows`` bool [B, P], of which ``keep`` stay. All on the host. ``ValueError`` if the counts
    differ.
    """
    is_patch = input_ids == patch_id
    if not torch.equal(is_patch.sum(1), rows.sum(1)):
        raise ValueError(
            f"<im_patch> tokens per row {is_patch.sum(1).tolist()}, "
            f"token_pooling rows per row {rows.sum(1).tolist()}"
        )
    return torch.ones_like(is_patch).masked_scatter(is_patch, keep[rows])


def drop_tokens(row: TextRow, kept: Tensor, rule: str) -> TextRow:
    """Close the gaps of removed tokens in every aligned field.

    The result is as long as the longest row's remaining valid tokens; padding keeps its values
    (-1 ids and positions, subsegment -1). ``rule``, a name of ``POSITION_RULES``, gives the
    positions of the others.
    """
    removed_before = _removed_before(kept, row.subsegment_ids)
    position_ids = POSITION_RULES[rule](row.position_ids, removed_before)
    stays = kept & row.valid
    length = int(stays.sum(1).max())
    order = torch.argsort((~stays).to(torch.int8), dim=1, stable=True)[:, :length]
    present = stays.gather(1, order)

    def take(field: Tensor, fill: int = -1) -> Tensor:
        return torch.where(present, field.gather(1, order), fill).to(field.dtype)

    return TextRow(
        take(row.input_ids),
        take(position_ids),
        present,
        None if row.subsegment_ids is None else take(row.subsegment_ids),
        None if row.response_mask is None else take(row.response_mask, False),
        kept,
    )


def _removed_before(kept: Tensor, subsegment_ids: Tensor | None) -> Tensor:
    """[B, S]: removed tokens before each token, counted inside its packed example."""
    removed = (~kept).to(torch.int64)
    before = removed.cumsum(1) - removed
    if subsegment_ids is None:
        return before
    example = subsegment_ids.clamp(min=0) // SUBSEGMENTS_PER_EXAMPLE
    starts = torch.ones_like(kept)
    starts[:, 1:] = example[:, 1:] != example[:, :-1]
    at_start = torch.where(starts, before, torch.zeros_like(before))
    return before - at_start.cummax(1).values
